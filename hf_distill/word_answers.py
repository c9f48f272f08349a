"""What language models answer at the predicted positions of a batch, without their logits in full."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.activations import Activations, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.chunks import Sizes
from hf_distill.depth import Run, runs_whole, shallow
from hf_distill.loading import brought
from hf_distill.losses import at_least_float32, forward_kl
from hf_distill.tasks import IGNORED, Batch, Task


class WordReader:
    """One language model, run as far as the states that its head reads; the head is applied to some rows at a time.

    A model whose head has no row in the family table, or that must run whole (`in_part=False`), gives its logits.
    """

    def __init__(self, anatomy: Anatomy, *, in_part: bool = True) -> None:
        self.anatomy = anatomy
        self.in_chunks = in_part and anatomy.knows_head and not runs_whole(anatomy)
        self._stack = "decoder" if "decoder" in anatomy.shape.stacks else ""
        signal = Signal("final", None, self._stack) if self.in_chunks else Signal("logits")
        run = shallow(anatomy, {signal}) if self.in_chunks else Run.whole(anatomy)
        self._capture = Capture(anatomy, {signal}, role="evaluation", run=run)

    def states(self, batch: Batch) -> Tensor:
        """`[batch, length, width]`, or logits `[batch, length, classes]`."""
        shown: Activations = self._capture(brought(batch, self.anatomy.base))[1]
        found: Tensor = shown.stack(self._stack).final if self.in_chunks else shown.logits
        return found

    def logits(self, rows: Tensor) -> Tensor:
        """Of some rows of `states`, `[rows, classes]` in at least float32."""
        return at_least_float32(self.anatomy.head(rows.unsqueeze(0)).squeeze(0) if self.in_chunks else rows)

    def close(self) -> None:
        """Removes the hooks."""
        self._capture.close()


def word_answers(reader: WordReader, task: Task, batch: Batch, teacher: WordReader | None = None) -> Tensor:
    """`[batch, length, 2 or 3]` in float64, 0 at positions without a label: the word that is preferred, -log q of the
    label, and with a teacher KL(p || q) in nats, p the teacher's law and q the model's over the words that both have.

    `[rows, classes]` exists for some rows at a time alone, where the heads are known. Positions are those of the
    task's targets. To be called without gradients.
    """
    targets = task.targets(batch)[0]
    counted = targets != IGNORED
    grid = torch.arange(batch["labels"].numel(), device=targets.device).view(batch["labels"].shape)
    positions, wanted = task.at_rows(grid, task.tokens[0])[counted], targets[counted]
    ours = reader.states(batch).flatten(0, 1)
    theirs = None if teacher is None else teacher.states(batch).flatten(0, 1)
    found = ours.new_zeros((len(positions), 2 if theirs is None else 3), dtype=torch.float64)
    rows = Sizes.of(reader.anatomy.shape.num_logits, ours.device).chunk
    for start in range(0, len(positions), rows):
        some = positions[start : start + rows]
        logits = reader.logits(ours[some])
        part = found[start : start + rows]
        part[:, 0] = logits.argmax(-1)
        part[:, 1] = functional.cross_entropy(logits, wanted[start : start + rows], reduction="none")
        if teacher is not None and theirs is not None:
            against = teacher.logits(theirs[some.to(theirs.device)]).to(logits.device)
            shared = min(logits.shape[-1], against.shape[-1])
            part[:, 2] = forward_kl(logits[:, :shared], against[:, :shared])
    answers = found.new_zeros((*targets.shape, found.shape[-1]))
    answers[counted] = found
    return answers
