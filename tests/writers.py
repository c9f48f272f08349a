"""Tiny models that write, with a tokenizer whose words are numbers, and texts for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests import tiny, tiny_runs

WORDS = tuple(f"w{number}" for number in range(tiny.VOCABULARY - 3))
END = 2


def tokenizer(*, ends: bool = True) -> PreTrainedTokenizerFast:
    """Words by blanks, each one token; 0 pads, 1 begins and 2 ends a text, which it does not do to prompts."""
    vocabulary = {word: i for i, word in enumerate(("<pad>", "<s>", "</s>", *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if ends:
        made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "w0"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=32, **names)


def writer(task: str = "seq2seq_lm", seed: int = 0, layers: int = 2) -> PreTrainedModel:
    """A model that writes, and ends what it writes soon."""
    model = tiny.model(task, layers=layers, seed=seed).eval()
    model.generation_config.update(eos_token_id=END, pad_token_id=0, suppress_tokens=[0, 1], min_new_tokens=2)
    model.config.eos_token_id = END
    ids = torch.arange(4, 68).reshape(8, 8)
    return ending_soon(model, {"input_ids": ids, **({"decoder_input_ids": ids} if task == "seq2seq_lm" else {})})


def ending_soon(
    model: PreTrainedModel, inputs: Mapping[str, Any], logit: float = 6.0, end: int = END
) -> PreTrainedModel:
    """Raises the logit of the end of a text, wherever it is asked for."""
    head, read = model.get_output_embeddings(), []
    hook = head.register_forward_hook(lambda _module, given, _output: read.append(given[0]))
    with torch.no_grad():
        model(**inputs)
        common = read[0].flatten(0, 1).mean(0)
        head.weight[end] = logit * common / common.norm() ** 2
    hook.remove()
    return model


def texts(number: int, seed: int = 3) -> list[str]:
    """Sentences of several lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 7, (number,), generator=generator).tolist()
    return [
        " ".join(WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=generator)) for length in lengths
    ]


def write_pairs(folder: Path, columns: Mapping[str, Any], train: int = 12, validation: int = 6) -> Path:
    """Files of pairs of texts; a target is its source turned round."""
    for split, number, seed in (("train", train, 3), ("validation", validation, 4)):
        pairs = [(text, " ".join(text.split()[::-1])) for text in texts(number, seed)]
        names = (columns.get("source_column", "source"), columns.get("target_column", "target"))
        tiny_runs.write_jsonl(folder / f"{split}.jsonl", [dict(zip(names, pair, strict=True)) for pair in pairs])
    return folder
