"""What objectives over relations inside each text share: the tokens that count, and layers that follow each other."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.losses import blank
from hf_distill.objectives.layer_pairs import LayerPairs, Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.settings import check_choice
from hf_distill.tasks import Batch, Task

logger = logging.getLogger(__name__)

Sides = tuple[Tensor, Tensor]


class TextRelations(LayerPairs):
    """Compares how the states of one text relate to each other, example by example; counts examples that have text.

    `special_tokens="exclude"` leaves out the tokens that the batch's column `special_tokens_mask` marks: the states of
    [CLS], [SEP] and beginnings of text are often far larger than all others, and then hold a relation alone.
    """

    def __init__(self, *, layer_map: Layers | None, special_tokens: str, stack: str) -> None:
        super().__init__(layer_map=layer_map, stack=stack)
        check_choice(self.name, "special_tokens", special_tokens, ("include", "exclude"))
        if special_tokens == "exclude" and stack == "decoder":
            raise DistillationError(
                f"{self.name}: special_tokens is 'exclude' and stack is 'decoder', but the column special_tokens_mask "
                "is about the text that the encoder reads; set special_tokens='include'."
            )
        self.special_tokens = special_tokens

    @property
    def columns(self) -> frozenset[str]:
        return frozenset({"special_tokens_mask"} if self.special_tokens == "exclude" else ())

    @property
    def joins_documents(self) -> str:
        return "relates the tokens of a row to each other"

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return self.counted(self.mask(batch), batch).any(1).sum()

    def counted(self, mask: Tensor, batch: Batch) -> Tensor:
        """The tokens that take part, boolean `[batch, length]`.

        Raises: `DataError` where special tokens are excluded and the batch does not tell them.
        """
        real = mask.bool()
        if self.special_tokens == "include":
            return real
        special = batch.get("special_tokens_mask")
        if special is None or special.shape != real.shape:
            found = "is missing" if special is None else f"has the shape {tuple(special.shape)}"
            raise DataError(
                f"{self.name}: special_tokens is 'exclude', and the column special_tokens_mask {found}; it must be "
                f"{tuple(real.shape)}. Tokenise with return_special_tokens_mask=True, or set special_tokens='include'."
            )
        return real & ~special.bool()

    def states(
        self, student: Activations, teacher: Activations | None, batch: Batch
    ) -> tuple[Tensor, tuple[Sides, ...]]:
        """The tokens that take part, and both states of each pair of layers, 0 at all other tokens.

        Raises: `IncompatiblePair` where the two models show different positions.
        """
        real = self.counted(self.shown_mask(student), batch)
        pairs = []
        for state, target in self.tensors(student, teacher):
            pairs.append((blank(state, real), blank(target, real)))
        return real, tuple(pairs)

    def refuse_widths(self, remedy: str) -> None:
        """Raises: `IncompatiblePair` where the states of student and teacher differ in width, with the remedy."""
        student, teacher = (shape.hidden_size for shape in self.shapes(self.pair))
        if student != teacher:
            raise IncompatiblePair(
                f"{self.name}: the student's hidden states are {student} wide, the teacher's {teacher}, and {remedy}"
            )


class LayerRelations(TextRelations):
    """Compares how layers of one model relate to each other: each with the next one of the layer map.

    The map has two pairs at least. A layer that follows itself is taken, with a warning: its relation is the one among
    its own features.
    """

    default_layer_map: ClassVar[str] = "spread"

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if len(self.layers) < 2:
            raise IncompatiblePair(
                f"{self.name}: layer_map {self.layer_map!r} gives the one pair {self.layers[0]}, and the relation is "
                "between one layer and the next; give two pairs at least, or 'spread'."
            )
        for side, layers in zip(("student", "teacher"), zip(*self.layers, strict=True), strict=True):
            repeated = [layer for layer, following in pairwise(layers) if layer == following]
            if repeated:
                logger.warning("%s: %s layer %d is related to itself", self.name, side, repeated[0])
