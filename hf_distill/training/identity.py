"""What tells a trainer's run from others."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.trainer_utils import has_length

from hf_distill.checks import engine_of
from hf_distill.data.pretraining import PackedStream
from hf_distill.data.token_store import spelled
from hf_distill.hub.terms import objective_facts
from hf_distill.shards import gathered
from hf_distill.teachers import Cached, Ensemble, Teacher
from hf_distill.teachers.cache.scanning import same_random_numbers

if TYPE_CHECKING:
    from hf_distill.training.binding import BoundTrainer

_OF_BATCHES = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "seed",
    "data_seed",
    "train_sampling_strategy",
    "dataloader_drop_last",
)
"""Arguments that say which rows are in a batch."""

_WORKERS = "dataloader_num_workers"
"""The argument that says so of a stream."""

_OF_STEPS = (
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "bf16",
    "fp16",
)
"""Arguments that say what a step does. How long it trains may differ: a run may be made longer."""

_WRITTEN = "texts written on policy"
"""What stands among the terms where a student writes; no term has blanks in its name."""
_ROWS = 32
_PLAIN = (Tensor, nn.Parameter)


def run_of(trainer: BoundTrainer) -> dict[str, Any]:
    """Digests of the data, of the teacher and of what is below adapters, what a stream of raw text follows from, the
    terms and arguments as they are, the number of processes, and what holds the weights in them; None where something
    has no digest.
    """
    args, rows = trainer.args, trainer.train_dataset
    facts = {
        fact.name: fact.model_dump(exclude={"name", "citation"}) for fact in objective_facts(trainer.distillation)
    }
    if trainer.on_policy is not None:
        facts[_WRITTEN] = {**trainer.on_policy.facts(), "rows_at_once": None}  # which changes last digits alone
    found = {
        "data": stream_facts(rows) if isinstance(rows, PackedStream) else rows_digest(rows),
        "teacher": teacher_digest(trainer.teacher),
        "base": _base_digest(trainer.model),
        "objectives": facts,
        "arguments": _arguments_of(trainer),
        "world_size": args.world_size,
        "stage": trainer.stage,
        "engine": engine_of(trainer),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _arguments_of(trainer: BoundTrainer) -> dict[str, Any]:
    """The arguments that are compared. Where `ignore_data_skip` begins the epoch's batches anew, those that say which
    rows are in one are left out."""
    args, rows = trainer.args, trainer.train_dataset
    named: tuple[str, ...] = _OF_STEPS if args.ignore_data_skip else (*_OF_BATCHES, *_OF_STEPS)
    if args.auto_find_batch_size:
        named = tuple(name for name in named if name != "per_device_train_batch_size")
    told = args.to_dict()
    found = {name: told.get(name) for name in named}
    if rows is not None and not has_length(rows) and not args.ignore_data_skip:
        found[_WORKERS] = _dealt_to(rows, args.dataloader_num_workers)
    return found


def rows_digest(rows: Any) -> str | None:
    """The digest of how many rows there are, and of 32 of them from the first to the last; None for a stream.

    Rows that are made at random read otherwise the second time, and are left out of it.
    """
    if rows is None or not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
        return None
    number = len(rows)
    digest = hashlib.sha256(str(number).encode())
    last = max(number - 1, 0)
    picked = sorted({i * last // (_ROWS - 1) for i in range(_ROWS)}) if number else []
    with same_random_numbers():
        for row in picked:
            told, again = (json.dumps(rows[row], default=_plain, sort_keys=True) for _ in range(2))
            digest.update(told.encode() if told == again else b"\0")
    return digest.hexdigest()


def stream_facts(stream: PackedStream) -> dict[str, Any]:
    """What rows and order of a stream of raw text follow from, but for the workers that read it."""
    masking = stream.masking
    kind = getattr(masking, "__qualname__", type(masking).__qualname__)
    return {
        "sources": {str(number): source.version() for number, source in enumerate(stream.sources, start=1)},
        "weights": list(stream.weights),
        "shuffle": stream.shuffle,
        "seed": stream.seed,
        "layout": asdict(stream.layout),
        "tokenizer": _digest([json.dumps(spelled(stream.tokenizer))]),
        "masking": _digest([kind, json.dumps(getattr(masking, "__dict__", {}), default=_plain)]),
    }


def _dealt_to(stream: Any, workers: int) -> int:
    """Among how many workers the rows of a stream are dealt out: one where the process reads it itself, and no more
    than a data set in shards has of these."""
    return min(max(workers, 1), getattr(stream, "num_shards", None) or sys.maxsize)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    if isinstance(value, np.ndarray | np.generic):
        return [str(value.dtype), list(value.shape), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Mapping):
        return dict(value)
    return type(value).__name__


def teacher_digest(teacher: Teacher | None) -> str | None:
    """The digest of all numbers of the models of a teacher, or of what its cache was written from, and how. One that
    trains along, or is made of the student, has only a kind: what it is at a step lies in the checkpoint.
    """
    if teacher is None:
        return None
    parts = [type(teacher).__name__]
    if isinstance(teacher, Ensemble):
        parts += [f"{name} {teacher_digest(member)}" for name, member in teacher.members.items()]
    elif isinstance(teacher, Cached):
        parts.append(teacher.facts.digest)
    elif teacher.alongside is None:
        for model in teacher.models:
            parts += _sums(model.state_dict(keep_vars=True).items())
    return _digest(parts)


def _base_digest(model: nn.Module) -> str | None:
    """The digest of the weights that do not train beneath adapters, which no checkpoint holds."""
    if not hasattr(model, "peft_config"):
        return None
    return _digest(_sums((name, each) for name, each in model.named_parameters() if not each.requires_grad))


def _sums(named: Iterable[tuple[str, Any]]) -> list[str]:
    """Name, type and shape of each tensor, and the sum of its numbers taken as integers bit for bit: the same on every
    device and in every order, and another as soon as one bit is; models in shards have that of the whole. Packed forms
    of tensors have no sum.
    """
    found = []
    for name, tensor in gathered(named):
        if not isinstance(tensor, Tensor):
            continue
        total = _sum(tensor) if type(tensor) in _PLAIN and not tensor.is_meta else ""
        found.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} {total}")
    return found


def _sum(tensor: Tensor) -> int:
    numbers = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return int(numbers.view(kinds[numbers.element_size()]).sum(dtype=torch.int64))


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
