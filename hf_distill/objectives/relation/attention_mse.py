"""Attention scores that agree."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.objectives.attention_scores import AttentionScores
from hf_distill.objectives.layer_pairs import Layers, reduced
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice
from hf_distill.tasks import Batch, Task


@register("attention_mse")
class AttentionMSE(AttentionScores):
    """Attention loss of TinyBERT, (1/A) sum_a MSE(A_a_student, A_a_teacher) (Jiao et al., 2020, arXiv:1909.10351).

    A_a = q k^T / sqrt(d) are the scores of head a before the softmax; the square is averaged over the pairs of a query
    and a key that it sees. The paper adds up the blocks, the default here; `layer_reduction="mean"` averages them.

    `masking="keys"` is what the authors' code does: the scores of masked keys become 0 on both sides and the mean
    runs over all pairs of the padded length, so queries in the padding count and the value depends on the padding.

    Reads: scores[i] of both, [batch, heads, length, length].  Counts: pairs of tokens, or examples with
    `reduction="example_mean"`.
    Errors: `IncompatiblePair` where the numbers of heads differ, or the layer map does not fit or names layer 0.
    """

    citation = """@inproceedings{jiao2020tinybert,
  title = {TinyBERT: Distilling BERT for Natural Language Understanding},
  author = {Jiao, Xiaoqi and Yin, Yichun and Shang, Lifeng and Jiang, Xin and Chen, Xiao and Li, Linlin and
            Wang, Fang and Liu, Qun},
  booktitle = {Findings of EMNLP},
  year = {2020},
  eprint = {1909.10351},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        masking: str = "valid_pairs",
        reduction: str = "token_mean",
        layer_reduction: str = "sum",
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, reduction=reduction, layer_reduction=layer_reduction, stack=stack)
        check_choice(self.name, "masking", masking, ("valid_pairs", "keys"))
        self.masking = masking

    @property
    def equation(self) -> str:
        return "L = (1/A) sum_a MSE(A_a_student, A_a_teacher) over A heads, A_a = q k^T / sqrt(d) the scores of head a"

    @property
    def joins_documents(self) -> str:
        return "takes its mean over all positions of a row (masking='keys')" if self.masking == "keys" else ""

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        counted = self._pairs(self.mask(batch), batch)[1]
        return counted.sum() if self.reduction == "token_mean" else counted.flatten(1).any(1).sum()

    def _pairs(self, mask: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The pairs that are compared, and those that the mean runs over; boolean `[batch, length, length]`."""
        if self.masking == "valid_pairs":
            visible = self.visible(mask, batch)
            return visible, visible
        seen = self.visible(torch.ones_like(mask), batch) & mask.bool().unsqueeze(1)
        return seen, torch.ones_like(seen)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        compared, counted = self._pairs(self.shown_mask(student), batch)
        kept = compared.unsqueeze(1)
        differences = []
        for scores, target in self.tensors(student, teacher):
            zero = scores.new_zeros(())
            difference = torch.where(kept, scores, zero) - torch.where(kept, target, zero)
            differences.append(difference.square().mean(1))
        return reduced(differences, counted, self.reduction, self.layer_reduction)
