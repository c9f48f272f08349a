"""How alike the parts of a text are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.losses import unit
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.regions import NONE, members, moments, widened, windows
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_count
from hf_distill.objectives.text_relations import TextRelations
from hf_distill.tasks import IGNORED, Batch, Task

SEGMENTS = 2
"""Sentences that `token_type_ids` tell apart."""


@register("region_affinity")
class RegionAffinity(TextRelations):
    """Inter-region affinity distillation (Hou, Ma, Liu, Hui & Loy, 2020, arXiv:2004.05304).

    C_m(p, q) = cos(mu_m(p), mu_m(q)), mu_m(r) the mean (m = 1), the population variance (2) or the skewness
    m3 / variance^(3/2) (3) of every feature over the tokens of region r; of each example,
    L = mean of (C_m^student(p, q) - C_m^teacher(p, q))^2 over the moments and the ordered pairs p != q. The paper's
    mean takes the pairs p = q in, which are 0: with R regions, R / (R - 1) times that. Over several pairs of layers
    the values are added. Widths may differ.

    `regions`, in place of the paper's lanes: `windows` of `window` tokens that follow each other (three, the fewest
    with all moments), the two sentences of a pair by their `token_type_ids`, or the classes of the tokens by their
    `labels` (token classification; a class is one region, wherever its tokens stand). `widen` gives so many tokens
    beside a region, which belong to none, to it. The variance asks for two tokens, the skewness for three: smaller
    regions have no such moment. A variance of at most 1e-12 has the skewness 0. Only texts in which two regions share
    a moment count; a step without one is 0.

    The authors' repository has no code for the loss, and the definition of the moments, the reduction and the weights
    could not be confirmed from the paper's text; these are a reading of it.

    One pair of layers takes b n R d + b R^2 d steps and a few tensors of b R d entries.

    Reads: hidden[i] of both, [batch, length, width].  Counts: examples with two regions to compare.
    Errors: `IncompatiblePair` where labels are not those of tokens; `DataError` where the batch lacks the column that
    tells the regions.
    """

    default_layer_map: ClassVar[str] = "final"
    citation = """@inproceedings{hou2020inter,
  title = {Inter-Region Affinity Distillation for Road Marking Segmentation},
  author = {Hou, Yuenan and Ma, Zheng and Liu, Chunxiao and Hui, Tak-Wai and Loy, Chen Change},
  booktitle = {CVPR},
  year = {2020},
  eprint = {2004.05304},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        regions: str = "windows",
        window: int = 3,
        moments: Sequence[int] = (1, 2, 3),
        widen: int = 0,
        special_tokens: str = "include",
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, special_tokens=special_tokens, stack=stack)
        check_choice(self.name, "regions", regions, ("windows", "token_type_ids", "labels"))
        check_count(self.name, "window", window, 1)
        check_count(self.name, "widen", widen, 0)
        self.regions, self.window, self.widen = regions, window, widen
        self.moments = _checked(moments)

    @property
    def columns(self) -> frozenset[str]:
        return super().columns | ({"token_type_ids"} if self.regions == "token_type_ids" else set())

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if self.regions == "labels" and pair.task.name != "token_classification":
            raise IncompatiblePair(
                f"{self.name}: regions is 'labels', and the labels of {pair.task.name} are none of tokens; set "
                "regions='windows' or 'token_type_ids'."
            )
        if self.regions != "windows" and self.stack == "decoder":
            raise IncompatiblePair(
                f"{self.name}: the column {self.regions} is about the text that the encoder reads, and stack is "
                "'decoder'; set regions='windows'."
            )

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        tokens = self._members(self.counted(self.mask(batch), batch), batch).sum(2)
        return self._compared(tokens).flatten(1).any(1).sum()

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        real, pairs = self.states(student, teacher, batch)
        member = self._members(real, batch)
        compared = self._compared(member.sum(2))
        self.remark(~compared.any(), "no text of a batch had two regions to compare, which counts nothing.")
        number = compared.sum((1, 2, 3)).clamp(min=1)
        values = []
        for state, target in pairs:
            difference = self._affinities(state, member) - self._affinities(target, member)
            squares = torch.where(compared, difference.square(), 0.0).sum((1, 2, 3))
            values.append((squares / number).sum())
        return sum(values[1:], values[0])

    def _affinities(self, states: Tensor, member: Tensor) -> Tensor:
        """`[batch, moments, regions, regions]`."""
        found = moments(states, member)
        vectors = unit(torch.stack([found[moment - 1] for moment in self.moments], 1))
        return vectors @ vectors.mT

    def _compared(self, tokens: Tensor) -> Tensor:
        """Which pairs of regions with so many `tokens` `[batch, regions]` have which moment, boolean
        `[batch, moments, regions, regions]`."""
        has = torch.stack([tokens >= moment for moment in self.moments], 1)
        other = ~torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
        return has.unsqueeze(3) & has.unsqueeze(2) & other

    def _members(self, real: Tensor, batch: Batch) -> Tensor:
        """Which tokens each region has, boolean `[batch, regions, length]`."""
        if self.regions == "windows":
            return members(windows(real, self.window), -(-real.shape[1] // self.window))
        given = batch.get(self.regions)
        if given is None or given.shape != real.shape:
            found = "is missing" if given is None else f"has the shape {tuple(given.shape)}"
            raise DataError(
                f"{self.name}: the column {self.regions} tells the regions, and it {found}; it must be "
                f"{tuple(real.shape)}. Keep it in the data set, or set regions='windows'."
            )
        numbers = torch.where(real & (given != IGNORED), given, NONE)
        number = SEGMENTS if self.regions == "token_type_ids" else self.pair.student.num_logits
        return members(widened(numbers, real, self.widen), number)


def _checked(moments: Sequence[int]) -> list[int]:
    """The orders of the moments, as a recipe writes them."""
    listed = list(moments) if isinstance(moments, Sequence) and not isinstance(moments, str) else [moments]
    fits = all(isinstance(each, int) and not isinstance(each, bool) and 1 <= each <= 3 for each in listed)
    if not fits or not listed or len(set(listed)) != len(listed):
        raise DistillationError(
            f"region_affinity: moments is {moments!r}; it must be a list of some of 1 (mean), 2 (variance) and 3 "
            "(skewness), each once."
        )
    return listed
