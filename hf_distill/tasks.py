"""What logits and labels mean. The one place that knows about shifting, -100, start and end, sigmoid and softmax.

A task turns activations into *rows* (logits with the classes last, aligned with their targets) and says which rows
count. Objectives see rows alone. Questions about counts are answered from the batch, before any forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hf_distill.activations import Activations
from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.losses import at_least_float32, ctc_loss, label_loss
from hf_distill.sentences import is_sentence_model

Batch = Mapping[str, Tensor]
Form = Literal["softmax", "sigmoid", "identity", "alignment"]

IGNORED = -100
"""The label that marks a position without a target."""
DOCUMENTS = "document_ids"
"""The column of rows that hold several documents, each read as if it stood alone: of which document of its row each
token is, from 1; 0 is padding. `position_ids` start anew with every document, and are what models part them by."""
_LONGEST_FRAME = 2**16
"""Inputs in which every model that hears makes a frame; a second of sound at the rates that there are."""


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

    @staticmethod
    def of(model: nn.Module) -> Task:
        """The task of a transformers model, by its class and its configuration.

        Raises: `IncompatiblePair` for a head that no task describes.
        """
        return _task_of(model)


class SingleLabel(Task):
    """One class an example: `logits` `[batch, classes]`, `labels` `[batch]`."""

    name = "single_label"
    auto_class = "AutoModelForSequenceClassification"
    pipeline_tag = "text-classification"


class MultiLabel(Task):
    """Any number of classes an example: `labels` `[batch, classes]` of 0, 1, or -100 (unknown); elements are rows."""

    name = "multi_label"
    form = "sigmoid"
    auto_class = "AutoModelForSequenceClassification"
    pipeline_tag = "text-classification"

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        labels = self.labels(batch)
        if labels[0].dim() != 2:
            raise DataError(
                f"multi_label: labels have the shape {tuple(labels[0].shape)}; they must be [batch, classes] of 0, 1 "
                f"or {IGNORED}. For one class an example, set config.problem_type='single_label_classification'."
            )
        return labels

    def soft_mask(self, batch: Batch, tokens: str = "") -> Tensor | None:
        return self.label_mask(batch) if "labels" in batch else None


class Regression(Task):
    """Real scores: `logits` and `labels` `[batch, outputs]`, or labels `[batch]` for one output; elements are rows.

    Soft targets count every example, labelled or not.
    """

    name = "regression"
    form = "identity"
    auto_class = "AutoModelForSequenceClassification"
    pipeline_tag = "text-classification"

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        labels = self.labels(batch)[0]
        return (labels.unsqueeze(-1) if labels.dim() == 1 else labels,)


class TokenClassification(Task):
    """One class a token: `labels` `[batch, length]`, -100 on special tokens and later word pieces.

    Soft targets count the `labeled` tokens, or `all` real ones without the special tokens, which a column
    `special_tokens_mask` marks; where the batch has none they count as any other.
    """

    name = "token_classification"
    tokens = ("labeled", "all")
    auto_class = "AutoModelForTokenClassification"
    pipeline_tag = "token-classification"

    def soft_mask(self, batch: Batch, tokens: str = "labeled") -> Tensor | None:
        if tokens == "labeled":
            return self.label_mask(batch)
        real = real_tokens(batch)
        return real & ~batch["special_tokens_mask"].bool() if "special_tokens_mask" in batch else real


class QuestionAnswering(Task):
    """A span: `start_logits`, `end_logits` `[batch, length]`; the classes are the positions of the example.

    Padding is no possible answer and leaves both softmaxes, unless `tokens` is `all` (the reference SQuAD script's
    form). A target outside the text or in its padding (the answer was cut away) does not count.
    """

    name = "question_answering"
    label_names = ("start_positions", "end_positions")
    logit_fields = ("start_logits", "end_logits")
    tokens = ("valid", "all")
    auto_class = "AutoModelForQuestionAnswering"
    pipeline_tag = "question-answering"

    def rows(self, activations: Activations, batch: Batch, tokens: str = "valid") -> tuple[Tensor, ...]:
        logits = super().rows(activations, batch)
        if tokens == "all":
            return logits
        padding = ~real_tokens(batch)
        return tuple(at_least_float32(each).masked_fill(padding, -1e30) for each in logits)

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        valid = self.label_mask(batch)
        return tuple(positions.masked_fill(~valid, IGNORED) for positions in self.labels(batch))

    def label_mask(self, batch: Batch) -> Tensor:
        real = real_tokens(batch)
        start, end = (_on_text(positions, real) for positions in self.labels(batch))
        return start & end


class MaskedLM(Task):
    """A word at each masked position: `labels` `[batch, length]`, -100 elsewhere.

    Soft targets count `all` real tokens, or the `masked` positions.
    """

    name = "masked_lm"
    tokens = ("all", "masked")
    auto_class = "AutoModelForMaskedLM"
    pipeline_tag = "fill-mask"
    vocabulary_sized = True

    def soft_mask(self, batch: Batch, tokens: str = "all") -> Tensor | None:
        return real_tokens(batch) if tokens == "all" else self.label_mask(batch)


class CausalLM(Task):
    """The next word: `logits[:, i]` predicts `labels[:, i + 1]`; labels come unshifted and are shifted here, once.

    A position counts whose next label is not -100 and which is real itself: padding on the left predicts nothing. Soft
    targets count these (`labeled`), or, as the original DistilGPT2 code did, every position of the attention mask, the
    last one included (`attention`).
    """

    name = "causal_lm"
    tokens = ("labeled", "attention")
    auto_class = "AutoModelForCausalLM"
    pipeline_tag = "text-generation"
    vocabulary_sized = True

    def rows(self, activations: Activations, batch: Batch, tokens: str = "labeled") -> tuple[Tensor, ...]:
        return (self.at_rows(activations.logits, tokens),)

    def at_rows(self, values: Tensor, tokens: str = "labeled") -> Tensor:
        return values if tokens == "attention" else values[:, :-1]

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        return (self.labels(batch)[0][:, 1:],)

    def label_mask(self, batch: Batch) -> Tensor:
        labeled = super().label_mask(batch)
        return labeled & real_tokens(batch)[:, :-1] if "attention_mask" in batch else labeled

    def soft_mask(self, batch: Batch, tokens: str = "labeled") -> Tensor | None:
        return real_tokens(batch) if tokens == "attention" else self.label_mask(batch)


class Seq2SeqLM(Task):
    """The words of the target text: decoder logits align with `labels` `[batch, length]`, no shift."""

    name = "seq2seq_lm"
    tokens = ("labeled",)
    auto_class = "AutoModelForSeq2SeqLM"
    pipeline_tag = "text2text-generation"
    vocabulary_sized = True

    def soft_mask(self, batch: Batch, tokens: str = "labeled") -> Tensor | None:
        return self.label_mask(batch)

    def decoder_tokens(self, batch: Batch) -> Tensor:
        if "decoder_attention_mask" in batch:
            return super().decoder_tokens(batch)
        if "labels" in batch or "decoder_input_ids" not in batch:
            return self.label_mask(batch)
        return torch.ones_like(batch["decoder_input_ids"], dtype=torch.bool)


class CTC(Task):
    """Symbols heard in frames: `logits` `[batch, frames, symbols]`, one of the symbols the blank; `labels`
    `[batch, length]`, -100 where there is none. The rows are examples, and their loss is -log of the sum over all
    alignments of labels and frames (connectionist temporal classification, Graves et al., 2006).

    `frames` gives how many frames the model makes of so many inputs; without it they are as many. A frame behind the
    last one is given to the blank, which leaves every likelihood as it is. Labels that need more frames than there are
    have no alignment, and do not count.
    """

    name = "ctc"
    form = "alignment"
    auto_class = "AutoModelForCTC"
    pipeline_tag = "automatic-speech-recognition"

    def __init__(self, blank: int = 0, frames: Callable[[Tensor], Tensor] | None = None) -> None:
        self.blank, self._frames = blank, frames

    def with_blank(self, blank: int) -> CTC:
        """The same task with another symbol for the blank."""
        return CTC(blank, self._frames)

    def rows(self, activations: Activations, batch: Batch, tokens: str = "") -> tuple[Tensor, ...]:
        return (self.evaluated(activations.logits, batch),)

    def evaluated(self, logits: Tensor, batch: Batch) -> Tensor:
        logits = at_least_float32(logits)
        if "attention_mask" not in batch:
            return logits
        real = self._real_frames(batch["attention_mask"], logits.shape[1]).unsqueeze(-1)
        silent = torch.full_like(logits[0, 0], -1e30)
        silent[self.blank] = 0.0
        return torch.where(real, logits, silent)

    def _real_frames(self, mask: Tensor, frames: int) -> Tensor:
        if self._frames is None and mask.shape[1] == frames:
            return mask.bool()
        return torch.arange(frames, device=mask.device) < self.num_frames({"attention_mask": mask}).unsqueeze(1)

    def num_frames(self, batch: Batch) -> Tensor:
        """`[batch]`, the frames of each example.

        Raises: `DataError` for a batch without sound.
        """
        mask = batch.get("attention_mask")
        if mask is None:
            heard = batch.get("input_values", batch.get("input_features"))
            if heard is None:
                raise DataError(
                    "ctc: attention_mask, input_values or input_features say how long an example is, and the batch "
                    f"has only {', '.join(batch)}. Keep one of them in what the collator returns."
                )
            mask = torch.ones(heard.shape[:2], dtype=torch.long, device=heard.device)
        lengths = mask.sum(-1)
        return lengths if self._frames is None else self._frames(lengths)

    @property
    def shortest(self) -> int:
        """The least inputs that make a frame."""
        lengths = torch.arange(1, _LONGEST_FRAME)
        return 1 if self._frames is None else 1 + int((self._frames(lengths) < 1).sum())

    def fits(self, labels: Tensor, batch: Batch) -> Tensor:
        """Whether labels `[batch, ..., length]` have an alignment: frames for each, and a blank between equal ones."""
        real = labels != IGNORED
        repeated = real[..., 1:] & (labels[..., 1:] == labels[..., :-1])
        needed = real.sum(-1) + repeated.sum(-1)
        return needed <= self.num_frames(batch).reshape(-1, *[1] * (needed.dim() - 1))

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        labels = self.labels(batch)[0]
        if labels.dim() != 2 or labels.is_floating_point():
            raise DataError(
                f"ctc: labels are {labels.dtype} of the shape {tuple(labels.shape)}; they must be whole numbers "
                f"[batch, length], {IGNORED} where there is none."
            )
        ignored_last = (labels == IGNORED).int().argsort(stable=True, dim=-1)  # as lengths tell where they end
        return (labels.gather(-1, ignored_last),)

    def label_mask(self, batch: Batch) -> Tensor:
        labels = self.targets(batch)[0]
        return (labels != IGNORED).any(-1) & self.fits(labels, batch)

    def label_values(self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        return ctc_loss(logits, labels, self.blank)


class Encoder(Task):
    """A model without a head: hidden states, and what relations are made of them. There are no logits and no labels.

    Objectives that read either are refused, and an evaluation gives the value of the objectives themselves.
    """

    name = "encoder"
    label_names = ()
    logit_fields = ()
    auto_class = "AutoModel"
    pipeline_tag = "feature-extraction"

    def labels(self, batch: Batch) -> tuple[Tensor, ...]:
        raise DataError(
            "encoder: a model without a head has no labels; load it with a head (AutoModelFor…), or take objectives "
            "of hidden states and relations alone."
        )


class Embeddings(Task):
    """One vector a text, `sentence` `[batch, width]`, as `hf_distill.sentences` makes it: a sentence encoder. There
    are no logits and no labels; what is evaluated are the vectors.
    """

    name = "embeddings"
    label_names = ()
    logit_fields = ()
    shown_fields = ("sentence",)
    auto_class = "AutoModel"
    pipeline_tag = "sentence-similarity"

    def labels(self, batch: Batch) -> tuple[Tensor, ...]:
        raise DataError(
            "embeddings: a sentence encoder has no labels; take objectives of sentence vectors (embedding_mse), of "
            "hidden states, or of relations."
        )


TASKS: dict[str, Task] = {
    task.name: task()
    for task in (
        SingleLabel,
        MultiLabel,
        Regression,
        TokenClassification,
        QuestionAnswering,
        MaskedLM,
        CausalLM,
        Seq2SeqLM,
        CTC,
        Encoder,
        Embeddings,
    )
}

HEADS = {
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
    "ForMaskedLM": "masked_lm",
    "ForPreTraining": "masked_lm",
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
    "ForConditionalGeneration": "seq2seq_lm",
    "ForCTC": "ctc",
}
"""Ends of class names of transformers models, and the task each stands for."""

PROBLEM_TYPES = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


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


def _on_text(positions: Tensor, real: Tensor) -> Tensor:
    """Which positions `[batch]` lie on a real token of `[batch, length]`."""
    length = real.shape[1]
    inside = (positions >= 0) & (positions < length)
    return inside & real.gather(1, positions.clamp(0, length - 1).unsqueeze(1)).squeeze(1)


def _task_of(model: Any) -> Task:
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    class_name, config = type(plain).__name__, plain.config
    if class_name.endswith("ForSequenceClassification"):
        by_width = "regression" if config.num_labels == 1 else "single_label"
        return TASKS[PROBLEM_TYPES.get(config.problem_type or "", by_width)]
    if class_name.endswith("ForCTC"):
        return _ctc_of(plain)
    for ending, name in HEADS.items():
        if class_name.endswith(ending) and not _predicts_no_words(plain, ending):
            return TASKS[name]
    if class_name.endswith("Model") and getattr(plain, "base_model", None) is plain:
        return TASKS["embeddings" if is_sentence_model(config) else "encoder"]
    known = ", ".join(["ForSequenceClassification", *HEADS])
    raise IncompatiblePair(
        f"no task is known for {class_name}; the heads that are known end in {known}. Load the model with such a head."
    )


def _ctc_of(model: Any) -> CTC:
    """In the models' code the padding token is the blank, and one of two methods counts frames."""
    names = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")
    counting = [getattr(model, name) for name in names if hasattr(model, name)]
    return CTC(model.config.pad_token_id or 0, next(iter(counting), None))


def _predicts_no_words(model: Any, ending: str) -> bool:
    """Some pre-training heads tell replaced words from the original ones instead."""
    return ending == "ForPreTraining" and model.get_output_embeddings() is None
