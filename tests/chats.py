"""Tiny models that chat, with a tokenizer of bytes, and files of conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from tests import tiny_runs, writers

PAD, START, END = "<pad>", "<|im_start|>", "<|im_end|>"
PLAIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML, as many models have it."""
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The same text, with marks."""
FORGETFUL = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] != 'assistant' or loop.last %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Writes the last answer alone, and has no marks."""
TODAY = "{% if strftime_now is defined %}{{ 'Today: ' + strftime_now('%d %b %Y') + '\n' }}{% endif %}"
"""What the templates of Llama 3.2 write first, in short."""
SIZE = 259


def tokenizer(template: str | None = PLAIN, longest: int = 256) -> PreTrainedTokenizerFast:
    """Every byte is a token, and three more."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([PAD, START, END, *letters])}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=longest, pad_token=PAD, bos_token=START, eos_token=END
    )
    found.chat_template = template
    return found


def model(layers: int = 2, hidden: int = 16, seed: int = 0, **settings: Any) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=SIZE, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=24, max_position_embeddings=256, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, **settings,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def writer(layers: int = 2, seed: int = 0) -> PreTrainedModel:
    """A model that ends what it writes, soon."""
    made = model(layers=layers, seed=seed)
    made.generation_config.update(min_new_tokens=3, suppress_tokens=[0, 1])
    return writers.ending_soon(made, {"input_ids": torch.arange(4, 68).reshape(8, 8)}, 3.0)


def save(folder: Path, template: str | None = PLAIN, **settings: Any) -> Path:
    model(**settings).save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return folder


def said(number: int, turns: int = 1) -> list[dict[str, str]]:
    """A conversation of so many turns."""
    found = []
    for turn in range(turns):
        found.append({"role": "user", "content": f"Add {number} and {turn}, café"})
        found.append({"role": "assistant", "content": f"{number + turn} ☕"})
    return found


def write(folder: Path, train: int = 12, validation: int = 5) -> Path:
    for split, rows, first in (("train", train, 0), ("validation", validation, 100)):
        tiny_runs.write_jsonl(
            folder / f"{split}.jsonl", [{"messages": said(first + i, 1 + i % 3)} for i in range(rows)]
        )
    return folder


def recipe(
    folder: Path, *, stage: dict[str, Any] | None = None, chat: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """Two steps of a student of one layer, with `folder/teacher` and the files of `write`."""
    arguments = {
        "max_steps": 2, "per_device_train_batch_size": 3, "per_device_eval_batch_size": 2, "learning_rate": 1.0e-3,
        "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "eval_strategy": "no", "report_to": "none",
    }  # fmt: skip
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
    objectives = [{"soft_targets": {"temperature": 1.0}, "weight": 0.9}, {"labels": {}, "weight": 0.1}]
    return {
        "schema": 1,
        "data": {"files": files, "chat": chat or {}},
        "max_length": 128,
        "teacher": {"model": str(folder / "teacher")},
        "student": {"from_layers": {"layers": 1}},
        "stages": [{"name": "distil", "objectives": objectives, "arguments": arguments, **(stage or {})}],
        **changes,
    }
