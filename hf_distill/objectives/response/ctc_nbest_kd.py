"""The best hypotheses of a teacher of a student that hears."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hf_distill.activations import Activations, Needs, Signal
from hf_distill.errors import IncompatiblePair
from hf_distill.losses import ctc_loss, masked_sum
from hf_distill.objectives.base import Objective
from hf_distill.objectives.hypotheses import SCORES, TEXTS, WEIGHTS, column, hypothesis_weights
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_count, check_number
from hf_distill.tasks import CTC, Batch, Task


@register("ctc_nbest_kd")
class CTCNBestKD(Objective):
    """Sequence-level distillation of CTC models from N best hypotheses (Takashima, Li & Kawai, 2019).

    L = sum_n w_n (-log q(y_n | x)), the mean over the examples x, with the teacher's hypotheses y_1 .. y_N of x, the
    student's probability q(y | x), summed over all alignments of symbols and frames, and
    w = softmax_n(log P(y_n | x) / T) with those P of the teacher, or with `weights` `uniform` 1/N each, or `best` the
    best alone. Frame by frame a CTC teacher says little, as its peaks need not stand where the student's do.

    A hypothesis for which the student has too few frames has no alignment; it is left out, and the weights of the
    others are made to add up to 1 again. An example with none left does not count, which is said in the log once. The
    paper's form over lattices is not offered, and that T softens whole sequences is this package's reading of it.

    `blank`: the id of the blank; without it that of the model (`pad_token_id`).

    The hypotheses are the batch's column `hypotheses` `[batch, N, length]`, symbols as in labels, -100 behind the
    last; `hypothesis_scores` `[batch, N]` are the teacher's log P, -inf behind the last hypothesis.

    Reads: logits of the student.  Counts: examples with a hypothesis that fits.
    Errors: `IncompatiblePair` for other tasks than CTC, for a blank that is no symbol, and for label smoothing;
    `DataError` for batches without these columns; `DistillationError` for a setting out of range.
    """

    needs_teacher = False
    traceable = False  # what torch's loss over alignments keeps is as large as the longest text of the batch
    citation = """@inproceedings{takashima2019investigation,
  title = {Investigation of Sequence-level Knowledge Distillation Methods for {CTC} Acoustic Models},
  author = {Takashima, Ryoichi and Li, Sheng and Kawai, Hisashi},
  booktitle = {ICASSP},
  year = {2019},
  url = {https://doi.org/10.1109/ICASSP.2019.8682671}
}"""

    def __init__(self, *, temperature: float = 1.0, weights: str = "teacher", blank: int | None = None) -> None:
        super().__init__()
        check_number(self.name, "temperature", temperature, 0.01, 1e4)
        check_choice(self.name, "weights", weights, WEIGHTS)
        if blank is not None:
            check_count(self.name, "blank", blank, 0)
        self.temperature, self.weights, self.blank = temperature, weights, blank
        self._task = CTC()

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if not isinstance(pair.task, CTC):
            raise IncompatiblePair(
                f"objective {self.name!r} aligns symbols with frames, and the task is {pair.task.name}; take a model "
                "for CTC (AutoModelForCTC), or nbest_kd for models that write."
            )
        if pair.label_smoothing:
            raise IncompatiblePair(
                f"objective {self.name!r}: label smoothing of {pair.label_smoothing:g} is asked for, and sequences of "
                "symbols are no classes to smooth. Set label_smoothing_factor=0."
            )
        self._task = pair.task if self.blank is None else pair.task.with_blank(self.blank)
        if self._task.blank >= pair.student.num_logits:
            raise IncompatiblePair(
                f"objective {self.name!r}: the blank is {self._task.blank}, and the student has the symbols 0 to "
                f"{pair.student.num_logits - 1}; give blank."
            )

    @property
    def columns(self) -> frozenset[str]:
        return frozenset({SCORES, TEXTS})

    @property
    def blanks(self) -> Mapping[str, int]:
        return {TEXTS: self._task.blank}

    def needs(self) -> Needs:
        return Needs.of([Signal("logits")])

    def _scores(self, batch: Batch) -> Tensor:
        """The scores of the hypotheses that fit; -inf for the others."""
        fits = self._task.fits(column(batch, TEXTS, self.name), batch)
        return column(batch, SCORES, self.name).masked_fill(~fits, -torch.inf)

    def count(self, batch: Batch, task: Task) -> Tensor:
        return (self._scores(batch) > -torch.inf).any(-1).sum()

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        texts, scores = column(batch, TEXTS, self.name), self._scores(batch)
        (logits,) = self._task.rows(student, batch)
        there = scores > -torch.inf
        # One after the other, so that frames are not held N times.
        values = [ctc_loss(logits, texts[:, n], self._task.blank) for n in range(texts.shape[1])]
        weights = hypothesis_weights(scores, self.weights, self.temperature).to(logits.dtype)
        self.remark((~there).all(-1).any(), "an example has no hypothesis that its frames suffice for; it is left out")
        return masked_sum(torch.stack(values, -1) * weights, there)
