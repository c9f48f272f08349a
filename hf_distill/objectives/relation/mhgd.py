"""How the texts of a batch attend to each other between one layer and the next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_distill import losses
from hf_distill.activations import Activations
from hf_distill.objectives.batch_relations import gathered
from hf_distill.objectives.head_graphs import HeadGraphs
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice
from hf_distill.objectives.text_relations import Sides
from hf_distill.tasks import Batch


@register("mhgd")
class MHGD(HeadGraphs):
    """Graph-based distillation by attention heads (Lee & Song, 2019, arXiv:1907.02226), its second phase.

    Of each text and layer one vector (`vector`: the first right singular vector of its states, `svd`, or their mean);
    between a layer and the one before it in the map, head h relates the texts of the batch to each other,
    X_h[a, c] = (K_h v_l,a) . (Q_h v_{l-1},c). L = sum_l sum_h sum_a KL(softmax(tanh X_h^student[a]) ||
    softmax(tanh X_h^teacher[a])), over all texts c, a itself included: student first, summed, as in the authors' code
    (`form="code"`). `form="teacher_first"` turns the divergence round and takes the mean over heads and texts.

    The heads are those that `mhgd_estimator` trained on the teacher in a stage before, under the same name of the
    term, and stay as they are; random ones are taken with a warning. Both models go through them, so both need one
    width. The authors' code puts batch norms behind keys and queries; here are none. It also scales the gradient down
    to the task's, see `svd_kd`.

    Takes a decomposition a layer and model as `svd_kd`, and h b d^2 + h b^2 d steps and h b^2 numbers a pair of
    layers.

    Reads: hidden[i] of both, [batch, length, width], at two layers or more.  Counts: batches, of 2 examples or more; a
    gradient is of the examples of a micro-batch alone, or with `gather` of those of all processes.
    Errors: `IncompatiblePair` where widths differ, or the layer map has one pair; `DataError` where special tokens are
    to be left out and the batch does not tell them.
    """

    takes = ("attention.",)
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
        form: str = "code",
        gather: bool = False,
        special_tokens: str = "include",
        stack: str = "",
    ) -> None:
        super().__init__(
            layer_map=layer_map, heads=heads, vector=vector, gather=gather, special_tokens=special_tokens, stack=stack
        )
        check_choice(self.name, "form", form, ("code", "teacher_first"))
        self.form = form

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        self.remark(
            ~torch.stack([heads.learned for heads in self.attention]).all(),  # type: ignore[misc]
            "its attention heads are random; train them on the teacher first, by mhgd_estimator in a stage before, "
            "under the same name of the term.",
        )
        vectors = self.vectors(student, teacher, batch)
        if self.is_short(len(vectors[0][0])):
            return torch.stack([ours[:0].sum() for ours, _ in vectors]).sum()
        processes = self.processes
        if processes == 1:
            return self._divergence(vectors)
        value = self._divergence(_of_all_processes(vectors))
        # A process differentiates its own vectors alone, and the engine averages: see batch_relations.py.
        return value + (processes - 1) * (value - value.detach())

    def _divergence(self, vectors: Sequence[Sides]) -> Tensor:
        values = []
        steps = zip(self.attention, vectors, vectors[1:], strict=False)
        for heads, (before, their_before), (after, their_after) in steps:
            ours, theirs = heads(before, after).tanh(), heads(their_before, their_after).tanh()
            by_code = self.form == "code"
            values.append(losses.reverse_kl(ours, theirs).sum() if by_code else losses.forward_kl(ours, theirs).mean())
        return torch.stack(values).sum()


def _of_all_processes(vectors: Sequence[Sides]) -> list[Sides]:
    """The vectors of all layers and all processes, in one exchange."""
    sides = (torch.cat(side, -1) for side in zip(*vectors, strict=True))
    ours, theirs = (side.chunk(len(vectors), -1) for side in gathered(*sides))
    return list(zip(ours, theirs, strict=True))
