"""What workloads have in common whose models answer with words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from transformers import EvalPrediction

from hf_distill.errors import DataError, NonFiniteLoss
from hf_distill.evaluation.parting import Answered, Asked
from hf_distill.losses import at_least_float32
from hf_distill.runs.abilities import Showing
from hf_distill.tasks import IGNORED


@dataclass(frozen=True)
class Words:
    """A model's answers at the predicted positions of a split, in the order of rows and places: the token it prefers,
    the token that stands there, minus the logarithm of that one's probability, and where it was compared with its
    teacher KL(teacher || model) in nats."""

    found: np.ndarray
    wanted: np.ndarray
    losses: np.ndarray
    divergences: np.ndarray | None = None


class WordAnswers(Showing):
    """Words that a model predicts. Reported are the share of them that is found (`accuracy`) and the exponential of
    their mean loss (`perplexity`), over all predicted positions, and of causal models the mean of KL(teacher || model)
    (`kl`, in nats a token)."""

    metrics: tuple[str, ...] = ("accuracy", "perplexity")

    @staticmethod
    def targets(labels: Any) -> Any:
        """What the model should answer at each position from the first one on, of an array or a tensor."""
        return labels

    def reduce(self, outputs: Any, labels: Any) -> Tensor:
        """`[rows, length, 2]` in float64: the token preferred, and minus the log-probability of the target."""
        logits, labels = (each[0] if isinstance(each, tuple) else each for each in (outputs, labels))
        wanted = self.targets(labels)
        counted = wanted != IGNORED
        rows = logits[:, : wanted.shape[1]][counted]
        found = torch.zeros(*wanted.shape, 2, dtype=torch.float64, device=wanted.device)
        losses = functional.cross_entropy(at_least_float32(rows), wanted[counted], reduction="none")
        found[counted] = torch.stack([rows.argmax(-1).double(), losses.double()], -1)
        return found

    def answers(self, split: str, rows: Dataset, order: np.ndarray, found: EvalPrediction, columns: Any) -> Words:
        outputs = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
        labels = found.label_ids[0] if isinstance(found.label_ids, tuple) else found.label_ids
        wanted = self.targets(labels)
        counted = wanted != IGNORED
        best, losses, *divergences = outputs[counted].T
        broken = int(np.isnan(losses).sum())
        if broken:
            raise NonFiniteLoss(f"answers: the predictions of {broken} of {len(losses)} words are NaN.")
        return Words(best.astype(np.int64), wanted[counted], losses, divergences[0] if divergences else None)

    def score(self, split: str, answers: Words) -> dict[str, float]:
        if not len(answers.wanted):
            raise DataError(f"{self.name}: no token of {split} is predicted; hold more rows out.")
        with np.errstate(over="ignore"):
            perplexity = float(np.exp(answers.losses.mean()))
        found = {"accuracy": float((answers.found == answers.wanted).mean()), "perplexity": perplexity}
        return found if answers.divergences is None else {**found, "kl": float(answers.divergences.mean())}

    def remarks(self, split: str, answers: Mapping[str, Words]) -> list[str]:
        """How far models are from their teacher."""
        known = [(role, each.divergences.mean()) for role, each in answers.items() if each.divergences is not None]
        told = ", ".join(f"{role} {value:.4f}" for role, value in known)
        return [f"KL(teacher || model), nats a token: {told}."] if known else []

    def agreement(self, split: str, ours: Words, teachers: Words) -> float | None:
        """The share of predicted positions at which both prefer the same token."""
        return float((ours.found == teachers.found).mean())

    def asked(self, split: str) -> Asked | None:
        return Asked("predicted words", "texts")

    def answered(self, split: str, answers: Words) -> Answered:
        return Answered(answers.found, answers.found == answers.wanted)
