"""A trained model beside what was exported of it: the same rows through both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill.errors import DataError
from hf_distill.evaluation.fidelity import agreement, agreement_of_sets
from hf_distill.tasks import IGNORED

LOGITS = ("logits",)
POSITIONS = ("start_logits", "end_logits")
PADDING = -1e4
"""The logit of a position that is not there, in the original and in the export."""

LABELS = ("labels", "start_positions", "end_positions")

ROWS = 64
"""The fewest rows on which an export is compared."""

Batches = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True)
class Exported:
    """An export beside its original: bytes of the weights, the share of equal answers (for a regression their
    correlation), the largest difference of a logit, and the accuracy of both where the rows have labels of classes."""

    scheme: str
    bytes: int
    original_bytes: int
    rows: int
    agreement: float
    largest_difference: float
    accuracy: float | None
    original_accuracy: float | None


@dataclass(frozen=True)
class Difference:
    """What `Exported` says of two models' answers to the same rows."""

    rows: int
    agreement: float
    largest_difference: float
    accuracy: float | None
    original_accuracy: float | None


def check_rows(batches: Batches) -> None:
    """Raises: `DataError` for fewer than 64 rows, or none that is padded."""
    rows = sum(len(batch["input_ids"]) for batch in batches)
    padded = any("attention_mask" in batch and not bool(batch["attention_mask"].all()) for batch in batches)
    if rows < ROWS or not padded:
        raise DataError(
            f"export: {rows} rows{'' if padded else ', none of them padded'}; an export is compared with its original "
            f"on {ROWS} or more, of different lengths in one batch."
        )


def answers(model: Callable[..., Any], batches: Batches, fields: Sequence[str] = LOGITS) -> Tensor:
    """The model's outputs of these names for what is real, `[rows or tokens, classes]`, one name behind the other.

    Where the classes are the positions of a text (start and end), padding has the logit `PADDING`.
    """
    found = [_answer(model, batch, field) for field in fields for batch in batches]
    width = max(logits.shape[-1] for logits in found)
    return torch.cat([nn.functional.pad(logits, (0, width - logits.shape[-1]), value=PADDING) for logits in found])


def compare(found: Tensor, expected: Tensor, batches: Batches, form: str) -> Difference:
    """How the answers of an exported model differ from the original's, both of `answers`; `form` is that of the task,
    by which an answer is the class of the largest logit, or with `sigmoid` all classes whose logit is above 0."""
    several = form == "sigmoid"
    alike = agreement_of_sets if several else agreement
    said = _above_zero if several else _largest
    accuracies: list[float | None] = [None, None]
    labels = _labels(batches, axes=2 if several else 1)
    if labels is not None and (several or expected.shape[-1] > 1):
        counted = labels != IGNORED
        right = [((said(each) == labels) | ~counted).all(-1) for each in (expected, found)]
        accuracies = [float(each[counted.any(-1)].float().mean()) for each in right]
    return Difference(
        rows=sum(len(batch["input_ids"]) for batch in batches),
        agreement=alike(found.numpy(), expected.numpy()),
        largest_difference=float((expected - found).abs().max()),
        accuracy=accuracies[1],
        original_accuracy=accuracies[0],
    )


def _largest(logits: Tensor) -> Tensor:
    return logits.argmax(-1, keepdim=True)


def _above_zero(logits: Tensor) -> Tensor:
    return logits > 0


def _labels(batches: Batches, axes: int) -> Tensor | None:
    """The labels of all rows or tokens, `[items, classes or 1]`; None where a batch has none, or others than of so
    many axes."""
    found = [_aligned(batch, batch["labels"]) for batch in batches if "labels" in batch]
    if len(found) < len(batches) or any(labels.dim() != axes for labels in found):
        return None
    return torch.cat(found).view(sum(map(len, found)), -1)


def _answer(model: Callable[..., Any], batch: Mapping[str, Tensor], field: str) -> Tensor:
    with torch.inference_mode():
        outputs = model(**{name: value for name, value in batch.items() if name not in LABELS})
    found: Tensor = getattr(outputs, field).float()
    if field in POSITIONS:
        return found.masked_fill(~batch["attention_mask"].bool(), PADDING)
    return _aligned(batch, found) if found.dim() == 3 else found


def _aligned(batch: Mapping[str, Tensor], values: Tensor) -> Tensor:
    """The values at real tokens, one behind the other; those of whole rows as they are."""
    mask = batch.get("attention_mask")
    per_token = mask is not None and values.shape[:2] == mask.shape and values.dim() > 1
    return values[mask.bool()] if per_token and mask is not None else values
