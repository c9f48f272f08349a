"""How the main directions of the states move from one layer to the next."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.losses import blank, unit
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_count, check_flag, check_number
from hf_distill.objectives.singular_vectors import aligned, leading
from hf_distill.objectives.text_relations import LayerRelations, Sides
from hf_distill.tasks import Batch


@register("svd_kd")
class SVDKD(LayerRelations):
    """Singular vectors that move alike (Lee, Kim & Song, 2018, arXiv:1807.06819).

    Of each text and layer: the first `k` right singular vectors v_j of its states [tokens, width], times s_j, the
    singular values over their norm. Of the student's first `k` + `extra` vectors the one most like the teacher's is
    taken, with the sign that fits, and gets the teacher's s_j. Of each text,
    L = sum_l sum_j sum_pq (R_pq^student - R_pq^teacher)^2, R_pq = exp(-(v_l,j[p] - v_{l-1},j[q])^2 / `width`), l over
    the layers of the map from the second on.

    `side="left"` takes the left vectors, one entry a token: n^2 numbers a text in place of d^2, widths may differ. It
    is the form for texts; the default is the paper's. `center` takes the mean state of the text off first (no part of
    the paper), which otherwise tends to be v_1 alone.

    As published the value depends on the relative sign of the teacher's vectors in two layers, which a decomposition
    leaves open; here v_j . (sum of the states) >= 0. The gradient is that of the vectors that are used alone. A vector
    of the student's whose singular value is within 1e-4 of another's, relative to the largest, has no gradient: it has
    no bound there. These are counted (`detached`), and the log says that there were any. A direction whose singular
    value is below 1e-6 of the largest is not taken. The authors' optimizer also scales the gradient of this term down,
    parameter by parameter, to a share of the task's (`evaluation.conflicts.clip_to_task`); that needs both gradients
    apart, which one backward pass does not give, and is left out: the weight of the term is what there is.

    A pair of layers takes b k d^2 numbers several times over, `left` b k n^2, and the decompositions b m^3 + b m^2
    max(n, d) steps in float64 each, m the smaller of n and d. The host waits for each decomposition.

    Reads: hidden[i] of both, [batch, length, width], at two layers or more.  Counts: examples that have text.
    Errors: `IncompatiblePair` where widths differ and the side is `right`, or the layer map has one pair; `DataError`
    where special tokens are to be left out and the batch does not tell them.
    """

    traceable = False
    citation = """@inproceedings{lee2018self,
  title = {Self-supervised Knowledge Distillation Using Singular Value Decomposition},
  author = {Lee, Seung Hyun and Kim, Dae Ha and Song, Byung Cheol},
  booktitle = {ECCV},
  year = {2018},
  eprint = {1807.06819},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        side: str = "right",
        k: int = 1,
        extra: int = 3,
        width: float = 8.0,
        center: bool = False,
        special_tokens: str = "include",
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, special_tokens=special_tokens, stack=stack)
        check_choice(self.name, "side", side, ("right", "left"))
        check_count(self.name, "k", k, 1)
        check_count(self.name, "extra", extra, 0)
        check_number(self.name, "width", width, 0.0, 1e9, open_low=True)
        check_flag(self.name, "center", center)
        self.side, self.k, self.extra, self.width, self.center = side, k, extra, width, center
        self._detached: Tensor | int = 0

    @property
    def detached(self) -> int:
        """How many of the student's vectors had no gradient so far; waits for the device."""
        return int(self._detached)

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if self.side == "right":
            self.refuse_widths("right singular vectors are compared feature by feature; set side='left'.")

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        real, pairs = self.states(student, teacher, batch)
        vectors = [self._vectors(*sides, real) for sides in pairs]
        between = real[:, None, :, None] & real[:, None, None, :] if self.side == "left" else None
        values = []
        for (before, their_before), (after, their_after) in pairwise(vectors):
            difference = self._kernel(before, after) - self._kernel(their_before, their_after)
            squares = difference.square()
            values.append((squares if between is None else torch.where(between, squares, 0.0)).sum())
        return sum(values[1:], values[0])

    def _vectors(self, state: Tensor, target: Tensor, real: Tensor) -> Sides:
        """Both models' vectors of one layer, `[batch, k, size]`, times the teacher's s_j."""
        sums = target.sum(1)
        if self.center:  # the sum of centred states is 0, and would leave the signs to chance
            state, target = (_centred(each, real) for each in (state, target))
        theirs = leading(target, self.k, self.side, sums)
        ours, unsafe = aligned(leading(state, self.k + self.extra, self.side), theirs)
        self._detached = self._detached + unsafe.sum()
        self.remark(
            unsafe.any(),
            "some of the student's singular values lie within 1e-4 of each other; their vectors have no gradient.",
        )
        weights = (unit(theirs.values) * theirs.usable).unsqueeze(-1)
        return ours * weights, theirs.vectors * weights

    def _kernel(self, before: Tensor, after: Tensor) -> Tensor:
        """R, `[batch, k, size, size]`, of two layers' vectors."""
        return (-(after.unsqueeze(3) - before.unsqueeze(2)).square() / self.width).exp()


def _centred(states: Tensor, real: Tensor) -> Tensor:
    tokens = real.sum(1).clamp(min=1)[:, None, None]
    return blank(states - states.sum(1, keepdim=True) / tokens, real)
