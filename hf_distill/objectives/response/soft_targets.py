"""The teacher's answers as targets."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from hf_distill import losses
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_count, check_number
from hf_distill.objectives.soft_rows import SoftRows
from hf_distill.tasks import Batch, Task
from hf_distill.top_logits import TopLogits, bucketed, spread

KINDS = (
    "forward_kl", "reverse_kl", "cross_entropy", "jsd", "skew_kl", "skew_rkl", "probability_mse", "logit_mse",
    "logit_sse", "logit_l1",
)  # fmt: skip
RAW = ("logit_mse", "logit_sse", "logit_l1")
"""Kinds over raw logits, which know no temperature."""
TAILS = ("bucket", "renormalized", "uniform")

_WRITTEN = {
    "forward_kl": "KL(p || q)",
    "reverse_kl": "KL(q || p)",
    "cross_entropy": "(-sum p log q)",
    "jsd": "[{b} KL(p || m) + {rest} KL(q || m)], m = {b} p + {rest} q",
    "skew_kl": "KL(p || {a} p + (1 - {a}) q)",
    "skew_rkl": "KL(q || (1 - {a}) p + {a} q)",
    "probability_mse": "mean_c (p_c - q_c)^2",
    "logit_mse": "mean_c (student_c - teacher_c)^2",
    "logit_sse": "sum_c (student_c - teacher_c)^2",
    "logit_l1": "sum_c |student_c - teacher_c|",
}
"""What a row costs, as `equation` writes it."""
_TAILS_WRITTEN = {"bucket": "as one class", "renormalized": "left out", "uniform": "spread evenly"}


@register("soft_targets")
class SoftTargets(SoftRows):
    """Soft targets (Hinton, Vinyals & Dean, 2015, arXiv:1503.02531).

    With p = softmax(teacher / T), q = softmax(student / T), a row's loss by `kind` is `forward_kl` KL(p||q),
    `reverse_kl` KL(q||p), `cross_entropy` -sum p log q, `jsd` b KL(p||m) + (1 - b) KL(q||m) with m = b p + (1 - b) q
    and b = `beta` (0: KL(p||q), 1: KL(q||p); Agarwal et al., 2024, arXiv:2306.13649), with a = `alpha` `skew_kl`
    KL(p||a p + (1 - a) q) and `skew_rkl` KL(q||(1 - a) p + a q) (Ko et al., 2024, arXiv:2402.03898),
    `probability_mse` the mean over the classes of (p - q)^2, a mean teacher's consistency (Tarvainen & Valpola, 2017,
    arXiv:1703.01780), `logit_mse` the mean square of raw differences, `logit_sse` their sum of squares (the optional
    term of DistilBERT's code; Sanh et al., 2019, arXiv:1910.01108), or `logit_l1` the sum of their sizes (Kim et al.,
    2021, arXiv:2010.13105); these three know no temperature. `scale="tau2"` multiplies by T^2, so that gradients keep
    their size over temperatures; `none` leaves it out.

    Logits are compared as they are. To standardise them first (Sun et al., 2024, arXiv:2403.01427) is left out for all
    kinds, `jsd` too: `standardized_kl` does it with the divergence that it is published for.

    By task: multi-label compares a Bernoulli law a label (`forward_kl`, `cross_entropy`, `logit_mse`), averaged over
    known labels or, with `label_reduction="sum"`, summed in each example; regression is the squared difference of
    scores; a question-answering loss is the mean of start and end; `tokens` picks the positions that count
    (`tasks.py`; default: the task's own).

    `top_k` compares over the k classes that the teacher prefers in a row, and of a teacher whose cache has its k
    largest logits alone there are no others. `tail` says what becomes of the rest: `bucket`, one class more on both
    sides, a lower bound of the loss over all classes; `renormalized`, nothing is there, and the student
    is drawn to the kept classes; `uniform`, the mass of the rest is spread evenly. The sum of the rest must be known
    at `temperature`, but for `renormalized`.

    Reads: logits of both.  Counts: tokens or examples (`token_mean`), or examples after a mean inside each
    (`example_mean`). `element_mean` divides by the number of classes too, as torch's `KLDivLoss(reduction="mean")` in
    several reference scripts.
    Errors: `DistillationError` for a setting out of range; `IncompatiblePair` for a kind or rows that the task does
    not have; `DataError` where labels say what counts and are missing.
    """

    citation = """@misc{hinton2015distilling,
  title = {Distilling the Knowledge in a Neural Network},
  author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  year = {2015},
  eprint = {1503.02531},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        kind: str = "forward_kl",
        temperature: float = 2.0,
        scale: str = "tau2",
        reduction: str = "token_mean",
        tokens: str | None = None,
        label_reduction: str = "mean",
        beta: float = 0.5,
        alpha: float = 0.1,
        tail: str = "bucket",
        top_k: int | None = None,
    ) -> None:
        super().__init__(tokens=tokens)
        check_choice("soft_targets", "kind", kind, KINDS)
        check_number("soft_targets", "temperature", temperature, 0.0, 1e4, open_low=True)
        check_choice("soft_targets", "scale", scale, ("tau2", "none"))
        check_choice("soft_targets", "reduction", reduction, ("token_mean", "example_mean", "element_mean"))
        check_choice("soft_targets", "label_reduction", label_reduction, ("mean", "sum"))
        check_choice("soft_targets", "tail", tail, TAILS)
        check_number("soft_targets", "beta", beta, 0.0, 1.0)
        check_number("soft_targets", "alpha", alpha, 0.0, 1.0, open_low=True)
        if top_k is not None:
            check_count("soft_targets", "top_k", top_k, 1)
        if alpha == 1.0:
            raise DistillationError(
                "soft_targets: alpha is 1; the mixture would be the teacher itself. Use a value below 1."
            )
        self.kind, self.temperature, self.scale, self.reduction = kind, temperature, scale, reduction
        self.label_reduction, self.beta, self.alpha, self.tail = label_reduction, beta, alpha, tail
        self.top_k = top_k
        if top_k is not None:
            self._check_kind_of_top("its top_k logits are compared")

    @property
    def equation(self) -> str:
        if self._pair is not None and self.pair.task.form == "identity":
            return "L = (student - teacher)^2 of each score"
        law = "sigmoid" if self._pair is not None and self.pair.task.form == "sigmoid" else "softmax"
        softened = f", p = {law}(teacher / T), q = {law}(student / T)"
        factor = "T^2 " if self.scale == "tau2" and self.temperature != 1.0 else ""
        temperature = f", T = {self.temperature:g}"
        value = _WRITTEN[self.kind].format(a=f"{self.alpha:g}", b=f"{self.beta:g}", rest=f"{1.0 - self.beta:g}")
        if self.top_k is not None:
            softened += f" over the teacher's {self.top_k} largest classes, the rest {_TAILS_WRITTEN[self.tail]}"
        return f"L = {value}" if self.kind in RAW else f"L = {factor}{value}{softened}{temperature}"

    @property
    def softens_at(self) -> float | None:
        return None if self.kind in RAW else self.temperature

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        task = pair.task
        if task.form == "sigmoid" and self.kind not in ("forward_kl", "cross_entropy", "logit_mse"):
            raise IncompatiblePair(
                f"soft_targets: kind {self.kind!r} is not defined for a {task.name} task; use forward_kl."
            )
        if task.form == "softmax" and len(task.logit_fields) == 1 and pair.student.num_logits == 1:
            raise IncompatiblePair(
                "soft_targets: the softmax of one logit is constant; set config.problem_type='regression'."
            )
        if task.form != "sigmoid" and self.label_reduction == "sum":
            raise IncompatiblePair(
                f"soft_targets: label_reduction='sum' sums the labels of an example; {task.name} has none."
            )
        if task.form == "sigmoid" and self.label_reduction == "sum" and self.reduction != "token_mean":
            raise IncompatiblePair(
                f"soft_targets: label_reduction='sum' and reduction={self.reduction!r} contradict each other; leave "
                "one out."
            )
        if self.top_k is not None and (task.form != "softmax" or len(task.logit_fields) > 1):
            raise IncompatiblePair(
                f"soft_targets: top_k picks classes of one law a row, which a {task.name} task does not have; leave "
                "top_k out."
            )
        if task.form != "softmax" and self.reduction == "element_mean":
            raise IncompatiblePair(
                f"soft_targets: the {task.name} loss is a mean over elements already; leave out "
                "reduction='element_mean'."
            )
        by_class = self.kind in (*RAW, "probability_mse") or self.reduction == "element_mean"
        if len(task.logit_fields) > 1 and by_class:
            raise IncompatiblePair(
                f"soft_targets: kind {self.kind!r} with {self.reduction} would depend on padding on a {task.name} "
                "task, where the positions are the classes. Use forward_kl with token_mean."
            )
        self._divergence = self._form(task)

    @property
    def reaches_zero(self) -> bool:
        return self.kind != "cross_entropy" and (self.top_k is None or self.tail == "bucket")

    def check_top_logits(self, temperatures: tuple[float, ...]) -> None:
        self._check_kind_of_top("its cache has the largest logits alone (codec top_k)")
        if self.top_k is not None:
            raise IncompatiblePair(
                f"soft_targets: top_k is {self.top_k}, and the teacher's cache has its largest logits alone (codec "
                "top_k), which are compared as they are; leave top_k out here."
            )
        if self.tail != "renormalized" and self.temperature not in temperatures:
            known = ", ".join(f"{each:g}" for each in temperatures)
            raise IncompatiblePair(
                f"soft_targets: temperature is {self.temperature:g}, and the teacher's cache of its largest logits "
                f"knows the sum of the rest at {known}; it does not follow from that. Write the cache for this "
                "temperature, or the last hidden state, which serves any."
            )

    def _check_kind_of_top(self, why: str) -> None:
        """Raises: `IncompatiblePair` for what cannot be compared over the teacher's largest logits, and why these."""
        if self.kind in (*RAW, "probability_mse"):
            what = "raw logits" if self.kind in RAW else "probabilities"
            raise IncompatiblePair(
                f"soft_targets: kind {self.kind!r} compares all {what} of the teacher, and {why}. Use forward_kl, or "
                "cache the last hidden state."
            )
        if self.tail == "renormalized" and self.kind not in ("forward_kl", "cross_entropy"):
            raise IncompatiblePair(
                f"soft_targets: kind {self.kind!r} is not finite where the teacher's law is 0, as outside its largest "
                "logits with tail='renormalized'. Use tail='bucket'."
            )

    def _form(self, task: Task) -> Any:
        """The divergence of one row, before temperature and scale."""
        if task.form == "identity" or (task.form == "sigmoid" and self.kind == "logit_mse"):
            return losses.squared_difference
        if task.form == "sigmoid":
            return losses.bernoulli_kl if self.kind == "forward_kl" else losses.bernoulli_cross_entropy
        return {
            "forward_kl": losses.forward_kl,
            "reverse_kl": losses.reverse_kl,
            "cross_entropy": losses.cross_entropy,
            "jsd": partial(losses.generalized_jsd, beta=self.beta),
            "skew_kl": partial(losses.skew_kl, alpha=self.alpha),
            "skew_rkl": partial(losses.skew_reverse_kl, alpha=self.alpha),
            "probability_mse": losses.probability_mse,
            "logit_mse": losses.logit_mse,
            "logit_sse": losses.logit_sse,
            "logit_l1": losses.logit_l1,
        }[self.kind]

    @property
    def _per_example(self) -> bool:
        return self.reduction == "example_mean" or (self.pair.task.form == "sigmoid" and self.label_reduction == "sum")

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        mask = self.mask(batch)
        if task.form in ("sigmoid", "identity") and mask is None:
            return task.num_examples(batch) * (1 if self._per_example else self.pair.student.num_logits)
        if mask is None:
            return task.num_examples(batch)
        return mask.flatten(1).any(1).sum() if self._per_example else mask.sum()

    def rows(self, student_logits: Tensor, teacher_rows: Any, labels: Tensor | None) -> Tensor:
        if teacher_rows is None:
            raise DistillationError("soft_targets got no teacher logits.")
        if self.top_k is not None and isinstance(teacher_rows, Tensor):
            teacher_rows = TopLogits.of(teacher_rows, self.top_k, (self.temperature,))
        if isinstance(teacher_rows, TopLogits):
            return self._divergence(*self._with_tail(student_logits, teacher_rows)) * self._factor  # type: ignore[no-any-return]
        if self.kind in RAW or self.pair.task.form == "identity":
            return self._divergence(student_logits, teacher_rows)  # type: ignore[no-any-return]
        if self.temperature != 1.0:
            student_logits, teacher_rows = student_logits / self.temperature, teacher_rows / self.temperature
        value = self._divergence(student_logits, teacher_rows)
        return value * self._factor if self._factor != 1.0 else value  # type: ignore[no-any-return]

    def _with_tail(self, student_logits: Tensor, top: TopLogits) -> tuple[Tensor, Tensor]:
        """Logits of both over as many classes, at the temperature."""
        if self.tail == "uniform":
            return spread(student_logits, top, self.temperature)
        if self.tail == "bucket":
            return bucketed(student_logits, top, self.temperature, top.tail(self.temperature))
        nothing = top.logits.new_full(top.logits.shape[:-1], float("-inf"))
        return bucketed(student_logits, top, self.temperature, nothing)

    @property
    def _factor(self) -> float:
        return self.temperature**2 if self.scale == "tau2" else 1.0

    def row_divisors(self, batch: Batch) -> Tensor | int:
        if self.reduction == "element_mean":
            return self._num_classes
        if self.reduction == "token_mean":
            return 1
        mask = self.mask(batch)
        if mask is None:  # the scores of an example, or its only law
            return 1 if self.pair.task.form == "softmax" else self.pair.student.num_logits
        return mask.flatten(1).sum(1).clamp(min=1).view(-1, *[1] * (mask.dim() - 1))

    @property
    def _num_classes(self) -> int:
        """The classes that are compared."""
        shared = self.pair.vocabulary
        return self.pair.student.num_logits if shared is None else shared
