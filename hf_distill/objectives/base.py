"""What an objective is, and the registry of all of them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from hf_distill.activations import Activations, Needs, Signal
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.losses import at_least_float32, blank, masked_sum
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.terms import Weighable
from hf_distill.tasks import Batch, Task


class Objective(Weighable):
    """One loss term.

    A subclass takes keyword settings and keeps each under its own name, declares in `needs()` what it reads, says in
    `count()` what its sum is divided by, and returns from `forward()` the loss summed over what it counts. It never
    calls a model. What it learns are its own parameters, made in `bind()`.
    """

    needs_teacher: ClassVar[bool] = True
    citation: ClassVar[str] = ""
    traceable: ClassVar[bool] = True
    """Whether `torch.compile` can trace it; False where it forms its gradient itself (`autograd.Function`)."""

    def __init__(self) -> None:
        super().__init__()
        self._pair: Pair | None = None

    def settings(self) -> dict[str, Any]:
        """The keyword settings, as they would be written in a recipe."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @property
    def pair(self) -> Pair:
        """What the objective is bound to."""
        if self._pair is None:
            raise DistillationError(f"objective {self.name!r} is used before bind(pair).")
        return self._pair

    def bind(self, pair: Pair) -> None:
        """Take the pair to work on, check that it fits, and make what is learned.

        Raises: `IncompatiblePair` naming both sides and the remedy.
        """
        if self.needs_teacher and pair.teacher is None:
            raise IncompatiblePair(
                f"objective {self.name!r} compares with a teacher and there is none; pass teacher=…."
            )
        self._pair = pair

    def needs(self) -> Needs:
        """The signals read from the student and from the teacher; asked after `bind`."""
        raise NotImplementedError

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        """How many units of the batch the sum runs over; known before the forward pass."""
        raise NotImplementedError

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        """The loss, summed over the units that `count` counts, in at least float32."""
        raise NotImplementedError


