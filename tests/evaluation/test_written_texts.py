"""BLEU, chrF and ROUGE of texts, beside values worked out by hand."""

from __future__ import annotations

import math

import pytest

from hf_distill.errors import DataError, DistillationError
from hf_distill.evaluation import written_texts
from hf_distill.evaluation.written_texts import text_metrics

WANTED = ["the cat sat on the mat", "a dog runs over green grass"]
FOUND = ["the cat sat on a mat", "a dog runs over green grass today"]


def test_bleu_by_hand() -> None:
    """Words 6 + 7 against 6 + 6. Right are 5 + 6 words, 3 + 5 pairs, 2 + 4 triples, 1 + 3 fours; it is not shorter."""
    shares = [11 / 13, 8 / 11, 6 / 9, 4 / 7]
    expected = 100 * math.exp(sum(map(math.log, shares)) / 4)
    assert text_metrics(FOUND, WANTED)["bleu"] == pytest.approx(expected, abs=1e-9)


def test_rouge_by_hand() -> None:
    """F of precision and recall, the mean of the texts: 5 of 6 and 5 of 6 words, and 6 of 7 and 6 of 6."""

    def f(right: int, found: int, wanted: int) -> float:
        return 2 * (right / found) * (right / wanted) / (right / found + right / wanted)

    got = text_metrics(FOUND, WANTED)
    assert got["rouge1"] == pytest.approx(100 * (f(5, 6, 6) + f(6, 7, 6)) / 2)
    assert got["rouge2"] == pytest.approx(100 * (f(3, 5, 5) + f(5, 6, 5)) / 2)
    assert got["rougeL"] == pytest.approx(100 * (f(5, 6, 6) + f(6, 7, 6)) / 2)


def test_chrf_by_hand() -> None:
    """Runs of one to six letters without blanks, F with beta 2, the mean over the lengths of precision and recall."""
    found, wanted = "abcdefg", "abcdefh"
    assert text_metrics([found], [wanted])["chrf"] == pytest.approx(
        100 * sum((7 - n) / (8 - n) for n in range(1, 7)) / 6, abs=1e-6
    )


def test_words_of_other_scripts_count() -> None:
    assert text_metrics(["schöne Grüße"], ["Schöne Züge"])["rouge1"] == pytest.approx(50.0)
    assert text_metrics(["über"], ["uber"])["rouge1"] == 0.0


def test_what_cannot_be_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="there are 1, and 2 references"):
        text_metrics(["a"], ["a", "b"])
    monkeypatch.setattr(written_texts, "PACKAGES", ("sacrebleu", "no_such_package"))
    with pytest.raises(
        DistillationError, match=r"no_such_package is not installed: pip install .hf_distill.generation"
    ):
        text_metrics(["a"], ["a"])
