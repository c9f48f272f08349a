"""The best hypotheses of a teacher, each as much as it is worth."""

from __future__ import annotations

from torch import Tensor

from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives.hypotheses import PLACE, SCORES, WEIGHTS, column, hypothesis_weights
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.row_wise import RowWise
from hf_distill.objectives.settings import check_choice, check_flag, check_number
from hf_distill.tasks import Batch, Task

TASKS = ("causal_lm", "seq2seq_lm")


@register("nbest_kd")
class NBestKD(RowWise):
    """Sequence-level distillation from N best hypotheses (Huang, You, Chen, Qian & Yu, 2018).

    L = -sum_n w_n sum_t log q(y_n,t | y_n,<t, x), the mean over sources x, with the teacher's hypotheses y_1 .. y_N of
    x, the student's probabilities q, and w = softmax_n(log P(y_n | x) / T) with those P of the teacher: the cross
    entropy of sequences, the teacher's law of them cut down to its N best. It is the labels' loss where N is 1, which
    is sequence-level distillation (Kim & Rush, 2016, arXiv:1606.07947). `weights` may also be `uniform`, 1/N each, or
    `best`, the best hypothesis alone. `length_normalize` divides each inner sum by its length. The training
    arguments' `label_smoothing_factor` smooths each -log q as in `labels`.

    The papers are of speech recognisers, and neither was at hand in full: that scores are the logarithms of whole
    sequences' probabilities, without a length penalty, and are softened by T, is this package's reading.

    A row of a batch is one hypothesis; its labels are the text, and the columns `hypothesis_scores` `[rows, N]` and
    `hypothesis` `[rows]` say how the teacher scores all hypotheses of the source, and which of them this is.
    Hypotheses of one source need not meet in a batch.

    Reads: logits of the student, and the labels.  Counts: sources, of which a row is the Nth part.
    Errors: `IncompatiblePair` for tasks that do not write texts; `DataError` for rows without these columns, and for
    labels that are missing; `DistillationError` for a setting out of range.
    """

    needs_teacher = False
    needs_labels = True
    citation = """@inproceedings{huang2018knowledge,
  title = {Knowledge Distillation for Sequence Model},
  author = {Huang, Mingkun and You, Yongbin and Chen, Zhehuai and Qian, Yanmin and Yu, Kai},
  booktitle = {Interspeech},
  year = {2018},
  url = {https://www.isca-archive.org/interspeech_2018/huang18e_interspeech.html}
}"""

    def __init__(self, *, temperature: float = 1.0, weights: str = "teacher", length_normalize: bool = False) -> None:
        super().__init__()
        check_number(self.name, "temperature", temperature, 0.01, 1e4)
        check_choice(self.name, "weights", weights, WEIGHTS)
        check_flag(self.name, "length_normalize", length_normalize)
        self.temperature, self.weights, self.length_normalize = temperature, weights, length_normalize

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if pair.task.name not in TASKS:
            raise IncompatiblePair(
                f"objective {self.name!r} learns texts that a teacher wrote, and the task is {pair.task.name}; the "
                f"tasks that write are {', '.join(TASKS)}. For sounds take ctc_nbest_kd."
            )

    @property
    def columns(self) -> frozenset[str]:
        return frozenset({SCORES, PLACE})

    @property
    def joins_documents(self) -> str:
        return "takes each row for one hypothesis"

    def mask(self, batch: Batch) -> Tensor:
        return self.pair.task.label_mask(batch)

    def count(self, batch: Batch, task: Task) -> Tensor:
        there = column(batch, SCORES, self.name).isfinite().sum(-1).clamp(min=1)
        return (1.0 / there).sum()

    def row_divisors(self, batch: Batch) -> Tensor:
        of_all = hypothesis_weights(column(batch, SCORES, self.name), self.weights, self.temperature)
        place = column(batch, PLACE, self.name).unsqueeze(-1)
        divisors = 1.0 / of_all.gather(-1, place)
        lengths = self.mask(batch).sum(-1, keepdim=True).clamp(min=1)
        return divisors * lengths if self.length_normalize else divisors

    def rows(self, student_logits: Tensor, teacher_rows: Tensor | None, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise DistillationError(f"objective {self.name!r} got no targets.")
        self.check_labels(student_logits, labels)
        return self.pair.task.label_values(student_logits, labels, label_smoothing=self.pair.label_smoothing)
