"""What is logged of the terms at each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from hf_distill.objectives.base import Objective
from hf_distill.objectives.weighing import Weighing


class Columns:
    """The names and the values of what is logged: each term's own value, the auxiliary parts of those that have one,
    what each term adds to the total where weights vary, and what else terms log (`Objective.logs`).
    """

    def __init__(self, objectives: nn.ModuleDict, weights: Weighing) -> None:
        self._objectives, self._weights = objectives, weights

    def _named(self) -> Iterator[tuple[str, Objective]]:
        for name, objective in self._objectives.items():
            yield name, cast("Objective", objective)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order of `values`."""
        named = list(self._named())
        return (
            *(f"objective/{name}" for name, _ in named),
            *(f"auxiliary/{name}" for name, each in named if each.two_sided),
            *(f"weighted/{name}" for name, _ in named if self._weights.vary),
            *(f"{name}/{log}" for name, each in named for log in each.logs),
        )

    def values(
        self,
        total: Tensor,
        sums: Sequence[Tensor | None],
        auxiliary: Sequence[Tensor],
        divisors: Sequence[Tensor | float],
        batches: Tensor | float,
    ) -> Tensor:
        """The values `[names]`, 0 for a term that was left out, whose sum is None; `auxiliary` is divided already."""
        divided = zip(sums, divisors, strict=True)
        means = [total.new_zeros(()) if value is None else value / divisor for value, divisor in divided]
        parts = list(means) if self._weights.vary else []
        for i, (name, value) in enumerate(zip(self._objectives, sums, strict=True)):
            if parts and value is not None:
                parts[i] = self._weights.part(name, means[i], 1.0, batches)
        noted = [
            each.noted.get(log, total.new_zeros(())).to(total.dtype) / divisor
            for (_, each), divisor in zip(self._named(), divisors, strict=True)
            for log in each.logs
        ]
        return torch.stack([*means, *auxiliary, *parts, *noted])
