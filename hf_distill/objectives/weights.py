"""What a term is multiplied by: a number, a schedule over the steps, or a weight that is learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from hf_distill.errors import DistillationError
from hf_distill.losses import at_least_float32

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda share: share,
    "cosine": lambda share: 0.5 * (1.0 - math.cos(math.pi * share)),
    "early_stop": lambda share: float(share >= 1.0),
    "ramp_up": lambda share: math.exp(-5.0 * (1.0 - share) ** 2),
}
"""How far a weight has come from its first value to its last, by the share of the time between them."""

BOUND = 5.0
"""The largest absolute log-variance of a learned weight."""


@dataclass(frozen=True)
class Schedule:
    """A weight that follows the training: a function of the step and of the number of steps alone, so that a resumed
    run goes on as if it had never stopped.

    w(x) = initial + (final - initial) s((x - start) / (stop - start)), x = step / number of steps, steps from 0, and
    the fraction held between 0 and 1. By `shape`, s(u) is `linear` u; `cosine` (1 - cos pi u) / 2; `early_stop` 0
    before u = 1; `ramp_up` exp(-5 (1 - u)^2), with which an online scheme starts (Tarvainen & Valpola, 2017,
    arXiv:1703.01780). Linear ones fade a teacher out, or in; an early stop leaves the student alone from then on
    (Cho & Hariharan, 2019, arXiv:1910.01348). Where all terms that read the teacher weigh 0, it does not run.

    Raises: `DistillationError` for another shape, for weights below 0 or not finite, and for a `start` or `stop` that
    is no share of the steps, or in the wrong order.
    """

    shape: str
    initial: float
    final: float
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise DistillationError(f"a schedule's shape is {self.shape!r}; it may be {', '.join(SHAPES)}.")
        for name in ("initial", "final", "start", "stop"):
            number = getattr(self, name)
            if not is_weight(number):
                raise DistillationError(
                    f"the {self.shape} schedule's {name} is {number!r}; it must be a finite number, 0 or more."
                )
            object.__setattr__(self, name, float(number))
        if not self.start <= self.stop <= 1.0:
            raise DistillationError(
                f"the {self.shape} schedule runs from {self.start:g} to {self.stop:g}; start and stop are shares of "
                "the steps, from 0 to 1, and start comes first."
            )

    @classmethod
    def linear(cls, initial: float, final: float, *, start: float = 0.0, stop: float = 1.0) -> Self:
        """From one weight to another in a straight line."""
        return cls("linear", initial, final, start, stop)

    @classmethod
    def cosine(cls, initial: float, final: float, *, start: float = 0.0, stop: float = 1.0) -> Self:
        """From one weight to another along half a cosine."""
        return cls("cosine", initial, final, start, stop)

    @classmethod
    def early_stop(cls, initial: float = 1.0, *, stop: float, final: float = 0.0) -> Self:
        """One weight until a share of the steps is over, then another."""
        return cls("early_stop", initial, final, stop=stop)

    @classmethod
    def warmup(cls, final: float = 1.0, *, stop: float = 0.1) -> Self:
        """From 0 in a straight line."""
        return cls("linear", 0.0, final, stop=stop)

    @classmethod
    def ramp_up(cls, final: float = 1.0, *, stop: float = 1.0) -> Self:
        """exp(-5 (1 - u)^2) of the last weight, u the share of the ramp that is over; it begins at exp(-5) of it."""
        return cls("ramp_up", 0.0, final, stop=stop)

    def at(self, progress: float) -> float:
        """The weight when this share of the steps is over."""
        span = self.stop - self.start
        share = (progress - self.start) / span if span > 0.0 else float(progress >= self.stop)
        return self.initial + (self.final - self.initial) * SHAPES[self.shape](min(max(share, 0.0), 1.0))

    def scaled(self, factor: float) -> Self:
        """Both weights times a factor."""
        return replace(self, initial=self.initial * factor, final=self.final * factor)

    def __str__(self) -> str:
        return (
            f"{self.shape} from {self.initial:g} to {self.final:g} over {self.start:g} to {self.stop:g} of the steps"
        )


@dataclass(frozen=True)
class Learned:
    """A weight that is learned with the student, by the uncertainty of the term (Kendall, Gal & Cipolla, 2018,
    arXiv:1705.07115).

    The term adds exp(-s) L / 2 + s / 2 to the loss, L its mean and s a parameter: it starts at 0, is held between -5
    and 5, has no weight decay, and comes to rest at s = log L, where the term weighs 1 / (2 L). `learning_rate` is
    that of s; with that of a fine-tuning it would hardly move. A term that reaches 0 takes s to -5, and weighs 74.

    Raises: `DistillationError` for a learning rate that is not above 0.
    """

    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if not is_weight(self.learning_rate) or self.learning_rate == 0:
            raise DistillationError(
                f"the learning rate of a learned weight is {self.learning_rate!r}; it must be a finite number above 0."
            )

    def __str__(self) -> str:
        return "learned"


Weight = float | Schedule | Learned


def is_weight(number: object) -> bool:
    """Whether it is a finite number, 0 or more."""
    known = isinstance(number, int | float) and not isinstance(number, bool)
    return known and math.isfinite(number) and number >= 0  # type: ignore[arg-type, operator]


def as_weight(given: object, objective: str) -> Weight:
    """The weight of a term on this objective; `"learned"` stands for `Learned()`.

    Raises: `DistillationError`.
    """
    if isinstance(given, Schedule | Learned):
        return given
    if given == "learned":
        return Learned()
    if not is_weight(given):
        raise DistillationError(
            f"the weight of {objective!r} is {given!r}; it must be a finite number, 0 or more, a Schedule, or "
            "'learned'."
        )
    return float(given)  # type: ignore[arg-type]


def largest(weight: Weight) -> float:
    """What a weight never exceeds."""
    if isinstance(weight, Learned):
        return 0.5 * math.exp(BOUND)
    return max(weight.initial, weight.final) if isinstance(weight, Schedule) else weight


def product(left: Weight, right: Weight, objective: str) -> Weight:
    """The weight of a weighted term that is weighted once more.

    Raises: `DistillationError` where neither is a number, or one is learned.
    """
    number, other = (left, right) if isinstance(left, float) else (right, left)
    if isinstance(number, float) and isinstance(other, float):
        return as_weight(number * other, objective)
    if isinstance(number, float) and isinstance(other, Schedule):
        return other.scaled(number)
    if number == 1.0:
        return other
    raise DistillationError(
        f"the weight of {objective!r} is {left} and is multiplied by {right}; a schedule may be multiplied by a "
        "number, and a learned weight by nothing."
    )


def bounded(log_variance: Tensor) -> Tensor:
    """The s of a learned weight, a scalar in at least float32 between -5 and 5."""
    return at_least_float32(log_variance).clamp(-BOUND, BOUND).squeeze(0)


def learned_weight(log_variance: Tensor) -> Tensor:
    """exp(-s) / 2."""
    return 0.5 * torch.exp(-log_variance)


def uncertain(mean: Tensor, log_variance: Tensor, batches: Tensor | float = 1.0) -> Tensor:
    """exp(-s) L / 2 + s / (2 n): what a term of mean L adds to the loss in one of the n batches of a step."""
    return learned_weight(log_variance) * mean + 0.5 * log_variance / batches


def hold(log_variance: Tensor) -> None:
    """Puts the s of a learned weight back where it may be, so that its gradient does not vanish beyond."""
    with torch.no_grad():
        log_variance.clamp_(-BOUND, BOUND)
