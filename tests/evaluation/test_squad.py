"""The metrics of SQuAD: by hand, and over all thresholds one by one."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import evaluate
import pytest

from hf_distill.evaluation.squad import SquadMetric, SquadV2Metric, essence, exact_match, f1, plain_scores, scores


def predictions(*texts: str, **probabilities: list[float]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"id": str(i), "prediction_text": text} for i, text in enumerate(texts)]
    for name, values in probabilities.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


def references(*answers: list[str]) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "answers": {"text": texts, "answer_start": [0] * len(texts)}} for i, texts in enumerate(answers)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat's, an Animal!", "cats animal"),
        ("a theatre", "theatre"),
        ("an, the", ""),
        ("U.S.-based", "usbased"),
        ("Ünder “the” sun", "ünder “ ” sun"),  # only punctuation of ASCII goes
    ],
)
def test_case_punctuation_articles_and_blanks_do_not_count(text: str, expected: str) -> None:
    assert essence(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "overlap"),
    [
        ("The Cat!", "cat", 1.0, 1.0),
        ("a big red dog", "red dog", 0.0, 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("dog dog dog", "dog cat dog", 0.0, 2 / 3),  # a word counts as often as both have it
        ("cat", "dog", 0.0, 0.0),
        ("", "dog", 0.0, 0.0),
        ("the", "", 1.0, 1.0),
    ],
)
def test_a_prediction_against_one_answer(prediction: str, answer: str, exact: float, overlap: float) -> None:
    assert exact_match(prediction, answer) == exact
    assert f1(prediction, answer) == pytest.approx(overlap, abs=1e-15)


def test_the_answer_that_fits_best_counts_and_empty_ones_do_not() -> None:
    assert scores("red dog", ["dog", "a red dog"]) == (1.0, 1.0)
    assert scores("", ["the", "dog"]) == (0.0, 0.0)
    assert scores("", ["the"]) == (1.0, 1.0)
    assert scores("", []) == (1.0, 1.0)


def test_in_squad_1_every_answer_counts_and_articles_share_nothing() -> None:
    assert plain_scores("the", ["a", "dog"]) == (1.0, 0.0)
    assert scores("the", ["a", "dog"]) == (0.0, 0.0)
    assert plain_scores("a big red dog", ["dog", "red dog"]) == (0.0, pytest.approx(0.8))


def test_squad_is_in_percent_and_a_missing_prediction_is_wrong() -> None:
    metric = SquadMetric()
    assert isinstance(metric, evaluate.Metric)
    golden = references(["cat"], ["red dog", "dog"], ["x"], ["y"])
    found = metric.compute(predictions=predictions("The cat", "a big red dog", "z", "y"), references=golden)
    assert found == pytest.approx({"exact_match": 100 * 2 / 4, "f1": 100 * (1 + 0.8 + 0 + 1) / 4}, abs=1e-12)


def test_squad_gives_nothing_for_two_texts_without_words() -> None:
    found = SquadMetric().compute(predictions=predictions("the"), references=references(["a"]))
    assert found == {"exact_match": 100.0, "f1": 0.0}


def test_squad_v2_by_hand() -> None:
    """Two questions with an answer, one right and one half right; two without, one of them answered all the same."""
    given = predictions("cat", "red dog", "", "guess", no_answer_probability=[0.1, 0.2, 0.9, 0.3])
    found = SquadV2Metric().compute(predictions=given, references=references(["cat"], ["dog"], [], []))
    half = 2 * 0.5 * 1 / 1.5
    assert found == pytest.approx(
        {
            "exact": 50.0,
            "f1": 100 * (1 + half + 1 + 0) / 4,
            "total": 4,
            "HasAns_exact": 50.0,
            "HasAns_f1": 100 * (1 + half) / 2,
            "HasAns_total": 2,
            "NoAns_exact": 50.0,
            "NoAns_f1": 50.0,
            "NoAns_total": 2,
            # Silence above 0.1 gives up the second question, and is right about the fourth.
            "best_exact": 75.0,
            "best_exact_thresh": pytest.approx(0.1, abs=1e-7),
            "best_f1": 100 * (1 + half + 1 + 1) / 4,
            "best_f1_thresh": pytest.approx(0.2, abs=1e-7),
        },
        abs=1e-9,
    )


def test_a_probability_above_the_threshold_is_no_answer() -> None:
    given = predictions("cat", "guess", no_answer_probability=[0.6, 0.7])
    found = SquadV2Metric().compute(predictions=given, references=references(["cat"], []), no_answer_threshold=0.65)
    assert (found["exact"], found["NoAns_exact"], found["HasAns_exact"]) == (100.0, 100.0, 100.0)


def test_questions_of_one_kind_alone() -> None:
    given = predictions("cat", no_answer_probability=[0.0])
    found = SquadV2Metric().compute(predictions=given, references=references(["cat"]))
    assert not any(name.startswith("NoAns") for name in found)
    found = SquadV2Metric().compute(predictions=given, references=references([]))
    assert not any(name.startswith("HasAns") for name in found)
    assert (found["exact"], found["best_exact"], found["best_exact_thresh"]) == (0.0, 100.0, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_the_best_of_all(seed: int) -> None:
    random_ = random.Random(seed)
    words = ["red", "dog", "cat", ""]
    texts = [" ".join(random_.choices(words, k=2)).strip() for _ in range(12)]
    golden = [random_.choice([[], [random_.choice(words[:3])]]) for _ in texts]
    silence = [round(random_.random(), 3) + i * 1e-5 for i in range(len(texts))]
    given = predictions(*texts, no_answer_probability=silence)
    found = SquadV2Metric().compute(predictions=given, references=references(*golden))
    for column, name in enumerate(("exact", "f1")):
        totals = [
            sum(
                float(not answers) if probability > threshold else scores(text, answers)[column]
                for text, answers, probability in zip(texts, golden, silence, strict=True)
            )
            for threshold in (-1.0, *silence)
        ]
        assert found[f"best_{name}"] == pytest.approx(100 * max(totals) / len(texts), abs=1e-9)


def test_nothing_is_written_to_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    SquadMetric().compute(predictions=predictions("x"), references=references(["x"]))
    assert os.listdir(tmp_path) == []
