"""Hidden states that follow several layers of the teacher at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_distill.activations import Activations
from hf_distill.losses import mean_squared_difference
from hf_distill.objectives.hidden_states import Projection
from hf_distill.objectives.layer_groups import LayerGroups
from hf_distill.objectives.layer_pairs import Layers, reduced
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice
from hf_distill.tasks import Batch


@register("layer_combination")
class LayerCombination(LayerGroups):
    """Combinatorial knowledge distillation (Wu, Passban, Rezagholizade & Liu, 2020, arXiv:2010.03034).

    L = (1/D) |h_s - W [h_t1; h_t2; ...] - b|^2 at every real token, for each student block s, D wide, and its group of
    teacher blocks, whose states are concatenated; the mean over the student's blocks. W and b are learned. They start
    as the mean of the group where both models are equally wide, else small.

    `layer_map`: `regular` parts the teacher's blocks into as many groups that follow each other, N/M blocks each
    (where M does not divide N, as equal as they can be); `overlapping` adds to each the last block of the one before;
    `all` gives every student block all of them; pairs, [[1, 1], [1, 2], [2, 3], [2, 4]], name the groups. That groups
    overlap by one block, and how W starts, are decisions made here.

    Reads: hidden[i] of both, [batch, length, width].  Counts: tokens, or examples with `reduction="example_mean"`.
    Errors: `IncompatiblePair` where the teacher has fewer blocks than the student, or a pair does not exist.
    """

    default_layer_map = "regular"
    citation = """@inproceedings{wu2020why,
  title = {Why Skip If You Can Combine: A Simple Knowledge Distillation Technique for Intermediate Layers},
  author = {Wu, Yimeng and Passban, Peyman and Rezagholizade, Mehdi and Liu, Qun},
  booktitle = {EMNLP},
  year = {2020},
  eprint = {2010.03034},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, layer_map: Layers | None = None, reduction: str = "token_mean", stack: str = "") -> None:
        super().__init__(layer_map=layer_map, stack=stack)
        check_choice(self.name, "reduction", reduction, ("token_mean", "example_mean"))
        self.reduction = reduction
        self.combinations = nn.ModuleList()

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        student, teacher = (shape.hidden_size for shape in self.shapes(pair))
        self.combinations = nn.ModuleList(_combination(student, teacher, len(group)) for group in self.groups.values())

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        mask, values = self.shown_mask(student), []
        for combination, (state, group) in zip(self.combinations, self.grouped(student, teacher, mask), strict=True):
            values.append(mean_squared_difference(state, combination(torch.cat(group, -1))))
        return reduced(values, mask, self.reduction, "mean")


def _combination(student_width: int, teacher_width: int, members: int) -> Projection:
    """W and b from the concatenated states of a group to the student's width."""
    made = Projection(members * teacher_width, student_width)
    with torch.no_grad():
        if student_width == teacher_width:
            made.weight.copy_(torch.eye(student_width).repeat(1, members) / members)
        else:
            nn.init.normal_(made.weight, std=0.02)
    return made
