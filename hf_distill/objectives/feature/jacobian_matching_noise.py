"""Jacobian matching without a second derivative: both models answer alike around a text."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.activations import Activations, Needs, Signal
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import at_least_float32, logit_sse
from hf_distill.objectives.base import Objective
from hf_distill.objectives.input_gradients import SENTENCES, check_sentences
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_count, check_number
from hf_distill.passes import Noisy
from hf_distill.tasks import Batch, Task


@register("jacobian_matching_noise")
class JacobianMatchingNoise(Objective):
    """Jacobian matching by noise (Srinivas & Fleuret, 2018, arXiv:1803.00443).

    L = (1/m) sum over m draws of sum_k (z_tk(e + xi) - z_sk(e + xi))^2 of each example: the raw logits of both models
    at the same noisy token embeddings, xi ~ N(0, s^2) at real tokens, s = `sigma` times the root mean square of the
    entries of the teacher's table. For small s its mean is the squared difference of the logits + s^2 sum_k
    |grad z_tk - grad z_sk|^2 + O(s^4), exactly so for linear maps, so it holds the Jacobians to each other at m
    further forward passes of both (`draws`) and no second derivative. Text: one xi means the same to both models only
    where they look tokens up in one table, which the student of `from_layers` does.

    Reads: logits of both in each noisy pass, [batch, classes].  Counts: examples.
    Errors: `DistillationError` for settings out of range; `IncompatiblePair` for a task with other answers than one a
    text, and for other embedding tables.
    """

    same_embeddings = True
    citation = """@inproceedings{srinivas2018knowledge,
  title = {Knowledge Transfer with Jacobian Matching},
  author = {Srinivas, Suraj and Fleuret, Fran{\\c{c}}ois},
  booktitle = {ICML},
  year = {2018},
  eprint = {1803.00443},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, sigma: float = 0.1, draws: int = 1) -> None:
        super().__init__()
        check_number(self.name, "sigma", sigma, 0.0, 10.0, open_low=True)
        check_count(self.name, "draws", draws, 1)
        self.sigma, self.draws = sigma, draws

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        check_sentences(self.name, pair, SENTENCES)
        if pair.temperatures is not None:
            raise IncompatiblePair(f"{self.name}: it runs the teacher on noisy texts, which no cache holds.")

    @property
    def sources(self) -> list[Noisy]:
        """The passes that are read."""
        return [Noisy(number=number, sigma=self.sigma) for number in range(1, self.draws + 1)]

    def needs(self) -> Needs:
        signals = [Signal("logits", source=source) for source in self.sources]
        return Needs.of(signals, signals)

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return task.num_examples(batch)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        if teacher is None:
            raise DistillationError(f"objective {self.name!r} got no teacher.")
        values = []
        for source in self.sources:
            ours, theirs = self.pair.align(student.in_pass(source).logits, teacher.in_pass(source).logits.detach())
            ours, theirs = at_least_float32(ours), at_least_float32(theirs)
            values.append(logit_sse(ours, theirs).sum())
        return torch.stack(values).mean()
