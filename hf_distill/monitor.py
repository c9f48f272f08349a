"""Term values between two logs, and the watch over NaN and infinity, both kept on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hf_distill.errors import NonFiniteLoss


class Monitor:
    """Adds up the terms' values, and keeps a sticky flag that holds back an optimizer step which would carry NaN or
    infinity.

    Nothing here waits for the device before `read()`. Several processes add the sums up by `reduce_sum` and agree on
    the flag by `reduce_max`, which is None in one process.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Sequence[float],
        device: torch.device,
        reduce_sum: Callable[[Tensor], Tensor],
        reduce_max: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.names, self.weights = tuple(names), tuple(weights)
        self._watched = torch.zeros(len(self.names) + 1, device=device)
        self.sums, self._gradient_norms = self._watched[:-1], self._watched[-1]
        self.held_back = torch.zeros((), device=device)
        """1.0 once a step was held back, in the form that fused optimizers read as `found_inf`."""
        self._steps_held_back = torch.zeros((), device=device)
        self._reduce_sum, self._reduce_max = reduce_sum, reduce_max

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
        if self._reduce_max is not None:
            self.held_back.copy_(self._reduce_max(self.held_back))
        self._steps_held_back.add_(self.held_back)
        return self.held_back

    def read(self, global_step: int) -> None:
        """Waits for the device.

        Raises: `NonFiniteLoss`, on every process, if a step was held back; it names the first one and the terms.
        """
        steps = int(self._steps_held_back.item())
        if not steps:
            return
        finite = torch.isfinite(self._reduce_sum(self.sums)).tolist()
        guilty = [repr(name) for name, fine in zip(self.names, finite, strict=True) if not fine]
        what = (
            f"the value of {' and '.join(guilty)}" if guilty else "the gradient norm (every term's value was finite)"
        )
        raise NonFiniteLoss(
            f"step {global_step - steps + 1}: {what} is NaN or infinite. The weights are those of step "
            f"{global_step - steps}. Look at the batch of that step and at the learning rate; in bf16 or fp16, try "
            "float32."
        )

    def take(self, steps: int) -> dict[str, float]:
        """Each term's mean unweighted and weighted value over `steps` optimizer steps, for the log; starts anew."""
        means = (self._reduce_sum(self.sums) / max(steps, 1)).tolist()
        self._watched.zero_()
        values = {f"objective/{name}": mean for name, mean in zip(self.names, means, strict=True)}
        values.update(
            {
                f"weighted/{name}": mean * weight
                for name, mean, weight in zip(self.names, means, self.weights, strict=True)
            }
        )
        return values
