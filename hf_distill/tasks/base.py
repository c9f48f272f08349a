"""What a task answers, for objectives and for whoever counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import DataError
from hf_distill.losses import label_loss

Batch = Mapping[str, Tensor]
Form = Literal["softmax", "sigmoid", "identity", "alignment"]

IGNORED = -100
"""The label that marks a position without a target."""
DOCUMENTS = "document_ids"
"""The column of rows that hold several documents, each read as if it stood alone: of which document of its row each
token is, from 1; 0 is padding. `position_ids` start anew with every document, and are what models part them by."""
PROMPT_TOKENS = "prompt_tokens"
"""The column of rows that tell how many of their first tokens are a prompt, `[batch]`: where a model writes what comes
behind it, a row needs no label."""


class Task:
    """How one kind of head is read.

    `form`: what makes a law of the logits; `alignment` where labels have no row of their own. `label_names`: the
    batch's target columns. `logit_fields`: the activations read.
    `tokens`: which positions soft targets may count, the default first; empty where every row is an example.
    """

    name: ClassVar[str]
    form: ClassVar[Form] = "softmax"
    label_names: ClassVar[tuple[str, ...]] = ("labels",)
    logit_fields: ClassVar[tuple[str, ...]] = ("logits",)
    tokens: ClassVar[tuple[str, ...]] = ()
    auto_class: ClassVar[str]
    pipeline_tag: ClassVar[str]
    vocabulary_sized: ClassVar[bool] = False
    shown_fields: ClassVar[tuple[str, ...]] = ()
    """The activations that stand for the model's output where it is evaluated; empty for the output itself."""

    @property
    def has_answers(self) -> bool:
        """Whether a model can be evaluated by what it gives, and not by the value of objectives alone."""
        return bool(self.label_names or self.shown_fields)

    def rows(self, activations: Activations, batch: Batch, tokens: str = "") -> tuple[Tensor, ...]:
        """Logits `[rows..., classes]`, a tensor for each of `logit_fields`; the loss is the mean over the tensors."""
        return tuple(getattr(activations, field) for field in self.logit_fields)

    def at_rows(self, values: Tensor, tokens: str = "") -> Tensor:
        """Of values at each position, `[batch, length, ...]`, those at the positions that `rows(...)` takes."""
        return values

    def labels(self, batch: Batch) -> tuple[Tensor, ...]:
        """The columns of `label_names`, as they came.

        Raises: `DataError` naming the column that the batch lacks.
        """
        missing = [name for name in self.label_names if name not in batch]
        if missing:
            raise DataError(
                f"{self.name}: the column {missing[0]!r} says what counts, and the batch has only {', '.join(batch)}. "
                "Keep the labels in the data set, or use an objective that does not need them."
            )
        return tuple(batch[name] for name in self.label_names)

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        """Labels aligned with `rows(...)` at the default `tokens`."""
        return self.labels(batch)

    def label_values(self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """The task's own loss of each of some `rows(...)` with its target."""
        return label_loss(logits, labels, self.form, label_smoothing=label_smoothing)

    def evaluated(self, logits: Tensor, batch: Batch) -> Tensor:
        """What is kept of one of the model's `logit_fields` where it is evaluated; as it is, unless padding would be
        taken for answers."""
        return logits

    def soft_mask(self, batch: Batch, tokens: str = "") -> Tensor | None:
        """Which rows count for soft targets: a boolean tensor of the rows' shape, or `None` for all."""
        return None

    def label_mask(self, batch: Batch) -> Tensor:
        """Which rows carry a label."""
        return self.targets(batch)[0] != IGNORED

    def decoder_tokens(self, batch: Batch) -> Tensor:
        """Where the text of a decoder beside an encoder is, boolean `[batch, length]`.

        A head that is no language model reads the encoder's text there once more, shifted.
        """
        given = batch.get("decoder_attention_mask")
        return real_tokens(batch) if given is None else given.bool()

    @staticmethod
    def num_examples(batch: Batch) -> int:
        """Examples in the batch."""
        return next(value for value in batch.values() if isinstance(value, Tensor)).shape[0]


def real_tokens(batch: Batch) -> Tensor:
    """Where the text is: the attention mask, or every position if the batch has none. Boolean `[batch, length]`.

    Raises: `DataError` for a mask of more dimensions, and for a batch without text.
    """
    mask = batch.get("attention_mask")
    if mask is not None:
        if mask.dim() != 2:
            raise DataError(
                f"attention_mask has the shape {tuple(mask.shape)}; the objectives read which tokens are real from "
                "one of [batch, length]. Where rows hold several documents, position_ids part them."
            )
        return mask.bool()
    if "input_ids" in batch:
        return torch.ones_like(batch["input_ids"], dtype=torch.bool)
    if "inputs_embeds" in batch:
        return torch.ones_like(batch["inputs_embeds"][..., 0], dtype=torch.bool)
    raise DataError(
        "attention_mask, input_ids or inputs_embeds say where the text is, and the batch has only "
        f"{', '.join(batch)}. Keep one of them in what the collator returns."
    )


def device_type(batch: Batch) -> str:
    """The type of device that a batch is on."""
    return next(value for value in batch.values() if isinstance(value, Tensor)).device.type
