"""The record of what one trainer did."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_distill.hub.emissions import emissions_of
from hf_distill.hub.license import license_of
from hf_distill.hub.record import (
    CacheFacts,
    DataFacts,
    ModelFacts,
    Origin,
    Record,
    batch_size_facts,
    environment,
    finite_metrics,
)
from hf_distill.hub.student import student_facts
from hf_distill.hub.terms import layer_maps, objective_facts
from hf_distill.teachers import Cached, Ensemble, Frozen, Teacher
from hf_distill.teachers.cache.skeleton import hub_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_distill.training.binding import BoundTrainer


def record_of(trainer: BoundTrainer) -> Record:
    """Student, teacher, terms, arguments, data sizes, versions, and the student's evaluation of a trainer's run."""
    versions, hardware = environment()
    args, state, teacher = trainer.args, trainer.state, trainer.teacher
    data = {"train": trainer.train_dataset, **_validation(trainer.eval_dataset)}
    found = [_teacher(each) for each in (teacher.members.values() if isinstance(teacher, Ensemble) else (teacher,))]
    return Record(
        command=list(sys.argv),
        teacher=found[0],
        other_teachers=[each for each in found[1:] if each is not None],
        teacher_cache=_cache(teacher),
        student=student_facts(trainer.model, Path(args.output_dir)),
        task=trainer.distillation.pair.task.name,
        objectives=objective_facts(trainer.distillation),
        layer_maps=layer_maps(trainer.distillation),
        origins=_start(trainer.model),
        training_arguments={
            **args.to_sanitized_dict(),
            **batch_size_facts(trainer.tokens_per_batch),
            **({} if trainer.on_policy is None else {"on_policy": trainer.on_policy.facts()}),
        },
        data=DataFacts(
            name=_name(trainer.train_dataset),
            sizes={split: len(rows) for split, rows in data.items() if hasattr(rows, "__len__")},
            fingerprint=getattr(trainer.train_dataset, "_fingerprint", None),
        ),
        seeds={"training": args.seed},
        versions=versions,
        hardware=hardware,
        steps=state.global_step,
        epochs=float(state.epoch or 0.0),
        metrics=finite_metrics(_evaluation(state.log_history, _best_step(trainer))),
        emissions=emissions_of([Path(args.output_dir)]),
    )


def _teacher(teacher: Teacher | None) -> ModelFacts | None:
    """Of a cached one its shape is known, and its id where it came from the Hub."""
    if isinstance(teacher, Frozen):
        name = teacher.model.name_or_path
        facts = ModelFacts.of(teacher.model, name or None)
        return facts.model_copy(update=license_of(name, facts.revision)._asdict() if name else {})
    if isinstance(teacher, Cached):
        skeleton = teacher.anatomy.base
        return ModelFacts.of(skeleton, hub_id(skeleton.name_or_path))
    return None


def _start(student: PreTrainedModel) -> dict[str, Origin]:
    """What the student was loaded from, with its licence, if it was loaded.

    A model that is made from a loaded configuration has its name, too; transformers marks loaded weights alone.
    """
    name = getattr(student, "name_or_path", "")
    if not name or not any(getattr(each, "_is_hf_initialized", False) for each in student.parameters()):
        return {}
    repo_id = hub_id(name)
    revision = getattr(student.config, "_commit_hash", None) if repo_id else None
    return {"student.model": Origin(id=repo_id, revision=revision, **license_of(name, revision)._asdict())}


def _cache(teacher: Teacher | None) -> CacheFacts | None:
    return CacheFacts(**teacher.facts.told()) if isinstance(teacher, Cached) else None


def _name(dataset: Any) -> str:
    info = getattr(dataset, "info", None)
    return getattr(info, "dataset_name", None) or "a data set of your own"


def _validation(rows: Any) -> dict[str, Any]:
    """The sets that are evaluated on, by their names in the record."""
    if isinstance(rows, Mapping):
        return {f"validation_{name}": each for name, each in rows.items()}
    return {"validation": rows}


def _best_step(trainer: BoundTrainer) -> int | None:
    """The step whose checkpoint became the student at the end; None where it is the last one."""
    best = trainer.state.best_model_checkpoint
    return int(best.rpartition("-")[2]) if trainer.args.load_best_model_at_end and best is not None else None


def _evaluation(history: list[dict[str, float]], step: int | None) -> dict[str, float]:
    """The results at a step (None: at the newest that has any), of which each set of rows has a line, without times
    and without what a training row says."""
    rows = [row for row in history if any(key.startswith("eval_") for key in row)]
    chosen = rows[-1].get("step") if rows and step is None else step
    found = {key: value for row in rows if row.get("step") == chosen for key, value in row.items()}
    times = ("_runtime", "_per_second")
    return {key: value for key, value in found.items() if key.startswith("eval_") and not key.endswith(times)}
