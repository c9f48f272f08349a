"""The logits of several teachers for the same rows, kept apart until it is known at which temperature they are read.

An average of probabilities depends on the temperature: the average at another one does not follow from it. So each
teacher's own logits are kept, and combined where an objective asks for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.errors import DistillationError
from hf_distill.losses import at_least_float32
from hf_distill.tasks import IGNORED

COMBINE = ("prob", "logit", "losses")
RULES = ("label_ce", "entropy", "softmax")
ROUTES = ("max_prob", "gold", "domain")
OF_LABELS = ("label_ce", "softmax", "gold")
"""The rules that look at the labels."""
OF_LAWS = (*RULES, "max_prob", "gold")
"""The rules that need a law over classes, which the scores of a regression are none of."""


@dataclass(frozen=True)
class Combining:
    """How the answers of `members` teachers to a row become one.

    With laws p_k at the temperature T and weights w_k that sum to 1, `combine` is `prob`, the law sum_k w_k p_k;
    `logit`, the law of the logits sum_k w_k z_k; or `losses`, no law but the sum over k of w_k times the objective's
    value against teacher k, whose gradient is that of `prob` where the objective is linear in the teacher's law.

    `weights` are one number a member, or the name of a rule by which each row weighs the members (`rule_weights`);
    None weighs them alike. `routing` gives each row to one member (`routed`) in place of that, and `tally` counts the
    rows that each was given; by `domain` it is the number in the batch's `column`. `tau` is the temperature of the
    rule `softmax`.
    """

    members: int
    combine: str = "prob"
    weights: str | tuple[float, ...] | None = None
    routing: str | None = None
    tau: float = 1.0
    column: str = "domain"
    tally: Tally | None = field(default=None, compare=False)

    @property
    def rule(self) -> str | None:
        """The rule that weighs the members row by row, if there is one."""
        return self.routing or (self.weights if isinstance(self.weights, str) else None)

    @property
    def reads_labels(self) -> bool:
        """Whether the labels say what a member weighs."""
        return self.rule in OF_LABELS


@dataclass(frozen=True)
class MemberLogits:
    """What each member answered to some rows: `logits` by member, `[rows..., classes]`, classes in the same order.

    `form` says what makes a law of them (`tasks.Form`); where that is no softmax, each element is a row of its own.
    `labels` are those of the rows, and `domain` the number of the member that each belongs to, where a rule reads it.
    """

    logits: Mapping[str, Tensor]
    combining: Combining
    form: str = "softmax"
    labels: Tensor | None = None
    domain: Tensor | None = None
    counted: Tensor | None = None
    """Which rows count; None for all."""

    def __getitem__(self, rows: Any) -> MemberLogits:
        """The same of some rows; `rows` indexes the first axis."""
        others = {name: getattr(self, name) for name in ("labels", "domain", "counted")}
        some: dict[str, Any] = {name: None if each is None else each[rows] for name, each in others.items()}
        return replace(self, logits={name: each[rows] for name, each in self.logits.items()}, **some)

    def weights(self) -> Tensor:
        """What each member weighs in each row: `[members, rows...]`, or `[members, 1...]` where rows are alike."""
        stacked = torch.stack([at_least_float32(each) for each in self.logits.values()])
        how = self.combining
        if how.routing is not None:
            chosen = routed(how.routing, stacked, self.form, self.labels, self.domain)
            if how.tally is not None:
                how.tally.add(chosen, self.counted)
            return functional.one_hot(chosen, len(stacked)).movedim(-1, 0).to(stacked.dtype)
        if isinstance(how.weights, str):
            return rule_weights(how.weights, stacked, self.form, self.labels, how.tau)
        rows = stacked.dim() - (2 if self.form == "softmax" else 1)
        given = (1.0,) * len(stacked) if how.weights is None else how.weights
        shares = [weight / math.fsum(given) for weight in given]
        parts = [stacked.new_full((1,) * rows, share) for share in shares]
        return torch.stack(parts)

    def at(self, temperature: float) -> Tensor:
        """Logits z whose law at the temperature, that of z / temperature, is the members' together; `combine` is
        `prob` or `logit`."""
        stacked = torch.stack([at_least_float32(each) for each in self.logits.values()])
        return together(stacked, self.weights(), temperature, self.combining.combine, self.form)


@dataclass(eq=False)
class Tally:
    """How many rows each member was given, on the device where they are."""

    members: Sequence[str]
    rows: Tensor | None = field(default=None)

    def add(self, chosen: Tensor, counted: Tensor | None) -> None:
        """Counts rows by the member that each was given; those outside `counted` do not."""
        given = functional.one_hot(chosen, len(self.members)).double()
        if counted is not None and counted.shape == chosen.shape:
            given = given * counted.unsqueeze(-1)
        sums = given.flatten(0, -2).sum(0)
        self.rows = sums if self.rows is None else self.rows + sums

    def take(self) -> dict[str, float]:
        """The share of each member since the last time, none where nothing was counted; waits for the device."""
        counts = [] if self.rows is None else self.rows.tolist()
        self.rows = None
        total = math.fsum(counts)
        return {name: count / total for name, count in zip(self.members, counts, strict=False)} if total else {}


def together(logits: Tensor, weights: Tensor, temperature: float, combine: str, form: str = "softmax") -> Tensor:
    """Logits z of the law that members make together at a temperature T: `logits` `[members, rows..., classes]`.

    `logit` is sum_k w_k z_k. `prob` is z = T log sum_k w_k softmax(z_k / T), for laws of one label T logit(sum_k w_k
    sigmoid(z_k / T)), and for scores their mean. Weights `[members, rows...]` are at least 0; they are brought to sum
    to 1 in every row.
    """
    shares = normalised(weights)
    if form == "softmax":
        shares = shares.unsqueeze(-1)
    if combine == "logit" or form == "identity":
        return (shares * logits).sum(0)
    logs, soft = shares.log(), logits / temperature
    if form == "softmax":
        return temperature * (logs + functional.log_softmax(soft, -1)).logsumexp(0)
    on, off = ((logs + functional.logsigmoid(side)).logsumexp(0) for side in (soft, -soft))
    return temperature * (on - off)


def normalised(weights: Tensor) -> Tensor:
    """Weights `[members, rows...]` over their sum in every row."""
    return weights / weights.sum(0)


def rule_weights(rule: str, logits: Tensor, form: str, labels: Tensor | None, tau: float = 1.0) -> Tensor:
    """What each member weighs in each row by how sure, or how right, it is at temperature 1: `[members, rows...]`.

    With CE_k = -log p_k(y) and H_k the entropy of p_k, K members: `label_ce` (1 - softmax_k(CE)) / (K - 1) (Zhang,
    Chen & Wang, 2022, arXiv:2201.00007), `entropy` (1 - H_k / sum_j H_j) / (K - 1), `softmax` softmax_k(-CE / tau).
    They sum to 1; the published code of the first two divides by K once more. A row without label, or whose entropies
    are all 0, weighs all alike; one member has weight 1.
    """
    number = len(logits)
    if rule == "entropy":
        entropies = _entropies(logits, form)
        total = entropies.sum(0)
        known = total > 0
        shares = entropies / torch.where(known, total, 1.0)
        weights = (1.0 - shares) / max(number - 1, 1)
    else:
        wrong, known = _label_losses(logits, form, labels)
        weights = (1.0 - wrong.softmax(0)) / max(number - 1, 1) if rule == "label_ce" else (-wrong / tau).softmax(0)
    return torch.where(known & (number > 1), weights, 1.0 / number)


def routed(rule: str, logits: Tensor, form: str, labels: Tensor | None, domain: Tensor | None) -> Tensor:
    """The number of the one member that teaches each row, `[rows...]`; the lower one of equals.

    `max_prob`: the member with the largest probability of a class at temperature 1; `gold`: with the largest
    probability of the label, and where there is none by `max_prob`; `domain`: as `domain` says.
    """
    if rule == "domain":
        if domain is None:
            raise DistillationError("routing by domain got no numbers of members.")
        rows = logits.shape[1:-1] if form == "softmax" else logits.shape[1:]
        return domain.reshape(-1, *[1] * (len(rows) - 1)).expand(rows)
    sure = logits.log_softmax(-1).amax(-1) if form == "softmax" else functional.logsigmoid(logits.abs())
    if rule == "max_prob":
        return sure.argmax(0)
    wrong, known = _label_losses(logits, form, labels)
    return torch.where(known, (-wrong).argmax(0), sure.argmax(0))


def _label_losses(logits: Tensor, form: str, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """-log p_k(y) `[members, rows...]`, 0 without a label, and which rows have one `[rows...]`."""
    if labels is None:
        raise DistillationError("the members are weighed by the labels, and there are none.")
    known = labels != IGNORED
    kept = torch.where(known, labels, 0)
    if form == "softmax":
        index = kept.long().expand(logits.shape[:-1]).unsqueeze(-1)
        losses = -logits.log_softmax(-1).gather(-1, index).squeeze(-1)
    else:
        targets = kept.to(logits.dtype).expand(logits.shape)
        losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return torch.where(known, losses, 0.0), known


def _entropies(logits: Tensor, form: str) -> Tensor:
    """`[members, rows...]`."""
    if form == "softmax":
        logs = logits.log_softmax(-1)
        return -(logs.exp() * logs.clamp(min=torch.finfo(logs.dtype).min)).sum(-1)
    return functional.binary_cross_entropy_with_logits(logits, logits.sigmoid(), reduction="none")
