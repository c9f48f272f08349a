"""What objectives over pairs of hidden states share: projections, masks and reductions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_distill.activations import Activations
from hf_distill.errors import IncompatiblePair
from hf_distill.losses import blank
from hf_distill.objectives.layer_pairs import LayerPairs, Layers, reduced
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.settings import check_choice
from hf_distill.tasks import Batch


class HiddenStates(LayerPairs):
    """A distance between `hidden[i]` of the student and `hidden[j]` of the teacher at every real token.

    A subclass writes `distance(student, teacher) -> [batch, length]` and `default_layer_map`. Over several pairs the
    distances are averaged, or summed with `layer_reduction="sum"`. `projection`: where widths differ, a learned map
    W h + b from student to teacher width, one for each pair (`per_layer`), one for all (`shared`), one for the
    embedding output and one for all blocks (`per_level`), or none, and then different widths are refused. `stack`
    picks `encoder` or `decoder` of an encoder-decoder.
    """

    def __init__(
        self, *, layer_map: Layers | None = None, projection: str, reduction: str, layer_reduction: str, stack: str
    ) -> None:
        super().__init__(layer_map=layer_map, stack=stack)
        check_choice(self.name, "projection", projection, ("per_layer", "per_level", "shared", "none"))
        check_choice(self.name, "reduction", reduction, ("token_mean", "example_mean"))
        check_choice(self.name, "layer_reduction", layer_reduction, ("mean", "sum"))
        self.projection = projection
        self.reduction = reduction
        self.layer_reduction = layer_reduction
        self.projections = nn.ModuleList()
        self._projection_of: list[int] = []

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """One value a token, `[batch, length, width]` twice to `[batch, length]`."""
        raise NotImplementedError

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        widths = tuple(shape.hidden_size for shape in self.shapes(pair))
        if widths[0] == widths[1]:
            self.projections = nn.ModuleList()
            return
        if self.projection == "none":
            self.refuse_widths(*widths)
        kinds = [self._kind(i, student) for i, (student, _) in enumerate(self.layers)]
        distinct = list(dict.fromkeys(kinds))
        self._projection_of = [distinct.index(kind) for kind in kinds]
        self.projections = nn.ModuleList(self.make_projection(*widths) for _ in distinct)

    def make_projection(self, student_width: int, teacher_width: int) -> nn.Module:
        """What maps a student's state to the teacher's width; its parameters are float32."""
        return Projection(student_width, teacher_width)

    def refuse_widths(self, student: int, teacher: int) -> None:
        """Raises `IncompatiblePair` about hidden states that differ in width and are not projected."""
        raise IncompatiblePair(
            f"{self.name}: the student's hidden states are {student} wide, the teacher's {teacher}; "
            "set projection='per_layer' or 'shared'."
        )

    def _kind(self, position: int, student_layer: int) -> int:
        """Pairs of one kind share a projection."""
        return {"per_layer": position, "per_level": min(student_layer, 1)}.get(self.projection, 0)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        mask = self.shown_mask(student)
        distances = [self.distance(state, target) for state, target in self.matched(student, teacher, mask)]
        return reduced(distances, mask, self.reduction, self.layer_reduction)

    def matched(
        self, student: Activations, teacher: Activations | None, mask: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The states of each pair, zeros where `mask` is 0, the student's at the teacher's width."""
        for i, (state, target) in enumerate(self.tensors(student, teacher)):
            yield self._project(blank(state, mask), i), blank(target, mask)

    def _project(self, state: Tensor, pair: int) -> Tensor:
        if not self.projections:
            return state
        projected: Tensor = self.projections[self._projection_of[pair]](state)
        return projected


class Projection(nn.Linear):
    """W h + b from student to teacher width, computed in the dtype of h, whatever an engine holds W in.

    Starts as an isometry where the teacher is wider, else with small normal weights; the bias is 0, or left out.
    """

    def __init__(self, student_width: int, teacher_width: int, *, bias: bool = True) -> None:
        super().__init__(student_width, teacher_width, bias=bias, dtype=torch.float32)
        if student_width <= teacher_width:
            nn.init.orthogonal_(self.weight)
        else:
            nn.init.normal_(self.weight, std=0.02)
        if bias:
            nn.init.zeros_(self.bias)

    def forward(self, state: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(state.dtype)
        return functional.linear(state, self.weight.to(state.dtype), bias)


class Window(nn.Conv1d):
    """A linear map of each position and its two neighbours (a convolution of width 3), computed in the dtype of h,
    whatever an engine holds its weights in. Beyond the ends are zeros; what is padding must hold zeros, too.

    Starts with small normal weights; the bias is 0.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width, kernel_size=3, padding=1, dtype=torch.float32)
        assert self.bias is not None
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, state: Tensor) -> Tensor:
        """`[batch, length, width]` to the same at the other width."""
        assert self.bias is not None
        weight, bias = self.weight.to(state.dtype), self.bias.to(state.dtype)
        return functional.conv1d(state.mT, weight, bias, padding=1).mT
