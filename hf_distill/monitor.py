"""Term values between two logs, and the watch over NaN and infinity, both kept on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hf_distill.errors import NonFiniteLoss
from hf_distill.objectives.weighing import Weighing


class Monitor:
    """Adds up the terms' values, and keeps a sticky flag that holds back an optimizer step which would carry NaN or
    infinity. `columns` are the names of the values (`Distillation.columns`).

    Nothing here waits for the device before `read()`. Several processes add the sums up by `reduce_sum`, and agree on
    the flag by `gather`, which puts the rows `[1, ...]` of all of them below each other and is None in one process.
    """

    def __init__(
        self,
        columns: Sequence[str],
        weights: Weighing,
        device: torch.device,
        reduce_sum: Callable[[Tensor], Tensor],
        gather: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.columns, self.weights = tuple(columns), weights
        self._watched = torch.zeros(len(self.columns) + 1, device=device)
        self.sums, self._gradient_norms = self._watched[:-1], self._watched[-1]
        self.held_back = torch.zeros((), device=device)
        """1.0 once a step was held back, in the form that fused optimizers read as `found_inf`."""
        self._steps_held_back = torch.zeros((), device=device)
        self._steps_untaught = 0
        self._reduce_sum, self._gather = reduce_sum, gather

    def begin(self) -> None:
        """Called when the weights of a step are in place."""
        self._steps_untaught += not self.weights.reads_teacher

    def add(self, values: Tensor) -> None:
        """One micro-batch's values, each already divided by the window's count."""
        self.sums.add_(values)

    def watch(self, gradient_norm: Tensor | None) -> Tensor:
        """Called before each optimizer step. Returns `held_back`.

        x - x is 0 for finite x alone, and neither NaN nor infinity ever leaves a sum that they were added to.
        """
        if gradient_norm is not None:
            self._gradient_norms.add_(gradient_norm)
        probe = self._watched.sum()
        torch.ne(probe - probe, 0.0, out=self.held_back)
        if self._gather is not None:
            self.held_back.copy_(self._gather(self.held_back[None]).max())
        self._steps_held_back.add_(self.held_back)
        return self.held_back

    def read(self, global_step: int) -> None:
        """Waits for the device.

        Raises: `NonFiniteLoss`, on every process, if a step was held back; it names the first one, the terms, and the
        ranks whose batches gave the values, where there are several processes.
        """
        steps = int(self._steps_held_back.item())
        if not steps:
            return
        by_rank = self.sums[None] if self._gather is None else self._gather(self.sums[None])
        finite = torch.isfinite(by_rank)
        fine = finite.all(0).tolist()
        guilty = [_in_words(column) for column, is_fine in zip(self.columns, fine, strict=True) if not is_fine]
        what = (
            f"the value of {' and '.join(dict.fromkeys(guilty))}{_on_ranks(finite.all(1).tolist())}"
            if guilty
            else "the gradient norm (every term's value was finite)"
        )
        raise NonFiniteLoss(
            f"step {global_step - steps + 1}: {what} is NaN or infinite. The weights are those of step "
            f"{global_step - steps}. Look at the batch of that step and at the learning rate; in bf16 or fp16, try "
            "float32."
        )

    def take(self, steps: int) -> dict[str, float]:
        """The means over `steps` optimizer steps, for the log: of every column, of what each term adds to the loss,
        and the weights that vary; starts anew.
        """
        means = dict(zip(self.columns, (self._reduce_sum(self.sums) / max(steps, 1)).tolist(), strict=True))
        self._watched.zero_()
        if not self.weights.vary:
            numbers = self.weights.numbers.items()
            means.update({f"weighted/{name}": means[f"objective/{name}"] * weight for name, weight in numbers})
        untaught, self._steps_untaught = self._steps_untaught, 0
        for name in self.weights.taught if untaught else ():
            mean = means.pop(f"objective/{name}")
            if steps > untaught:  # the mean is that of the steps in which the teacher ran
                means[f"objective/{name}"] = mean * steps / (steps - untaught)
        return {**means, **self.weights.logged()}


def _in_words(column: str) -> str:
    """What a column is of, for a message."""
    kind, _, name = column.partition("/")
    return f"the auxiliary part of {name!r}" if kind == "auxiliary" else repr(name)


def _on_ranks(finite: Sequence[bool]) -> str:
    """Where the values are from, for a message; nothing where there is one process."""
    ranks = [str(rank) for rank, fine in enumerate(finite) if not fine]
    return f" on rank {', '.join(ranks)} of {len(finite)}" if len(finite) > 1 else ""