class RowWise(Objective):
    """An objective that is a sum over rows of logits: it writes `rows(...)` and inherits the rest.

    The sum is that of `rows` over `row_divisors`, over the rows that count, and it may be taken over some rows at a
    time: of a large vocabulary the logits then never exist in full (`vocabulary.py`). `needs_labels`: whether `rows`
    gets the labels of the rows.
    """

    needs_labels: ClassVar[bool] = False

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if not pair.task.logit_fields:
            raise IncompatiblePair(
                f"objective {self.name!r} reads logits, and the student ({pair.student.family}) is a model without a "
                "head; load it with one (AutoModelFor…), or take objectives of hidden states and relations alone."
            )
        if self.needs_teacher and pair.temperatures is not None:
            self.check_top_logits(pair.temperatures)

    def check_top_logits(self, temperatures: tuple[float, ...]) -> None:
        """Refuse a teacher that shows its largest logits alone, with the sum of the rest at these temperatures; an
        objective that overrides this takes `TopLogits` as `teacher_rows`.

        Raises: `IncompatiblePair`.
        """
        raise IncompatiblePair(
            f"objective {self.name!r} reads all logits of the teacher, and its cache has the largest alone (codec "
            "top_k). Cache the last hidden state, or train with the teacher itself."
        )

    def rows(self, student_logits: Tensor, teacher_rows: Any, labels: Tensor | None) -> Tensor:
        """One value a row. `student_logits` `[rows..., classes]`; `teacher_rows` the same, `TopLogits`, or None;
        `labels` `[rows...]` or None."""
        raise NotImplementedError

    @property
    def sums_rows(self) -> bool:
        """Whether it is what `rows` gives, summed as here, and so may be taken over some rows at a time."""
        own = type(self)
        return own.forward is RowWise.forward and own.values is RowWise.values and own.compare is RowWise.compare

    def mask(self, batch: Batch) -> Tensor | None:
        """Which rows count; None for all."""
        raise NotImplementedError

    def summed(self, batch: Batch) -> Tensor | None:
        """Which rows the sum runs over; None for all, where the value of a row that does not count is 0 anyway."""
        return self.mask(batch)

    def row_divisors(self, batch: Batch) -> Tensor | int:
        """What the value of a row that counts is divided by: a number, or a tensor that broadcasts to the rows."""
        return 1

    @property
    def tokens_read(self) -> str:
        """The choice of rows that is asked of the task; empty for its default."""
        return ""

    def needs(self) -> Needs:
        signals = [Signal(field) for field in self.pair.task.logit_fields]
        return Needs.of(signals, signals if self.needs_teacher else ())

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        mask = self.mask(batch)
        return task.num_examples(batch) if mask is None else mask.sum()

    def values(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        """The value of every row, those that do not count included (their gradient is cut by `mask`)."""
        task = self.pair.task
        mask = self.mask(batch) if task.tokens else None
        tokens = self.tokens_read or next(iter(task.tokens), "")
        student_rows = task.rows(student, batch, tokens)
        teacher_rows = task.rows(teacher, batch, tokens) if teacher is not None and self.needs_teacher else None
        targets = task.targets(batch) if self.needs_labels else None
        total: Tensor | None = None
        for i, logits in enumerate(student_rows):
            # Padded positions may hold anything; rows that are examples or single labels hold finite logits.
            row_mask = mask if mask is not None and 1 < mask.dim() < logits.dim() else None
            against = None if teacher_rows is None else teacher_rows[i]
            value = self.compare(logits, against, targets[i] if targets else None, row_mask)
            total = value if total is None else total + value
        return total if len(student_rows) == 1 else total / len(student_rows)  # type: ignore[return-value, operator]

    def compare(self, logits: Tensor, against: Any, labels: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """The value of each of some rows of logits, as the models gave them; rows outside `mask` get no gradient."""
        if isinstance(against, Tensor):
            logits, against = self.pair.align(logits, against)
            against = at_least_float32(against.detach())
        return self.rows(blank(at_least_float32(logits), mask), against, labels)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        values, divisors = self.values(student, teacher, batch), self.row_divisors(batch)
        undivided = isinstance(divisors, int) and divisors == 1
        return masked_sum(values if undivided else values / divisors, self.summed(batch))

    def check_labels(self, student_logits: Tensor, labels: Tensor) -> None:
        """Refuse shapes and kinds of labels that torch would broadcast, or refuse without a word about the data."""
        task = self.pair.task
        expected = student_logits.shape[:-1] if task.form == "softmax" else student_logits.shape
        if labels.shape != expected:
            raise DataError(
                f"labels of shape {tuple(labels.shape)} for {task.name} logits of shape "
                f"{tuple(student_logits.shape)}; they must have the shape {tuple(expected)}. Look at the label column "
                "and at config.problem_type."
            )
        if task.form == "softmax" and labels.is_floating_point():
            raise DataError(
                f"labels of {labels.dtype} for a {task.name} task; classes are whole numbers. Cast the label column, "
                "or set config.problem_type."
            )


ObjectiveClass = TypeVar("ObjectiveClass", bound=type[Objective])

_registry: dict[str, type[Objective]] = {}


def register(name: str) -> Callable[[ObjectiveClass], ObjectiveClass]:
    """Class decorator: enter an objective into the registry under the literature's name, in snake_case."""

    def enter(objective: ObjectiveClass) -> ObjectiveClass:
        if name in _registry or not name.isidentifier() or name != name.lower():
            raise DistillationError(f"objective name {name!r} is taken or not snake_case.")
        objective.name = name
        _registry[name] = objective
        return objective

    return enter


def names() -> list[str]:
    """The registered names, sorted."""
    return sorted(_registry)


def get(name: str) -> type[Objective]:
    """The class of a registered name; an unknown name is an error that lists the nearest."""
    if name not in _registry:
        raise DistillationError(
            f"unknown objective {name!r}{_nearest(name, names())}; the objectives are {', '.join(names())}."
        )
    return _registry[name]


def make(name: str, settings: Mapping[str, Any]) -> Objective:
    """The objective of a name with its settings; an unknown setting is an error that names the nearest."""
    objective = get(name)
    known = list(inspect.signature(objective).parameters)
    for setting in settings:
        if setting not in known:
            listed = ", ".join(known) or "none"
            raise DistillationError(
                f"objective {name!r} has no setting {setting!r}{_nearest(str(setting), known)}; its settings are "
                f"{listed}."
            )
    return objective(**settings)


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_choice(objective: str, setting: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a setting that is none of `choices`, naming the nearest."""
    if value not in choices:
        near = _nearest(str(value), list(choices))
        raise DistillationError(f"{objective}: {setting} is {value!r}{near}; it may be {', '.join(choices)}.")


def check_flag(objective: str, setting: str, value: object) -> None:
    """Refuse a setting that is neither True nor False."""
    if not isinstance(value, bool):
        raise DistillationError(f"{objective}: {setting} is {value!r}; it may be true or false.")


def check_number(
    objective: str, setting: str, value: object, low: float, high: float, *, open_low: bool = False
) -> None:
    """Refuse a setting that is no number between `low` and `high` (NaN, booleans and strings are none)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (low < value <= high if open_low else low <= value <= high):  # type: ignore[operator]
        bracket = "above" if open_low else "at least"
        raise DistillationError(
            f"{objective}: {setting} is {value!r}; it must be a number {bracket} {low:g} and at most {high:g}."
        )
