"""Entities and their metrics. The expected entities and values are those of seqeval 1.2.2."""

from __future__ import annotations

import evaluate
import pytest

from hf_distill.evaluation.entities import Counts, EntityMetric, counts, entities, summed


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("B-PER B-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),  # an entity may begin with I
        ("B-PER I-LOC", [("PER", 0, 0), ("LOC", 1, 1)]),  # another kind is another entity
        ("B-PER I-PER E-PER I-PER", [("PER", 0, 2), ("PER", 3, 3)]),
        ("S-PER I-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("S-PER S-PER E-PER", [("PER", 0, 0), ("PER", 1, 1), ("PER", 2, 2)]),
        ("B-creative-work I-creative-work", [("creative-work", 0, 1)]),
        ("U-LOC U-LOC L-LOC O", [("LOC", 0, 2)]),
        ("NOUN NOUN VERB", [("OUN", 0, 1), ("ERB", 2, 2)]),
        ("B-", [("_", 0, 0)]),
    ],
)
def test_entities_are_read_leniently(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert [tuple(entity) for entity in entities(tags.split())] == expected


def test_counts_go_by_kind_and_exact_ends() -> None:
    ours, theirs = ["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "O", "O", "B-LOC"]
    assert counts(ours, theirs) == {"LOC": Counts(1, 1, 1), "PER": Counts(0, 1, 1)}


def test_what_has_no_value_is_nought() -> None:
    assert (Counts(0, 0, 3).precision, Counts(0, 2, 0).recall, Counts(0, 0, 0).f1) == (0.0, 0.0, 0.0)
    assert summed([]) == Counts(0, 0, 0)
    assert EntityMetric().compute(predictions=[["O"]], references=[["O"]]) == {
        "overall_precision": 0.0,
        "overall_recall": 0.0,
        "overall_f1": 0.0,
        "overall_accuracy": 1.0,
    }


REFERENCES = ["I-LOC", "O O O", "O I-PER O", "I-PER I-LOC I-PER", "I-PER B-LOC O", "B-PER O"]
PREDICTIONS = ["I-LOC", "O O O", "O I-PER O", "I-PER I-LOC I-PER", "I-PER B-LOC I-LOC", "B-PER B-LOC"]


def test_the_metric_has_the_names_and_values_of_seqeval() -> None:
    metric = EntityMetric()
    assert isinstance(metric, evaluate.Metric)
    found = metric.compute(
        predictions=[tags.split() for tags in PREDICTIONS], references=[tags.split() for tags in REFERENCES]
    )
    overall = {name: value for name, value in found.items() if name.startswith("overall")}
    assert overall == pytest.approx(
        {
            "overall_precision": 0.7777777777777778,
            "overall_recall": 0.875,
            "overall_f1": 0.823529411764706,
            "overall_accuracy": 0.8666666666666667,
        },
        abs=1e-12,
    )
    assert found["LOC"] == pytest.approx(
        {"precision": 0.5, "recall": 0.6666666666666666, "f1": 0.5714285714285715, "number": 3}, abs=1e-12
    )
    assert found["PER"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "number": 5}
    assert set(found) == {"LOC", "PER", *overall}
