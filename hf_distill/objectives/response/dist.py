"""How the answers correlate, class by class and example by example."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from hf_distill.activations import Activations
from hf_distill.losses import safe_sqrt
from hf_distill.objectives.batch_relations import gathered, process_count
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_flag, check_number
from hf_distill.objectives.soft_rows import number_of_classes
from hf_distill.objectives.whole_logits import WholeLogits, refuse_to_gather_tokens
from hf_distill.tasks import Batch

EPSILON = 1e-8


@register("dist")
class DIST(WholeLogits):
    """DIST, distillation from a stronger teacher (Huang, You, Wang, Qian & Xu, 2022, arXiv:2205.10536).

    With p = softmax(teacher / T), q = softmax(student / T) and r(a, b) the correlation of Pearson, sum (a - mean a)
    (b - mean b) / (|a - mean a| |b - mean b| + 1e-8), L = T^2 (beta inter + gamma intra): inter is 1 - r of the two
    laws of a row, averaged over rows; intra is 1 - r of the two columns of a class over the rows of the batch,
    averaged over classes. A student that keeps the order and the proportions of its teacher's answers has L = 0,
    however much more even they are.

    beta = gamma = 2 and T = 1 are the paper's settings for ImageNet, T = 4 for CIFAR (unconfirmed); the labels have a
    term of weight 1. With fewer than three rows the columns correlate perfectly or not at all, and intra is a
    constant. `min_mass` leaves classes out of intra whose probabilities in the teacher's rows add up to less, as most
    words of a vocabulary; the paper's form, 0, leaves none out.

    Rows are positions that count (`tokens`), or examples; `gather=True` takes the examples of all processes for one
    batch.

    Reads: logits of both, all of a batch at once (`whole_logits`).  Counts: batches.
    Errors: `IncompatiblePair` for two classes, where r is 1 or -1 whatever the student says, for tasks without a
    single class a row, and for a vocabulary without `whole_logits=True`; `DistillationError` for a setting out of
    range.
    """

    advised_batch = 3
    citation = """@inproceedings{huang2022knowledge,
  title = {Knowledge Distillation from A Stronger Teacher},
  author = {Huang, Tao and You, Shan and Wang, Fei and Qian, Chen and Xu, Chang},
  booktitle = {NeurIPS},
  year = {2022},
  eprint = {2205.10536},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        beta: float = 2.0,
        gamma: float = 2.0,
        temperature: float = 1.0,
        min_mass: float = 0.0,
        tokens: str | None = None,
        gather: bool = False,
        whole_logits: bool = False,
    ) -> None:
        super().__init__(tokens=tokens, whole_logits=whole_logits)
        check_flag(self.name, "gather", gather)
        self.gather = gather
        check_number(self.name, "beta", beta, 0.0, 1e4)
        check_number(self.name, "gamma", gamma, 0.0, 1e4)
        check_number(self.name, "temperature", temperature, 0.0, 1e4, open_low=True)
        check_number(self.name, "min_mass", min_mass, 0.0, 1.0)
        self.beta, self.gamma, self.temperature, self.min_mass = beta, gamma, temperature, min_mass

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        number_of_classes(self.name, pair, least=3, why="two numbers that add up to 1 always correlate perfectly")
        if self.gather:
            refuse_to_gather_tokens(self.name, pair)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        ours, theirs, mask = self.answers(student, teacher, batch)
        q, p = (functional.softmax(logits / self.temperature, -1).flatten(0, -2) for logits in (ours, theirs))
        counted = q.new_ones(len(q), 1) if mask is None else mask.reshape(-1, 1).to(q.dtype)
        processes = process_count() if self.gather else 1
        if processes == 1:
            return self._value(q, p, counted)
        value = self._value(*gathered(q, p), counted.repeat(processes, 1))
        return value + (processes - 1) * (value - value.detach())

    def _value(self, q: Tensor, p: Tensor, counted: Tensor) -> Tensor:
        """L of laws `[rows, classes]`, of which those count that are 1 in `counted` `[rows, 1]`."""
        rows = counted.sum()
        number = rows.clamp(min=1)
        self.remark(rows == 1, "a batch had one row that counts; nothing correlates over it, and intra is a constant.")
        inter = ((1.0 - _correlation(_centred(q), _centred(p))) * counted.squeeze(-1)).sum() / number
        columns = [_centred_columns(law, counted, number) for law in (q, p)]
        kept = ((p * counted).sum(0) >= self.min_mass).to(q.dtype)
        intra = ((1.0 - _correlation(*columns)) * kept).sum() / kept.sum().clamp(min=1)
        value = self.temperature**2 * (self.beta * inter + self.gamma * intra)
        return value * rows.clamp(max=1)


def _centred(laws: Tensor) -> Tensor:
    return laws - laws.mean(-1, keepdim=True)


def _centred_columns(laws: Tensor, counted: Tensor, number: Tensor) -> Tensor:
    """Of `[rows, classes]` the columns `[classes, rows]`, less their means over the rows that count, 0 elsewhere."""
    return ((laws - (laws * counted).sum(0) / number) * counted).T


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's, of centred numbers along the last axis; 0 where either side is constant."""
    lengths = [safe_sqrt(each.square().sum(-1)) for each in (one, other)]
    return (one * other).sum(-1) / (lengths[0] * lengths[1] + EPSILON)
