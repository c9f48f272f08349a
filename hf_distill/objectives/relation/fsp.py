"""How the states change from one layer to the next."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from hf_distill.activations import Activations
from hf_distill.losses import blank
from hf_distill.objectives.hidden_states import Projection
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice
from hf_distill.objectives.text_relations import LayerRelations
from hf_distill.tasks import Batch


@register("fsp")
class FSP(LayerRelations):
    """Flow of the solution procedure (Yim, Joo, Bae & Kim, 2017, doi:10.1109/CVPR.2017.754).

    L = sum_l |G_l^student - G_l^teacher|_F^2 of each example, G_l = (1/n) sum_k x_k y_k^T over its n tokens, x and y
    the states of one layer of the map and of the next. `form="code"`, a common re-implementation's, takes the mean
    over the entries of G instead of their sum; the published weight 50 belongs to it. The paper trains on this term
    alone first, and on the task afterwards, from the weights that this left.

    Both models need one width, or `projection`: a learned map from student to teacher width, one for each layer
    (`per_layer`) or one for all (`shared`). The weights of the pairs of layers are equal.

    The sums are taken directly. The same squares through the tokens' Gram matrices take n^2 d instead of n d^2 steps,
    but cancel: in float32, near the minimum, they are off by a hundredth. For a batch of b texts, one pair of layers
    takes b n d^2 steps and two tensors of b d^2 entries.

    Reads: hidden[i] of both, [batch, length, width], at two layers or more.  Counts: examples that have text.
    Errors: `IncompatiblePair` where widths differ without a projection, or the layer map has one pair; `DataError`
    where special tokens are to be left out and the batch does not tell them.
    """

    citation = """@inproceedings{yim2017gift,
  title = {A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning},
  author = {Yim, Junho and Joo, Donggyu and Bae, Jihoon and Kim, Junmo},
  booktitle = {CVPR},
  year = {2017},
  url = {https://doi.org/10.1109/CVPR.2017.754}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        form: str = "paper",
        projection: str = "none",
        special_tokens: str = "include",
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, special_tokens=special_tokens, stack=stack)
        check_choice(self.name, "form", form, ("paper", "code"))
        check_choice(self.name, "projection", projection, ("none", "per_layer", "shared"))
        self.form = form
        self.projection = projection
        self.projections = nn.ModuleList()

    @property
    def equation(self) -> str:
        mean = "" if self.form == "paper" else "mean of the entries of "
        square = "|G_l^student - G_l^teacher|_F^2" if self.form == "paper" else "(G_l^student - G_l^teacher)^2"
        return f"L = sum_l {mean}{square} of each text, G_l = (1/n) sum_k x_k y_k^T of layers l and l + 1"

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        widths = tuple(shape.hidden_size for shape in self.shapes(pair))
        if self.projection == "none":
            self.refuse_widths("matrices of other sizes cannot be compared; set projection='per_layer' or 'shared'.")
        number = 0 if widths[0] == widths[1] else 1 if self.projection == "shared" else len(self.layers)
        self.projections = nn.ModuleList(Projection(*widths) for _ in range(number))

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        real, pairs = self.states(student, teacher, batch)
        projected = [(self._project(state, real, i), target) for i, (state, target) in enumerate(pairs)]
        tokens = real.sum(1).clamp(min=1)[:, None, None]
        values = []
        for (x, target_x), (y, target_y) in pairwise(projected):
            difference = (torch.bmm(x.mT, y) - torch.bmm(target_x.mT, target_y)) / tokens
            squares = difference.square().sum()
            values.append(squares / difference[0].numel() if self.form == "code" else squares)
        return sum(values[1:], values[0])

    def _project(self, state: Tensor, real: Tensor, position: int) -> Tensor:
        if not self.projections:
            return state
        return blank(self.projections[position % len(self.projections)](state), real)
