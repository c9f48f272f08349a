"""Which column of a model is which class of the task."""

from __future__ import annotations

import pytest
from transformers import BertForSequenceClassification

from hf_distill.errors import IncompatiblePair
from hf_distill.run.labels import align_labels
from tests import tiny_runs

ELEVEN = tuple(map(str, range(11)))


def model_of(names: tuple[str, ...]) -> BertForSequenceClassification:
    return BertForSequenceClassification(tiny_runs.config(names))


def test_numbers_are_names_where_both_sides_have_the_same() -> None:
    """Sorted as text, 10 comes behind 1."""
    sorted_as_text = tuple(sorted(ELEVEN))
    assert sorted_as_text[2] == "10"
    model = model_of(sorted_as_text)
    columns = align_labels(model, "teacher", ELEVEN)
    assert [sorted_as_text[column] for column in columns] == list(ELEVEN)
    assert tuple(model.config.id2label[i] for i in range(11)) == sorted_as_text
    assert align_labels(model_of(("1", "0")), "student", ("0", "1")) == (1, 0)


def test_numbers_on_one_side_alone_are_in_order(caplog: pytest.LogCaptureFixture) -> None:
    assert align_labels(model_of(("bad", "good")), "teacher", ("0", "1")) == (0, 1)
    assert align_labels(model_of(("LABEL_0", "LABEL_1")), "teacher", ("good", "bad")) == (0, 1)
    assert align_labels(model_of(("0", "1")), "student", ("bad", "good")) == (0, 1)
    assert caplog.text.count("are taken to be the task's in its order") == 3


def test_names_are_compared_without_case_and_must_be_the_same() -> None:
    assert align_labels(model_of(("CONTRADICTION", "ENTAILMENT")), "teacher", ("entailment", "contradiction")) == (
        1,
        0,
    )
    with pytest.raises(IncompatiblePair, match="they must be the same names"):
        align_labels(model_of(("good", "bad")), "teacher", ("good", "fine"))
