"""The terms over a large vocabulary, evaluated together from the states before the heads, some rows at a time.

All of it is plain PyTorch. The fused kernels of Liger-Kernel (0.8.5, Triton, CUDA) take other inputs than terms have
here, and none of them could stand in without giving up what the terms say:

- `fused_linear_jsd` gives a mean over the rows whose label is not ignored: neither sums nor a weight for each row
  (`reduction`, examples of unequal length, several terms that count other rows). It takes the teacher's states and a
  bare weight matrix, `fused_linear_kl_div` all of the teacher's probabilities `[rows, vocabulary]`: no heads with
  a bias, a transform, a soft cap, a scale or an adapter, no largest logits from a cache, no ensemble.
- `fused_linear_cross_entropy` has values by row (`reduction="none"`), and then makes the logits again in the backward
  pass, the product that chunks here do once.
- Each function makes the student's logits for itself, so soft targets and labels together pay for the head twice; and
  the host waits for the device, for the number of rows that count and for the upstream gradient.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hf_distill.activations import Activations, Needs, Signal
from hf_distill.anatomy import Anatomy, Shape
from hf_distill.chunks import Head, RowLoss, Rows, Sizes, ThroughHead
from hf_distill.depth.plan import HEADS, runs_whole
from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.member_logits import Combining, MemberLogits
from hf_distill.objectives.base import Objective
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.row_wise import RowWise
from hf_distill.tasks import IGNORED, Batch, real_tokens

logger = logging.getLogger(__name__)

LOGITS = Signal("logits")


def may_run_in_part(pair: Pair, *, taught: bool) -> bool:
    """Whether the student of a stage may run in part, and its logits be made in chunks: with a teacher always.

    Without one it runs whole, so that a control has the last digits of the plain Trainer. Those of a large vocabulary
    are the price of never making the logits of words that no label asks for.
    """
    return taught or pair.has_large_vocabulary


class Step(NamedTuple):
    """What the batch says of a pass before any model runs: its rows, and the labels by position."""

    rows: Rows
    labels: Tensor | None
    size: tuple[int, int]
    domain: Tensor | None = None
    """The teacher that each example belongs to, where the batch says so."""


class Vocabulary:
    """The row-wise terms of a large vocabulary.

    Heads and losses run over the rows that a term counts and over no other, chunk by chunk (`chunks.py`), and the
    gradient of the student's states and of its head is formed on the way, so that memory does not grow with tokens x
    vocabulary. Objectives do not know: they are asked for the values of some rows. A term that counts few rows, as
    labels of a masked LM do, is evaluated on these alone.

    The models are asked for `final`, what their heads read, in place of logits; a teacher that cannot show it gives
    its logits.
    """

    def __init__(
        self,
        objectives: Mapping[str, RowWise],
        pair: Pair,
        student: Anatomy,
        teacher_head: Head | None,
    ) -> None:
        self.objectives, self.pair, self.student = objectives, pair, student
        self.teacher_head = teacher_head
        self._read_by_teacher: Signal | None = getattr(teacher_head, "reads", None)
        self.head_parameters = _reached_by_head(student)
        self._dtype = torch.promote_types(student.base.dtype, torch.float32)

    @classmethod
    def of(
        cls,
        objectives: Mapping[str, Objective],
        pair: Pair,
        student: Anatomy,
        teacher_head: Head | None = None,
    ) -> Vocabulary | None:
        """The terms that read logits, if these are a large vocabulary's and can be taken in chunks; else None.

        They are taken whole where a term needs all of them at once, where another term lets a model compute its heads
        anyway, and where the student must run whole or its family has no head in the table; the log then says why,
        and how large they are. So it does for a teacher's.
        """
        if not pair.has_large_vocabulary:
            return None
        reading = {name: objective for name, objective in objectives.items() if _reads_heads(objective)}
        some = {name: o for name, o in reading.items() if isinstance(o, RowWise) and o.sums_rows}
        if not some or len(some) < len(reading):
            return None
        if why := _whole(student):
            _tell("student", why, pair.student.num_logits)
            return None
        if teacher_head is None and _shows_logits(pair, some.values()):
            _tell("teacher", "no head of its family in the table takes them row by row", pair.student.num_logits)
        logger.info("%s: taken over %d words in chunks of rows", ", ".join(some), pair.student.num_logits)
        return cls(some, pair, student, teacher_head)

    def reads(self, needs: Needs) -> Needs:
        """What is asked of the models: `final` in place of logits."""
        theirs = needs.teacher
        if self.teacher_head is not None and self.pair.teacher is not None:
            theirs = _before_head(theirs, self._before_teachers_head(self.pair.teacher))
        ours = Signal("final", None, _last_stack(self.pair.student.stacks))
        return Needs(_before_head(needs.student, ours), theirs)

    def _before_teachers_head(self, teacher: Shape) -> Signal:
        """What the teacher's head reads: its last state, unless the head says otherwise."""
        return self._read_by_teacher or Signal("final", None, _last_stack(teacher.stacks))

    def step(self, batch: Batch, *, taught: bool = True) -> Step:
        """The rows of a batch; asked for before the models run. Terms that read a teacher count no row of a batch that
        is not `taught`.
        """
        task = self.pair.task
        grid = _positions(batch)
        dtype = self._dtype
        weights = torch.zeros(len(self.objectives), grid.numel(), dtype=dtype, device=grid.device)
        labels = None
        for i, objective in enumerate(self.objectives.values()):
            if objective.needs_teacher and not taught:
                continue
            tokens = objective.tokens_read or task.tokens[0]
            mask, places = objective.mask(batch), task.at_rows(grid, tokens).flatten()
            counted = torch.ones_like(grid, dtype=torch.bool) if mask is None else mask
            weights[i, places] = (counted.to(dtype) / objective.row_divisors(batch)).flatten()
            if objective.reads_labels and labels is None:
                labels = torch.full((grid.numel(),), IGNORED, device=grid.device)
                labels[task.at_rows(grid, task.tokens[0]).flatten()] = task.targets(batch)[0].flatten()
        sizes = Sizes.of(self.pair.student.num_logits, grid.device)
        combining = self.pair.combining
        domain = batch[combining.column] if combining is not None and combining.routing == "domain" else None
        return Step(Rows(weights, sizes), labels, (grid.shape[0], grid.shape[1]), domain)

    def __call__(
        self,
        student: Activations,
        teacher: Activations | None,
        step: Step,
        divisors: Mapping[str, Tensor | float],
        factors: Mapping[str, Tensor | float],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted total of the terms, each sum times its factor over its divisor, with gradient; and every sum,
        without.
        """
        hidden = student.stack(_last_stack(self.pair.student.stacks)).final
        _check_size("student", hidden, step)
        through_head = ThroughHead(
            self.student.head,
            self._against(teacher, step),
            [self._loss(objective, step.labels) for objective in self.objectives.values()],
            [self._coefficient(factors[name], divisors[name]) for name in self.objectives],
            self.head_parameters,
            [parameter for objective in self.objectives.values() for parameter in objective.parameters()],
        )
        total, sums = through_head(hidden, step.rows)
        return total, dict(zip(self.objectives, sums.unbind(), strict=True))

    def _coefficient(self, factor: Tensor | float, divisor: Tensor | float) -> Tensor | float:
        precise = divisor.to(self._dtype) if isinstance(divisor, Tensor) else divisor
        return factor / precise

    def _loss(self, objective: RowWise, labels: Tensor | None) -> RowLoss:
        def values(logits: Tensor, against: Any, positions: Tensor) -> Tensor:
            wanted = labels[positions] if objective.reads_labels and labels is not None else None
            return objective.compare(logits, _read_by(objective, against), wanted)

        return values

    def _against(self, teacher: Activations | None, step: Step) -> Callable[[Tensor], Any]:
        """What gives the teacher's logits at some positions."""
        pair_teacher, head = self.pair.teacher, self.teacher_head
        if teacher is None or pair_teacher is None or not any(o.needs_teacher for o in self.objectives.values()):
            return lambda positions: None
        if self.pair.combining is not None:
            return _of_members(teacher, self.pair.combining, step)
        if head is None:
            logits, length = teacher.logits, step.size[1]
            return lambda positions: logits[positions // length, positions % length]
        read = self._before_teachers_head(pair_teacher)
        shown: Tensor = getattr(teacher.stack(read.stack), read.field)
        _check_size("teacher", shown, step)
        states, known_head = shown.flatten(0, 1), head
        return lambda positions: known_head(states[positions].unsqueeze(0)).squeeze(0)


def _whole(student: Anatomy) -> str:
    """Why a student's logits cannot be made row by row, or nothing."""
    if not student.knows_head:
        return f"the head of {type(student.base).__name__} has no row in the family table"
    return runs_whole(student)


def _shows_logits(pair: Pair, objectives: Iterable[RowWise]) -> bool:
    """Whether one teacher, without a head at hand, gives a vocabulary's logits, and not the largest of them alone."""
    one = pair.teacher is not None and pair.members is None and pair.temperatures is None
    return one and any(objective.needs_teacher for objective in objectives)


def _tell(whose: str, why: str, words: int) -> None:
    logger.warning(
        "the %s's logits are taken whole (%s): 1,000 tokens of %d words are %.0f MB in float32, and a step holds "
        "several such tensors. Where that is too much, lower per_device_train_batch_size and accumulate gradients.",
        whose,
        why,
        words,
        4e-3 * words,
    )


def _of_members(teacher: Activations, combining: Combining, step: Step) -> Callable[[Tensor], MemberLogits]:
    """What gives the logits of several teachers at some positions; they are there whole."""
    whole = {name: shown.logits for name, shown in teacher.members.items() if "logits" in shown.tensors}
    length = step.size[1]

    def at(positions: Tensor) -> MemberLogits:
        rows, columns = positions // length, positions % length
        domain = None if step.domain is None else step.domain[rows]
        return MemberLogits({name: each[rows, columns] for name, each in whole.items()}, combining, domain=domain)

    return at


def _read_by(objective: RowWise, against: Any) -> Any:
    """What an objective reads of the teacher's rows; of several teachers' those of the one that it is on, if any."""
    if not objective.needs_teacher:
        return None
    one = isinstance(against, MemberLogits) and objective.pair.combining is None
    return against.logits[objective.pair.member] if one else against


def _reads_heads(objective: Objective) -> bool:
    needs = objective.needs()
    return any(signal.field in HEADS for signal in needs.student | needs.teacher)


def _last_stack(stacks: Iterable[str]) -> str:
    """The stack whose state the head reads."""
    return "decoder" if "decoder" in stacks else ""


def _before_head(signals: frozenset[Signal], read: Signal) -> frozenset[Signal]:
    return (signals - {LOGITS}) | ({read} if LOGITS in signals else set())


def _positions(batch: Batch) -> Tensor:
    """The numbers of the positions that have logits, `[batch, length]`: those of the labels, or of the text."""
    like = batch["labels"] if "labels" in batch else real_tokens(batch)
    return torch.arange(like.numel(), device=like.device).view(like.shape)


def _check_size(role: str, states: Tensor, step: Step) -> None:
    if tuple(states.shape[:2]) != step.size:
        error = IncompatiblePair if role == "teacher" else DataError
        raise error(
            f"the {role} shows states of shape {tuple(states.shape)} for labels or text of shape {step.size}; both "
            "must see the same tokens."
        )


def _mixed(device: str) -> AbstractContextManager[Any]:
    """Mixed precision, in which a head may be of another type than what it reads."""
    return torch.autocast(device) if torch.amp.is_autocast_available(device) else nullcontext()


def _reached_by_head(anatomy: Anatomy) -> list[Tensor]:
    """The parameters that the logits depend on, those included that do not train now."""
    parameters = [parameter for parameter in anatomy.model.parameters() if parameter.is_floating_point()]
    trained = [parameter.requires_grad for parameter in parameters]
    modes = [(module, module.training) for module in anatomy.model.modules()]
    width = anatomy.shape.stack(_last_stack(anatomy.shape.stacks)).hidden_size
    state = torch.ones(1, 1, width, dtype=anatomy.base.dtype, device=anatomy.base.device)
    try:
        anatomy.model.eval()
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad(), _mixed(state.device.type):
            found = torch.autograd.grad(anatomy.head(state).float().sum(), parameters, allow_unused=True)
        return [p for p, gradient in zip(parameters, found, strict=True) if gradient is not None]
    finally:
        for parameter, trains in zip(parameters, trained, strict=True):
            parameter.requires_grad_(trains)
        for module, training in modes:
            module.training = training
