"""Hidden states that point the same way."""

from __future__ import annotations

from torch import Tensor

from hf_distill.losses import cosine_distance
from hf_distill.objectives.hidden_states import HiddenStates
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.registry import register


@register("hidden_cosine")
class HiddenCosine(HiddenStates):
    """1 - cos(student, teacher) at every real token (Sanh, Debut, Chaumond & Wolf, 2019, arXiv:1910.01108).

    The paper compares the last hidden states alone: `layer_map="final"`, the default. Special tokens are real tokens.

    Reads: hidden[i] of both, [batch, length, width].  Counts: tokens, or examples with `reduction="example_mean"`.
    Errors: `IncompatiblePair` where widths differ and `projection` is `none`, the default, or the layer map does not
    fit.
    """

    default_layer_map = "final"
    citation = """@misc{sanh2019distilbert,
  title = {DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter},
  author = {Sanh, Victor and Debut, Lysandre and Chaumond, Julien and Wolf, Thomas},
  year = {2019},
  eprint = {1910.01108},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        projection: str = "none",
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
        return "L = 1 - cos(h_s, h_t) at every real token"

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return cosine_distance(student, teacher)
