"""The teacher of a trainer on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_distill.activations import Signal
from hf_distill.errors import DistillationError
from hf_distill.shards import in_shards
from hf_distill.teachers import Cached, Ensemble, Frozen, Teacher
from hf_distill.teachers.cache.codecs import Codec, named
from hf_distill.teachers.cache.filling import Order, fill
from hf_distill.teachers.cache.folder import CacheFolder
from hf_distill.teachers.cache.plan import check_readers
from hf_distill.teachers.cache.scanning import Source
from hf_distill.teachers.ensemble import of_member
from hf_distill.training.binding import BoundTrainer


def cache_teacher(
    trainer: BoundTrainer,
    folder: str | os.PathLike[str],
    codec: Codec | str | None,
    signals: Iterable[Signal],
    max_length: int | None,
) -> None:
    """Does what `DistillationTrainer.cache_teacher` says."""
    members = _to_be_cached(trainer.teacher)
    if trainer.on_policy is not None:
        raise DistillationError(
            "on_policy: a cache knows the texts of the data alone, not those that the student writes; train with the "
            "teacher itself, or leave on_policy out."
        )
    if not _has_rows(trainer.train_dataset):
        raise DistillationError("there are no rows to cache the teacher for; give the trainer train_dataset.")
    codec = named(codec)
    check_readers(codec, trainer.distillation.pair, trainer.distillation.terms())
    read = trainer.distillation.needs().teacher | frozenset(signals)
    orders = {
        name: Order.of(member, of_member(read, name), codec, trainer.processing_class, max_length)
        for name, member in members.items()
    }
    sources = [Source(rows, collator) for rows, collator in compared_rows(trainer)]
    try:
        for name, member in members.items():
            place = CacheFolder(Path(folder, name))
            fill(place, member, orders[name], sources, trainer.args.per_device_eval_batch_size)
        cached = {name: Cached(Path(folder, name), dtype=member.own_dtype) for name, member in members.items()}
        trainer.teacher = trainer.teacher.of(cached) if isinstance(trainer.teacher, Ensemble) else cached[""]
        trainer._eval_dataloaders = {}  # those that persistent workers keep do not read the cache
    finally:
        trainer._bind()  # writing binds the teacher to what is written, also where it is refused


def compared_rows(trainer: BoundTrainer) -> list[tuple[Any, Any]]:
    """The rows that are compared with the teacher, and what puts them together."""
    found = []
    evaluated = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"": trainer.eval_dataset}
    for rows in (trainer.train_dataset, *(() if trainer._has_answers else evaluated.values())):
        if isinstance(rows, Dataset):
            found.append((trainer._remove_unused_columns(rows), trainer.data_collator))
        elif rows is not None:
            found.append((rows, trainer._get_collator_with_removed_columns(trainer.data_collator)))
    return found


def _has_rows(rows: Any) -> bool:
    """A stream, whose length is not known, counts as rows."""
    return rows is not None and (not hasattr(rows, "__len__") or len(rows) > 0)


def _to_be_cached(teacher: Teacher | None) -> dict[str, Frozen]:
    """The models that are written down: a teacher, or the members of several, by name."""
    members = teacher.members if isinstance(teacher, Ensemble) else {"": teacher}
    found = {name: member for name, member in members.items() if isinstance(member, Frozen)}
    if any(member.tokenizer is not None for member in found.values()):
        raise DistillationError(
            "the teacher reads by its own tokenizer, and a cache is kept by the student's tokens; train with the "
            "teacher itself (leave cache out)."
        )
    if len(found) < len(members):
        raise DistillationError(
            "there is no teacher to be cached; give the trainer one (teacher=…), a model that stays as it is."
        )
    if any(in_shards(member.model) for member in found.values()):
        raise DistillationError(
            "the teacher is in shards, which all processes must run together, and each would run its own share of the "
            "rows. Write the cache where the teacher is whole, by scripts/cache_teacher.py, and train from the folder."
        )
    return found
