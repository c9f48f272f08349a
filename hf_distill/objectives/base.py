"""What an objective is, and the registry of all of them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from hf_distill.activations import MAIN, Activations, Needs, Signal
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.losses import at_least_float32, blank, masked_sum
from hf_distill.member_logits import Combining, MemberLogits, normalised
from hf_distill.objectives.batching import ClassPairs
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.terms import Weighable
from hf_distill.parameter_groups import ParameterGroup
from hf_distill.tasks import Batch, Task


class Loss(NamedTuple):
    """What a two-sided objective returns: `main` trains the student, `auxiliary` what opposes or helps it, such as a
    discriminator on detached inputs. Both are sums over what the objective counts; the auxiliary part is added to the
    total with weight one, whatever the weight of the term.
    """

    main: Tensor
    auxiliary: Tensor


ROW_INDEX = "row_index"
"""The column of a batch that says which training rows its examples are, counted from 0."""


class Rises(NamedTuple):
    """What an objective wants to know of the student before it trains: how much the task's loss would rise without a
    feature of some hidden layers, measured in one of two ways (`ablation`, `gradient`) on the first batches.
    """

    layers: tuple[int, ...]
    stack: str
    how: str
    batches: int


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
    relates_batch: ClassVar[bool] = False
    """Whether it relates the examples of a batch to each other, so that micro-batches do not add up to the whole."""
    smallest_batch: int = 1
    """Examples without which it has no gradient; a shorter batch counts nothing."""
    advised_batch: ClassVar[int] = 1
    """Examples of a batch below which it says little."""
    batching: ClassVar[ClassPairs | None] = None
    """What it asks of the composition of training batches."""
    same_embeddings: bool = False
    """Whether it compares or moves both models in the space of their token embeddings, which must then be one."""
    gather: bool = False
    """Whether it relates the examples of all processes, so that these make one batch."""
    reads_rows: ClassVar[bool] = False
    """Whether it keeps something of each training row (`see_rows`), whose number is the batch's column `row_index`."""
    takes_members: ClassVar[bool] = False
    """Whether it learns from several teachers together; others name the one that they are on."""
    trains_student: ClassVar[bool] = True
    """Whether its gradient is meant for the student; False where it only learns parts that a later stage uses."""
    takes: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names in its state: what it takes of a term of its name that learned other things, too, in an
    earlier stage. Empty where both must have learned the same."""
    two_sided: ClassVar[bool] = False
    """Whether `forward` returns a `Loss`, whose auxiliary part trains what the objective learns by its own loss."""
    among_peers: ClassVar[bool] = False
    """Whether it is between models that train together (`teachers.Peers`), and no other teacher will do."""
    trains_peers: ClassVar[bool] = False
    """Whether it trains the student and its peers at once, all of which it is shown with their gradients."""
    feeds: ClassVar[bool] = False
    """Whether it changes what layers of the student give in the main pass while it trains (`fed_layers`, `feed`)."""
    progress: float = 1.0
    """The share of the training steps that are over, for what changes on the way; set before each step."""
    smallest_steps: int = 1
    """Steps of a training below which a part of what it does on the way would be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance: nn.Parameter | None
        self.register_parameter("log_variance", None)  # that of a learned weight of its term, if it has one
        self._pair: Pair | None = None
        self._remarks: dict[str, Tensor | bool] = {}
        self._said: set[str] = set()
        self.noted: dict[str, Tensor] = {}

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
        if self.needs_teacher and pair.members is not None and not self.takes_members:
            first = next(iter(pair.members))
            raise IncompatiblePair(
                f"objective {self.name!r} reads what one model shows, and there are the teachers "
                f"{', '.join(pair.members)}, whose states have nothing in common. Put the term on one of them: "
                f"{type(self).__name__}(…).on({first!r}), in a recipe `on: {first}`."
            )
        self._pair = pair

    def remark(self, happened: Tensor | bool, text: str) -> None:
        """Have `text` said in the log, once, if `happened` is true of any batch of the training.

        It is looked at when the trainer logs (`remarks`), so that no step waits for the device.
        """
        if self.training:
            self._put_down(happened, text)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _put_down(self, happened: Tensor | bool, text: str) -> None:
        if text not in self._said:
            before = self._remarks.get(text, False)
            self._remarks[text] = happened.detach() | before if isinstance(happened, Tensor) else happened or before

    def remarks(self) -> list[str]:
        """What has happened since it was last asked, each text once in a training; waits for the device."""
        found = [text for text, happened in self._remarks.items() if bool(happened)]
        self._said.update(found)
        self._remarks.clear()
        return found

    @property
    def logs(self) -> tuple[str, ...]:
        """Names of numbers that are logged beside its value, as `<term>/<name>` (`note`); asked after `bind`."""
        return ()

    def note(self, name: str, value: Tensor) -> None:
        """Puts down one of `logs`, as a sum over what it counts, of the batch at hand."""
        self.noted[name] = value.detach()

    def conclude(self) -> list[str]:
        """What is to be said when the training is over; waits for the device."""
        return []

    @property
    def for_every_peer(self) -> bool:
        """Whether it trains each of several models that train together (`teachers.Peers`), and not the student
        alone; asked after `bind`."""
        return False

    @property
    def fed_layers(self) -> frozenset[tuple[str, int]]:
        """The stack and the number of each layer of the student whose output it changes; asked after `bind`."""
        return frozenset()

    def feed(self, stack: str, layer: int, states: Tensor, teacher: Activations) -> Tensor:
        """What takes the place of the output `[batch, length, width]` of a layer of the student."""
        raise NotImplementedError

    @property
    def columns(self) -> frozenset[str]:
        """Columns of the batch that it reads beside labels and masks, which a model need not take."""
        return frozenset()

    def see_rows(self, number: int, labels: Sequence[int] | None) -> None:
        """How many training rows there are, and their labels if they have one class each; told after `bind` to an
        objective that `reads_rows`.

        Raises: `DataError` where it cannot work with these rows.
        """
        raise NotImplementedError

    def needs(self) -> Needs:
        """The signals read from the student and from the teacher; asked after `bind`."""
        raise NotImplementedError

    @property
    def asks(self) -> Rises | None:
        """What is measured of the student once, before the first step, and handed to `take_rises`."""
        return None

    def take_rises(self, rises: Tensor) -> None:
        """Takes what `asks` asked for, `[layers, width]`."""
        raise NotImplementedError

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        """How many units of the batch the sum runs over; known before the forward pass."""
        raise NotImplementedError

    @property
    def reaches_zero(self) -> bool:
        """Whether its smallest value is 0, as that of a distance or a divergence is."""
        return self.needs_teacher

    def parameter_groups(self) -> list[ParameterGroup]:
        """Those of its parameters that train at rates of their own; the others train as the student does."""
        return []

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor | Loss:
        """The loss, summed over the units that `count` counts, in at least float32; with `two_sided` both losses."""
        raise NotImplementedError


