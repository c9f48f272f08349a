"""The largest log-probabilities that a served teacher told of a text, which need not be all of its places."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hf_distill.teachers.cache.codecs import Layout, Parts, TopK, codec
from hf_distill.top_logits import TopLogits

AS_SERVED = "as served"
"""The precision in a fingerprint: a server's own, which no training is compared with."""

LEAST_REST = 1e-7
"""The least probability of all classes that a record does not name. Rounded log-probabilities may sum to one, or to a
little more; a rest of nothing would be a law that no student's can be compared with."""


@codec("recorded_top_k")
class RecordedTopK(TopK):
    """The `k` largest log-probabilities that a server gave of a token, and the probability of the rest, which is one
    less their sum. One more byte than `top_k` says whether there is a record at all: objectives over logits count the
    others alone. Temperature 1 is the only one at which the rest is known.

    Errors: as `top_k`.
    """

    def __init__(self, *, k: int = 20) -> None:
        super().__init__(k=k, temperatures=(1.0,))

    def encode(self, rows: Tensor) -> Parts:
        return {**super().encode(rows), "known": torch.ones(len(rows), 1, dtype=torch.uint8)}

    def encode_records(self, ids: Tensor, log_probabilities: Tensor, known: Tensor) -> Parts:
        """The parts of records: `ids` and `log_probabilities` `[tokens, k]`, the largest first, where `known`
        `[tokens]`; what they hold elsewhere does not matter."""
        largest = log_probabilities[:, :1]
        rest = (1.0 - log_probabilities.double().exp().sum(-1, keepdim=True)).clamp(min=LEAST_REST).log()
        relative = (log_probabilities - largest).clamp(min=torch.finfo(torch.float16).min)
        here = known.unsqueeze(-1)
        kinds = {name: dtype for name, (dtype, _) in self.layout(self.fitted_width()).items()}
        return {
            "ids": torch.where(here, ids, 0).to(kinds["ids"]),
            "logits": torch.where(here, relative, 0.0).half(),
            "tails": torch.where(here, rest - largest, 0.0).float(),
            "known": here.to(torch.uint8),
        }

    def decode(self, parts: Mapping[str, Tensor]) -> TopLogits:
        return super().decode({name: part for name, part in parts.items() if name != "known"})

    def layout(self, width: int) -> Layout:
        return {**super().layout(width), "known": (torch.uint8, (1,))}
