"""Where each token looks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.activations import Activations
from hf_distill.losses import expectation
from hf_distill.objectives.attention_scores import AttentionScores
from hf_distill.objectives.layer_pairs import Layers, reduced
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice
from hf_distill.relations import scores_kl
from hf_distill.tasks import Batch


@register("attention_kl")
class AttentionKL(AttentionScores):
    """Attention transfer of MobileBERT, 1/(A T) sum_a sum_t KL(p_at || q_at) (Sun et al., 2020, arXiv:2004.02984).

    p_at, q_at: the laws over the keys that query t sees, the softmax of teacher's and student's scores of head a; A
    heads, T real tokens. `kind="cross_entropy"` takes -sum p log q, as the authors' code does: the teacher's entropy
    more, the same gradient. Over several pairs of layers the mean is taken, or the sum (`layer_reduction`); the
    default map `uniform` is block with block where both models are equally deep, as in the paper.

    The authors' code reduces over padding too; here real tokens alone count.

    Reads: scores[i] of both, [batch, heads, length, length].  Counts: tokens, or examples with
    `reduction="example_mean"`.
    Errors: `IncompatiblePair` where the numbers of heads differ, or the layer map does not fit or names layer 0.
    """

    citation = """@inproceedings{sun2020mobilebert,
  title = {MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices},
  author = {Sun, Zhiqing and Yu, Hongkun and Song, Xiaodan and Liu, Renjie and Yang, Yiming and Zhou, Denny},
  booktitle = {ACL},
  year = {2020},
  eprint = {2004.02984},
  archivePrefix = {arXiv}
}"""

    traceable = False

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        kind: str = "forward_kl",
        reduction: str = "token_mean",
        layer_reduction: str = "mean",
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, reduction=reduction, layer_reduction=layer_reduction, stack=stack)
        check_choice(self.name, "kind", kind, ("forward_kl", "cross_entropy"))
        self.kind = kind

    @property
    def equation(self) -> str:
        value = "KL(p_at || q_at)" if self.kind == "forward_kl" else "-sum p_at log q_at"
        laws = "p and q the attention of the teacher's and the student's head a at token t"
        return f"L = 1/(A T) sum_a sum_t {value}, {laws}"

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        mask = self.shown_mask(student)
        visible = self.visible(mask, batch)
        divergences = []
        for scores, target in self.tensors(student, teacher):
            divergence = scores_kl(scores, target, visible)
            if self.kind == "cross_entropy":
                divergence = divergence + _entropy(target, visible)
            divergences.append(divergence)
        return reduced(divergences, mask, self.reduction, self.layer_reduction)


def _entropy(scores: Tensor, visible: Tensor) -> Tensor:
    """(1/A) sum_a -sum p_at log p_at of each query t, `[batch, length]`."""
    lowest = scores.new_full((), torch.finfo(scores.dtype).min)
    log_law = functional.log_softmax(torch.where(visible.unsqueeze(1), scores, lowest), -1)
    return -expectation(log_law.exp(), log_law).mean(1)
