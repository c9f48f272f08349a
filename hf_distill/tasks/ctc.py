"""Heads that hear symbols in frames."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import DataError
from hf_distill.losses import at_least_float32, ctc_loss
from hf_distill.tasks.base import IGNORED, Batch, Task

_LONGEST_FRAME = 2**16
"""Inputs in which every model that hears makes a frame; a second of sound at the rates that there are."""


class CTC(Task):
    """Symbols heard in frames: `logits` `[batch, frames, symbols]`, one of the symbols the blank; `labels`
    `[batch, length]`, -100 where there is none. The rows are examples, and their loss is -log of the sum over all
    alignments of labels and frames (connectionist temporal classification, Graves et al., 2006).

    `frames` gives how many frames the model makes of so many inputs; without it they are as many. A frame behind the
    last one is given to the blank, which leaves every likelihood as it is. Labels that need more frames than there are
    have no alignment, and do not count.
    """

    name = "ctc"
    form = "alignment"
    auto_class = "AutoModelForCTC"
    pipeline_tag = "automatic-speech-recognition"

    def __init__(self, blank: int = 0, frames: Callable[[Tensor], Tensor] | None = None) -> None:
        self.blank, self._frames = blank, frames

    def with_blank(self, blank: int) -> CTC:
        """The same task with another symbol for the blank."""
        return CTC(blank, self._frames)

    def rows(self, activations: Activations, batch: Batch, tokens: str = "") -> tuple[Tensor, ...]:
        return (self.evaluated(activations.logits, batch),)

    def evaluated(self, logits: Tensor, batch: Batch) -> Tensor:
        logits = at_least_float32(logits)
        if "attention_mask" not in batch:
            return logits
        real = self._real_frames(batch["attention_mask"], logits.shape[1]).unsqueeze(-1)
        silent = torch.full_like(logits[0, 0], -1e30)
        silent[self.blank] = 0.0
        return torch.where(real, logits, silent)

    def _real_frames(self, mask: Tensor, frames: int) -> Tensor:
        if self._frames is None and mask.shape[1] == frames:
            return mask.bool()
        return torch.arange(frames, device=mask.device) < self.num_frames({"attention_mask": mask}).unsqueeze(1)

    def num_frames(self, batch: Batch) -> Tensor:
        """`[batch]`, the frames of each example.

        Raises: `DataError` for a batch without sound.
        """
        mask = batch.get("attention_mask")
        if mask is None:
            heard = batch.get("input_values", batch.get("input_features"))
            if heard is None:
                raise DataError(
                    "ctc: attention_mask, input_values or input_features say how long an example is, and the batch "
                    f"has only {', '.join(batch)}. Keep one of them in what the collator returns."
                )
            mask = torch.ones(heard.shape[:2], dtype=torch.long, device=heard.device)
        lengths = mask.sum(-1)
        return lengths if self._frames is None else self._frames(lengths)

    @property
    def shortest(self) -> int:
        """The least inputs that make a frame."""
        lengths = torch.arange(1, _LONGEST_FRAME)
        return 1 if self._frames is None else 1 + int((self._frames(lengths) < 1).sum())

    def fits(self, labels: Tensor, batch: Batch) -> Tensor:
        """Whether labels `[batch, ..., length]` have an alignment: frames for each, and a blank between equal ones."""
        real = labels != IGNORED
        repeated = real[..., 1:] & (labels[..., 1:] == labels[..., :-1])
        needed = real.sum(-1) + repeated.sum(-1)
        return needed <= self.num_frames(batch).reshape(-1, *[1] * (needed.dim() - 1))

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        labels = self.labels(batch)[0]
        if labels.dim() != 2 or labels.is_floating_point():
            raise DataError(
                f"ctc: labels are {labels.dtype} of the shape {tuple(labels.shape)}; they must be whole numbers "
                f"[batch, length], {IGNORED} where there is none."
            )
        ignored_last = (labels == IGNORED).int().argsort(stable=True, dim=-1)  # as lengths tell where they end
        return (labels.gather(-1, ignored_last),)

    def label_mask(self, batch: Batch) -> Tensor:
        labels = self.targets(batch)[0]
        return (labels != IGNORED).any(-1) & self.fits(labels, batch)

    def label_values(self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        return ctc_loss(logits, labels, self.blank)
