"""Labels that count as much as the teacher is sure."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.nn import functional

from hf_distill.activations import Activations
from hf_distill.losses import blank, label_loss
from hf_distill.objectives.batch_relations import gathered, process_count
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_flag
from hf_distill.objectives.soft_rows import number_of_classes
from hf_distill.objectives.whole_logits import WholeLogits, refuse_to_gather_tokens
from hf_distill.tasks import Batch, Task


@register("ban_cwtm")
class BanCWTM(WholeLogits):
    """Born-again networks, confidence-weighted by teacher max (Furlanello et al., 2018, arXiv:1805.04770).

    L = sum_i w_i (-log q_i,y) / sum_i w_i over the labelled rows i of a batch, w_i = max_c p_i,c: the labels' loss,
    with the weight of a row in the batch from the largest probability of its teacher, p = softmax(teacher). Nothing
    else of the teacher is used, so that what is gained over labels alone is not due to what it says of other classes.
    The weights are the paper's importance weights, normalised over the batch (form unconfirmed). The arguments'
    `label_smoothing_factor` smooths -log q as in `labels`.

    Of one row the weight is 1 whatever the teacher says, and micro-batches of one row train as `labels` does: where
    rows are examples a batch has at least two. `gather=True` takes the examples of all processes for one batch.

    Reads: logits of both, all of a batch at once (`whole_logits`), and the labels.  Counts: batches, of 2 examples or
    more where rows are examples; a gradient is of the examples of a micro-batch alone, or with `gather` of those of
    all processes.
    Errors: `IncompatiblePair` for tasks without a single class a row, for `gather` where rows are tokens, and for a
    vocabulary without `whole_logits=True`; `DataError` for labels that are missing or of another shape or kind than
    the task's.
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

    def __init__(self, *, gather: bool = False, whole_logits: bool = False) -> None:
        super().__init__(tokens=None, whole_logits=whole_logits)
        check_flag(self.name, "gather", gather)
        self.gather = gather

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        number_of_classes(self.name, pair)
        if self.gather:
            refuse_to_gather_tokens(self.name, pair)
        self.smallest_batch, self.advised_batch = (1, 1) if pair.task.tokens else (2, 8)  # a text has many tokens

    def mask(self, batch: Batch) -> Tensor:
        return self.pair.task.label_mask(batch)

    @property
    def processes(self) -> int:
        """The processes whose examples make one batch."""
        return process_count() if self.gather else 1

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return super().count(batch, task) if self._has_enough(batch) else 0

    def _has_enough(self, batch: Batch) -> bool:
        return self.pair.task.num_examples(batch) * self.processes >= self.smallest_batch

    @property
    def reaches_zero(self) -> bool:
        return False

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        ours, theirs, mask = self.answers(student, teacher, batch)
        if not self._has_enough(batch):
            self.remark(True, f"batches of fewer than {self.smallest_batch} examples count nothing.")
            return ours[:0].sum()
        labels = self.pair.task.targets(batch)[0]
        self.check_labels(ours, labels)
        weights = functional.softmax(theirs, -1).amax(-1)
        flat = label_loss(ours, labels, "softmax", label_smoothing=self.pair.label_smoothing)
        flat, weights = (blank(each.unsqueeze(-1), mask).reshape(-1, 1) for each in (flat, weights))
        processes = self.processes
        if processes == 1:
            return _weighted(weights, flat)
        flat, weights = gathered(flat, weights)
        value = _weighted(weights, flat)
        # A process without a label counts no batch; those that have one make up the sum, and the gradient.
        labelled = weights.view(processes, -1).gt(0).any(1).to(value.dtype)
        return labelled[distributed.get_rank()] * value.detach() + labelled.sum() * (value - value.detach())


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """sum w v / sum w, 0 where all weights are."""
    return (weights * values).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
