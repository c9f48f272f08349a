"""A `DistillationTrainer` whose student is in shards: what is saved, and how it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from hf_distill.checks import loaded_in_shards
from hf_distill.errors import BrokenCheckpoint, DistillationError
from hf_distill.shards import of_student, partitioned
from hf_distill.training.binding import BoundTrainer

OPTIMIZER, SCHEDULER, WEIGHTS = "optimizer.pt", "scheduler.pt", "model.safetensors"
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
"""The first process gets whole tensors, in the memory of the host; the others nothing."""


class Sharding(BoundTrainer):
    """Overrides what the Trainer saves and loads where an engine holds the `Distillation` in shards.

    The student is gathered and written whole, under its own names, so that any folder loads with plain
    `from_pretrained`. So is the optimizer of a student that was sharded when it was loaded, by the names of its
    parameters (the Trainer would write none): its checkpoints fit any number of processes, which `resume_despite` may
    allow.
    """

    optimizer: Any

    def __init__(self, model: Any = None, args: Any = None, *further: Any, **settings: Any) -> None:
        with _resumable(model, args):
            super().__init__(model, args, *further, **settings)
        if self.is_deepspeed_enabled:
            _clip_as_asked(self)
        if partitioned(
            self.model
        ):  # transformers takes every old name for one that the folder had, and writes it back
            self.model._weight_conversions = None

    def _bind_teacher(self, distillation: Any) -> None:
        """A teacher that ZeRO-3 cut up while it was loaded gets an engine of its own, without an optimizer."""
        super()._bind_teacher(distillation)
        if self.teacher is not None and self.is_deepspeed_enabled:
            for model in self.teacher.models:
                _give_engine(model, self)

    # ---- saving ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The Trainer's; under FSDP the student is gathered from the engine, whatever the form of its checkpoints."""
        if not self._fsdp_holds_weights:
            super().save_model(output_dir, _internal_call=_internal_call)
            return
        state = self.accelerator.get_state_dict(self.model_wrapped)
        self._save(output_dir if output_dir is not None else self.args.output_dir, state_dict=state)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict=None if state_dict is None else of_student(state_dict))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_distributed_loading_by_transformers:
            with self._as_engine():
                super()._save_optimizer_and_scheduler(output_dir)
            return
        gathered = get_optimizer_state_dict(self.model_wrapped, self._bare_optimizer, options=WHOLE)
        optimizer, self.optimizer = self.optimizer, _Gathered(gathered)
        try:
            super()._save_optimizer_and_scheduler(output_dir)
        finally:
            self.optimizer = optimizer

    # ---- loading ----

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self.is_distributed_loading_by_transformers:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        self._load_whole(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if not self.is_distributed_loading_by_transformers:
            with self._as_engine():
                super()._load_best_model()
            return
        self._load_whole(Path(self.state.best_model_checkpoint))

    def _load_whole(self, checkpoint: Path) -> None:
        """Gives each process its parts of the student, of which the first reads the whole."""
        path = _there(checkpoint / WEIGHTS)
        first: dict[str, Any] = load_file(path) if self.args.process_index == 0 else {}
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
        set_model_state_dict(self.distillation.student, first, options=options)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.is_distributed_loading_by_transformers:
            with self._as_engine():
                super()._load_optimizer_and_scheduler(checkpoint)
            return
        folder = Path(checkpoint)
        whole = torch.load(_there(folder / OPTIMIZER), map_location="cpu", mmap=True, weights_only=True)
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(self.model_wrapped, self._bare_optimizer, whole, options=options)
        self.lr_scheduler.load_state_dict(torch.load(_there(folder / SCHEDULER), weights_only=True))

    # ---- what holds the weights ----

    @property
    def _fsdp_holds_weights(self) -> bool:
        return bool(self.is_fsdp_enabled) and self.model_wrapped is not self.model and self.model_wrapped is not None

    @property
    def _engine_loads(self) -> bool:
        """Whether what the objectives learned comes back with the engine's own checkpoint."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    @property
    def _bare_optimizer(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return optimizer

    @contextmanager
    def _as_engine(self) -> Iterator[None]:
        """Lets the Trainer see the FSDP engine as its model: names and shards of the optimizer are those of all that
        the engine holds, the student and the objectives."""
        student = self.model
        if self._fsdp_holds_weights:
            self.model = self.model_wrapped
        try:
            yield
        finally:
            self.model = student


class _Gathered:
    """Stands for an optimizer while the Trainer writes its state."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def state_dict(self) -> dict[str, Any]:
        return self._state


def _there(path: Path) -> Path:
    if not path.is_file():
        raise BrokenCheckpoint(
            f"{path} is missing, and a student loaded in shards cannot go on without it. Resume from another "
            "checkpoint, one that was not written with save_only_model=True."
        )
    return path


@contextmanager
def _resumable(model: Any, args: Any) -> Iterator[None]:
    """Passes the Trainer's refusal of resumable checkpoints of a student that was sharded when it was loaded."""
    if args is None or not loaded_in_shards(model):
        yield
        return
    asked, args.save_only_model = args.save_only_model, True
    try:
        yield
    finally:
        args.save_only_model = asked


def _clip_as_asked(trainer: BoundTrainer) -> None:
    """Without a word of it in its configuration DeepSpeed clips at 1, whatever `max_grad_norm` is."""
    config = trainer.accelerator.state.deepspeed_plugin.hf_ds_config.config
    told, asked = config.get("gradient_clipping", "auto"), trainer.args.max_grad_norm
    if told not in ("auto", asked):
        raise DistillationError(
            f"the configuration of DeepSpeed says gradient_clipping {told}, and max_grad_norm is {asked}; write "
            '"auto" there.'
        )
    config["gradient_clipping"] = asked


def _give_engine(model: nn.Module, trainer: BoundTrainer) -> None:
    """Has DeepSpeed gather the parts of a frozen model for its forward passes."""
    if not partitioned(model) or hasattr(model, "ds_engine"):
        return
    import deepspeed

    plugin = trainer.accelerator.state.deepspeed_plugin.hf_ds_config
    config = {
        "train_micro_batch_size_per_gpu": trainer.args.per_device_train_batch_size,
        "zero_optimization": {**plugin.config.get("zero_optimization", {}), "stage": 3},
        **{name: plugin.config[name] for name in ("bf16", "fp16") if name in plugin.config},
    }
    engine, *_ = deepspeed.initialize(model=model, config=config)
    engine.eval()
    object.__setattr__(model, "ds_engine", engine)  # kept alive, and no submodule
