"""The metrics of SQuAD, without a network."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from hf_distill.evaluation.local import LocalMetric

CITATION = """@inproceedings{rajpurkar2016squad,
  title = {{SQ}u{AD}: 100,000+ Questions for Machine Comprehension of Text},
  author = {Rajpurkar, Pranav and Zhang, Jian and Lopyrev, Konstantin and Liang, Percy},
  booktitle = {Conference on Empirical Methods in Natural Language Processing},
  year = {2016}
}"""
CITATION_V2 = """@inproceedings{rajpurkar2018know,
  title = {Know What You Don't Know: Unanswerable Questions for {SQ}u{AD}},
  author = {Rajpurkar, Pranav and Jia, Robin and Liang, Percy},
  booktitle = {Annual Meeting of the Association for Computational Linguistics},
  year = {2018}
}"""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)

REFERENCES = {
    "id": datasets.Value("string"),
    "answers": {
        "text": datasets.List(datasets.Value("string")),
        "answer_start": datasets.List(datasets.Value("int32")),
    },
}


def essence(text: str) -> str:
    """The text in lower case, without punctuation (of ASCII) and articles, its words apart by one blank."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """1.0 for texts of the same essence, else 0.0."""
    return float(essence(prediction) == essence(answer))


def f1(prediction: str, answer: str) -> float:
    """The harmonic mean of precision and recall of the words that both have, counted as often as in both.

    Of two texts one of which has no words it is 1.0 if neither has.
    """
    ours, theirs = essence(prediction).split(), essence(answer).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def scores(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 with the answer that each fits best, both from 0 to 1; a question without an answer is
    answered by no text.

    Answers of nothing but articles and punctuation do not count beside others, as in SQuAD v2.
    """
    golden = [answer for answer in answers if essence(answer)] or [""]
    return max(exact_match(prediction, answer) for answer in golden), max(f1(prediction, answer) for answer in golden)


def plain_scores(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """The same for SQuAD 1.1, where every answer counts, and F1 is 0.0 where nothing is shared, also of two texts
    without words."""
    exact = max(exact_match(prediction, answer) for answer in answers)
    return exact, max(_plain_f1(prediction, answer) for answer in answers)


class SquadMetric(LocalMetric):
    """The metric "squad" of the library evaluate, same names and values: `exact_match` and `f1`, in percent.

    Predictions are `{id, prediction_text}`, references `{id, answers: {text, answer_start}}`.
    """

    def _info(self) -> evaluate.MetricInfo:
        predictions = {"id": datasets.Value("string"), "prediction_text": datasets.Value("string")}
        return evaluate.MetricInfo(
            description="Metrics of SQuAD 1.1.",
            citation=CITATION,
            inputs_description="predictions: id, prediction_text; references: id, answers.",
            features=datasets.Features({"predictions": predictions, "references": REFERENCES}),
        )

    def _compute(self, predictions: list[dict[str, Any]], references: list[dict[str, Any]]) -> dict[str, float]:
        given = {row["id"]: row["prediction_text"] for row in predictions}
        exact, overlap = 0.0, 0.0
        for row in references:
            if row["id"] in given:  # an unanswered question counts as wrong
                found = plain_scores(given[row["id"]], row["answers"]["text"])
                exact, overlap = exact + found[0], overlap + found[1]
        return {"exact_match": 100.0 * exact / len(references), "f1": 100.0 * overlap / len(references)}


def _plain_f1(prediction: str, answer: str) -> float:
    return f1(prediction, answer) if essence(prediction) and essence(answer) else 0.0


class SquadV2Metric(LocalMetric):
    """The metric "squad_v2" of the library evaluate, same names and values.

    Predictions are `{id, prediction_text, no_answer_probability}`. `exact` and `f1` are in percent, over all questions
    (`total` of them), over those with an answer (`HasAns_…`) and those without (`NoAns_…`). Where the probability is
    above `no_answer_threshold`, the prediction counts as no answer; `best_exact` and `best_f1` are the values at the
    best threshold (`best_exact_thresh`, `best_f1_thresh`).
    """

    def _info(self) -> evaluate.MetricInfo:
        predictions = {
            "id": datasets.Value("string"),
            "prediction_text": datasets.Value("string"),
            "no_answer_probability": datasets.Value("float32"),
        }
        return evaluate.MetricInfo(
            description="Metrics of SQuAD 2.0.",
            citation=CITATION_V2,
            inputs_description="predictions: id, prediction_text, no_answer_probability; references: id, answers.",
            features=datasets.Features({"predictions": predictions, "references": REFERENCES}),
        )

    def _compute(
        self,
        predictions: list[dict[str, Any]],
        references: list[dict[str, Any]],
        no_answer_threshold: float = 1.0,
    ) -> dict[str, float]:
        given = {row["id"]: row for row in predictions}
        known = [row for row in references if row["id"] in given]
        texts = [given[row["id"]]["prediction_text"] for row in known]
        silence = np.asarray([given[row["id"]]["no_answer_probability"] for row in known])
        # What counts as an answer here is not its essence: "the" is an answer, and fits no text.
        answerable = np.asarray([bool(row["answers"]["text"]) for row in known])
        raw = np.asarray([scores(text, row["answers"]["text"]) for text, row in zip(texts, known, strict=True)])
        final = np.where((silence > no_answer_threshold)[:, None], ~answerable[:, None], raw)
        found = _means(final, "")
        for prefix, chosen in (("HasAns_", answerable), ("NoAns_", ~answerable)):
            found |= _means(final[chosen], prefix) if chosen.any() else {}
        is_silent = np.asarray([not text for text in texts])
        for column, name in enumerate(("exact", "f1")):
            best, threshold = _best_threshold(raw[:, column], silence, answerable, is_silent)
            found |= {f"best_{name}": best, f"best_{name}_thresh": threshold}
        return found


def _means(values: np.ndarray, prefix: str) -> dict[str, float]:
    exact, overlap = (100.0 * float(column.mean()) for column in values.T)
    return {f"{prefix}exact": exact, f"{prefix}f1": overlap, f"{prefix}total": len(values)}


def _best_threshold(
    raw: np.ndarray, silence: np.ndarray, answerable: np.ndarray, is_silent: np.ndarray
) -> tuple[float, float]:
    """The best mean in percent over thresholds at and above which no answer is given, and the threshold.

    From the threshold at which no question is answered, the questions are answered one after the other, the surest
    first: each adds its score, or takes back the point that silence had, unless the answer is no text either.
    """
    order = np.argsort(silence, kind="stable")
    change = np.where(answerable, raw, np.where(is_silent, 0.0, -1.0))[order]
    totals = np.concatenate([[0.0], np.cumsum(change)]) + (~answerable).sum()
    best = int(totals.argmax())
    return 100.0 * float(totals[best]) / len(raw), float(silence[order[best - 1]]) if best else 0.0
