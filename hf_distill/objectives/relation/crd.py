"""Each text's vector in the student nearest to its own in the teacher."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, distributed
from torch.nn import functional

from hf_distill.objectives.contrast import Contrast, fingerprints
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_number
from hf_distill.tasks import Batch


@register("crd")
class CRD(Contrast):
    """Contrastive representation distillation over the batch (Tian, Krishnan & Isola, 2020, arXiv:1910.10699).

    L = -1/(2b) sum_i [log softmax_j(<z_i, w_j> / temperature)_i + log softmax_j(<z_j, w_i> / temperature)_i], z and w
    the unit vectors that learned linear maps of width `dimension` make of the student's and the teacher's vectors. The
    paper draws thousands of negatives from a memory of all examples (`crd_memory`); here they are the other texts of
    the batch, with the logarithm of a softmax in place of its noise-contrastive estimate. Equal texts (`input_ids`)
    are no negatives of each other.

    Reads: hidden[i] of both, pooled to [batch, width] (`pool`); widths may differ.  Counts: batches, of 2 examples or
    more; a gradient is of the examples of a micro-batch alone, or with `gather` of those of all processes.
    Learns: the two maps, which are no part of the student.
    Errors: `IncompatiblePair` where the layer map does not fit, or where a causal model would be pooled at its first
    token.
    """

    smallest_batch = 2
    advised_batch = 16
    citation = """@inproceedings{tian2020contrastive,
  title = {Contrastive Representation Distillation},
  author = {Tian, Yonglong and Krishnan, Dilip and Isola, Phillip},
  booktitle = {ICLR},
  year = {2020},
  eprint = {1910.10699},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        pool: str = "mean",
        dimension: int = 128,
        temperature: float = 0.07,
        gather: bool = False,
        stack: str = "",
    ) -> None:
        check_number(self.name, "temperature", temperature, 0.0, sys.float_info.max, open_low=True)
        super().__init__(
            layer_map=layer_map,
            pool=pool,
            dimension=dimension,
            temperature=temperature,
            gather=gather,
            stack=stack,
        )

    def relation(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        logits = student @ teacher.mT / self.temperature
        equal = self._equal_texts(batch)
        if equal is not None:
            logits = logits.masked_fill(equal, torch.finfo(logits.dtype).min)
        own = torch.arange(len(logits), device=logits.device)
        return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.mT, own)) / 2.0

    def _equal_texts(self, batch: Batch) -> Tensor | None:
        """Where another text is the same, `[examples, examples]`."""
        found = fingerprints(batch)
        if found is None:
            return None
        if self.processes > 1:
            parts = [torch.empty_like(found) for _ in range(self.processes)]
            distributed.all_gather(parts, found)
            found = torch.cat(parts)
        return (found[:, None] == found) & ~torch.eye(len(found), dtype=torch.bool, device=found.device)
