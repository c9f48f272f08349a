"""Golden cases of a teacher's N best hypotheses."""

from __future__ import annotations

from typing import Any

import torch

from hf_distill.activations import Activations
from hf_distill.objectives import Pair
from hf_distill.objectives.hypotheses import PLACE, SCORES, TEXTS, hypothesis_weights
from hf_distill.tasks import CTC, TASKS
from tests.golden_cases.base import Inputs, Setup, bound
from tests.shapes import shape


def nbest_kd(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """One source; every hypothesis is a row of the batch."""
    logits, sequences = inputs["student_logits"], inputs["sequences"].long()
    number = len(sequences)
    batch = {
        "input_ids": torch.zeros(number, 1, dtype=torch.long),
        "labels": sequences,
        SCORES: inputs["teacher_scores"].expand(number, -1),
        PLACE: torch.arange(number),
    }
    ours = shape(num_logits=logits.shape[-1], encoder_decoder=True)
    pair = Pair.from_shapes(ours, None, TASKS["seq2seq_lm"])
    terms = bound(pair, (1.0, "nbest_kd", settings))
    return Setup(terms, pair, Activations(logits=logits), Activations(), batch, inputs.leaves)


def ctc_nbest_kd(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """One example."""
    logits = inputs["student_logits"]
    batch = {
        "attention_mask": torch.ones(1, len(logits), dtype=torch.long),
        TEXTS: inputs["sequences"].long().unsqueeze(0),
        SCORES: inputs["teacher_scores"].unsqueeze(0),
    }
    pair = Pair.from_shapes(shape(num_logits=logits.shape[-1]), None, CTC())
    terms = bound(pair, (1.0, "ctc_nbest_kd", settings))
    shown = Activations(mask=batch["attention_mask"], logits=logits.unsqueeze(0))
    return Setup(terms, pair, shown, Activations(), batch, inputs.leaves)


def nbest(settings: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Weights of lists of several lengths, and the mean of what the student makes of them."""
    lists = [torch.as_tensor(scores, dtype=torch.float64) for scores in inputs["teacher_logp"]]
    longest = max(map(len, lists))
    padded = torch.stack([torch.nn.functional.pad(x, (0, longest - len(x)), value=-torch.inf) for x in lists])
    weights = hypothesis_weights(padded, settings["weights"], settings["temperature"])
    kept = [row[: len(scores)] for row, scores in zip(weights, lists, strict=True)]
    ours = [torch.as_tensor(scores, dtype=torch.float64) for scores in inputs["student_logp"]]
    losses = [-(w * s).sum() for w, s in zip(kept, ours, strict=True)]
    return {"weights": [list(row) for row in kept], "loss": torch.stack(losses).mean()}


BUILDERS = {"nbest_kd": nbest_kd, "ctc_nbest_kd": ctc_nbest_kd}
VALUES = {"nbest": nbest}
