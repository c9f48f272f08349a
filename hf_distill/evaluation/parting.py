"""Where the answers of two models part, and how sure each of them is: what a report shows of one split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hf_distill.evaluation.fidelity import Floats, calibration_bins
from hf_distill.evaluation.findings import Confusion, Example, Findings, Parting, Reliability, Role, Scores
from hf_distill.evaluation.summary import one_line

SHOWN = {"only the teacher is right": 6, "only the student is right": 3, "both are wrong": 3}
"""Examples of each kind, at most."""

MOST_CLASSES = 12
MOST_POINTS = 300
TEXT, ANSWER = 300, 80
"""Characters of an example's text and of an answer, at most."""

OTHERS = "all others"


@dataclass(frozen=True)
class Asked:
    """What the models were asked. `items` names the items in the plural; `truth` `[items]` are class ids, the names of
    which are `classes` where there are any, texts, or with `kind` "scores" numbers. `text` shows an item and
    `truth_in_words` its answer; without them there are no examples."""

    items: str
    kind: Literal["classes", "texts", "scores"]
    truth: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    classes: tuple[str, ...] = ()
    text: Callable[[int], str] | None = None
    truth_in_words: Callable[[int], str] | None = None


@dataclass(frozen=True)
class Answered:
    """The answers of one model, item by item: `said` as they are compared with another model's, -1 for a class that
    was not answered, which of them are `right`, their `confidence`, NaN where there is none, and `in_words`."""

    said: NDArray[Any]
    right: NDArray[np.bool_] | None = None
    confidence: Floats | None = None
    in_words: Callable[[int], str] = str


def found(asked: Asked, answered: Mapping[Role, Answered]) -> Findings:
    """What the answers of up to three models to one split show."""
    teacher, student = answered.get("teacher"), answered.get("student")
    both = (teacher, student) if teacher is not None and student is not None else None
    return Findings(
        parting=None if both is None else parting(asked.items, *both),
        examples=[] if both is None else examples(asked, *both),
        confusion=confusion(asked, answered),
        reliability=reliability(answered),
        scores=scores(asked, answered),
    )


def parting(items: str, teacher: Answered, student: Answered) -> Parting | None:
    """The items by who is right; None where answers are neither right nor wrong."""
    if teacher.right is None or student.right is None:
        return None
    alike, ours, theirs = teacher.said == student.said, student.right, teacher.right
    counts = {
        "both": theirs & ours,
        "only_teacher": theirs & ~ours,
        "only_student": ~theirs & ours,
        "neither_alike": ~theirs & ~ours & alike,
        "neither_apart": ~theirs & ~ours & ~alike,
        "both_apart": theirs & ours & ~alike,
    }
    return Parting(items=items, **{name: int(chosen.sum()) for name, chosen in counts.items()})


def examples(asked: Asked, teacher: Answered, student: Answered) -> list[Example]:
    """A few items on which the two part: where one alone is right, or they are wrong in two ways, those of which the
    student is surest, else from all over the split; of scores those that differ most."""
    if asked.text is None or asked.truth_in_words is None:
        return []
    if teacher.right is None or student.right is None:
        order = np.argsort(-np.abs(student.said - teacher.said), kind="stable")
        return [_example(asked, teacher, student, int(item)) for item in order[: sum(SHOWN.values())]]
    apart, ours, theirs = teacher.said != student.said, student.right, teacher.right
    kinds = (apart & theirs & ~ours, apart & ~theirs & ours, apart & ~theirs & ~ours)
    chosen = [item for kind, most in zip(kinds, SHOWN.values(), strict=True) for item in _some(kind, most, student)]
    return [_example(asked, teacher, student, item) for item in chosen]


def _some(chosen: NDArray[np.bool_], most: int, student: Answered) -> list[int]:
    items = np.flatnonzero(chosen)
    if student.confidence is not None:
        order = np.argsort(-np.nan_to_num(student.confidence[items]), kind="stable")
        return [int(item) for item in items[order[:most]]]
    spread = np.linspace(0, max(len(items) - 1, 0), min(most, len(items))).round().astype(int)
    return [int(item) for item in items[spread]]


