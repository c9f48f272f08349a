"""What objectives over pairs of hidden states share: layer map, projections, masks and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_distill.activations import Activations, Needs, Signal
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.layer_map import NAMES, LayerMap, explicit_pairs
from hf_distill.losses import at_least_float32, blank, example_means, masked_sum
from hf_distill.objectives.base import Objective, check_choice
from hf_distill.objectives.pair import Pair
from hf_distill.tasks import Batch, Task, real_tokens

Layers = str | Sequence[Sequence[int]]


class HiddenStates(Objective):
    """A distance between `hidden[i]` of the student and `hidden[j]` of the teacher at every real token.

    A subclass writes `distance(student, teacher) -> [batch, length]` and `default_layer_map`. Over several pairs the
    distances are averaged, or summed with `layer_reduction="sum"`. `projection`: where widths differ, a learned map
    W h + b from student to teacher width, one for each pair (`per_layer`), one for all (`shared`), or none, and then
    different widths are refused. `stack` picks `encoder` or `decoder` of an encoder-decoder.
    """

    default_layer_map: ClassVar[str]

    def __init__(
        self, *, layer_map: Layers | None = None, projection: str, reduction: str, layer_reduction: str, stack: str
    ) -> None:
        super().__init__()
        check_choice(self.name, "projection", projection, ("per_layer", "shared", "none"))
        check_choice(self.name, "reduction", reduction, ("token_mean", "example_mean"))
        check_choice(self.name, "layer_reduction", layer_reduction, ("mean", "sum"))
        check_choice(self.name, "stack", stack, ("", "encoder", "decoder"))
        self.layer_map = self._layer_map(self.default_layer_map if layer_map is None else layer_map)
        self.projection = projection
        self.reduction = reduction
        self.layer_reduction = layer_reduction
        self.stack = stack
        self.layers = LayerMap([])
        self.projections = nn.ModuleList()

    def _layer_map(self, given: Layers) -> Layers:
        """A known name, or pairs in the form of a recipe."""
        if isinstance(given, str):
            check_choice(self.name, "layer_map", given, tuple(NAMES))
            return given
        return [list(pair) for pair in explicit_pairs(given)]

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """One value a token, `[batch, length, width]` twice to `[batch, length]`."""
        raise NotImplementedError

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if pair.teacher is None:
            raise IncompatiblePair(f"objective {self.name!r} compares with a teacher and there is none.")
        student, teacher = pair.student.stack(self.stack), pair.teacher.stack(self.stack)
        self.layers = LayerMap.resolve(self.layer_map, student.num_hidden_layers, teacher.num_hidden_layers)
        widths = student.hidden_size, teacher.hidden_size
        if widths[0] == widths[1]:
            self.projections = nn.ModuleList()
            return
        if self.projection == "none":
            raise IncompatiblePair(
                f"{self.name}: the student's hidden states are {widths[0]} wide, the teacher's {widths[1]}; "
                "set projection='per_layer' or 'shared'."
            )
        number = 1 if self.projection == "shared" else len(self.layers)
        self.projections = nn.ModuleList(Projection(*widths) for _ in range(number))

    def needs(self) -> Needs:
        return Needs.of(
            (Signal("hidden", student, self.stack) for student, _ in self.layers),
            (Signal("hidden", teacher, self.stack) for _, teacher in self.layers),
        )

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
        distances = []
        for i, (student_layer, teacher_layer) in enumerate(self.layers):
            state = blank(at_least_float32(ours.hidden[student_layer]), mask)
            target = blank(at_least_float32(theirs.hidden[teacher_layer].detach()), mask)
            distances.append(self.distance(self._project(state, i), target))
        values = sum(distances[1:], distances[0])
        total = masked_sum(values, mask) if self.reduction == "token_mean" else example_means(values, mask).sum()
        return total if self.layer_reduction == "sum" else total / len(self.layers)

    def _project(self, state: Tensor, pair: int) -> Tensor:
        if not self.projections:
            return state
        projected: Tensor = self.projections[0 if self.projection == "shared" else pair](state)
        return projected


class Projection(nn.Linear):
    """W h + b from student to teacher width, computed in the dtype of h, whatever an engine holds W in.

    Starts as an isometry where the teacher is wider, else with small normal weights; the bias is 0.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width, dtype=torch.float32)
        if student_width <= teacher_width:
            nn.init.orthogonal_(self.weight)
        else:
            nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, state: Tensor) -> Tensor:
        return functional.linear(state, self.weight.to(state.dtype), self.bias.to(state.dtype))
