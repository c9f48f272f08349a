"""Prompts, and a slow writer to compare with: one row at a time, without padding, cache or `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_distill.drawn_tokens import DRAWS
from hf_distill.training.sampling import numbers
from tests import tiny

END = 2
"""The token that ends a text, of the tiny models."""


def rows(task: str, number: int = 16, seed: int = 1) -> list[dict[str, Any]]:
    """Rows of unequal lengths; those of a decoder alone have a prompt of 2 to 5 tokens, which has no label."""
    made = tiny.rows(task, number, seed=seed)
    for row in made if task == "causal_lm" else []:
        cut = 1 + len(row["input_ids"]) // 3
        row["labels"] = [-100] * cut + row["input_ids"][cut:]
    return made


def prompt_of(row: dict[str, Any], task: str = "causal_lm") -> list[int]:
    """The tokens to go on from."""
    ids: list[int] = row["input_ids"]
    return ids if task == "seq2seq_lm" else ids[: next(i for i, label in enumerate(row["labels"]) if label != -100)]


def small(family: str, **settings: Any) -> PreTrainedModel:
    """A one-layer student, or with `layers` another model, whose texts come to an end now and then."""
    if family in ("causal_lm", "seq2seq_lm"):
        model = tiny.model(family, **{"layers": 1, "seed": 1, **settings})
    else:
        from tests.tiny_models import tiny as of_family

        model = of_family(family, layers=1)
    head = model.get_output_embeddings()
    if family == "causal_lm":
        with torch.no_grad():
            head.weight[END] *= 3
    return model


@torch.no_grad()
def text_of(
    model: PreTrainedModel, prompt: Sequence[int], drawn: Sequence[float], ends: Sequence[int] = (END,), **law: Any
) -> list[int]:
    """What the model writes behind a prompt, with a number for each token."""
    training = model.training
    model.eval()
    start = model.config.decoder_start_token_id if model.config.is_encoder_decoder else None
    found: list[int] = []
    for number in drawn:
        if start is None:
            logits = model(input_ids=torch.tensor([[*prompt, *found]]), use_cache=False).logits[0, -1]
        else:
            written = torch.tensor([[start, *found]])
            encoded = torch.tensor([list(prompt)])
            logits = model(input_ids=encoded, decoder_input_ids=written, use_cache=False).logits[0, -1]
        found.append(token_drawn(logits, number, **law))
        if found[-1] in ends:
            break
    model.train(training)
    return found


def token_drawn(
    logits: torch.Tensor, number: float, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> int:
    if temperature == 0:
        return int(logits.argmax())
    law = torch.softmax(logits.double() / temperature, -1)
    order = law.argsort(descending=True)
    if top_k:
        law[order[top_k:]] = 0.0
    law /= law.sum()
    before = law[order].cumsum(0) - law[order]
    law[order[before >= top_p]] = 0.0
    law /= law.sum()
    total = 0.0
    for token, probability in enumerate(law.tolist()):
        total += probability
        if total > number:
            return token
    raise AssertionError(number)


def drawn_for(seed: int, step: int, places: Sequence[int], length: int) -> list[list[float]]:
    """The numbers of rows at these places, from 0 to 1."""
    found: list[list[float]] = (numbers(seed, step, places, length).double() / DRAWS).tolist()
    return found
