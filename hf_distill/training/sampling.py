"""How a model writes behind prompts: sampled token by token, with random numbers that come from outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import GenerationConfig, PreTrainedModel

from hf_distill.drawn_tokens import Law, numbers_of, processors
from hf_distill.training.texts import Prompts, Written

_KEPT = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id")
"""What of a model's own generation config says how a text begins; of the rest nothing is kept."""
_TEXTS = 1
"""The key that sets these draws apart from others of the same seed."""


@dataclass(frozen=True)
class Sampling:
    """How texts are written: tokens are drawn from `law`, until one of the tokens `ends`, or `max_new_tokens`."""

    law: Law
    max_new_tokens: int
    ends: tuple[int, ...]
    padding: int


def numbers(seed: int, step: int, places: Sequence[int], length: int) -> Tensor:
    """What the texts of the rows of a step are drawn with, see `numbers_of`."""
    return numbers_of(seed, _TEXTS, step, places, length)


def write(
    model: PreTrainedModel, prompts: Prompts, sampling: Sampling, drawn: Tensor, rows_at_once: int | None = None
) -> Written:
    """What the model writes behind the prompts, `rows_at_once` at a time (None for all of them).

    The model runs as it is, no engine around it, in eval mode, without gradient and with its cache of keys and values.
    What its generation config says of penalties, beams and forbidden tokens is left out, as it would not be the
    model's own law. `drawn` are the `numbers` of the rows. What is written does not depend on `rows_at_once`, but for
    last digits.
    """
    size = len(prompts.ids) if rows_at_once is None else rows_at_once
    device, plain = model.device, _plain(model)
    with _at_rest(model), _own_config(plain, sampling):
        starts = range(0, len(prompts.ids), size)
        parts = [_written(plain, prompts, drawn, sampling, slice(start, start + size), device) for start in starts]
    length = max(part.shape[1] for part in parts)
    ids = torch.cat([pad(part, (0, length - part.shape[1]), value=sampling.padding) for part in parts])
    ids = ids.to(prompts.ids.device)
    is_end = torch.isin(ids, torch.tensor(sampling.ends, device=ids.device, dtype=ids.dtype))
    return Written(ids, is_end.cumsum(1) - is_end.long() == 0, is_end.any(1))


def _written(
    model: PreTrainedModel, prompts: Prompts, drawn: Tensor, sampling: Sampling, rows: slice, device: torch.device
) -> Tensor:
    """The new tokens of some rows."""
    before = 1 if model.config.is_encoder_decoder else prompts.ids.shape[1]
    found: Tensor = model.generate(
        input_ids=prompts.ids[rows].to(device),
        attention_mask=prompts.mask[rows].long().to(device),
        logits_processor=processors(sampling.law, drawn[rows].to(device), before),
    )
    return found[:, before:]


def _plain(model: Any) -> PreTrainedModel:
    """The model itself; the adapters of a PeftModel are in its layers."""
    plain: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return plain


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """Eval mode for the time of it, so that nothing is dropped and no layer is checkpointed."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _own_config(model: PreTrainedModel, sampling: Sampling) -> Iterator[None]:
    """A generation config of what is asked for: `generate` would fill in what is missing from that of the model."""
    before = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=list(sampling.ends) or None,
        pad_token_id=sampling.padding,
        use_cache=True,
        **{name: special_token(model, name) for name in _KEPT},
    )
    try:
        yield
    finally:
        model.generation_config = before


def special_token(model: Any, name: str) -> Any:
    """A token of the model's generation config, or else of its config; None where neither has one."""
    own = getattr(model.generation_config, name, None)
    return getattr(model.config, name, None) if own is None else own
