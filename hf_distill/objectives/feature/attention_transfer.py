"""Tokens that are as active as the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.losses import safe_sqrt, unit
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.objectives.text_relations import TextRelations
from hf_distill.tasks import Batch, Task


@register("attention_transfer")
class AttentionTransfer(TextRelations):
    """Activation-based attention transfer (Zagoruyko & Komodakis, 2017, arXiv:1612.03928).

    The map of a text is q_k = sum_c |h_kc|^p over the features of token k (`kind="sum_p"`), or max_c |h_kc|^p
    (`max_p`), divided by its norm over the tokens. L = 1/2 |q_student / |q_student| - q_teacher / |q_teacher|| of each
    text (`form="paper"`: the norm, not its square), or with `form="code"` the squares, summed over all tokens and
    divided by their number; the published weight of 1000 belongs to `code`. Over several pairs of layers the values
    are added. These are no attention probabilities: for those see `attention_kl`.

    Widths may differ. The size of the student's states is invisible here, and a text of one token adds 0: another term
    should train the task. One token or feature that is far larger than all others, as encoders have at [CLS] and
    [SEP], makes the map a spike: `special_tokens="exclude"`, or p = 1.

    Reads: hidden[i] of both, [batch, length, width].  Counts: examples that have text; tokens with `form="code"`.
    Errors: `IncompatiblePair` where the layer map does not fit; `DataError` where special tokens are to be left out
    and the batch does not tell them.
    """

    default_layer_map = "spread"
    first_layer = 1
    citation = """@inproceedings{zagoruyko2017paying,
  title = {Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via Attention
           Transfer},
  author = {Zagoruyko, Sergey and Komodakis, Nikos},
  booktitle = {ICLR},
  year = {2017},
  eprint = {1612.03928},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        form: str = "paper",
        kind: str = "sum_p",
        p: float = 2.0,
        special_tokens: str = "include",
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, special_tokens=special_tokens, stack=stack)
        check_choice(self.name, "form", form, ("paper", "code"))
        check_choice(self.name, "kind", kind, ("sum_p", "max_p"))
        check_number(self.name, "p", p, 1.0, 8.0)
        self.form, self.kind, self.p = form, kind, p

    @property
    def equation(self) -> str:
        value = "1/2 |q_s - q_t| of each text" if self.form == "paper" else "(q_s - q_t)^2 at every token"
        over = "sum" if self.kind == "sum_p" else "max"
        return f"L = {value}, q = {over}_c |h_kc|^{self.p:g} over its norm, k the tokens of a text"

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return self.counted(self.mask(batch), batch).sum() if self.form == "code" else super().count(batch, task)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        values = []
        for state, target in self.states(student, teacher, batch)[1]:
            squares = (self.map(state) - self.map(target)).square().sum(1)
            values.append(squares if self.form == "code" else 0.5 * safe_sqrt(squares))
        return torch.stack(values).sum()

    def map(self, states: Tensor) -> Tensor:
        """The map of each text, `[batch, length]`, of norm 1. Other tokens hold zeros in `states`."""
        sizes = states.abs()
        largest = sizes.detach().amax((1, 2), keepdim=True)  # a constant factor leaves the map as it is
        powers = (sizes / torch.where(largest > 0, largest, 1.0)).pow(self.p)
        return unit(powers.sum(-1) if self.kind == "sum_p" else powers.amax(-1))
