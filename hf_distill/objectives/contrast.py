"""What contrastive objectives share: learned maps of both models' vectors into one space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_distill.errors import DistillationError
from hf_distill.losses import unit
from hf_distill.objectives.batch_relations import BatchRelation
from hf_distill.objectives.hidden_states import Projection
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.pair import Pair
from hf_distill.pooling import SENTENCE
from hf_distill.tasks import Batch


class Contrast(BatchRelation):
    """Makes unit vectors of one width of the pooled states of both models, by a learned linear map with a bias for
    each layer that is read, or of their sentence vectors. The teacher's map learns, too; the teacher does not."""

    def __init__(
        self, *, layer_map: Layers | None, pool: str, dimension: int, temperature: float, gather: bool, stack: str
    ) -> None:
        super().__init__(layer_map=layer_map, pool=pool, gather=gather, stack=stack)
        if isinstance(dimension, bool) or not isinstance(dimension, int) or dimension < 1:
            raise DistillationError(f"{self.name}: dimension is {dimension!r}; it must be a whole number above 0.")
        self.dimension = dimension
        self.temperature = temperature
        self.student_maps = nn.ModuleList()
        self.teacher_maps = nn.ModuleList()

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        student, teacher = self.widths(pair)
        number = 1 if self.pool == SENTENCE else len(self.layers)
        self.student_maps = nn.ModuleList(Projection(student, self.dimension) for _ in range(number))
        self.teacher_maps = nn.ModuleList(Projection(teacher, self.dimension) for _ in range(number))

    def vectors(self, state: Tensor, target: Tensor, mask: Tensor, pair: int) -> tuple[Tensor, Tensor]:
        ours, theirs = super().vectors(state, target, mask, pair)
        return unit(self.student_maps[pair](ours)), unit(self.teacher_maps[pair](theirs))


def fingerprints(batch: Batch) -> Tensor | None:
    """A number for each text, equal for equal token ids, `[examples]`; None for a batch without ids.

    A polynomial of the ids modulo 2^64; where padding stands does not matter.
    """
    ids = batch.get("input_ids")
    if ids is None:
        return None
    real = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones_like(ids, dtype=torch.bool)
    base = torch.full((ids.shape[-1],), 6364136223846793005, dtype=torch.long, device=ids.device)
    powers = base.cumprod(0)[(real.cumsum(-1) - 1).clamp(min=0)]
    return torch.where(real, (ids + 1) * powers, 0).sum(-1)
