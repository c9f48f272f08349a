"""A loss that the caller wrote as a function, as the Trainer's `compute_loss_func`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from hf_distill.activations import Activations, Needs, Signal
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import at_least_float32
from hf_distill.objectives.base import Objective
from hf_distill.objectives.pair import Pair
from hf_distill.tasks import Batch, Task


class LossFunction(Objective):
    """The loss of a function `f(outputs, labels, num_items_in_batch=n)`, as the Trainer calls its `compute_loss_func`.

    L = f(outputs, labels, n): `outputs` hold the student's logits, in at least float32, by key, by attribute and in
    place 0; n is the number of labels that are not -100 in the whole accumulation window of all processes, a tensor,
    by which the function divides a sum over the labels at hand. A batch without labels is handed over with None for
    both, and weighs as its share of the window's examples.

    Reads: logits of the student.  Counts: labels, or examples where there are none.
    It belongs to Python and has no name in recipes.
    Errors: `IncompatiblePair` for a task whose targets are not the column `labels`; `DistillationError` for a function
    that returns no single number.
    """

    name = "loss_function"
    needs_teacher = False
    traceable = False
    reads_divisor = True

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def settings(self) -> dict[str, Any]:
        """The function's name: the rest of it cannot be written down."""
        return {"function": getattr(self.function, "__qualname__", type(self.function).__qualname__)}

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if pair.task.label_names != ("labels",):
            targets = ", ".join(pair.task.label_names) or "none at all"
            raise IncompatiblePair(
                f"loss_function: a function is handed the column 'labels', and the targets of a {pair.task.name} task "
                f"are {targets}. Write an Objective in its place."
            )

    def needs(self) -> Needs:
        return Needs.of([Signal(field) for field in self.pair.task.logit_fields])

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return task.label_mask(batch).sum() if "labels" in batch else task.num_examples(batch)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        fields = self.pair.task.logit_fields
        outputs = ModelOutput(**{field: at_least_float32(getattr(student, field)) for field in fields})
        if "labels" not in batch:
            loss = called(self.function, outputs, None, None)
            return at_least_float32(loss) * self.pair.task.num_examples(batch)
        loss = called(self.function, outputs, batch["labels"], self.divisor)
        return at_least_float32(loss) * self.divisor


def called(function: Callable[..., Any], outputs: Any, labels: Tensor | None, count: Tensor | float | None) -> Tensor:
    """What the function returns.

    Raises: `DistillationError` for anything but a tensor of one number.
    """
    loss = function(outputs, labels, num_items_in_batch=count)
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else repr(loss)
        raise DistillationError(
            f"the loss function returned {found}; it must return the loss of the batch, a tensor of one number."
        )
    return loss.reshape(())
