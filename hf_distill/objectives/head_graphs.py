"""What both phases of graph distillation share: one vector a text and layer, and attention heads between layers."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from hf_distill.activations import Activations
from hf_distill.errors import DistillationError
from hf_distill.losses import at_least_float32, blank
from hf_distill.objectives.batch_relations import EMPTY
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.settings import check_choice, check_count, check_flag
from hf_distill.objectives.singular_vectors import aligned, leading
from hf_distill.objectives.text_relations import LayerRelations, Sides
from hf_distill.pooling import pooled
from hf_distill.tasks import Batch, Task

CANDIDATES = 4
"""The student's singular vectors among which the one most like the teacher's first is chosen."""


class AttentionHeads(nn.Module):
    """X_h[a, c] = (keys_h v_a) . (queries_h v'_c), v the texts' vectors of a layer and v' of the one before it.

    `keys` and `queries` `[heads, inner, width]` are parameters if they are learned, else buffers. Whether they were
    `learned` is a buffer that goes with them wherever they are saved.
    """

    keys: Tensor
    queries: Tensor
    learned: Tensor

    def __init__(self, width: int, heads: int, *, learned: bool) -> None:
        super().__init__()
        self.register_buffer("learned", torch.tensor(learned))
        for name in ("keys", "queries"):
            value = nn.init.xavier_uniform_(torch.empty(heads * width, width, dtype=torch.float32))
            shaped = value.view(heads, width, width)
            if learned:
                self.register_parameter(name, nn.Parameter(shaped))
            else:
                self.register_buffer(name, shaped)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """X, `[heads, texts, texts]`, in the dtype of the vectors `[texts, width]`."""
        keys = after @ self.keys.to(after.dtype).mT
        queries = before @ self.queries.to(before.dtype).mT
        return keys @ queries.mT


class HeadGraphs(LayerRelations):
    """A graph of the batch's texts for each layer of the map after the first, between its vectors and those of the
    layer before, by attention heads that both models share, so both need one width.

    `vector`: of each text and layer the first right singular vector of its states, which has the sign of their sum,
    the student's being the one of its first four that is most like the teacher's (`svd`); or the mean of its states
    (`mean`; not the authors'). A batch of the device is one unit; with `gather` that of all processes together.
    """

    relates_batch = True
    smallest_batch = 2
    advised_batch = 16
    traceable = False

    def __init__(
        self, *, layer_map: Layers | None, heads: int, vector: str, gather: bool, special_tokens: str, stack: str
    ) -> None:
        super().__init__(layer_map=layer_map, special_tokens=special_tokens, stack=stack)
        check_count(self.name, "heads", heads, 1)
        check_choice(self.name, "vector", vector, ("svd", "mean"))
        check_flag(self.name, "gather", gather)
        self.heads, self.vector, self.gather = heads, vector, gather
        self.attention = nn.ModuleList()

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        self.refuse_widths("both models go through the same heads; take a student of the teacher's width, or fsp.")
        width = self.shapes(pair)[1].hidden_size
        learned = not self.trains_student
        self.attention = nn.ModuleList(AttentionHeads(width, self.heads, learned=learned) for _ in self.layers[1:])

    @property
    def processes(self) -> int:
        """The processes whose texts make one batch."""
        together = self.gather and distributed.is_available() and distributed.is_initialized()
        return distributed.get_world_size() if together else 1

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return int(task.num_examples(batch) * self.processes >= self.smallest_batch)

    def vectors(self, student: Activations, teacher: Activations | None, batch: Batch) -> tuple[Sides, ...]:
        """Both models' vectors of every layer of the map, `[batch, width]` each."""
        real, pairs = self.states(student, teacher, batch)
        self.remark(~real.any(1).all(), EMPTY)
        return tuple(self._pooled(state, target, real) for state, target in pairs)

    def _pooled(self, state: Tensor, target: Tensor, real: Tensor) -> Sides:
        if self.vector == "mean":
            return pooled(state, real, "mean"), pooled(target, real, "mean")
        theirs = leading(target, 1, "right")
        ours, unsafe = aligned(leading(state, CANDIDATES, "right"), theirs)
        self.remark(
            unsafe.any(),
            "some of the student's singular values lie within 1e-4 of each other; their vectors have no gradient.",
        )
        return ours[:, 0], theirs.vectors[:, 0]

    def teacher_vectors(self, student: Activations, teacher: Activations | None, batch: Batch) -> list[Tensor]:
        """The teacher's vectors of every layer of the map, `[batch, width]` each; nothing of the student is read."""
        if teacher is None:
            raise DistillationError(f"objective {self.name!r} got no teacher.")
        real = self.counted(self.shown_mask(student), batch)
        self.remark(~real.any(1).all(), EMPTY)
        shown = teacher.stack(self.stack).hidden
        found = [blank(at_least_float32(shown[layer].detach()), real) for _, layer in self.layers]
        if self.vector == "mean":
            return [pooled(target, real, "mean") for target in found]
        return [leading(target, 1, "right").vectors[:, 0] for target in found]

    def is_short(self, examples: int) -> bool:
        """Whether a batch has too few texts for a graph."""
        if examples * self.processes >= self.smallest_batch:
            return False
        self.remark(True, f"batches of fewer than {self.smallest_batch} examples count nothing.")
        return True
