"""Several teachers for one student."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_distill.activations import EnsembleActivations, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.member_logits import COMBINE, ROUTES, RULES, Combining, Tally
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.tasks import Batch, Task
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.cached import COLUMN, Cached
from hf_distill.teachers.frozen import Frozen

logger = logging.getLogger(__name__)

Members = Mapping[str, Teacher | PreTrainedModel] | Sequence[Teacher | PreTrainedModel]

NEARLY_ALL = 0.95
"""With so large a share of an epoch's rows a member is the teacher."""


class Ensemble(Teacher):
    """Several teachers, by name (a list calls them `teacher_1`, `teacher_2`, …): models, `Cached` or other ones.

    Objectives over rows of logits learn from all of them together. With member k's law p_k at the temperature T of the
    objective and weights w_k that sum to 1 in every row, `combine` is `prob`, the law sum_k w_k p_k (You, Xu, Xu &
    Tao, 2017, doi:10.1145/3097983.3098135, who average softened outputs); `logit`, the law of sum_k w_k z_k at T; or
    `losses`, the sum of w_k times the objective's value against member k. For labels of a multi-label task laws are
    Bernoulli's; scores of a regression are averaged. The members' logits are kept, as an average of probabilities
    cannot be softened afterwards.

    `weights`: one number of 0 or more a member, None for equal ones, or the rule by which each row weighs the members,
    at temperature 1 (`member_logits.rule_weights`): `label_ce`, by their loss on the label (Zhang, Chen & Wang, 2022,
    arXiv:2201.00007), `entropy`, by their own, or `softmax`, softmax(-loss / `tau`). In place of weights `routing`
    gives each row to one member: the surest (`max_prob`), the one surest of the label (`gold`), or the one whose
    number, counted from 0 in the order of `members`, stands in the batch's column `domain_column` (`domain`). All
    members run whatever the rule.

    Every other objective learns from one member, which its term names: `HiddenMSE().on("expert")`, in a recipe
    `on: expert`. The labels of each member are aligned with the student's by name, on its own. A member runs as far as
    it is read, one after another; of a large vocabulary the logits of each are there whole.

    Raises: `DistillationError` for settings out of range.
    """

    def __init__(
        self,
        members: Members,
        *,
        combine: str = "prob",
        weights: str | Sequence[float] | None = None,
        routing: str | None = None,
        tau: float = 1.0,
        domain_column: str = "domain",
    ) -> None:
        self.members = {name: _as_teacher(name, each) for name, each in _named(members).items()}
        names = tuple(self.members)
        check_choice("ensemble", "combine", combine, COMBINE)
        check_number("ensemble", "tau", tau, 0.0, 1e4, open_low=True)
        if routing is not None:
            check_choice("ensemble", "routing", routing, ROUTES)
            if weights is not None:
                raise DistillationError(
                    "ensemble: routing gives each row to one member, and weights are given as well."
                )
        shares = weights if weights is None or isinstance(weights, str) else _checked(tuple(weights), names)
        if isinstance(shares, str):
            check_choice("ensemble", "weights", shares, RULES)
        self.tally = None if routing is None else Tally(names)
        self.combining = Combining(len(names), combine, shares, routing, float(tau), domain_column, self.tally)
        self.anatomy: Anatomy = next(iter(self.members.values())).anatomy
        self._read: frozenset[str] = frozenset()
        for name, member in self.members.items():
            if isinstance(member, Cached):
                if member.is_recorded:
                    raise DistillationError(
                        f"the member {name!r} of an ensemble is made of a served teacher's records, which are silent "
                        "of some positions; give it alone as the teacher."
                    )
                member.column = f"{COLUMN}{name}/"

    def of(self, members: Mapping[str, Teacher]) -> Ensemble:
        """The same with other members, of the same names."""
        how = self.combining
        return Ensemble(
            members,
            combine=how.combine,
            weights=how.weights,
            routing=how.routing,
            tau=how.tau,
            domain_column=how.column,
        )

    @property
    def models(self) -> tuple[nn.Module, ...]:
        return tuple(model for member in self.members.values() for model in member.models)

    @property
    def accepts(self) -> frozenset[str]:
        columns = {self.combining.column} if self.combining.routing == "domain" else set()
        return frozenset(columns).union(*(member.accepts for member in self.members.values()))

    def pair(self, student: Anatomy, task: Task, **settings: Any) -> Pair:
        pairs: dict[str, Pair] = {}
        for name, member in self.members.items():
            try:
                pairs[name] = member.pair(student, task, **settings)
            except IncompatiblePair as error:
                raise IncompatiblePair(f"the teacher {name!r}: {error}") from error
        return Pair.together(pairs, self.combining)

    def bind(self, signals: frozenset[Signal]) -> None:
        self._read = frozenset()
        for name, member in self.members.items():
            asked = of_member(signals, name)
            member.bind(asked)
            if asked:
                self._read |= {name}

    def prepare(self, rows: Any, collator: Callable[[list[Any]], Mapping[str, Any]], tokenizer: Any) -> None:
        """Raises: `CacheMismatch`, as the members; `DataError` for a row that is given to no member."""
        for name in self._read:
            self.members[name].prepare(rows, collator, tokenizer)
        if self.combining.routing == "domain" and hasattr(rows, "column_names"):
            self._check_domains(rows)

    def _check_domains(self, rows: Any) -> None:
        column, number = self.combining.column, len(self.members)
        if column not in rows.column_names:
            raise DataError(
                f"ensemble: routing by domain reads the column {column!r}, and the data have "
                f"{', '.join(rows.column_names)}. Add it, with the number of the member for each row, or name another "
                "as domain_column."
            )
        unknown = sorted({*rows[column][:]} - {*range(number)}, key=str)
        if unknown:
            raise DataError(
                f"ensemble: the column {column!r} holds {unknown[0]!r}; it must hold the number of a member, 0 to "
                f"{number - 1} for {', '.join(self.members)}."
            )

    def reading(self, collator: Callable[[list[Any]], Mapping[str, Any]]) -> Callable[[list[Any]], Mapping[str, Any]]:
        for name, member in self.members.items():
            collator = member.reading(collator) if name in self._read else collator
        return collator

    def place(self, device: torch.device, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        for member in self.members.values():
            member.place(device, autocast)

    def compile(self, **settings: Any) -> None:
        for name in self._read:
            self.members[name].compile(**settings)

    def activations(self, batch: Batch) -> EnsembleActivations:
        if not self._read:
            raise DistillationError("the teachers are asked for activations before bind(signals).")
        shown = {name: each.activations(batch) for name, each in self.members.items() if name in self._read}
        return EnsembleActivations(shown)

    def after_epoch(self) -> None:
        for name, share in (self.tally.take() if self.tally is not None else {}).items():
            if share > NEARLY_ALL and len(self.members) > 1:
                logger.warning(
                    "the teacher %r was given %.1f %% of the rows of the last epoch by routing=%r; the others teach "
                    "next to nothing",
                    name,
                    100 * share,
                    self.combining.routing,
                )


def of_member(signals: Iterable[Signal], name: str) -> frozenset[Signal]:
    """What is read of one of several teachers, as it knows that itself."""
    return frozenset(signal._replace(member="") for signal in signals if signal.member in ("", name))


def _named(members: Members) -> Mapping[str, Teacher | PreTrainedModel]:
    if not isinstance(members, Mapping):
        members = {f"teacher_{number}": member for number, member in enumerate(members, start=1)}
    if not members:
        raise DistillationError("an ensemble has no members; give it one teacher or more.")
    for name in members:
        if not isinstance(name, str) or not name.isidentifier():
            raise DistillationError(f"{name!r} is no name for a member of an ensemble; use letters, digits and '_'.")
    return members


def _as_teacher(name: str, member: Any) -> Teacher:
    if isinstance(member, Ensemble):
        raise DistillationError(f"the member {name!r} of an ensemble is an ensemble; list its members in its place.")
    if member is None or isinstance(member, str):
        raise DistillationError(
            f"the member {name!r} of an ensemble is {member!r}; give a loaded model or a Teacher "
            "(Frozen.from_pretrained reads a folder or a Hub id)."
        )
    if isinstance(member, Teacher):
        if member.reads_student:
            raise DistillationError(
                f"the member {name!r} of an ensemble, a {type(member).__name__}, is made of the student; an ensemble "
                "is of models that stay."
            )
        if member.alongside is not None:
            raise DistillationError(
                f"the member {name!r} of an ensemble, a {type(member).__name__}, trains with the student; an ensemble "
                "is of models that stay. Give the peers alone as the teacher."
            )
        if member.tokenizer is not None:
            raise DistillationError(
                f"the member {name!r} of an ensemble reads by its own tokenizer; members of an ensemble read the "
                "student's tokens. Learn from it alone, by uld or gold."
            )
        return member
    return Frozen(member)


def _checked(weights: tuple[float, ...], names: Sequence[str]) -> tuple[float, ...]:
    if len(weights) != len(names):
        raise DistillationError(f"ensemble: {len(weights)} weights for {len(names)} members ({', '.join(names)}).")
    for name, weight in zip(names, weights, strict=True):
        check_number("ensemble", f"the weight of {name}", weight, 0.0, 1e6)
    if math.fsum(weights) == 0.0:
        raise DistillationError("ensemble: all weights are 0, and they cannot be brought to sum to 1.")
    return tuple(map(float, weights))
