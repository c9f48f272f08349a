"""Factors that the teacher's states can be made of again, for factor transfer."""

from __future__ import annotations

from torch import Tensor, nn

from hf_distill.activations import Activations, Needs
from hf_distill.errors import DistillationError
from hf_distill.losses import at_least_float32, blank, masked_sum
from hf_distill.objectives.layer_heads import TwoMaps, factor_width
from hf_distill.objectives.layer_pairs import LayerPairs, Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.tasks import Batch


@register("factor_paraphraser")
class FactorParaphraser(LayerPairs):
    """The first stage of factor transfer (Kim, Park & Kwak, 2018, arXiv:1802.04977): an auto-encoder of each mapped
    layer of the teacher.

    L = (1/D) sum_d |t_d - t'_d| at every real token, t' what the decoder makes of the factors, which the encoder makes
    of t; both are two linear maps with a leaky ReLU between. Several layers are added. The student is not trained.
    `factor_transfer`, in a stage after it and under the same name, takes the encoders.

    Reads: hidden[j] of the teacher, [batch, length, width].  Counts: tokens.
    Errors: `IncompatiblePair` where the layer map does not fit.
    """

    default_layer_map = "final"
    trains_student = False
    reduction = "token_mean"
    citation = """@inproceedings{kim2018paraphrasing,
  title = {Paraphrasing Complex Network: Network Compression via Factor Transfer},
  author = {Kim, Jangho and Park, SeongUk and Kwak, Nojun},
  booktitle = {NeurIPS},
  year = {2018},
  eprint = {1802.04977},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, layer_map: Layers | None = None, stack: str = "") -> None:
        super().__init__(layer_map=layer_map, stack=stack)
        self.paraphrasers, self.decoders = nn.ModuleList(), nn.ModuleList()

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        teacher = self.shapes(pair)[1].hidden_size
        width = factor_width(teacher)
        self.paraphrasers = nn.ModuleList(TwoMaps(teacher, teacher, width, trains=True) for _ in self.layers)
        self.decoders = nn.ModuleList(TwoMaps(width, teacher, teacher, trains=True) for _ in self.layers)

    def needs(self) -> Needs:
        return Needs.of((), super().needs().teacher)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        if teacher is None:
            raise DistillationError(f"objective {self.name!r} got no teacher.")
        mask, shown = self.shown_mask(student), teacher.stack(self.stack).hidden
        values = []
        for encode, decode, (_, layer) in zip(self.paraphrasers, self.decoders, self.layers, strict=True):
            state = blank(at_least_float32(shown[layer].detach()), mask)
            values.append((state - decode(encode(state))).abs().mean(-1))
        return masked_sum(sum(values[1:], values[0]), mask)