class RowWise(Objective):
    """An objective that is a sum over rows of logits: it writes `rows(...)` and inherits the rest.

    The sum is that of `rows` over `row_divisors`, over the rows that count, and it may be taken over some rows at a
    time: of a large vocabulary the logits then never exist in full (`vocabulary.py`). `needs_labels`: whether `rows`
    gets the labels of the rows.
    """

    needs_labels: ClassVar[bool] = False
    takes_members = True

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if not pair.task.logit_fields:
            raise IncompatiblePair(
                f"objective {self.name!r} reads logits, and the student ({pair.student.family}) is a model without a "
                "head; load it with one (AutoModelFor…), or take objectives of hidden states and relations alone."
            )
        if self.needs_teacher and pair.temperatures is not None:
            self.check_top_logits(pair.temperatures)
        if self.needs_teacher and pair.combining is not None:
            self._check_members(pair, pair.combining)

    def _check_members(self, pair: Pair, combining: Combining) -> None:
        """Raises: `IncompatiblePair` where several teachers give no logits that the objective could read."""
        remedy = f"Put the term on one of them (Term.on), which are {', '.join(pair.members or ())}."
        if not self.sums_rows:
            raise IncompatiblePair(f"objective {self.name!r} reads the logits of one teacher. {remedy}")
        if any(each.temperatures is not None for each in (pair.members or {}).values()):
            raise IncompatiblePair(
                f"objective {self.name!r} reads all logits of all teachers, and the cache of one has the largest "
                f"alone (codec top_k), which cannot be averaged. {remedy}"
            )
        if combining.combine == "prob" and self.softens_at is None and pair.task.form != "identity":
            raise IncompatiblePair(
                f"objective {self.name!r} with these settings reads raw logits, and an average of probabilities has "
                f"none; combine the teachers by 'logit' or 'losses'. {remedy}"
            )

    @property
    def for_every_peer(self) -> bool:
        """What it reads is the answer to the batch as it came, and it learns nothing of one model."""
        in_main = all(signal.source == MAIN for signal in self.needs().student)
        learns = any(name != "log_variance" for name, _ in self.named_parameters())
        return in_main and not self.pair.member and not learns

    @property
    def softens_at(self) -> float | None:
        """The temperature that divides the teacher's logits before their softmax, and is the one way in which they are
        read; None where they are read as they are. Averages of several teachers' probabilities are taken at it."""
        return None

    @property
    def reads_labels(self) -> bool:
        """Whether labels are looked at: by the objective, or to weigh several teachers by them."""
        combining = self.pair.combining if self.needs_teacher else None
        return self.needs_labels or (combining is not None and combining.reads_labels)

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
        teacher_rows = self._teacher_rows(teacher, batch, tokens)
        targets = task.targets(batch) if self.reads_labels else None
        total: Tensor | None = None
        for i, logits in enumerate(student_rows):
            # Padded positions may hold anything; rows that are examples or single labels hold finite logits.
            row_mask = mask if mask is not None and 1 < mask.dim() < logits.dim() else None
            against = None if teacher_rows is None else teacher_rows[i]
            value = self.compare(logits, against, targets[i] if targets else None, row_mask)
            total = value if total is None else total + value
        return total if len(student_rows) == 1 else total / len(student_rows)  # type: ignore[return-value, operator]

    def _teacher_rows(self, teacher: Activations | None, batch: Batch, tokens: str) -> Sequence[Any] | None:
        """The teacher's rows, or those of several teachers together."""
        task, combining = self.pair.task, self.pair.combining
        if teacher is None or not self.needs_teacher:
            return None
        if combining is None:
            return task.rows(teacher, batch, tokens)
        shown = {name: task.rows(each, batch, tokens) for name, each in teacher.members.items()}
        domain = batch[combining.column] if combining.routing == "domain" else None
        counted = self.mask(batch) if combining.tally is not None else None
        together = [dict(zip(shown, rows, strict=True)) for rows in zip(*shown.values(), strict=True)]
        return [MemberLogits(logits, combining, task.form, domain=domain, counted=counted) for logits in together]

    def compare(self, logits: Tensor, against: Any, labels: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """The value of each of some rows of logits, as the models gave them; rows outside `mask` get no gradient."""
        if isinstance(against, MemberLogits):
            return self._compare_members(logits, against, labels, mask)
        if isinstance(against, Tensor):
            logits, against = self.pair.align(logits, against)
            against = at_least_float32(against.detach())
        return self.rows(blank(at_least_float32(logits), mask), against, labels if self.needs_labels else None)

    def _compare_members(
        self, logits: Tensor, against: MemberLogits, labels: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """The value against several teachers: to what they answer together, or the weighted sum over them."""
        logits, theirs = self.pair.align_members(logits, against.logits)
        theirs = {name: at_least_float32(each.detach()) for name, each in theirs.items()}
        ours, hard = blank(at_least_float32(logits), mask), labels if self.needs_labels else None
        together = replace(against, logits=theirs, labels=labels)
        if labels is not None and labels.shape != (ours.shape[:-1] if against.form == "softmax" else ours.shape):
            raise IncompatiblePair(
                f"objective {self.name!r} compares rows of shape {tuple(ours.shape)}, and the labels that weigh the "
                f"teachers are of shape {tuple(labels.shape)}; leave out `tokens`, or weigh the teachers by numbers."
            )
        if together.combining.combine != "losses":
            return self.rows(ours, together.at(self.softens_at or 1.0), hard)
        values = torch.stack([self.rows(ours, each, hard) for each in theirs.values()])
        return (values * normalised(together.weights()).to(values.dtype)).sum(0)

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


def check_count(objective: str, setting: str, value: object, low: int) -> None:
    """Refuse a setting that is no whole number from `low` on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise DistillationError(f"{objective}: {setting} is {value!r}; it must be a whole number from {low} on.")


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
