"""Each text's vector in the student nearest to its own in the teacher, among those of thousands of other rows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from hf_distill.activations import Activations
from hf_distill.errors import DataError, DistillationError
from hf_distill.objectives.base import ROW_INDEX
from hf_distill.objectives.contrast import Contrast
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.registry import register
from hf_distill.objectives.row_memory import Draws, estimated, last_of_each, updated
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.tasks import Batch, Task


@register("crd_memory")
class CRDMemory(Contrast):
    """Contrastive representation distillation with a memory (Tian, Krishnan & Isola, 2020, arXiv:1910.10699).

    L = -sum over both anchors of [log P_i / (P_i + c + eps) + sum_r log c / (P_r + c + eps)] for each example i, r
    over K negatives, P_r = exp(<z, m_r> / temperature) / Z, c = K / n, eps = 1e-7. z are the unit vectors that learned
    linear maps make of both models' vectors, m the memory of the other model's vectors of all n training rows: the
    student's vector reads the teacher's memory, the teacher's vector the student's. Z, one for each anchor, is n times
    the mean of exp(<z, m_r> / temperature) over the first batch, and stays. After a batch, the rows of its examples
    become unit(momentum m_i + (1 - momentum) z_i).

    `negatives` is K; they are drawn anew for every batch, with repetition, of the rows of other classes
    (`drawn="other_class"`, where the task gives a text one class, as the authors' code does), else, or with
    `drawn="any"`, of all other rows. Products with the whole memory are formed: b n dimension operations.

    Reads: hidden[i] of both, pooled to [batch, width] (`pool`), and the batch's column `row_index`, which the trainer
    makes; widths may differ. One pair of layers.  Counts: examples.
    Learns: the two maps, and keeps both memories (2 n dimension numbers) and Z; saved with checkpoints, no part of the
    student. All processes keep the same memories.
    Errors: `IncompatiblePair` where the layer map does not fit, or where a causal model would be pooled at its first
    token; `DistillationError` for a layer map of several pairs; `DataError` for a stream of rows, which have no
    number, for rows of one class alone, and for a training batch without the column.
    """

    relates_batch = False
    reads_rows = True
    traceable = False
    citation = """@inproceedings{tian2020contrastive,
  title = {Contrastive Representation Distillation},
  author = {Tian, Yonglong and Krishnan, Dilip and Isola, Phillip},
  booktitle = {ICLR},
  year = {2020},
  eprint = {1910.10699},
  archivePrefix = {arXiv}
}"""
    student_memory: Tensor
    teacher_memory: Tensor
    normalizers: Tensor
    batches: Tensor

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        pool: str = "mean",
        dimension: int = 128,
        temperature: float = 0.07,
        negatives: int = 16384,
        drawn: str = "other_class",
        momentum: float = 0.5,
        stack: str = "",
    ) -> None:
        check_number(self.name, "temperature", temperature, 0.02, sys.float_info.max)  # exp(1 / 0.02) is finite
        check_number(self.name, "momentum", momentum, 0.0, 1.0)
        check_choice(self.name, "drawn", drawn, ("other_class", "any"))
        if isinstance(negatives, bool) or not isinstance(negatives, int) or negatives < 1:
            raise DistillationError(f"{self.name}: negatives is {negatives!r}; it must be a whole number above 0.")
        super().__init__(
            layer_map=layer_map, pool=pool, dimension=dimension, temperature=temperature, gather=False, stack=stack
        )
        self.negatives = negatives
        self.drawn = drawn
        self.momentum = momentum
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def columns(self) -> frozenset[str]:
        return frozenset({ROW_INDEX})

    def see_rows(self, number: int, labels: Sequence[int] | None) -> None:
        """Makes the memories, random as the authors' (uniform, at most 1 / sqrt(dimension / 3) in size)."""
        if len(self.student_maps) != 1:
            raise DistillationError(
                f"{self.name}: the layer map has {len(self.layers)} pairs, and a memory is of one; give one pair."
            )
        device = next(self.parameters()).device
        classes = labels if self.drawn == "other_class" and self.pair.task.name == "single_label" else None
        self.draws = Draws.of(self.name, number, classes).to(device)
        size = (self.dimension / 3.0) ** -0.5
        for name in ("student_memory", "teacher_memory"):
            memory = torch.empty(number, self.dimension).uniform_(-size, size)
            self.register_buffer(name, memory.to(device))
        self.register_buffer("normalizers", torch.zeros(2, device=device))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long, device=device))

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return task.num_examples(batch) if self._is_numbered(batch) else 0

    def _is_numbered(self, batch: Batch) -> bool:
        """Rows of an evaluation have no place in the memory."""
        if self.training and ROW_INDEX not in batch:
            raise DataError(
                f"{self.name}: the batch has no column {ROW_INDEX!r} (but {', '.join(batch)}), which says what place "
                "its examples have in the memory. The trainer numbers its training rows; the collator must keep it."
            )
        return ROW_INDEX in batch

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        self._remember()
        mask = self.shown_mask(student)
        state, target = next(self.tensors(student, teacher))
        ours, theirs = self.vectors(state, target, mask, 0)
        if not self._is_numbered(batch):
            return ours[:0].sum() + theirs[:0].sum()
        index = batch[ROW_INDEX]
        chosen = torch.cat([index[:, None], self.draws(index, self.negatives, self.batches)], 1)
        sides = ((ours, self.teacher_memory), (theirs, self.student_memory))
        similar = [
            ((vectors @ memory.to(vectors.dtype).mT).gather(1, chosen) / self.temperature).exp()
            for vectors, memory in sides
        ]
        normalizers = self._normalizers(similar)
        share = self.negatives / len(self.student_memory)
        total = sum(
            estimated(each / normalizer.to(each.dtype), share).sum()
            for each, normalizer in zip(similar, normalizers, strict=True)
        )
        if self.training:
            index, ours, theirs = (_of_all_processes(each.detach()) for each in (index, ours, theirs))
            self._seen = (index, ours, theirs)
        return total  # type: ignore[return-value]

    def _normalizers(self, similar: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Z of both anchors, from the first batch of the training; before it, of vectors at right angles."""
        number = float(len(self.student_memory))
        with torch.no_grad():
            if self.training:
                means = torch.stack([each.mean() for each in similar])
                if _processes() > 1:
                    distributed.all_reduce(means)
                    means /= _processes()
                found = means.to(self.normalizers.dtype) * number
                self.normalizers.copy_(torch.where(self.normalizers > 0, self.normalizers, found))
                self.batches += 1
            known = torch.where(self.normalizers > 0, self.normalizers, number)
        return known[0], known[1]

    def _remember(self) -> None:
        """Puts the vectors of the last batch into the memory; not before the backward pass has read that."""
        if self._seen is None:
            return
        (index, ours, theirs), self._seen = self._seen, None
        last = last_of_each(index)
        for memory, vectors in ((self.student_memory, ours), (self.teacher_memory, theirs)):
            memory.index_copy_(0, index, updated(memory, index, vectors[last], self.momentum))

    def _save_to_state_dict(self, *args: Any) -> None:
        self._remember()
        super()._save_to_state_dict(*args)


def _processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _of_all_processes(tensor: Tensor) -> Tensor:
    if _processes() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(_processes())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
