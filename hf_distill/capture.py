"""Runs a model over a batch and shows exactly the signals that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from hf_distill.activations import Activations, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.depth import Run, ready, takes_ready
from hf_distill.errors import DistillationError
from hf_distill.sentences import SentenceVectors
from hf_distill.taps.recording import Taps
from hf_distill.tasks import DOCUMENTS, IGNORED

LABELS = frozenset({"labels", "label", "label_ids", "start_positions", "end_positions", "next_sentence_label"})
"""Columns that are kept from the model: it would compute a loss of its own."""


class Capture:
    """One model, run for one set of signals.

    Hooks are registered here, once, on the modules that are read and on no other; make the capture before the model is
    compiled or wrapped. `role` ("student", "teacher") is named in messages; what is captured of a student must carry
    gradients while it trains. `run` says how much of the model runs (`depth.shallow`), all of it if it is left out;
    `above` are the parameters that `final` passes afterwards, on its way to a loss.

    Raises: `IncompatiblePair` for a signal that the model does not have.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        signals: Iterable[Signal],
        role: str,
        run: Run | None = None,
        above: Iterable[Tensor] = (),
    ) -> None:
        self.anatomy = anatomy
        self.role = role
        self.run = Run.whole(anatomy) if run is None else run
        self._above = tuple(above)
        signals = tuple(signals)
        self.taps = Taps(self.run.anatomy, signals, role)
        reads_vectors = any(signal.field == "sentence" for signal in signals)
        self._vectors = SentenceVectors(anatomy.base) if reads_vectors else None
        self._names = tuple(sorted(anatomy.accepts - LABELS))
        self._takes = self.run.anatomy.accepts
        self._takes_ready = takes_ready(self.run.anatomy)
        self._options: dict[str, bool] = {"return_dict": True}
        # A whole student's is the Trainer's business; a run in part would fill it in part.
        if (role == "teacher" or not self.run.is_whole) and "use_cache" in self._takes:
            self._options["use_cache"] = False
        self._two_stacks = len(anatomy.shape.stacks) == 2 or "decoder_input_ids" in anatomy.accepts
        self._shift = getattr(anatomy.base, "prepare_decoder_input_ids_from_labels", None)

    def __call__(
        self, batch: Mapping[str, Tensor], forward: Callable[..., Any] | None = None
    ) -> tuple[Any, Activations]:
        """The model's output and its activations. `forward` is called in place of the model: a wrapper around it.

        Raises: `DistillationError` when a hooked module did not run once, or when a training student's tensor has no
        gradient.
        """
        inputs = {name: batch[name] for name in self._names if name in batch}
        if self._two_stacks and self._shift is not None:
            self._make_decoder_inputs(inputs, batch)
        taps = self.taps
        taps.recording = True
        try:
            if forward is None:
                output = self.run(**self._taken(inputs, batch), **self._options_of(batch))
            else:
                output = forward(**_apart(inputs, batch), **self._options_of(batch))
            taps.recording = False
            tensors = taps.read(output)
        finally:
            taps.recording = False
            taps.clear()
        if self.role == "student" and self.anatomy.base.training and torch.is_grad_enabled():
            self._check_gradients(tensors)
        return output, self._activations(tensors, inputs, batch)

    def _taken(self, inputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
        """What the run takes of the inputs."""
        given = _apart(inputs, batch)
        taken: dict[str, Tensor | None] = {name: value for name, value in given.items() if name in self._takes}
        if self._takes_ready and "attention_mask" in taken:
            taken["attention_mask"] = ready(self.run.anatomy, inputs["attention_mask"])
        return taken

    def _options_of(self, batch: Mapping[str, Tensor]) -> dict[str, bool]:
        """Documents of one row are not told apart where a cache is filled."""
        cached = DOCUMENTS in batch and "use_cache" in self._takes
        return {**self._options, "use_cache": False} if cached else self._options

    def close(self) -> None:
        """Removes the hooks."""
        self.taps.close()

    def _make_decoder_inputs(self, inputs: dict[str, Tensor], batch: Mapping[str, Tensor]) -> None:
        if "labels" in batch and "decoder_input_ids" not in inputs and "decoder_inputs_embeds" not in inputs:
            assert self._shift is not None
            inputs["decoder_input_ids"] = self._shift(labels=batch["labels"])

    def _activations(
        self, tensors: Mapping[Signal, Tensor], inputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> Activations:
        fields: dict[str, dict[str, Any]] = {"": {}, "encoder": {}, "decoder": {}}
        for signal, tensor in tensors.items():
            place = fields[signal.stack]
            if signal.layer is None:
                place[signal.field] = tensor
            else:
                place.setdefault(signal.field, {})[signal.layer] = tensor
        mask = _mask(inputs, "attention_mask", "input_ids", "inputs_embeds")
        if self._vectors is not None and mask is not None:
            fields[""]["sentence"] = self._vectors(fields[""]["sentence"], mask)
        if not self._two_stacks:
            return Activations(mask=mask, **fields[""])
        decoder_mask = _decoder_mask(inputs, batch, mask)
        return Activations(
            mask=decoder_mask,
            encoder=Activations(mask=mask, **fields["encoder"]),
            decoder=Activations(mask=decoder_mask, **fields["decoder"]),
            **fields[""],
        )

    def _check_gradients(self, tensors: Mapping[Signal, Tensor]) -> None:
        """A tensor below frozen parameters has no gradient and needs none, and `final` none where nothing but its
        head trains; one cut off by checkpointing is an error.
        """
        bare = [signal for signal, tensor in tensors.items() if not tensor.requires_grad]
        if not bare:
            return
        above = any(parameter.requires_grad for parameter in self._above)
        places = {id(parameter) for parameter in self._above}
        if not any(p.requires_grad and id(p) not in places for p in self.anatomy.model.parameters()):
            bare = [signal for signal in bare if signal.field != "final"] if above else []
        if not bare:
            return
        if any(_is_reentrant(module) for module in self.anatomy.base.modules()):
            raise DistillationError(
                f"{self.role}: {bare[0]} carries no gradient, because reentrant activation checkpointing hides it; "
                "pass use_reentrant=False in the training arguments' checkpointing settings."
            )
        if len(bare) == len(tensors) and not above:
            raise DistillationError(
                f"{self.role}: {', '.join(map(str, bare))} carry no gradient, so nothing would train. Unfreeze "
                "parameters that they depend on, or use an objective that reads what the trainable parameters give."
            )


def _apart(inputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The inputs, without the attention mask where rows hold several documents: the library keeps these apart, by
    their positions, where it is given no mask. Padding stands behind them, and no causal attention looks there."""
    if DOCUMENTS not in batch:
        return inputs
    return {name: value for name, value in inputs.items() if name != "attention_mask"}


def _mask(inputs: Mapping[str, Tensor], given: str, ids: str, embeddings: str) -> Tensor | None:
    """The mask `[batch, length]` that came with the batch, or ones."""
    if given in inputs:
        return inputs[given]
    if ids in inputs:
        return torch.ones_like(inputs[ids])
    return inputs[embeddings].new_ones(inputs[embeddings].shape[:2]) if embeddings in inputs else None


def _decoder_mask(
    inputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], encoder_mask: Tensor | None
) -> Tensor | None:
    """The decoder's mask; labelled positions without one; the encoder's where the model shifts its input ids
    itself."""
    labels, ids = batch.get("labels"), inputs.get("decoder_input_ids")
    if "decoder_attention_mask" not in inputs and labels is not None and ids is not None and labels.shape == ids.shape:
        return labels != IGNORED
    mask = _mask(inputs, "decoder_attention_mask", "decoder_input_ids", "decoder_inputs_embeds")
    return encoder_mask if mask is None else mask


def _is_reentrant(module: Any) -> bool:
    if not getattr(module, "gradient_checkpointing", False):
        return False
    settings = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
    return settings.get("use_reentrant") is not False
