"""Attention heads that tell how a teacher's layer comes out of the one before."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_distill.activations import Activations, Needs
from hf_distill.losses import unit
from hf_distill.objectives.batch_relations import gathered
from hf_distill.objectives.head_graphs import HeadGraphs
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.tasks import Batch


class Estimator(nn.Module):
    """`output` concat_h sum_c softmax_c(X_h)[a, c] relu(`inner` v_c): the texts' vectors of a layer, from those of the
    layer before.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inner, self.output = (
            nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, inputs, dtype=torch.float32)))
            for inputs in (width, heads * width)
        )

    def forward(self, before: Tensor, relations: Tensor) -> Tensor:
        """`[texts, width]`, from the vectors before and X `[heads, texts, texts]`."""
        shown = functional.relu(before @ self.inner.to(before.dtype).T)
        read = functional.softmax(relations, -1) @ shown
        return read.transpose(0, 1).flatten(1) @ self.output.to(before.dtype).T


@register("mhgd_estimator")
class MHGDEstimator(HeadGraphs):
    """Graph-based distillation by attention heads (Lee & Song, 2019, arXiv:1907.02226), its first phase: the teacher's
    heads, which `mhgd` compares the student by in a later stage, under the same name of the term.

    L = sum_l (1/b) sum_a (1 - cos(e_l,a, v_l,a)) over the b texts of the batch, v the teacher's vectors as in `mhgd`,
    e_l,a = W_1 concat_h sum_c softmax_c(X_h)[a, c] relu(W_0 v_{l-1},c) the estimate of v_l,a from the texts' vectors
    of the layer before, and X_h[a, c] = (K_h v_l,a) . (Q_h v_{l-1},c). K, Q, W_0 and W_1 are learned; the student is
    not read and does not change. The authors' code has batch norms, drops heads at random and adds 5e-4 times the sum
    of squares of what is learned, over 40 epochs; here `weight_decay` of the stage does the last, the others are left
    out.

    One pair of layers learns 2 h d^2 + d^2 + h d^2 numbers for h heads; steps as in `mhgd`, without the student's.

    Reads: hidden[i] of the teacher, [batch, length, width], at two layers or more.
    Counts: batches, of 2 examples or more; with `gather` the texts of all processes make one.
    Errors: as `mhgd`.
    """

    trains_student = False
    citation = """@inproceedings{lee2019graph,
  title = {Graph-based Knowledge Distillation by Multi-head Attention Network},
  author = {Lee, Seunghyun and Song, Byung Cheol},
  booktitle = {BMVC},
  year = {2019},
  eprint = {1907.02226},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        heads: int = 8,
        vector: str = "svd",
        gather: bool = False,
        special_tokens: str = "include",
        stack: str = "",
    ) -> None:
        super().__init__(
            layer_map=layer_map, heads=heads, vector=vector, gather=gather, special_tokens=special_tokens, stack=stack
        )
        self.estimators = nn.ModuleList()

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        width = self.shapes(pair)[1].hidden_size
        self.estimators = nn.ModuleList(Estimator(width, self.heads) for _ in self.attention)

    def needs(self) -> Needs:
        return Needs.of((), super().needs().teacher)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        vectors = self.teacher_vectors(student, teacher, batch)
        if self.is_short(len(vectors[0])):
            return torch.stack([parameter[:0].sum() for parameter in self.parameters()]).sum()
        if self.processes > 1:
            # What is learned acts on the vectors of all, so that every process has the whole gradient.
            together = torch.cat(vectors, -1)
            vectors = list(gathered(together[:, :0], together)[1].chunk(len(vectors), -1))
        values = []
        steps = zip(self.attention, self.estimators, vectors, vectors[1:], strict=False)
        for heads, estimator, before, after in steps:
            estimate = estimator(before, heads(before, after))
            values.append((1.0 - (unit(estimate) * unit(after)).sum(-1)).mean())
        return torch.stack(values).sum()
