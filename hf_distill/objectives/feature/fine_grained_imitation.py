"""Hidden states like the teacher's where it matters."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.activations import Activations, Needs, Signal
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import at_least_float32, masked_sum, squared_difference
from hf_distill.objectives.hints import Hints
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.relations import visible_pairs
from hf_distill.tasks import IGNORED, Batch, Task


@register("fine_grained_imitation")
class FineGrainedImitation(Hints):
    """Fine-grained feature imitation (Wang, Yuan, Zhang & Feng, 2019, arXiv:1906.03609), at chosen tokens alone.

    L = 1/(2 N) sum |W s_k + b - t_k|^2 over the N chosen tokens of the batch, |.|^2 summed over the features; several
    pairs of layers are added. Where none is chosen it is 0. W and b exist where the widths differ.

    The paper chooses the cells around an object. `select="attention"` takes of each text the tokens k with
    a_k >= `psi` max a, a_k the attention that k receives in the teacher: the mean over the mapped teacher layers,
    their heads and the real queries; documents of a packed row, which the batch's `position_ids` show, are texts of
    their own. `select="label"`, for token classification, takes the tokens inside gold spans: those with a label other
    than `outside`, and `near` tokens on both sides of them. The published weight is 0.01, after 400 steps without the
    term; the authors' ReLU behind W is left out, as it cannot reach negative states.

    Reads: hidden[i] of both, [batch, length, width]; with `attention` the teacher's scores[j], [batch, heads, length,
    length].  Counts: the chosen tokens where labels choose them; batches where the teacher does, because their number
    is known too late: the mean over a batch's tokens is then averaged over micro-batches and processes.
    Errors: `IncompatiblePair` where widths differ and `regressor` is `none`, where the layer map does not fit, where
    the task has no labels of tokens, or the teacher's scores cannot be read; `DataError` for position ids
    of another shape than the text.
    """

    default_layer_map = "final"
    citation = """@inproceedings{wang2019distilling,
  title = {Distilling Object Detectors with Fine-grained Feature Imitation},
  author = {Wang, Tao and Yuan, Li and Zhang, Xiaopeng and Feng, Jiashi},
  booktitle = {CVPR},
  year = {2019},
  eprint = {1906.03609},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        select: str = "attention",
        psi: float = 0.5,
        outside: int = 0,
        near: int = 0,
        regressor: str = "linear",
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, regressor=regressor, form="paper", stack=stack)
        check_choice(self.name, "select", select, ("attention", "label"))
        check_number(self.name, "psi", psi, 0.0, 1.0)
        for setting, value in (("outside", outside), ("near", near)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise DistillationError(f"{self.name}: {setting} is {value!r}; it must be a whole number from 0 on.")
        self.select, self.psi, self.outside, self.near = select, psi, outside, near

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if self.select == "label" and (pair.task.name != "token_classification" or self.stack):
            raise IncompatiblePair(
                f"{self.name}: select is 'label' and the task is {pair.task.name}; gold spans are those of a token "
                "classifier. Set select='attention'."
            )
        lowest = min(teacher for _, teacher in self.layers)
        if self.select == "attention" and lowest < 1:
            raise IncompatiblePair(
                f"{self.name}: layer_map pairs teacher layer {lowest}, the embedding output, which has no attention "
                "to choose tokens by; pairs begin with layer 1."
            )

    def needs(self) -> Needs:
        read = super().needs()
        if self.select == "label":
            return read
        return read | Needs.of((), (Signal("scores", layer, self.stack) for layer in self._scored))

    @property
    def _scored(self) -> list[int]:
        """The teacher's layers whose attention chooses."""
        return sorted({teacher for _, teacher in self.layers})

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return self._labelled(batch).sum() if self.select == "label" else 1

    def errors(self, student: Tensor, teacher: Tensor) -> Tensor:
        return 0.5 * squared_difference(student, teacher)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        mask = self.shown_mask(student).bool()
        values = [self.distance(state, target) for state, target in self.matched(student, teacher, mask)]
        together = sum(values[1:], values[0])
        if self.select == "label":
            return masked_sum(together, self._labelled(batch))
        positions = None if self.stack == "decoder" else batch.get("position_ids")
        chosen = chosen_tokens(self._received(teacher, mask, positions), mask, self.psi, positions)
        return masked_sum(together, chosen) / chosen.sum().clamp(min=1)

    def _labelled(self, batch: Batch) -> Tensor:
        """The tokens in and near gold spans, boolean `[batch, length]`."""
        labels = self.pair.task.labels(batch)[0]
        inside = (labels != IGNORED) & (labels != self.outside)
        return widened(inside, self.near) & self.mask(batch)

    def _received(self, teacher: Activations | None, mask: Tensor, positions: Tensor | None) -> Tensor:
        """The attention that each token receives, `[batch, length]`, from real queries of its document."""
        if teacher is None:
            raise DistillationError(f"objective {self.name!r} got no teacher.")
        assert self.pair.teacher is not None
        shown, causal = teacher.stack(self.stack), self.pair.teacher.stack(self.stack).causal
        visible = visible_pairs(mask, causal, positions).unsqueeze(1)
        number = visible_pairs(mask, False, positions).sum(-1).clamp(min=1)
        sums = [_received(at_least_float32(shown.scores[layer].detach()), visible) for layer in self._scored]
        return torch.stack(sums).mean(0) / number


def _received(scores: Tensor, visible: Tensor) -> Tensor:
    """The sum over real queries of the attention that each key gets, averaged over heads."""
    law = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)
    return torch.where(visible, law, 0.0).sum(2).mean(1)


def chosen_tokens(scores: Tensor, mask: Tensor, psi: float, position_ids: Tensor | None = None) -> Tensor:
    """The real tokens of each text whose score, from 0 on, is at least `psi` of the text's largest; `[batch,
    length]`. Where rows hold several texts, `position_ids` tell them apart."""
    together = visible_pairs(mask, False, position_ids)
    largest = torch.where(together, scores.unsqueeze(1), 0.0).amax(-1)
    return mask.bool() & (scores >= psi * largest)


def widened(inside: Tensor, near: int) -> Tensor:
    """What is marked, and `near` positions on both sides of it; boolean `[batch, length]`."""
    spread = inside
    for shift in range(1, min(near, inside.shape[1] - 1) + 1):
        spread = spread.clone()
        spread[:, shift:] |= inside[:, :-shift]
        spread[:, :-shift] |= inside[:, shift:]
    return spread
