"""What objectives share that compare a layer of the student with several of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import IncompatiblePair
from hf_distill.layer_map import LayerMap
from hf_distill.losses import blank
from hf_distill.objectives.layer_pairs import LayerPairs, Layers
from hf_distill.objectives.settings import check_choice


def _all(block: int, student: int, teacher: int) -> range:
    return range(1, teacher + 1)


def _regular(block: int, student: int, teacher: int) -> range:
    return range((block - 1) * teacher // student + 1, block * teacher // student + 1)


def _overlapping(block: int, student: int, teacher: int) -> range:
    group = _regular(block, student, teacher)
    return range(max(group.start - 1, 1), group.stop)


GROUPS: dict[str, Callable[[int, int, int], range]] = {
    "all": _all,
    "regular": _regular,
    "overlapping": _overlapping,
}
"""The teacher's blocks of one student block, of models of some depths: all of them, or as many as equal parts of them
give it, alone or with the last block of the part before.
"""


class LayerGroups(LayerPairs):
    """Compares `hidden[i]` of the student with a group of the teacher's hidden states, for some student blocks i.

    `layer_map` is `all`, `regular` or `overlapping`, which give each student block a group, or a list of pairs: those
    of one student layer are its group, `[[1, 1], [1, 2], [2, 3], [2, 4]]`.
    """

    first_layer = 1

    @property
    def groups(self) -> dict[int, list[int]]:
        """The teacher's layers of each student layer that is compared."""
        found: dict[int, list[int]] = {}
        for student, teacher in self.layers:
            found.setdefault(student, []).append(teacher)
        return found

    def _layer_map(self, given: Layers) -> Layers:
        if isinstance(given, str):
            check_choice(self.name, "layer_map", given, tuple(GROUPS))
            return given
        return super()._layer_map(given)

    def resolve(self, student_layers: int, teacher_layers: int) -> LayerMap:
        if not isinstance(self.layer_map, str):
            return super().resolve(student_layers, teacher_layers)
        if self.layer_map != "all" and teacher_layers < student_layers:
            raise IncompatiblePair(
                f"layer_map {self.layer_map!r}: the teacher has {teacher_layers} layers, fewer than the student's "
                f"{student_layers}, so some groups would be empty; use 'all' or give the pairs."
            )
        group = GROUPS[self.layer_map]
        blocks = range(1, student_layers + 1)
        return LayerMap(
            [(block, theirs) for block in blocks for theirs in group(block, student_layers, teacher_layers)]
        )

    def grouped(
        self, student: Activations, teacher: Activations | None, mask: Tensor
    ) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """The state of each student layer and those of its group, zeros where `mask` is 0."""
        states: dict[int, Tensor] = {}
        targets: dict[int, list[Tensor]] = {}
        for (layer, _), (state, target) in zip(self.layers, self.tensors(student, teacher), strict=True):
            states[layer] = state
            targets.setdefault(layer, []).append(blank(target, mask))
        for layer, state in states.items():
            yield blank(state, mask), targets[layer]
