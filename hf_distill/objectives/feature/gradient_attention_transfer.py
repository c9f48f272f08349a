"""Attention as the gradient of the loss."""

from __future__ import annotations

from torch import Tensor

from hf_distill.losses import safe_sqrt
from hf_distill.objectives.input_gradients import InputGradients
from hf_distill.objectives.registry import register


@register("gradient_attention_transfer")
class GradientAttentionTransfer(InputGradients):
    """Gradient-based attention transfer (Zagoruyko & Komodakis, 2017, arXiv:1612.03928).

    With J = dCE(y) / d token embeddings, before positions are added, L of an example is
    `space="token"`: 1/2 |unit(g_s) - unit(g_t)|, g_k = |J_k| over its real tokens k, a saliency, or
    `space="shared"`: 1/2 |J_s - J_t| over all entries of J,
    norms and not their squares. The cross-entropy is that of each example by itself, so J does not shrink with the
    batch. `target="teacher"` takes the teacher's most likely class in place of the label y, where texts have none.

    `shared` is the paper's form, for a student that looks tokens up in its teacher's table; embedding coordinates of
    two models rarely correspond, so `token` is the one for text. The paper's flip-symmetric variant has no counterpart
    in text. The authors released no code of it, so there is no published weight; the weight of 1000 of their
    activation maps belongs to another reduction.

    A step takes three times the CPU time of one of soft targets, for the reason that `jacobian_matching` gives.

    Reads: input_gradient of both, [batch, length, width], in a pass without dropout and outside of mixed precision.
    Counts: examples with text and a label.
    Errors: `IncompatiblePair` for another task than single-label classification, for `shared` with other embedding
    tables, and for an attention without a second derivative; `DataError` where labels are missing.
    """

    scalar = "cross_entropy"
    tasks = ("single_label",)
    sized = True
    citation = """@inproceedings{zagoruyko2017paying,
  title = {Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via
           Attention Transfer},
  author = {Zagoruyko, Sergey and Komodakis, Nikos},
  booktitle = {ICLR},
  year = {2017},
  eprint = {1612.03928},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, space: str = "token", target: str = "label") -> None:
        super().__init__(space=space, target=target)

    @property
    def equation(self) -> str:
        if self.space == "shared":
            return "L = 1/2 |J_s - J_t| of each example, J = dCE(y) / d token embeddings"
        saliency = "g_k = |J_k| over its tokens k, J = dCE(y) / d token embeddings"
        return f"L = 1/2 |unit(g_s) - unit(g_t)| of each example, {saliency}"

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return 0.5 * safe_sqrt((student - teacher).square().sum(-1))
