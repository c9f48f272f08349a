"""What a student may cost, and what a model does cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from hf_distill.errors import DistillationError
from hf_distill.evaluation.latency import Latency

HEADROOM = 0.05
"""A student is chosen with so much of the time to spare, as a clock does not show the same twice."""

TIMES = ("latency_ms", "latency_share")
UNITS = {
    "latency_ms": "ms for a sentence",
    "latency_share": "of the teacher's time",
    "size_mb": "MB",
    "params": "parameters",
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a model in one of its forms costs: its time, bytes of its weights on disk, parameters.

    `teacher_ms` is the teacher's time for the same sentences, measured around the model's.
    """

    latency: Latency
    teacher_ms: float
    size_bytes: int
    params: int

    def amounts(self) -> dict[str, float]:
        """In the units of a budget."""
        milliseconds = self.latency.milliseconds_per_sentence
        return {
            "latency_ms": milliseconds,
            "latency_share": milliseconds / self.teacher_ms,
            "size_mb": self.size_bytes / 1e6,
            "params": float(self.params),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cost:
        """Of what `dataclasses.asdict` gave."""
        return cls(**{**data, "latency": Latency(**data["latency"])})


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that a student may cost; one limit or several together.

    `latency_ms` is the median time of a sentence at batch 1 (`evaluation.latency`), `latency_share` the same as a
    share of the teacher's, which is timed at the same time, in float32 and as it is; `size_mb` is of the weights on
    disk, in 10^6 bytes; `params` counts all parameters.

    Raises: `DistillationError` for no limit, or one that is not a positive number.
    """

    latency_ms: float | None = None
    latency_share: float | None = None
    size_mb: float | None = None
    params: int | None = None

    def __post_init__(self) -> None:
        names = [field.name for field in fields(self)]
        if not self.limits():
            raise DistillationError(f"a budget needs a limit: {', '.join(names)}.")
        for name, value in self.limits().items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value) or value <= 0:
                raise DistillationError(f"budget: {name} is {value!r}; it must be a number above 0.")

    def limits(self) -> dict[str, float]:
        """What is limited, in the units of `Cost.amounts`."""
        return {name: getattr(self, name) for name in UNITS if getattr(self, name) is not None}

    def with_headroom(self) -> Budget:
        """The budget that students are chosen by, with a little less time."""
        less: dict[str, Any] = {name: limit * (1 - HEADROOM) for name, limit in self.limits().items() if name in TIMES}
        return replace(self, **less)

    def overrun(self, amounts: Mapping[str, float]) -> float:
        """The largest ratio of a cost to its limit: at most 1 where all is kept to."""
        return max(amounts[name] / limit for name, limit in self.limits().items())


def told(amounts: Mapping[str, float]) -> str:
    """`4.21 ms for a sentence, 69.8 MB, 17,450,000 parameters`."""
    return ", ".join(
        f"{value:,.0f} {UNITS[name]}" if name == "params" else f"{value:.3g} {UNITS[name]}"
        for name, value in amounts.items()
    )
