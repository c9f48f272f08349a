"""What language models write to the same prompts, side by side."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.evaluation.findings import Role, Sample
from hf_distill.evaluation.summary import one_line

NEW_TOKENS = 64
"""Tokens of what is written at most."""
SHOWN = 1200
"""Characters of a text that are shown at most."""


class Prompt(NamedTuple):
    """A prompt as token ids, as a reader sees it, and what the data have in answer to it."""

    ids: Sequence[int]
    text: str
    wanted: str


def samples(
    models: Mapping[Role, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]
) -> list[Sample]:
    """What each causal model writes to each prompt: always the likeliest token, so that it is the same every time, and
    at most `NEW_TOKENS` of them."""
    written = {role: [_written(model, tokenizer, prompt) for prompt in prompts] for role, model in models.items()}
    return [
        Sample(
            prompt=_shown(prompt.text),
            wanted=_shown(prompt.wanted),
            written={role: _shown(texts[i]) for role, texts in written.items()},
        )
        for i, prompt in enumerate(prompts)
    ]


@torch.no_grad()
def _written(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """The continuation of one prompt; alone in its batch, so that nothing is padded. It ends where the model's
    positions do."""
    ids = torch.tensor([list(prompt.ids)], device=model.device)
    room = _positions(model) - ids.shape[1]
    if room <= 0:
        return ""
    training = model.training
    model.eval()
    found = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=min(NEW_TOKENS, room),
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        use_cache=True,
        return_dict_in_generate=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=_ends(model, tokenizer),
    )
    model.train(training)
    return str(tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))


def _positions(model: PreTrainedModel) -> int:
    """How many tokens a text of the model may have."""
    told = getattr(model.config, "max_position_embeddings", None)
    return told if isinstance(told, int) and told > 0 else sys.maxsize


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """The tokens that end a text, of the model and of its tokenizer."""
    own: Any = model.generation_config.eos_token_id
    ends = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id} - {None}
    return sorted(ends) or None


def _shown(text: str) -> str:
    bare = one_line(text)
    return bare if len(bare) <= SHOWN else f"{bare[: SHOWN - 1]}…"
