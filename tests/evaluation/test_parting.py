"""Where two models part: counts, examples, confusion and reliability, against loops over the items."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from hf_distill.evaluation import fidelity, parting
from hf_distill.evaluation.parting import Answered, Asked
from tests import reports


def given(said: list[int], truth: list[int], confidence: list[float] | None = None) -> Answered:
    found = np.asarray(said)
    sure = None if confidence is None else np.asarray(confidence)
    return Answered(found, found == np.asarray(truth), sure, lambda row: f"class {said[row]}")


def asked(truth: list[int], classes: int = 3, text: str = "row") -> Asked:
    names = tuple(f"class {i}" for i in range(classes))
    return Asked(
        "rows", "classes", np.asarray(truth), names, lambda row: f"{text} {row}", lambda row: names[truth[row]]
    )


def test_items_are_counted_by_who_is_right() -> None:
    truth = [0, 0, 0, 1, 1, 1, 2, 2]
    teacher, student = [0, 0, 1, 1, 0, 2, 2, 1], [0, 1, 0, 1, 0, 0, 2, 1]
    found = parting.parting("rows", given(teacher, truth), given(student, truth))
    assert found is not None
    expected = {"both": 0, "only_teacher": 0, "only_student": 0, "neither_alike": 0, "neither_apart": 0}
    for true, theirs, ours in zip(truth, teacher, student, strict=True):
        kind = "neither_alike" if theirs == ours else "neither_apart"
        kind = {(True, True): "both", (True, False): "only_teacher", (False, True): "only_student"}.get(
            (theirs == true, ours == true), kind
        )
        expected[kind] += 1
    assert found.model_dump() == {"items": "rows", **expected, "both_apart": 0}
    assert min(expected.values()) > 0
    assert (found.total, found.alike) == (8, sum(a == b for a, b in zip(teacher, student, strict=True)))


def test_two_right_answers_need_not_be_one() -> None:
    theirs, ours = (
        Answered(np.array(["Ada", "1815"]), np.ones(2, bool)),
        Answered(np.array(["A. L.", "1815"]), np.ones(2, bool)),
    )
    found = parting.parting("questions", theirs, ours)
    assert found is not None
    assert (found.both, found.total, found.alike) == (2, 2, 1)


def test_examples_are_those_of_which_the_student_is_surest() -> None:
    truth, teacher = [0] * 20, [0] * 10 + [1] * 10
    student = [1] * 10 + [0] * 5 + [2] * 5
    sure = [0.5 + 0.02 * row for row in range(20)]
    shown = parting.examples(asked(truth), given(teacher, truth, [1.0] * 20), given(student, truth, sure))
    rows = [9, 8, 7, 6, 5, 4, 14, 13, 12, 19, 18, 17]
    assert [each.text for each in shown] == [f"row {row}" for row in rows]
    first = shown[0]
    assert (first.truth, first.teacher, first.student) == ("class 0", "class 0", "class 1")
    assert (first.teacher_confidence, first.student_confidence) == (1.0, pytest.approx(0.68))


def test_without_confidence_examples_come_from_all_over() -> None:
    truth = [0] * 101
    shown = parting.examples(asked(truth), given(truth, truth), given([1] * 101, truth))
    assert [each.text for each in shown] == [f"row {row}" for row in (0, 20, 40, 60, 80, 100)]
    assert shown[0].student_confidence is None


def test_texts_are_cut_to_one_line() -> None:
    shown = parting.examples(asked([0], text="\x1b[31m<b>\n" + "long " * 100), given([0], [0]), given([1], [0]))
    assert shown[0].text.startswith("[31m<b> long long")
    assert len(shown[0].text) <= 300
    assert shown[0].text.endswith("…")


def test_nothing_parts_models_that_agree() -> None:
    found = parting.found(
        asked([0, 1, 1]), {"teacher": given([0, 1, 0], [0, 1, 1]), "student": given([0, 1, 0], [0, 1, 1])}
    )
    assert found.examples == []
    assert found.parting is not None
    assert found.parting.alike == 3


def test_a_student_alone_is_shown_alone() -> None:
    found = parting.found(asked([0, 1, 1]), {"student": given([0, 1, 0], [0, 1, 1], [0.9, 0.8, 0.7])})
    assert (found.parting, found.examples) == (None, [])
    assert found.confusion is not None
    assert found.confusion.between is None
    assert set(found.reliability) == {"student"}


def test_confusion_counts_classes_against_answers() -> None:
    question, answers = reports.classified(("a", "b", "c"), rows=200)
    found = parting.confusion(question, answers)
    assert found is not None
    assert found.classes == ["a", "b", "c"]
    for role, each in answers.items():
        assert found.counts[role] == confusion_matrix(question.truth, each.said).tolist()
    assert found.between == confusion_matrix(answers["teacher"].said, answers["student"].said).tolist()


def test_of_many_classes_the_most_mistaken_stand_alone() -> None:
    """Classes 3 and 17 are the only ones answered wrong; the others are put together, and nothing is lost."""
    truth = np.repeat(np.arange(20), 5)
    said = np.where(np.isin(truth, (3, 17)), 0, truth)
    names = tuple(f"tag {i}" for i in range(20))
    answers = {"student": Answered(said, said == truth)}
    found = parting.confusion(Asked("tokens", "classes", truth, names), answers)
    assert found is not None
    assert len(found.classes) == 12
    assert {"tag 3", "tag 17"} <= set(found.classes)
    assert found.classes[-1] == "all others"
    table = np.asarray(found.counts["student"])
    assert table.sum() == 100
    assert table[found.classes.index("tag 3")].max() == 5


def test_a_class_that_was_not_answered_is_left_out_of_the_table() -> None:
    found = parting.confusion(asked([0, 1, 2]), {"student": given([0, -1, 2], [0, 1, 2])})
    assert found is not None
    assert found.counts["student"] == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_reliability_is_that_of_the_calibration_error() -> None:
    random = np.random.default_rng(3)
    logits, labels = random.normal(size=(300, 4)) * 2, random.integers(0, 4, 300)
    sure, said = fidelity.confidence(logits), logits.argmax(axis=1)
    found = parting.reliability({"student": Answered(said, said == labels, sure)})["student"]
    assert found.error == pytest.approx(fidelity.expected_calibration_error(logits, labels), abs=1e-12)
    assert sum(found.counts) == 300
    for number in range(15):
        rows = [i for i in range(300) if number / 15 < sure[i] <= (number + 1) / 15]
        assert found.counts[number] == len(rows)
        right = sum(said[i] == labels[i] for i in rows) / max(len(rows), 1)
        assert found.accuracy[number] == pytest.approx(right)
        assert found.confidence[number] == pytest.approx(sum(sure[i] for i in rows) / max(len(rows), 1))


def test_items_without_a_confidence_do_not_count() -> None:
    found = parting.reliability({"student": given([0, 1, 1], [0, 1, 0], [0.9, float("nan"), 1.0])})["student"]
    assert sum(found.counts) == 2
    assert found.error == pytest.approx((0.1 + 1.0) / 2)
    assert parting.reliability({"student": given([0], [0], [float("nan")])}) == {}


def test_scores_are_sampled_from_all_over() -> None:
    truth = np.linspace(0, 5, 1001)
    question = Asked(
        "rows", "scores", truth, text=lambda row: f"row {row}", truth_in_words=lambda row: f"{truth[row]}"
    )
    teacher, student = Answered(truth), Answered(truth + np.where(np.arange(1001) == 77, -3.0, 0.1))
    found = parting.found(question, {"teacher": teacher, "student": student})
    assert found.scores is not None
    assert len(found.scores.truth) == 300
    assert (found.scores.truth[0], found.scores.truth[-1]) == (0.0, 5.0)
    assert found.scores.found["student"][1] == pytest.approx(found.scores.truth[1] + 0.1)
    assert found.examples[0].text == "row 77"
    assert (found.parting, found.confusion, found.reliability) == (None, None, {})