def _example(asked: Asked, teacher: Answered, student: Answered, item: int) -> Example:
    assert asked.text is not None
    assert asked.truth_in_words is not None
    return Example(
        text=cut(asked.text(item), TEXT),
        truth=cut(asked.truth_in_words(item), ANSWER),
        teacher=cut(teacher.in_words(item), ANSWER),
        student=cut(student.in_words(item), ANSWER),
        teacher_confidence=_confidence(teacher, item),
        student_confidence=_confidence(student, item),
    )


def _confidence(answered: Answered, item: int) -> float | None:
    value = float("nan") if answered.confidence is None else float(answered.confidence[item])
    return None if np.isnan(value) else min(value, 1.0)


def cut(text: str, length: int) -> str:
    """The text on one line, at most so long."""
    line = one_line(text)
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def confusion(asked: Asked, answered: Mapping[Role, Answered]) -> Confusion | None:
    """The items by class and answer. Of more than 12 classes, the 11 in which most is answered wrong stand alone."""
    if not asked.classes:
        return None
    place, names = _places(asked, answered)
    pairs = {role: (asked.truth, given.said) for role, given in answered.items()}
    counts: dict[Role, list[list[int]]] = {role: _table(*pair, place, len(names)) for role, pair in pairs.items()}
    between = None
    if "teacher" in answered and "student" in answered:
        between = _table(answered["teacher"].said, answered["student"].said, place, len(names))
    return Confusion(classes=[cut(name, ANSWER) for name in names], counts=counts, between=between)


def _places(asked: Asked, answered: Mapping[Role, Answered]) -> tuple[NDArray[np.int64], list[str]]:
    """In which row of the table each class stands, and the names of the rows."""
    number = len(asked.classes)
    if number <= MOST_CLASSES:
        return np.arange(number), list(asked.classes)
    wrong = np.zeros(number)
    for given in answered.values():
        if given.right is not None:
            wrong += np.bincount(asked.truth[~given.right], minlength=number)
    kept = np.sort(np.argsort(-wrong, kind="stable")[: MOST_CLASSES - 1])
    place = np.full(number, MOST_CLASSES - 1)
    place[kept] = np.arange(len(kept))
    return place, [*(asked.classes[c] for c in kept), OTHERS]


def _table(
    rows: NDArray[np.int64], columns: NDArray[np.int64], place: NDArray[np.int64], size: int
) -> list[list[int]]:
    """How often a class of the rows meets one of the columns, where both were answered."""
    known = (rows >= 0) & (columns >= 0)
    cells = place[rows[known]] * size + place[columns[known]]
    table: list[list[int]] = np.bincount(cells, minlength=size * size).reshape(size, size).tolist()
    return table


def reliability(answered: Mapping[Role, Answered]) -> dict[Role, Reliability]:
    """The calibration of each model that says how sure it is."""
    made: dict[Role, Reliability] = {}
    for role, given in answered.items():
        if given.confidence is None or given.right is None:
            continue
        known = ~np.isnan(given.confidence)
        if known.any():
            bins = calibration_bins(given.confidence[known], given.right[known])
            made[role] = Reliability(
                counts=bins.counts.tolist(),
                confidence=np.clip(bins.confidence, 0.0, 1.0).tolist(),
                accuracy=bins.accuracy.tolist(),
                error=min(bins.error, 1.0),
            )
    return made


def scores(asked: Asked, answered: Mapping[Role, Answered]) -> Scores | None:
    """Items from all over the split, at most 300, with the scores of all models."""
    if asked.kind != "scores":
        return None
    number = len(asked.truth)
    spread = np.unique(np.linspace(0, number - 1, min(number, MOST_POINTS)).round().astype(int))
    shown = {role: [float(value) for value in given.said[spread]] for role, given in answered.items()}
    return Scores(truth=[float(value) for value in asked.truth[spread]], found=shown)
