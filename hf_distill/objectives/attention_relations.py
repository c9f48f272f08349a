"""What objectives over relations between queries, keys and values share: layers, visible positions, reductions."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from hf_distill.activations import Activations, Needs, Signal
from hf_distill.anatomy import StackShape
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives.base import Objective
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.settings import check_choice
from hf_distill.relations import Sides, relation_kl
from hf_distill.tasks import Batch, Task, real_tokens

FIELDS = {
    "before": {"q": "queries", "k": "keys", "v": "values"},
    "after": {"q": "rotated_queries", "k": "rotated_keys", "v": "values"},
}
"""The signals of queries, keys and values, before and after the rotary position embedding."""


class Relation(NamedTuple):
    """Between which projections (`qk`: from queries to keys), with what weight, over how many relation heads."""

    name: str
    weight: float
    heads: int


class AttentionRelations(Objective):
    """The divergence of teacher's and student's relations in one layer of each, as `relations.relation_kl` has it.

    A subclass writes `compared(student, teacher)`, the relations of two stacks, checked. `teacher_layer` and
    `student_layer` count from 1, None is the last. `causal`: whether a position sees itself and those before alone;
    None: where either model is causal. `rope` reads queries and keys `before` the rotary position embedding, where
    they hold the content alone, or `after` it. `stack` picks `encoder` or `decoder` of an encoder-decoder.

    Special tokens are real tokens. In packed rows, whose documents the batch's `position_ids` show, a pair across
    documents does not count. Sliding windows are ignored: a position sees everything before it, or everything.
    """

    traceable = False

    def __init__(
        self,
        *,
        teacher_layer: int | None,
        student_layer: int | None,
        causal: bool | None,
        rope: str,
        reduction: str,
        stack: str,
    ) -> None:
        super().__init__()
        check_whole(self.name, "teacher_layer", teacher_layer)
        check_whole(self.name, "student_layer", student_layer)
        if causal is not None and not isinstance(causal, bool):
            raise DistillationError(f"{self.name}: causal is {causal!r}; it must be true or false, or be left out.")
        check_choice(self.name, "rope", rope, tuple(FIELDS))
        check_choice(self.name, "reduction", reduction, ("example_mean", "token_mean"))
        check_choice(self.name, "stack", stack, ("", "encoder", "decoder"))
        self.teacher_layer, self.student_layer, self.causal = teacher_layer, student_layer, causal
        self.rope, self.reduction, self.stack = rope, reduction, stack
        self.layers = (0, 0)
        self.sees_the_past = False
        self.to_compare: tuple[Relation, ...] = ()

    def compared(self, student: StackShape, teacher: StackShape) -> tuple[Relation, ...]:
        """The relations that are compared; raises `IncompatiblePair` where the two stacks do not fit."""
        raise NotImplementedError

    def sides(self, left: Tensor, right: Tensor, heads: int) -> Sides:
        """Both projections of a relation at the same width."""
        return left, right

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        assert pair.teacher is not None
        student, teacher = pair.student.stack(self.stack), pair.teacher.stack(self.stack)
        self.layers = (
            self._layer("student_layer", self.student_layer, student),
            self._layer("teacher_layer", self.teacher_layer, teacher),
        )
        self.sees_the_past = student.causal or teacher.causal if self.causal is None else self.causal
        self.to_compare = self.compared(student, teacher)

    def _layer(self, setting: str, layer: int | None, stack: StackShape) -> int:
        depth = stack.num_hidden_layers
        if layer is not None and layer > depth:
            raise IncompatiblePair(
                f"{self.name}: {setting} is {layer}, and the {setting.removesuffix('_layer')} has layers 1 to "
                f"{depth}; give one of them, or leave {setting} out for the last."
            )
        return depth if layer is None else layer

    def needs(self) -> Needs:
        fields = {FIELDS[self.rope][side] for relation in self.to_compare for side in relation.name}
        student, teacher = ([Signal(field, layer, self.stack) for field in fields] for layer in self.layers)
        return Needs.of(student, teacher)

    def mask(self, batch: Batch) -> Tensor:
        """Real tokens of the stack."""
        return self.pair.task.decoder_tokens(batch) if self.stack == "decoder" else real_tokens(batch)

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        mask = self.mask(batch)
        return mask.sum() if self.reduction == "token_mean" else mask.any(1).sum()

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        if teacher is None:
            raise DistillationError(f"objective {self.name!r} got no teacher.")
        ours, theirs = student.stack(self.stack), teacher.stack(self.stack)
        mask = ours.mask
        if mask is None:
            raise DistillationError(f"objective {self.name!r} got activations without a mask.")
        positions = None if self.stack == "decoder" else batch.get("position_ids")
        values = []
        for relation in self.to_compare:
            mine, target = (self._read(shown, relation, i) for i, shown in enumerate((ours, theirs)))
            self._check_positions(mine[0], target[0])
            divergence = relation_kl(
                mine, target, heads=relation.heads, mask=mask, causal=self.sees_the_past, position_ids=positions
            )
            values.append(relation.weight * divergence)
        sums = sum(values[1:], values[0])
        return sums.sum() if self.reduction == "token_mean" else (sums / mask.sum(1).clamp(min=1)).sum()

    def _read(self, shown: Activations, relation: Relation, side: int) -> Sides:
        """Both projections of a relation, of the student (`side` 0) or the teacher (1)."""
        layer, fields = self.layers[side], FIELDS[self.rope]
        left, right = (getattr(shown, fields[projection])[layer] for projection in relation.name)
        return self.sides(left, right, relation.heads)

    def _check_positions(self, mine: Tensor, target: Tensor) -> None:
        if mine.shape[:2] != target.shape[:2]:
            raise IncompatiblePair(
                f"{self.name}: the student shows {mine.shape[0]} texts of {mine.shape[1]} positions, the teacher "
                f"{target.shape[0]} of {target.shape[1]}; relations pair positions, so both models must read the "
                "same tokens."
            )


def check_whole(objective: str, setting: str, value: object) -> None:
    """Refuse a setting that is neither None nor a whole number from 1 on."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise DistillationError(
            f"{objective}: {setting} is {value!r}; it must be a whole number from 1 on, or be left out."
        )


def widths(stack: StackShape) -> dict[str, int]:
    """The widths of queries, keys and values; grouped keys and values are not repeated."""
    grouped = stack.num_key_value_heads * stack.head_size
    return {"q": stack.num_attention_heads * stack.head_size, "k": grouped, "v": grouped}
