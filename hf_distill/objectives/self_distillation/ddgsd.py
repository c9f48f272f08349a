"""Two distorted copies of a text answered alike."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from hf_distill.activations import Activations, Needs, Signal
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import at_least_float32, forward_kl
from hf_distill.objectives.base import Objective
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_count, check_number
from hf_distill.passes import DISTORTIONS, Distorted
from hf_distill.pooling import POOLS, pooled
from hf_distill.tasks import IGNORED, Batch, Task

SHARE = 0.1
"""Of the tokens, hit unless another is asked for."""


@register("ddgsd")
class DDGSD(Objective):
    """Data-distortion guided self-distillation (Xu & Liu, 2019, AAAI 33, doi:10.1609/aaai.v33i01.33015565).

    L = 1/2 (CE_a + CE_b) + `kl_weight` T^2 (KL(p_b || p_a) + KL(p_a || p_b)) + `mmd_weight` |mean f_a - mean f_b|^2

    over two distorted copies a and b of the batch: cross-entropy of the labels where there are any, laws p at the
    temperature T of which the first of each KL has no gradient, and f the pooled last hidden state. The last term is
    the squared maximum mean discrepancy with a linear kernel (Gretton et al., 2012, arXiv:0805.2368), biased, over the
    texts of a batch. No teacher, and no `labels` beside it.

    `distortion`: `drop_tokens` hides each token with the probability `share` (0.1) from attention and pooling,
    `mask_tokens` puts `mask_token_id` in its place, `dropout` leaves the text as it is, so that copies differ by the
    model's own dropout. The paper distorts images; these are its counterparts in text. T = 1 and the weights 1 and
    5e-4 are those of community code: the authors' was not found, and the paper's own values are unconfirmed.

    Reads: logits [batch, classes] and final [batch, length, width] of the student in two distorted passes.  Counts:
    examples, and for the cross-entropy those of them that have a label; the discrepancy of a batch counts once for
    each of its examples.
    Errors: `DistillationError` for settings out of range, and for a share that nothing reads; `IncompatiblePair` for
    another task than single-label classification.
    """

    needs_teacher = False
    relates_batch = True
    reads_divisor = True
    counts_labels = True
    citation = """@inproceedings{xu2019data,
  title = {Data-Distortion Guided Self-Distillation for Deep Neural Networks},
  author = {Xu, Ting-Bing and Liu, Cheng-Lin},
  booktitle = {AAAI},
  year = {2019},
  url = {https://doi.org/10.1609/aaai.v33i01.33015565}
}"""

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        kl_weight: float = 1.0,
        mmd_weight: float = 5e-4,
        pooling: str = "mean",
        distortion: str = "drop_tokens",
        share: float | None = None,
        mask_token_id: int | None = None,
    ) -> None:
        super().__init__()
        check_number(self.name, "temperature", temperature, 0.0, 1e4, open_low=True)
        check_number(self.name, "kl_weight", kl_weight, 0.0, 1e6)
        check_number(self.name, "mmd_weight", mmd_weight, 0.0, 1e6)
        check_choice(self.name, "pooling", pooling, POOLS)
        check_choice(self.name, "distortion", distortion, DISTORTIONS)
        if distortion == "dropout" and share is not None:
            raise DistillationError(
                f"{self.name}: distortion is 'dropout' and share {share!r}; it leaves all tokens as they are: leave "
                "share out."
            )
        share = SHARE if share is None and distortion != "dropout" else share
        if share is not None:
            check_number(self.name, "share", share, 0.0, 1.0, open_low=True)
        if mask_token_id is not None:
            check_count(self.name, "mask_token_id", mask_token_id, 0)
        if (distortion == "mask_tokens") != (mask_token_id is not None):
            raise DistillationError(
                f"{self.name}: distortion is {distortion!r} and mask_token_id {mask_token_id!r}; set mask_token_id to "
                "the tokenizer's for 'mask_tokens', and leave it out for the others."
            )
        self.temperature, self.kl_weight, self.mmd_weight = temperature, kl_weight, mmd_weight
        self.pooling, self.distortion, self.share, self.mask_token_id = pooling, distortion, share, mask_token_id
        self._stack = ""

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if pair.task.name != "single_label" or pair.student.num_logits < 2:
            raise IncompatiblePair(
                f"{self.name}: it compares laws over the classes of a text, and a {pair.task.name} task with "
                f"{pair.student.num_logits} outputs has none; it is for single_label."
            )
        if self.mask_token_id is not None and self.mask_token_id >= pair.student.vocab_size:
            raise IncompatiblePair(
                f"{self.name}: mask_token_id is {self.mask_token_id}, and the student's vocabulary has "
                f"{pair.student.vocab_size} entries."
            )
        self._stack = "decoder" if "decoder" in pair.student.stacks else ""

    @property
    def sources(self) -> tuple[Distorted, Distorted]:
        """The passes that are read, one a copy."""
        settings = {"distortion": self.distortion, "share": self.share or 0.0, "mask_token_id": self.mask_token_id}
        first, second = (Distorted(copy=copy, **settings) for copy in (1, 2))  # type: ignore[arg-type]
        return first, second

    def needs(self) -> Needs:
        signals = [Signal("logits", source=source) for source in self.sources]
        if self.mmd_weight:
            signals += [Signal("final", None, self._stack, source) for source in self.sources]
        return Needs.of(signals)

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return task.num_examples(batch)

    def count_labels(self, batch: Batch, task: Task) -> Tensor | int:
        return task.label_mask(batch).sum() if "labels" in batch else 0

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        copies = [student.in_pass(source) for source in self.sources]
        first, second = (at_least_float32(copy.logits) for copy in copies)
        total = self.kl_weight * self._divergence(first, second).sum()
        if "labels" in batch:
            both = self._cross_entropy(first, batch) + self._cross_entropy(second, batch)
            total = total + 0.5 * both * (self.divisor / self.label_divisor)
        if self.mmd_weight:
            means = [self._features(copy).mean(0) for copy in copies]
            total = total + self.mmd_weight * len(first) * (means[0] - means[1]).square().sum()
        return total

    def _divergence(self, first: Tensor, second: Tensor) -> Tensor:
        """Both KLs of each example, the laws that are followed without gradient."""
        first, second = first / self.temperature, second / self.temperature
        both = forward_kl(first, second.detach()) + forward_kl(second, first.detach())
        return both * self.temperature**2

    def _cross_entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(
            logits,
            batch["labels"],
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.pair.label_smoothing,
        )

    def _features(self, copy: Activations) -> Tensor:
        """The texts' vectors, [batch, width]."""
        shown = copy.stack(self._stack)
        if shown.mask is None:
            raise DistillationError(f"objective {self.name!r} got activations without a mask.")
        return pooled(at_least_float32(shown.final), shown.mask, self.pooling)
