"""From batches to the prompts in them, and from what a model wrote for these to batches again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from hf_distill.errors import DataError
from hf_distill.tasks import IGNORED, PROMPT_TOKENS, Batch, real_tokens

_OF_TEXTS = ("labels", "decoder_input_ids", "decoder_attention_mask", "decoder_inputs_embeds")
"""What of a batch for an encoder-decoder is about the text that is written."""


class Prompts(NamedTuple):
    """Token ids to go on from, and which are real, `[rows, length]`. `counted` `[rows]` says of which rows the text
    counts: not of those that neither had a label nor told where their prompt ends. `sizes` are the rows of each
    micro-batch of the window.
    """

    ids: Tensor
    mask: Tensor
    counted: Tensor
    sizes: tuple[int, ...]


class Written(NamedTuple):
    """What was written behind prompts: token ids `[rows, length]`, which of them are text (up to the token that ends
    it, that one included), and which rows have such a token.
    """

    ids: Tensor
    mask: Tensor
    ended: Tensor


def prompts_of(window: Sequence[Batch], *, decoder: bool, prompt_tokens: int | None, padding: int) -> Prompts:
    """The prompts of the micro-batches of a window, padded to the longest.

    Of a `decoder` alone a prompt is what stands before the first label of a row; where that is told, it is the row's
    first so many tokens, by `prompt_tokens` for all rows or else by a column of the batch for each (`PROMPT_TOKENS`).
    It is padded on the left. Of an encoder-decoder it is what the encoder reads.

    Raises: `DataError` for a row without a prompt, for rows of several documents, and without labels to find it by.
    """
    masks = [_prompt_mask(batch, prompt_tokens) if decoder else real_tokens(batch) for batch in window]
    rows = [_gathered(batch["input_ids"], mask, left=decoder) for batch, mask in zip(window, masks, strict=True)]
    lengths = torch.cat([mask.sum(1) for mask in masks])
    counted = torch.cat([_counted(batch) for batch in window])
    told = lengths.tolist()  # writing waits for the device anyhow
    if not all(told):
        by_column = any(PROMPT_TOKENS in batch for batch in window)
        raise DataError(_no_prompt(told.index(0), prompt_tokens, decoder, by_column))
    parts = [_fitted(ids, mask, max(told), padding, left=decoder) for ids, mask in rows]
    ids, mask = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    return Prompts(ids, mask, counted, tuple(len(mask) for mask in masks))


def _no_prompt(row: int, prompt_tokens: int | None, decoder: bool, by_column: bool) -> str:
    found = f"on_policy: row {row + 1} of the rows of a step has no prompt"
    if not decoder or prompt_tokens is not None:
        return f"{found}: its attention_mask has no token. Leave empty rows out."
    if by_column:
        return f"{found}: the column {PROMPT_TOKENS} says 0, or the row is empty. Leave such rows out."
    return (
        f"{found}: its first token has a label, and a prompt is what stands before the first label. Give the tokens "
        "of the prompt the label -100, or, for plain text, on_policy.prompt_tokens, which is how many tokens of each "
        "row are its prompt."
    )


def _prompt_mask(batch: Batch, prompt_tokens: int | None) -> Tensor:
    if "position_ids" in batch:
        raise DataError(
            "on_policy: the batch has position_ids, so its rows may hold several documents, and a text is written for "
            "one. Leave packing out."
        )
    real = real_tokens(batch)
    if prompt_tokens is not None:
        return real & (real.cumsum(1) <= prompt_tokens)
    if PROMPT_TOKENS in batch:
        return real & (real.cumsum(1) <= batch[PROMPT_TOKENS].unsqueeze(1))
    if "labels" not in batch:
        raise DataError(
            f"on_policy: a prompt is what stands before the first label, and the batch has only {', '.join(batch)}. "
            "Keep the labels in what the collator returns, or give on_policy.prompt_tokens."
        )
    labeled = batch["labels"] != IGNORED
    first = torch.where(labeled.any(1, keepdim=True), labeled.cumsum(1) == 0, real)
    return real & first


def _counted(batch: Batch) -> Tensor:
    if "labels" in batch and PROMPT_TOKENS not in batch:
        return (batch["labels"] != IGNORED).any(1)
    return torch.ones(len(batch["input_ids"]), dtype=torch.bool, device=batch["input_ids"].device)


def _gathered(ids: Tensor, mask: Tensor, *, left: bool) -> tuple[Tensor, Tensor]:
    """The tokens of the mask side by side, with padding on the left of them or on their right."""
    order = mask.int().argsort(dim=1, stable=True, descending=not left)
    return ids.gather(1, order), mask.gather(1, order)


def _fitted(ids: Tensor, mask: Tensor, length: int, padding: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Cut or padded to a length; only padding is cut."""
    missing = max(length - ids.shape[1], 0)
    sides = (missing, 0) if left else (0, missing)
    ids, mask = pad(ids, sides, value=padding), pad(mask, sides, value=False)
    ids, mask = (each[:, -length:] if left else each[:, :length] for each in (ids, mask))
    return ids.masked_fill(~mask, padding), mask


def continued(window: Sequence[Batch], prompts: Prompts, written: Written, padding: int) -> list[dict[str, Tensor]]:
    """The batches of a decoder: each row its prompt and what was written behind it, padded on the right, with labels
    where something was written. Of other columns those stay that have a value for each row, and no more; so does what
    is said of a batch as a whole.
    """
    mask = torch.cat([prompts.mask, written.mask], 1)
    ids = torch.cat([prompts.ids, written.ids], 1)
    text = torch.cat([torch.zeros_like(prompts.mask), written.mask & prompts.counted.unsqueeze(1)], 1)
    order = mask.int().argsort(dim=1, stable=True, descending=True)
    ids, mask, text = (each.gather(1, order) for each in (ids, mask, text))
    parts = zip(window, *(_parts(each, prompts.sizes) for each in (ids, mask, text)), strict=True)
    longest = [int(each) for each in torch.stack([part.sum(1).max() for part in _parts(mask, prompts.sizes)]).tolist()]
    batches = []
    for (batch, row_ids, real, labeled), length in zip(parts, longest, strict=True):
        real, row_ids = real[:, :length], row_ids[:, :length]
        own = {
            "input_ids": row_ids.masked_fill(~real, padding),
            "attention_mask": real.long(),
            "labels": row_ids.masked_fill(~labeled[:, :length], IGNORED),
        }
        batches.append({**_by_row(batch), **own})
    return batches


def answered(window: Sequence[Batch], prompts: Prompts, written: Written) -> list[dict[str, Tensor]]:
    """The batches of an encoder-decoder: what the encoder reads as it was, with labels of what was written."""
    labels = written.ids.masked_fill(~(written.mask & prompts.counted.unsqueeze(1)), IGNORED)
    parts = _parts(labels, prompts.sizes)
    longest = [int(n) for n in torch.stack([m.sum(1).max() for m in _parts(written.mask, prompts.sizes)]).tolist()]
    kept = [{name: value for name, value in batch.items() if name not in _OF_TEXTS} for batch in window]
    return [{**batch, "labels": part[:, :length]} for batch, part, length in zip(kept, parts, longest, strict=True)]


def _parts(rows: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """The rows of each micro-batch."""
    return torch.split(rows, list(sizes))


def _by_row(batch: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in batch.items() if not isinstance(value, Tensor) or value.dim() == 1}
    return {name: value for name, value in kept.items() if name != PROMPT_TOKENS}
