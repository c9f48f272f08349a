"""What two models make of the same sentences inside: how alike their layers are, and where their heads look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from hf_distill.anatomy import Anatomy
from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.evaluation.findings import Attention, AttentionPair, Likeness
from hf_distill.evaluation.parting import cut
from hf_distill.evaluation.similarity import layer_cka

Texts = Sequence[str] | Sequence[tuple[str, str]]
Pairs = Sequence[tuple[int, int]]

MOST_TEXTS, BATCH = 64, 16
MOST_TOKENS = 1024
"""Tokens at which layers are compared."""

SENTENCE = (6, 16)
"""Tokens of the sentence that attention is shown for: the fewest that are worth a map, and the most that a map can be
read with."""

MOST_PAIRS = 3
DIGITS = 3


def likeness(
    student: nn.Module, teacher: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Texts, max_length: int
) -> Likeness:
    """Linear CKA (Kornblith et al., 2019, arXiv:1905.00414) of all layers of the two, at up to 1,024 tokens of texts
    from all over.

    Raises: `IncompatiblePair` for models with two stacks of layers, or of an unknown family; `DataError` for texts
    with fewer than 2 tokens, or a layer that is the same at all of them.
    """
    rows = _encoded(tokenizer, _spread(texts, MOST_TEXTS), _limit(max_length, tokenizer, student, teacher))
    rows = rows[: 1 + int(np.searchsorted(np.cumsum([len(row["input_ids"]) for row in rows]), MOST_TOKENS))]
    collate = DataCollatorWithPadding(tokenizer)
    batches: list[dict[str, Tensor]] = [dict(collate(rows[i : i + BATCH])) for i in range(0, len(rows), BATCH)]
    found, tokens = layer_cka(student, teacher, batches, MOST_TOKENS)
    return Likeness(cka=np.clip(found, 0.0, 1.0).round(DIGITS).tolist(), tokens=tokens)


def attention(
    student: nn.Module, teacher: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Texts, pairs: Pairs
) -> Attention:
    """Where the heads of paired layers look, for one sentence of the texts that is short, or cut: the mean of the
    attention over the heads, as the models' plain ("eager") attention tells it. Of many pairs three are shown.

    Raises: `IncompatiblePair` for models that do not tell it; `DataError` for no texts.
    """
    row = _sentence(tokenizer, texts, _limit(SENTENCE[1], tokenizer, student, teacher))
    inputs = DataCollatorWithPadding(tokenizer)([row])
    ours, theirs = _attentions(student, inputs), _attentions(teacher, inputs)
    chosen = [pair for pair in pairs if 1 <= pair[0] <= len(ours) and 1 <= pair[1] <= len(theirs)]
    if not chosen:
        raise IncompatiblePair(f"attention: no pair of layers to show of {len(ours)} and {len(theirs)}.")
    spread = np.unique(np.linspace(0, len(chosen) - 1, min(MOST_PAIRS, len(chosen))).round().astype(int))
    shown = [
        AttentionPair(student_layer=s, teacher_layer=t, student=ours[s - 1], teacher=theirs[t - 1])
        for s, t in (chosen[i] for i in spread)
    ]
    tokens = [cut(token, 20) for token in tokenizer.convert_ids_to_tokens(row["input_ids"])]
    return Attention(tokens=tokens, pairs=shown)


def _attentions(model: nn.Module, inputs: Any) -> list[list[list[float]]]:
    """The mean map of the heads of every layer, `[length, length]`."""
    anatomy = Anatomy.of(model)
    if set(anatomy.shape.stacks) != {""}:
        raise IncompatiblePair(f"attention: {anatomy.shape.family!r} has no single stack of layers.")
    accepted = {name: value.to(anatomy.base.device) for name, value in inputs.items() if name in anatomy.accepts}
    try:
        with _looked_at(model, anatomy), torch.no_grad():
            found = getattr(anatomy.base(**accepted, output_attentions=True, return_dict=True), "attentions", None)
    except (NotImplementedError, ValueError) as error:
        raise IncompatiblePair(f"attention: {type(anatomy.base).__name__} does not tell it: {error}") from error
    length = accepted["input_ids"].shape[1]
    if not found or any(each is None or each.shape[-2:] != (length, length) for each in found):
        raise IncompatiblePair(f"attention: {type(anatomy.base).__name__} does not tell where its heads look.")
    means = [each[0].cpu().double().mean(dim=0).clamp(0.0, 1.0).numpy() for each in found]
    return [mean.round(DIGITS).tolist() for mean in means]


@contextmanager
def _looked_at(model: nn.Module, anatomy: Anatomy) -> Iterator[None]:
    """The model in evaluation mode and with the attention that can be looked at; both are put back."""
    modes = [(module, module.training) for module in model.modules()]
    before = getattr(anatomy.base.config, "_attn_implementation", None)
    model.eval()
    try:
        if before not in (None, "eager"):
            anatomy.base.set_attn_implementation("eager")
        yield
    finally:
        if before not in (None, "eager"):
            anatomy.base.set_attn_implementation(before)
        for module, training in modes:
            module.training = training


def _sentence(tokenizer: PreTrainedTokenizerBase, texts: Texts, limit: int) -> dict[str, Any]:
    """The first text that is neither too short nor too long for a map, else the longest one, cut."""
    some = _spread(texts, MOST_TEXTS)
    rows = _encoded(tokenizer, some, limit + 1)
    fitting = [i for i, row in enumerate(rows) if SENTENCE[0] <= len(row["input_ids"]) <= limit]
    chosen = fitting[0] if fitting else max(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    return _encoded(tokenizer, some[chosen : chosen + 1], limit)[0]


def _spread(texts: Texts, most: int) -> list[Any]:
    """So many of the texts, from all over. Raises: `DataError` for none."""
    if not len(texts):
        raise DataError("there are no texts to show the models.")
    return [texts[int(i)] for i in np.linspace(0, len(texts) - 1, min(most, len(texts))).round()]


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Any], limit: int) -> list[dict[str, Any]]:
    columns = list(map(list, zip(*texts, strict=True))) if isinstance(texts[0], tuple) else [list(texts)]
    found = tokenizer(*columns, truncation=True, max_length=limit)
    rows = [{name: values[i] for name, values in found.items()} for i in range(len(texts))]
    return [row for row in rows if len(row["input_ids"])] or rows[:1]


def _limit(length: int, tokenizer: PreTrainedTokenizerBase, *models: nn.Module) -> int:
    """The most tokens that are read."""
    tables = [Anatomy.of(model).shape.max_length for model in models]
    return int(min(each for each in (length, tokenizer.model_max_length, *tables) if each is not None))
