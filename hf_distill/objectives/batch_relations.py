"""What objectives share that relate the texts of a batch to each other.

With `gather`, W processes of b texts each evaluate the same value G(x) of all W b vectors. A process can differentiate
its own vectors alone: of dG = sum_r dG/dx_r dx_r it has the r-th term, g_r. The trainer divides a value by the counts
of all processes, W for every micro-batch, and multiplies it by W; the engine averages gradients over the processes:
sum_r g_r / W would come out. So the gradient of every process is multiplied by W, and the value is not: then value and
gradient are those of one process with W b texts. The same holds for what an objective learns, as that acts on the
vectors before they are exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, distributed

from hf_distill.activations import Activations, Needs
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import unit
from hf_distill.objectives.base import Objective
from hf_distill.objectives.layer_pairs import LayerPairs, Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.sentence_vectors import VECTORS, check_vectors, vectors_of
from hf_distill.objectives.settings import check_choice, check_flag
from hf_distill.pooling import POOLS, SENTENCE, pooled
from hf_distill.tasks import Batch, Task

EMPTY = "a text has no token that counts; it is related to the others all the same, as the vector 0"


class BatchRelation(LayerPairs):
    """Compares how the texts of a batch are related to each other in the student and in the teacher.

    A subclass writes `relation(student, teacher, batch) -> value` of one vector a text, `[examples, width]`; the
    widths of the two may differ. The vectors are states of one pair of layers, the last ones by default, pooled over
    the real tokens: their `mean`, the `first_token`, the `last_token`, or the `max` of each feature. Values of several
    pairs of layers are added. A text without a real token has the vector 0. With `pool` `sentence` they are the
    vectors of two sentence encoders, whatever the layer map says, and no layer of either model is looked at.

    A batch of the device is one unit: micro-batches of an accumulation are not related to each other, and those of
    several processes only with `gather`. A batch of fewer than `smallest_batch` texts counts nothing.
    """

    relates_batch = True
    default_layer_map = "final"

    def __init__(self, *, layer_map: Layers | None, pool: str, gather: bool, stack: str) -> None:
        super().__init__(layer_map=layer_map, stack=stack)
        check_choice(self.name, "pool", pool, (*POOLS, SENTENCE))
        check_flag(self.name, "gather", gather)
        if pool == SENTENCE and stack:
            raise DistillationError(
                f"{self.name}: stack is {stack!r}, and pool='sentence' reads the vectors of texts, which belong to no "
                "stack; leave stack out."
            )
        self.pool = pool
        self.gather = gather

    def bind(self, pair: Pair) -> None:
        if self.pool == SENTENCE:
            Objective.bind(self, pair)
            check_vectors(self.name, pair)
            return
        super().bind(pair)
        for side, shape in zip(("student", "teacher"), self.shapes(pair), strict=True):
            if self.pool == "first_token" and shape.causal:
                raise IncompatiblePair(
                    f"{self.name}: the {side} is causal, so its first token has seen nothing but itself; set "
                    "pool='last_token' or 'mean'."
                )

    def widths(self, pair: Pair) -> tuple[int, int]:
        """How wide the vectors of student and teacher are."""
        if self.pool == SENTENCE and pair.teacher is not None:
            return pair.student.sentence_width, pair.teacher.sentence_width
        student, teacher = self.shapes(pair)
        return student.hidden_size, teacher.hidden_size

    def relation(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """One number for all texts: `[examples, width]` twice to `[]`."""
        raise NotImplementedError

    def needs(self) -> Needs:
        return VECTORS if self.pool == SENTENCE else super().needs()

    def tensors(self, student: Activations, teacher: Activations | None) -> Iterator[tuple[Tensor, Tensor]]:
        if self.pool != SENTENCE:
            yield from super().tensors(student, teacher)
            return
        yield vectors_of(self.name, student, teacher)

    def vectors(self, state: Tensor, target: Tensor, mask: Tensor, pair: int) -> tuple[Tensor, Tensor]:
        """What is related, of the states of the `pair`-th pair of layers: one row a text."""
        return pooled(state, mask, self.pool), pooled(target, mask, self.pool)

    @property
    def joins_documents(self) -> str:
        return "has one vector of each row"

    @property
    def processes(self) -> int:
        """The processes whose texts make one batch."""
        return process_count() if self.gather else 1

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return int(task.num_examples(batch) * self.processes >= self.smallest_batch)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        mask = self.shown_mask(student)
        self.remark(~mask.bool().any(1).all(), EMPTY)
        values = []
        for i, (state, target) in enumerate(self.tensors(student, teacher)):
            values.append(self._value(*self.vectors(state, target, mask, i), batch))
        return sum(values[1:], values[0])

    def _value(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        processes = self.processes
        if len(ours) * processes < self.smallest_batch:
            self.remark(True, f"batches of fewer than {self.smallest_batch} examples count nothing.")
            return ours[:0].sum() + theirs[:0].sum()
        if processes == 1:
            return self.relation(ours, theirs, batch)
        value = self.relation(*gathered(ours, theirs), batch)
        return value + (processes - 1) * (value - value.detach())


def process_count() -> int:
    """The processes that train together."""
    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


def gathered(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors of all processes, each of which has as many, in one exchange; a gradient reaches one's own alone."""
    both = torch.cat([student, teacher], -1)
    parts = [torch.empty_like(both) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, both.detach().contiguous())
    parts[distributed.get_rank()] = both
    together, width = torch.cat(parts), student.shape[-1]
    return together[:, :width], together[:, width:]


def centered(vectors: Tensor) -> Tensor:
    """x_i less the mean of all x, `[examples, width]`."""
    return vectors - vectors.mean(0, keepdim=True)


def cosines(vectors: Tensor, *, center: bool = False) -> Tensor:
    """cos(x_i, x_j) of all pairs, `[examples, width]` to `[examples, examples]`; 0 with a vector 0."""
    units = unit(centered(vectors) if center else vectors)
    return units @ units.mT


def off_diagonal(square: Tensor) -> Tensor:
    """The entries (i, j) with i != j, `[n, n]` to `[n, n - 1]`."""
    rows = len(square)
    return square.flatten()[1:].view(rows - 1, rows + 1)[:, :-1].reshape(rows, rows - 1)


def distances(vectors: Tensor) -> Tensor:
    """|x_i - x_j| of all pairs, `[examples, width]` to `[examples, examples]`, with a gradient of 0 where it is 0.

    From differences: |x|^2 + |y|^2 - 2 xy loses all digits where the vectors share a large offset.
    """
    return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
