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
    """A prompt as token ids, as a reader sees it, and what the data have in answer to it; `teachers_ids` are those
    of a teacher that reads by a tokenizer of its own."""

    ids: Sequence[int]
    text: str
    wanted: str
    teachers_ids: Sequence[int] = ()


def samples(
    models: Mapping[Role, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    teachers_tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[Sample]:
    """What each causal model writes to each prompt: always the likeliest token, so that it is the same every time, and
    at most `NEW_TOKENS` of them. With `teachers_tokenizer` the teacher reads and writes by that."""
    written: dict[Role, list[str]] = {}
    for role, model in models.items():
        if role == "teacher" and teachers_tokenizer is not None:
            written[role] = [_written(model, teachers_tokenizer, prompt.teachers_ids) for prompt in prompts]
        else:
            written[role] = [_written(model, tokenizer, prompt.ids) for prompt in prompts]
    return [
        Sample(
            prompt=_shown(prompt.text),
            wanted=_shown(prompt.wanted),
            written={role: _shown(texts[i]) for role, texts in written.items()},
        )
        for i, prompt in enumerate(prompts)
    ]


@torch.no_grad()
def _written(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> str:
    """The continuation of one prompt; alone in its batch, so that nothing is padded. It ends where the model's
    positions do. Penalties that the model's own generation config may have are left out."""
    ids = torch.tensor([list(prompt)], device=model.device)
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
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
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
