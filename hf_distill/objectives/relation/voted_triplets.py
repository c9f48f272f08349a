"""The order of distances on which several teachers agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_distill.activations import MAIN, Activations, Needs, Signal
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import at_least_float32, unit
from hf_distill.objectives.batch_relations import EMPTY, BatchRelation, distances
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_count, check_flag, check_number
from hf_distill.pooling import SENTENCE, pooled
from hf_distill.splitmix import STEP, scrambled
from hf_distill.tasks import Batch

TIED = 64
"""Two distances are equal where they differ by less than this many roundings of the longest vector. Texts that are
repeated in a batch are as far from an anchor as each other; in which last digits their vectors differ depends on the
size of the micro-batch that they were computed in."""


@register("voted_triplets")
class VotedTriplets(BatchRelation):
    """Triplets of relative dissimilarity, voted on by several teachers (You, Xu, Xu & Tao, 2017,
    doi:10.1145/3097983.3098135).

    For an anchor a and a pair j < k of other texts of the batch, teacher m votes sign(d_m(a, k) - d_m(a, j)), d the
    squared distance of two text vectors, and 0 where the two are equal but for rounding. The sum of the votes,
    weighted by `weights` (one number a teacher, in their order; equal without them), says which of j and k is near to
    a and which is far; where it is 0 the triplet drops.
    L = mean over the triplets of max(0, d(a, near) - d(a, far) + margin) in the student, 0 where none is left. Not the
    distances of the models are compared, but their order, so widths may differ; a student like its teacher has a
    gradient where two distances are less than the margin apart. With `normalize` vectors have length 1.

    That teachers vote on relative dissimilarities is the paper's; the hinge, its margin of 0.2, the last layer and the
    choice of triplets are not known of it, and are a choice made here. Of more than `max_triplets` pairs an anchor as
    many are drawn anew in every batch; 465 are all of 32 texts. With one teacher its own order counts.

    Reads: hidden[last] of the student and of every teacher, pooled to [batch, width] (`pool`), or with
    `pool="sentence"` the vectors of sentence encoders.  Counts: batches, of 3 examples or more; a gradient is of the
    examples of a micro-batch alone, or with `gather` of those of all processes.
    Errors: `DistillationError` for a setting out of range; `IncompatiblePair` for another number of weights than of
    teachers, where a causal model would be pooled at its first token, and where two models show different positions.
    """

    batches: Tensor
    takes_members = True
    smallest_batch = 3
    advised_batch = 8
    citation = """@inproceedings{you2017learning,
  title = {Learning from Multiple Teacher Networks},
  author = {You, Shan and Xu, Chang and Xu, Chao and Tao, Dacheng},
  booktitle = {KDD},
  year = {2017},
  url = {https://doi.org/10.1145/3097983.3098135}
}"""

    def __init__(
        self,
        *,
        margin: float = 0.2,
        normalize: bool = True,
        weights: Sequence[float] | None = None,
        max_triplets: int = 465,
        pool: str = "mean",
        gather: bool = False,
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=None, pool=pool, gather=gather, stack=stack)
        check_number(self.name, "margin", margin, 0.0, 1e6)
        check_flag(self.name, "normalize", normalize)
        check_count(self.name, "max_triplets", max_triplets, 1)
        self.margin, self.normalize, self.max_triplets = margin, normalize, max_triplets
        self.weights = None if weights is None else self._checked(weights)
        self._places: dict[str, tuple[int | None, int | None]] = {}
        self._widths: list[int] = []
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def _checked(self, weights: Sequence[float]) -> list[float]:
        if isinstance(weights, str) or not isinstance(weights, Sequence):
            raise DistillationError(
                f"{self.name}: weights is {weights!r}; it must be a list with a number for each teacher."
            )
        for weight in weights:
            check_number(self.name, "weights", weight, 0.0, 1e6)
        return [float(weight) for weight in weights]

    def bind(self, pair: Pair) -> None:
        pairs = {"": pair} if pair.members is None else pair.members
        if self.weights is not None and len(self.weights) != len(pairs):
            raise IncompatiblePair(
                f"{self.name}: {len(self.weights)} weights for {len(pairs)} teachers; give a number for each."
            )
        self._places, self._widths = {}, []
        for name, each in pairs.items():
            super().bind(each)
            self._places[name] = (None, None) if self.pool == SENTENCE else self.layers[0]
            self._widths.append(self.widths(each)[1])
        self._pair = pair

    def needs(self) -> Needs:
        field, student = "sentence" if self.pool == SENTENCE else "hidden", {ours for ours, _ in self._places.values()}
        return Needs.of(
            (Signal(field, layer, self.stack) for layer in student),
            (Signal(field, layer, self.stack, MAIN, name) for name, (_, layer) in self._places.items()),
        )

    @property
    def reaches_zero(self) -> bool:
        return False

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        if teacher is None:
            raise DistillationError(f"objective {self.name!r} got no teacher.")
        mask, theirs = self.shown_mask(student), []
        self.remark(~mask.bool().any(1).all(), EMPTY)
        last, _ = next(iter(self._places.values()))
        state = self._shown(student, last)
        for name, (_, layer) in self._places.items():
            target = self._shown(teacher.member(name), layer).detach()
            self._check_positions(state.shape, target.shape)
            theirs.append(self._vectors(target, mask))
        return self._value(self._vectors(state, mask), torch.cat(theirs, -1), batch)

    def _shown(self, model: Activations, layer: int | None) -> Tensor:
        """The states of a layer, or the vectors of the texts."""
        stack = model.stack(self.stack)
        shown: Tensor = stack.sentence if layer is None else stack.hidden[layer]
        return shown

    def _vectors(self, states: Tensor, mask: Tensor) -> Tensor:
        vectors = pooled(at_least_float32(states), mask, self.pool)
        return unit(vectors) if self.normalize else vectors

    def relation(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        anchors, first, second = self._triplets(student)
        votes = vote(torch.split(teacher, self._widths, -1), self.weights, anchors, first, second)
        apart = distances(student).square()
        nearer = votes.sign() * (apart[anchors, first] - apart[anchors, second])
        kept = votes != 0
        number = kept.sum()
        self.remark(2 * number < kept.numel(), "more than half of the triplets drop, as the teachers' votes are tied.")
        return (torch.relu(nearer + self.margin) * kept).sum() / number.clamp(min=1)

    def _triplets(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Anchors, and the two others of each: all of them, or as many for each anchor as are drawn."""
        number, device = len(vectors), vectors.device
        pairs = (number - 1) * (number - 2) // 2
        first, second = torch.triu_indices(number - 1, number - 1, 1, device=device)
        anchors = torch.arange(number, device=device).unsqueeze(1)
        if pairs > self.max_triplets:
            some = self._draws(number, pairs)
            first, second = first[some], second[some]
        # numbers of the others, counted without the anchor
        first, second = (each + (each >= anchors) for each in (first, second))
        return anchors.expand(first.shape), first, second

    def _draws(self, number: int, pairs: int) -> Tensor:
        """Numbers below `pairs`, `[number, max_triplets]`, that follow from the batches drawn for before: with
        `gather` all processes draw the same, and a resumed training what it would have drawn."""
        places = torch.arange(number * self.max_triplets, device=self.batches.device).view(number, -1)
        drawn = (scrambled(places * STEP + scrambled(self.batches + 1)) & (2**63 - 1)) % pairs
        if self.training:
            self.batches += 1
        return drawn


def vote(
    teachers: Sequence[Tensor], weights: Sequence[float] | None, anchors: Tensor, first: Tensor, second: Tensor
) -> Tensor:
    """The sum of the teachers' votes on each triplet, of the shape of `anchors`: above 0 where `first` is nearer.

    `teachers` are the texts' vectors of each, `[examples, width]`.
    """
    total = torch.zeros(anchors.shape, dtype=teachers[0].dtype, device=anchors.device)
    for vectors, weight in zip(teachers, weights or [1.0] * len(teachers), strict=True):
        apart = distances(vectors)
        farther = apart[anchors, second] - apart[anchors, first]
        rounding = TIED * torch.finfo(vectors.dtype).eps * vectors.norm(dim=-1).amax()
        total = total + weight * farther.sign() * (farther.abs() > rounding)
    return total
