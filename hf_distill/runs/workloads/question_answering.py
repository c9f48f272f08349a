"""Questions whose answers are spans of a text: SQuAD, and data in its form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.data.question_answering import ANSWERS, COLUMNS, Questions, questions_of, split_by_context
from hf_distill.data.windows import windows
from hf_distill.errors import IncompatiblePair
from hf_distill.evaluation.evidence import Evidence
from hf_distill.evaluation.parting import Answered, Asked
from hf_distill.evaluation.spans import Answer, Search, best_answers
from hf_distill.evaluation.squad import SquadMetric, SquadV2Metric, essence, plain_scores, scores
from hf_distill.recipe import Data, Recipe
from hf_distill.recipe.sections.data import QuestionAnswering as Settings
from hf_distill.runs.labels import Columns
from hf_distill.runs.workload import Collator, Limits
from hf_distill.runs.workloads.labelled_rows import PredictedRows, padding_on_the_right
from hf_distill.runs.workloads.splits import at_most, data_name, need_test, tables_of, with_cuts
from hf_distill.tasks import QuestionAnswering as Task

SAMPLE = 50
OFFSETS = ("example", "no_answer", "context_start", "offset_starts", "offset_ends")
NO_ANSWER = "(no answer)"
SCORES = 2
UNITS = ("total", "thresh")
"""Ends of names of values that are no metric but what one stands on."""


@dataclass(frozen=True)
class QuestionAnswering(PredictedRows):
    """The rows that models read are windows, several of a long context. The answers of a split are one `Answer` a
    question, in the order of the questions.
    """

    auto_class = Task.auto_class
    rows_are = "questions"
    label_column = ANSWERS

    name: str
    data: Questions
    settings: Settings
    metrics: tuple[str, ...]

    # ---- the models ----

    def samples(self) -> Iterator[str]:
        for column in COLUMNS[1:]:
            yield from self.splits["train"][:SAMPLE][column]

    def head(self) -> dict[str, Any]:
        return {"num_labels": SCORES}

    def fit(self, model: PreTrainedModel, role: str) -> Columns:
        if model.config.num_labels != SCORES:
            raise IncompatiblePair(
                f"the {role} has {model.config.num_labels} labels, and a token has {SCORES} scores here, of being the "
                f"start and the end of an answer: it was not trained for this task. Give a {role} that was."
            )
        return ()

    # ---- reading ----

    def read(
        self, tokenizer: PreTrainedTokenizerBase, limits: Limits, splits: Sequence[str] | None = None
    ) -> dict[str, Dataset]:
        """See `hf_distill.data.windows.windows`."""
        return {
            name: windows(
                self.splits[name],
                tokenizer,
                max_length=limits.longest(tokenizer),
                doc_stride=self.settings.doc_stride,
                input_names=limits.input_names,
                with_offsets=name != "train",
            )
            for name in (self.splits if splits is None else splits)
        }

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        collator: Collator = DataCollatorWithPadding(padding_on_the_right(tokenizer))
        return collator

    # ---- judging ----

    def answers(
        self, split: str, rows: Dataset, order: np.ndarray, found: EvalPrediction, columns: Columns
    ) -> list[Answer]:
        start_logits, end_logits = found.predictions[:2]
        settings = self.settings
        search = Search(
            n_best=settings.n_best_size,
            max_answer_length=settings.max_answer_length,
            no_answer=settings.version_2_with_negative,
            threshold=settings.null_score_diff_threshold,
        )
        contexts = self.splits[split]["context"][:]
        read = {name: rows[name][:] for name in OFFSETS}
        return best_answers(contexts, read, np.asarray(start_logits), np.asarray(end_logits), search)

    def score(self, split: str, answers: list[Answer]) -> dict[str, float]:
        if not self.is_labelled(split):
            return {}
        references = list(self.splits[split].select_columns(["id", ANSWERS]))
        predictions: list[dict[str, Any]] = [
            {"id": row["id"], "prediction_text": answer.text} for row, answer in zip(references, answers, strict=True)
        ]
        if not self.settings.version_2_with_negative:
            return dict(SquadMetric().compute(predictions=predictions, references=references))
        for prediction, answer in zip(predictions, answers, strict=True):
            prediction["no_answer_probability"] = answer.no_answer_probability
        found = SquadV2Metric().compute(predictions=predictions, references=references)
        return {name: value for name, value in found.items() if not name.endswith(UNITS)}

    def _f1(self, split: str, answers: list[Answer]) -> np.ndarray:
        """The F1 of each question, in percent."""
        return 100.0 * self._scores(split, answers)[:, 1]

    def _scores(self, split: str, answers: list[Answer]) -> np.ndarray:
        """Exact match and F1 of each question, as the metric of its kind of data has them, `[questions, 2]`."""
        golden = self.splits[split][ANSWERS][:]
        judge = scores if self.settings.version_2_with_negative else plain_scores
        return np.asarray([judge(answer.text, row["text"]) for answer, row in zip(answers, golden, strict=True)])

    def agreement(self, split: str, ours: list[Answer], teachers: list[Answer]) -> float:
        """The share of questions with the same answer, but for case, punctuation and articles."""
        return float(np.mean([essence(a.text) == essence(b.text) for a, b in zip(ours, teachers, strict=True)]))

    def evidence(self, split: str, answers: list[Answer]) -> Evidence:
        """The F1 of each question."""
        return Evidence("mean", self._f1(split, answers)[:, None])

    def asked(self, split: str) -> Asked | None:
        if not self.is_labelled(split):
            return None
        rows = self.splits[split]
        first = [row["text"][0] if row["text"] else NO_ANSWER for row in rows[ANSWERS][:]]
        return Asked(
            "questions",
            "texts",
            text=lambda item: str(rows[item]["question"]),
            truth_in_words=lambda item: str(first[item]),
        )

    def answered(self, split: str, answers: list[Answer]) -> Answered:
        """Right is the very text of one of the answers, but for case, punctuation and articles."""
        said, exact = np.asarray([essence(answer.text) for answer in answers]), self._scores(split, answers)[:, 0] > 0
        return Answered(said, exact, in_words=lambda item: answers[item].text or NO_ANSWER)

    def texts(self) -> list[tuple[str, str]]:
        """Questions and contexts of the reported split."""
        split = self.splits[self.reported_split]
        return list(zip(split["question"][:], split["context"][:], strict=True))

    # ---- predictions ----

    def predictions(self, split: str, answers: list[Answer]) -> tuple[str, str]:
        """The answers by id, as SQuAD's own evaluation reads them."""
        ids = self.splits[split]["id"][:]
        found = {id_: answer.text for id_, answer in zip(ids, answers, strict=True)}
        return f"predict_results_{split}.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def load(data: Data, settings: Settings, recipe: Recipe, *, predict: bool) -> QuestionAnswering:
    """The questions of a recipe. Raises: `DataError`, as `load_workload`."""
    name = data_name(data)
    tables = tables_of(data, COLUMNS, labels=(ANSWERS,))
    questions = questions_of(tables, version_2_with_negative=settings.version_2_with_negative)
    splits = with_cuts(dict(questions.splits), data, split_by_context)
    need_test(splits, name, predict)
    metrics = ("f1", "exact") if settings.version_2_with_negative else ("f1", "exact_match")
    return QuestionAnswering(name, replace(questions, splits=at_most(splits, recipe)), settings, metrics)
