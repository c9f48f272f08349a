"""Labels that count as much as the teacher is sure."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.activations import Activations
from hf_distill.losses import label_loss, masked_sum
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.soft_rows import number_of_classes
from hf_distill.objectives.whole_logits import WholeLogits
from hf_distill.tasks import Batch


@register("ban_cwtm")
class BanCWTM(WholeLogits):
    """Born-again networks, confidence-weighted by teacher max (Furlanello et al., 2018, arXiv:1805.04770).

    L = sum_i w_i (-log q_i,y) / sum_i w_i over the labelled rows i of a batch, w_i = max_c p_i,c: the labels' loss,
    with the weight of a row in the batch from the largest probability of its teacher, p = softmax(teacher). Nothing
    else of the teacher is used, so that what is gained over labels alone is not due to what it says of other classes.
    The weights are the paper's importance weights, normalised over the batch (form unconfirmed). The arguments'
    `label_smoothing_factor` smooths -log q as in `labels`.

    Reads: logits of both, all of a batch at once (`whole_logits`), and the labels.  Counts: batches.
    Errors: `IncompatiblePair` for tasks without a single class a row, and for a vocabulary without
    `whole_logits=True`; `DataError` for labels that are missing or of another shape or kind than the task's.
    """

    needs_labels = True
    citation = """@inproceedings{furlanello2018born,
  title = {Born-Again Neural Networks},
  author = {Furlanello, Tommaso and Lipton, Zachary C. and Tschannen, Michael and Itti, Laurent and Anandkumar, Anima},
  booktitle = {ICML},
  year = {2018},
  eprint = {1805.04770},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, whole_logits: bool = False) -> None:
        super().__init__(tokens=None, whole_logits=whole_logits)

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        number_of_classes(self.name, pair)

    def mask(self, batch: Batch) -> Tensor:
        return self.pair.task.label_mask(batch)

    @property
    def reaches_zero(self) -> bool:
        return False

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        ours, theirs, mask = self.answers(student, teacher, batch)
        labels = self.pair.task.targets(batch)[0]
        self.check_labels(ours, labels)
        weights = functional.softmax(theirs, -1).amax(-1)
        flat = label_loss(ours, labels, "softmax", label_smoothing=self.pair.label_smoothing)
        total = masked_sum(weights, mask)
        return masked_sum(weights * flat, mask) / total.clamp(min=torch.finfo(total.dtype).tiny)
