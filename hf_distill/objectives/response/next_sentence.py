"""Whether the second sentence follows the first."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from hf_distill.activations import Activations, Needs, Signal
from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.losses import at_least_float32
from hf_distill.objectives.base import Objective
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.tasks import IGNORED, Batch, Task

COLUMN = "next_sentence_label"


@register("next_sentence")
class NextSentence(Objective):
    """Next-sentence prediction of BERT, -log q_y (Devlin, Chang, Lee & Toutanova, 2019, arXiv:1810.04805).

    q = softmax of the two next-sentence logits, y the column `next_sentence_label`: 0 where the second sentence
    follows, 1 where it does not, -100 where it does not count. With `pretraining_distillation` it makes the
    pre-training distillation of MobileBERT.

    Reads: next_sentence_logits of the student, [batch, 2], which the classes `…ForPreTraining` of BERT's family give.
    Counts: labelled examples.
    Errors: `IncompatiblePair` for a task that is no masked LM, and for a student without that head; `DataError` where
    the column is missing or has another shape than [batch].
    """

    needs_teacher = False
    citation = """@inproceedings{devlin2019bert,
  title = {BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding},
  author = {Devlin, Jacob and Chang, Ming-Wei and Lee, Kenton and Toutanova, Kristina},
  booktitle = {NAACL},
  year = {2019},
  eprint = {1810.04805},
  archivePrefix = {arXiv}
}"""

    @property
    def equation(self) -> str:
        return "L = -log q_y, q = softmax of the two next-sentence logits"

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if pair.task.name != "masked_lm":
            raise IncompatiblePair(
                f"{self.name}: a {pair.task.name} student has no next-sentence head; load it as …ForPreTraining, or "
                "leave the term out."
            )

    def needs(self) -> Needs:
        return Needs.of([Signal("next_sentence_logits")])

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return (self._labels(batch) != IGNORED).sum()

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        logits, labels = at_least_float32(student.next_sentence_logits), self._labels(batch)
        return functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")

    def _labels(self, batch: Batch) -> Tensor:
        if COLUMN not in batch:
            raise DataError(
                f"{self.name}: the batch has no column {COLUMN!r}, only {', '.join(batch)}. Give the data sentence "
                "pairs with that column, or leave the term out."
            )
        labels = batch[COLUMN]
        if labels.dim() != 1 or labels.is_floating_point():
            raise DataError(
                f"{self.name}: the column {COLUMN!r} has the shape {tuple(labels.shape)} and holds {labels.dtype}; it "
                "must be one whole number an example."
            )
        return labels
