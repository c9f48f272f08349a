"""What objectives over pairs of layers share: the layer map, the stack, and the two tensors of each pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hf_distill.activations import Activations, Needs, Signal
from hf_distill.anatomy import StackShape
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.layer_map import NAMES, LayerMap, explicit_pairs
from hf_distill.losses import at_least_float32, example_means, masked_sum
from hf_distill.objectives.base import Objective
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.settings import check_choice
from hf_distill.tasks import DOCUMENTS, Batch, Task, real_tokens

Layers = str | Sequence[Sequence[int]]


class LayerPairs(Objective):
    """Compares `field[i]` of the student with `field[j]` of the teacher for every pair (i, j) of a layer map.

    A subclass names its `field` and `default_layer_map`. `stack` picks `encoder` or `decoder` of an encoder-decoder.
    A field that blocks alone have (`first_layer` 1) leaves the embedding outputs (0, 0) out of the named maps.
    Counted are real tokens, or with `reduction` `example_mean` the examples that have some.
    """

    field: ClassVar[str] = "hidden"
    first_layer: ClassVar[int] = 0
    default_layer_map: ClassVar[str]
    reduction: str

    def __init__(self, *, layer_map: Layers | None, stack: str) -> None:
        super().__init__()
        check_choice(self.name, "stack", stack, ("", "encoder", "decoder"))
        self.layer_map = self._layer_map(self.default_layer_map if layer_map is None else layer_map)
        self.stack = stack
        self.layers = LayerMap([])

    def _layer_map(self, given: Layers) -> Layers:
        """A known name, or pairs in the form of a recipe."""
        if isinstance(given, str):
            check_choice(self.name, "layer_map", given, tuple(NAMES))
            return given
        pairs = [list(pair) for pair in explicit_pairs(given)]
        for pair in pairs:
            if min(pair) < self.first_layer:
                raise IncompatiblePair(
                    f"{self.name}: layer_map pairs {pair}, but layer 0 is the embedding output, which has no "
                    f"{self.field}; pairs begin with layer {self.first_layer}."
                )
        return pairs

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        student, teacher = self.shapes(pair)
        try:
            layers = self.resolve(student.num_hidden_layers, teacher.num_hidden_layers)
        except IncompatiblePair as error:
            raise IncompatiblePair(f"{self.name}: {error}") from error
        self.layers = LayerMap([each for each in layers if min(each) >= self.first_layer])

    def resolve(self, student_layers: int, teacher_layers: int) -> LayerMap:
        """The pairs that `layer_map` stands for in models of these depths; raises `IncompatiblePair`."""
        return LayerMap.resolve(self.layer_map, student_layers, teacher_layers)

    def shapes(self, pair: Pair) -> tuple[StackShape, StackShape]:
        """The sizes of the stack in student and teacher."""
        if pair.teacher is None:
            raise IncompatiblePair(f"objective {self.name!r} compares with a teacher and there is none.")
        return pair.student.stack(self.stack), pair.teacher.stack(self.stack)

    def needs(self) -> Needs:
        return Needs.of(
            (Signal(self.field, student, self.stack) for student, _ in self.layers),
            (Signal(self.field, teacher, self.stack) for _, teacher in self.layers),
        )

    def mask(self, batch: Batch) -> Tensor:
        """Real tokens of the stack."""
        return self.pair.task.decoder_tokens(batch) if self.stack == "decoder" else real_tokens(batch)

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        mask = self.mask(batch)
        return mask.sum() if self.reduction == "token_mean" else mask.any(1).sum()

    def texts(self, batch: Batch) -> Tensor:
        """How many texts have a real token; each document of a packed row is one, and, in a row without a mask, each
        that begins at position 0."""
        mask = self.mask(batch)
        if DOCUMENTS in batch:
            return (mask * batch[DOCUMENTS]).amax(1).sum()
        joined = "position_ids" in batch and "attention_mask" not in batch
        return (batch["position_ids"] == 0).sum() if joined else mask.any(1).sum()

    def shown_mask(self, student: Activations) -> Tensor:
        """Real tokens of the stack, as the student's pass had them."""
        mask = student.stack(self.stack).mask
        if mask is None:
            raise DistillationError(f"objective {self.name!r} got activations without a mask.")
        return mask

    def tensors(self, student: Activations, teacher: Activations | None) -> Iterator[tuple[Tensor, Tensor]]:
        """The student's and the teacher's tensor of each pair, in at least float32; the teacher's has no gradient.

        Raises: `IncompatiblePair` where the two models show different positions.
        """
        if teacher is None:
            raise DistillationError(f"objective {self.name!r} got no teacher.")
        ours = getattr(student.stack(self.stack), self.field)
        theirs = getattr(teacher.stack(self.stack), self.field)
        for student_layer, teacher_layer in self.layers:
            state, target = ours[student_layer], theirs[teacher_layer]
            self._check_positions(state.shape, target.shape)
            yield at_least_float32(state), at_least_float32(target.detach())

    def _check_positions(self, ours: torch.Size, theirs: torch.Size) -> None:
        if (ours[0], ours[-2]) != (theirs[0], theirs[-2]):
            raise IncompatiblePair(
                f"{self.name}: the student shows {ours[0]} texts of {ours[-2]} positions, the teacher {theirs[0]} of "
                f"{theirs[-2]}; positions are paired, so both models must read the same tokens."
            )


def reduced(values: list[Tensor], counted: Tensor, reduction: str, layer_reduction: str) -> Tensor:
    """The sum over what counts of the values of every pair of layers, `[batch, ...]` each.

    `reduction` is `token_mean`, or `example_mean` for a mean inside each example first; pairs of layers are averaged,
    or summed with `layer_reduction` `sum`.
    """
    together = sum(values[1:], values[0])
    total = masked_sum(together, counted) if reduction == "token_mean" else example_means(together, counted).sum()
    return total if layer_reduction == "sum" else total / len(values)
