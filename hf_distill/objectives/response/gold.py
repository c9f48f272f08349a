"""Words that both vocabularies have by themselves, the others by their order of size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import part_divergence, sorted_distance
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.objectives.span_sums import LOG_SMALLEST
from hf_distill.objectives.span_wise import UNIVERSAL, SpanWise

MATCHES = ("exact", "text")


@register("gold")
class GOLD(SpanWise):
    """General online logit distillation, the hybrid form (TRL 1.16, 2025, `GOLDTrainer` with
    `uld_use_hybrid_loss`), over texts that are given; it joins the distance of ULD (Boizard et al., 2024,
    arXiv:2402.12030) and the divergence of GKD (Agarwal et al., 2024, arXiv:2306.13649).

    A span of text, at whose ends both models have the end of a token, has the laws q of the student and p of the
    teacher, a product over its tokens (`merge`, see `SpanWise`). L = w D(p, q over matched words) + u sum_i |q_(i) -
    p_(i)| over the words that only one side has, sorted from the largest to the smallest. D = beta sum p log(p/m) +
    (1 - beta) sum q log(q/m), m = beta p + (1 - beta) q, for `beta` 0 sum p log(p/q) and for 1 sum q log(q/p), of the
    numbers as they are: parts of laws, which do not add up to 1. So only for a beta between 0 and 1 is D at its
    minimum where q = p. Probabilities below 1e-8 are taken for that in D.

    Words match that are written alike in both vocabularies (`match="exact"`, TRL's form), or that stand for the same
    text (`text`: `Ġthe`, `▁the` and the `the` of WordPiece); special tokens of one role match in both, as they do not
    in TRL. `matched_weight` w and `unmatched_weight` u are given together; without them w is the share of the
    teacher's vocabulary that is matched, and u the rest.

    `merge="chain_rule"` is TRL's "bayesian"; `observed` is its default, which reads the rows one token late. The code
    counts an example without any span as a 0 in the mean; here it does not count.

    Reads: logits of both; columns of `data.aligned_rows`.  Counts: examples, after a mean over the spans in each
    (`example_mean`, TRL's form), or spans (`span_mean`).
    Errors: `IncompatiblePair` for models that read the same tokens, and for vocabularies without a word in common;
    `DataError` for a batch without the teacher's tokens; `DistillationError` for a setting out of range, and for one
    weight without the other.
    """

    parts = ("matched", "unmatched")
    citation = UNIVERSAL

    def __init__(
        self,
        *,
        beta: float = 0.5,
        match: str = "exact",
        matched_weight: float | None = None,
        unmatched_weight: float | None = None,
        merge: str = "chain_rule",
        student_temperature: float = 1.0,
        teacher_temperature: float = 1.0,
        reduction: str = "example_mean",
    ) -> None:
        super().__init__(
            merge=merge,
            reduction=reduction,
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
        )
        check_number(self.name, "beta", beta, 0.0, 1.0)
        check_choice(self.name, "match", match, MATCHES)
        weights = {"matched_weight": matched_weight, "unmatched_weight": unmatched_weight}
        if (matched_weight is None) != (unmatched_weight is None):
            given, missing = sorted(weights, key=lambda name: weights[name] is None)
            raise DistillationError(f"{self.name}: {given} is given and {missing} is not; give both, or neither.")
        for name, weight in weights.items():
            if weight is not None:
                check_number(self.name, name, weight, 0.0, 1e4)
        self.beta, self.match = beta, match
        self.matched_weight, self.unmatched_weight = matched_weight, unmatched_weight
        for name in ("_ours", "_theirs", "_only_ours", "_only_theirs"):
            self.register_buffer(name, torch.empty(0, dtype=torch.long), persistent=False)

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        assert pair.across is not None
        assert pair.teacher is not None
        matched = pair.across.exact if self.match == "exact" else pair.across.text
        if not matched:
            raise IncompatiblePair(
                f"objective {self.name!r} compares words that both vocabularies have, and with match={self.match!r} "
                "they have none. Take uld, which compares numbers alone."
            )
        ours, theirs = zip(*matched, strict=True)
        self._ours, self._theirs = self._index(ours), self._index(theirs)
        self._only_ours = self._index(_others(pair.student.num_logits, set(ours)))
        self._only_theirs = self._index(_others(pair.teacher.num_logits, set(theirs)))
        self._share = len(matched) / pair.teacher.num_logits

    def _index(self, words: Sequence[int]) -> Tensor:
        return torch.tensor(words, dtype=torch.long, device=self._ours.device)

    def factors(self) -> tuple[float, ...]:
        if self.matched_weight is None or self.unmatched_weight is None:
            return (self._share, 1.0 - self._share)
        return (self.matched_weight, self.unmatched_weight)

    def values(self, student: Tensor, teacher: Tensor) -> Tensor:
        ours = student.index_select(-1, self._ours).clamp(min=LOG_SMALLEST)
        theirs = teacher.index_select(-1, self._theirs).clamp(min=LOG_SMALLEST)
        matched = part_divergence(ours, theirs, self.beta)
        if not (len(self._only_ours) and len(self._only_theirs)):
            return torch.stack([matched, matched.new_zeros(matched.shape)], -1)
        only_ours = student.index_select(-1, self._only_ours).exp()
        only_theirs = teacher.index_select(-1, self._only_theirs).exp()
        return torch.stack([matched, sorted_distance(only_ours, only_theirs)], -1)


def _others(words: int, matched: set[int]) -> list[int]:
    """The words that are not matched."""
    return [word for word in range(words) if word not in matched]
