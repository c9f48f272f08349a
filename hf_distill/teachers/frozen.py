"""A model that is only read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.activations import MAIN, Activations, Signal
from hf_distill.anatomy import WIDE_LOGITS, Anatomy
from hf_distill.capture import Capture
from hf_distill.depth import Run, runs_whole, shallow
from hf_distill.errors import DataError, DistillationError
from hf_distill.loading import brought, is_cast, load_model, stays
from hf_distill.passes import Passes
from hf_distill.shards import fold, in_shards
from hf_distill.tasks import Batch
from hf_distill.teachers.base import Teacher

logger = logging.getLogger(__name__)

OWN = "teacher_"
"""How the columns begin that hold what a teacher with a tokenizer of its own reads."""


def precision(
    dtype: torch.dtype, device: torch.device, autocast: Callable[[], AbstractContextManager[None]] = nullcontext
) -> str:
    """Weights of a type on a device, and the mixed precision that they run under, if any."""
    with autocast():
        mixed = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    own, other = (str(each).removeprefix("torch.") for each in (dtype, mixed))
    return own if mixed is None else f"{own}, autocast {other}"


class Frozen(Teacher):
    """A transformers model in evaluation mode, without gradients; its parameters are not changed by a run.

    It runs under the training's own mixed precision, unless `dtype` gives it weights of its own. One that was loaded
    in few bits or over devices (`loading.Held`) is of that type already; on its devices it stays, the batch goes
    there, and what it shows comes to the student's.

    A model too large for one device may also be in shards of its own, whatever becomes of the student: loaded with
    `from_pretrained(…, distributed_config=DistributedConfig(fsdp_size=…))`, or cut up by `fully_shard`. It then runs
    whole, and every process calls it as often.

    With a `tokenizer`, which is not the student's, it reads the columns of the batch that begin with `teacher_`, the
    same texts in its own tokens (`data.aligned_rows`), and is learned from across tokenizers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        dtype: torch.dtype | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        if not hasattr(model, "config"):
            raise DistillationError(
                f"a teacher is a transformers model, a path, a Hub id or a Teacher, not {type(model).__name__}."
            )
        self.model = model.to(dtype) if dtype is not None and is_cast(model) else model
        self.model.eval().requires_grad_(False)
        if getattr(self.model.config, "use_cache", False):
            self.model.config.use_cache = False  # a decoder would build a cache that nobody reads
        self.anatomy = Anatomy.of(self.model)
        self.tokenizer = tokenizer
        self._own_dtype = dtype is not None
        self._stays = stays(self.model)
        self._autocast: Callable[[], AbstractContextManager[None]] = nullcontext
        self._capture: Capture | None = None
        self._show: Callable[..., tuple[Any, Activations]] | None = None  # the capture, or what is compiled of it
        self._passes: Passes | None = None
        self._large_logits = False
        self._runs_main = True
        self._sharded = False
        self._device = torch.device("cpu")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        auto_class: str,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Frozen:
        """The teacher of a folder or a Hub id, in float32 unless `dtype` is given.

        Raises: `IncompatiblePair` if its head is not in the checkpoint; `DistillationError` if it cannot be loaded.
        """
        model = load_model(
            name_or_path,
            auto_class,
            role="teacher",
            revision=revision,
            trust_remote_code=trust_remote_code,
            dtype=dtype or torch.float32,
        )
        return cls(model, dtype=dtype)

    @property
    def own_dtype(self) -> torch.dtype | None:
        """The type of its weights where it was given one of its own, which mixed precision leaves alone."""
        return self.model.dtype if self._own_dtype else None

    @property
    def precision(self) -> str:
        """The type of its weights, and that of the mixed precision it runs under, if any."""
        return precision(self.model.dtype, self.model.device, self._autocast)

    @property
    def autocast(self) -> Callable[[], AbstractContextManager[None]]:
        """The mixed precision that it runs under, if any."""
        return self._autocast

    @property
    def models(self) -> tuple[nn.Module, ...]:
        return (self.model,)

    @property
    def accepts(self) -> frozenset[str]:
        accepted = self.anatomy.accepts
        return accepted if self.tokenizer is None else frozenset(f"{OWN}{name}" for name in accepted)

    @property
    def head(self) -> Callable[[Tensor], Tensor] | None:
        reachable = self.anatomy.knows_head and not runs_whole(self.anatomy) and not in_shards(self.model)
        return self._logits if reachable else None

    def _logits(self, final: Tensor) -> Tensor:
        unmixed = torch.autocast(final.device.type, enabled=False)  # the student's precision is not the teacher's
        with torch.no_grad(), unmixed, self._autocast():
            if not self._stays:
                return self.anatomy.head(final)
            return self.anatomy.head(final.to(self._head_device())).to(final.device)

    def _head_device(self) -> torch.device:
        """Where its head is; hooks bring one that lies elsewhere."""
        head: Any = self.model.get_output_embeddings()
        found: torch.device = self.model.device if head is None else head.weight.device
        return self.model.device if found.type == "meta" else found

    def bind(self, signals: frozenset[Signal]) -> None:
        if self._capture is not None:
            self._capture.close()
        if self._passes is not None:
            self._passes.close()
        in_main = frozenset(signal for signal in signals if signal.source == MAIN)
        self._sharded = in_shards(self.model)
        run = Run.whole(self.anatomy) if self._sharded else shallow(self.anatomy, in_main)
        logger.info("the teacher runs %s%s", run.description, ", in shards" if self._sharded else "")
        self._capture = Capture(self.anatomy, in_main, role="teacher", run=run)
        self._show = self._capture
        self._passes = Passes(self.anatomy, signals, role="teacher", in_part=not self._sharded)
        self._runs_main = bool(in_main) or not self._passes
        # Inference mode saves dispatch, and a copy of what is shown; a copy of [tokens, vocabulary] costs more than
        # that.
        self._large_logits = self.anatomy.shape.num_logits > WIDE_LOGITS and Signal("logits") in signals

    def place(self, device: torch.device, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        if not (self._stays or self._sharded):  # an engine has placed one in shards
            self.model.to(device)
        self._device = device
        self._autocast = nullcontext if self._own_dtype else autocast

    def compile(self, **settings: Any) -> None:
        if self._capture is not None:
            self._show = torch.compile(self._capture.__call__, **settings)

    def activations(self, batch: Batch) -> Activations:
        if self._show is None:
            raise DistillationError("the teacher is asked for activations before bind(signals).")
        if self.model.training:
            self.model.eval()
        if self.tokenizer is not None:
            batch = _own(batch)
        shown = self._main(batch) if self._runs_main else Activations(mask=batch.get("attention_mask"))
        if not self._passes:
            return shown
        with torch.no_grad(), self._autocast():
            taught: Activations = self._passes.show(batch, shown)
        return taught.to(self._device) if self._stays else taught

    def _main(self, batch: Batch) -> Activations:
        assert self._show is not None
        if self._sharded:  # what is gathered outlives the pass, and must be no inference tensor
            return self._gathered(batch)
        batch = brought(batch, self.model)
        if self._large_logits:
            with torch.no_grad(), self._autocast():
                shown = self._show(batch)[1]
            return shown.to(self._device) if self._stays else shown
        with torch.inference_mode(), self._autocast():
            shown = self._show(batch)[1]
        copied = shown.cloned()  # an inference tensor cannot be saved for the student's backward
        return copied.to(self._device) if self._stays else copied

    def _gathered(self, batch: Batch) -> Activations:
        assert self._show is not None
        with torch.no_grad(), self._autocast():
            shown = self._show(batch)[1]
        fold(self.model)
        return shown


def _own(batch: Batch) -> Batch:
    """What a teacher with a tokenizer of its own reads of a batch."""
    if f"{OWN}input_ids" not in batch:
        raise DataError(
            f"the teacher reads by its own tokenizer, and the batch has no {OWN}input_ids, only {', '.join(batch)}. "
            "Rows in the tokens of both models are made by data.aligned_rows.align_texts, batches of them by "
            "AlignedPadding; texts that the student writes while it trains (on-policy) have no alignment."
        )
    return {name.removeprefix(OWN): value for name, value in batch.items() if name.startswith(OWN)}
