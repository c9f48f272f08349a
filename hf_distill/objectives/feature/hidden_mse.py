"""Hidden states of the same value."""

from __future__ import annotations

from torch import Tensor

from hf_distill.losses import mean_squared_difference
from hf_distill.objectives.hidden_states import HiddenStates
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.registry import register


@register("hidden_mse")
class HiddenMSE(HiddenStates):
    """(1/D) |W h_student + b - h_teacher|^2 at every real token, D the teacher's width (Romero et al., 2015,
    arXiv:1412.6550; the transformer form of Jiao et al., 2020, arXiv:1909.10351).

    W and b are learned and exist only where the widths differ. TinyBERT's embedding and hidden losses are
    `layer_map="uniform"` with `layer_reduction="sum"` and `projection="per_level"` (the paper: one W for the embedding
    output, one for all blocks) or `"shared"` (the authors' code).

    Reads: hidden[i] of both, [batch, length, width].  Counts: tokens, or examples with `reduction="example_mean"`.
    Errors: `IncompatiblePair` where widths differ and `projection` is `none`, or the layer map does not fit.
    """

    default_layer_map = "spread"
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
        projection: str = "per_layer",
        reduction: str = "token_mean",
        layer_reduction: str = "mean",
        stack: str = "",
    ) -> None:
        super().__init__(
            layer_map=layer_map,
            projection=projection,
            reduction=reduction,
            layer_reduction=layer_reduction,
            stack=stack,
        )

    @property
    def equation(self) -> str:
        mapped = "W h_s + b" if self._pair is None or len(self.projections) else "h_s"
        return f"L = (1/D) |{mapped} - h_t|^2 at every real token, D the teacher's width"

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return mean_squared_difference(student, teacher)
