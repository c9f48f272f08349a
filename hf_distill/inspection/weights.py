"""What weights and the optimizer take before any activation: in a run, and as models are built to be measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from transformers import PreTrainedModel

from hf_distill.inspection.binding import BoundStage
from hf_distill.inspection.blueprint import Blueprint
from hf_distill.inspection.parameters import Trained
from hf_distill.loading import DTYPES, HELD_IN
from hf_distill.recipe import Recipe, Stage

FULL = 4.0
"""Bytes of a parameter in float32, in which models are built, and students held."""

FEWEST = 0.5
"""Bytes of a parameter of a checkpoint that is stored in few bits, at least."""

STATES = 4
"""Copies of a parameter that trains: itself, its gradient, and two averages of AdamW."""

ADAMW = (None, "adamw_torch", "adamw_torch_fused")
"""The optimizers (`optim`) that are known to hold these, the default among them; of others the parameter counts."""

SPREAD = ("fsdp", "deepspeed")
"""Arguments by which each process holds a part of what is trained."""

Width = Callable[[PreTrainedModel], float]


def is_spread(recipe: Recipe) -> bool:
    """Whether models lie in several places, or elsewhere than where the student trains, in parts that are not known
    here."""
    section = recipe.teacher
    has_map = section is not None and section.device_map is not None
    return has_map or any(stage.arguments.get(name) for stage in recipe.stages for name in SPREAD)


def least_bytes(blueprint: Blueprint, stages: Iterable[tuple[BoundStage, Trained]]) -> float:
    """What a run holds at least, with each model as the recipe has it lie in memory. A teacher whose cache is read is
    not there while a student trains."""
    section = blueprint.recipe.teacher
    teachers = sum(size * _teachers_width(blueprint.recipe, model) for model, size in _teachers(blueprint))
    student = max((_of_stage(*each, _width) for each in stages), default=0.0)
    is_apart = section is not None and section.cache is not None
    return max(teachers, student) if is_apart else teachers + student


def built_bytes(blueprint: Blueprint, stages: Iterable[tuple[BoundStage, Trained]]) -> float:
    """What is held at least where steps are measured: all of it in float32, in one place."""
    teachers = sum(size * FULL for _, size in _teachers(blueprint))
    return teachers + max((_of_stage(*each, lambda model: FULL) for each in stages), default=0.0)


def is_built_larger(blueprint: Blueprint, stages: Sequence[tuple[BoundStage, Trained]]) -> bool:
    """Whether what is measured takes more than a run does, or may, so that it need not fit."""
    return is_spread(blueprint.recipe) or built_bytes(blueprint, stages) > least_bytes(blueprint, stages)


def _teachers(blueprint: Blueprint) -> Iterator[tuple[PreTrainedModel, int]]:
    """The teachers that are models of their own, and their parameters."""
    for model in (blueprint.members or {"": blueprint.teacher}).values():
        if model is not None:
            yield model, sum(parameter.numel() for parameter in model.parameters())


def _of_stage(found: BoundStage, trained: Trained, width: Width) -> float:
    """The student's weights, and what trains of them and beside them, with gradients and averages."""
    learning = (0 if trained.points else trained.trained) + trained.beside
    resting = trained.student + trained.beside - learning
    return resting * width(found.student) + learning * FULL * _copies(found.stage)


def _copies(stage: Stage) -> int:
    return STATES if stage.arguments.get("optim") in ADAMW else 1


def _width(model: PreTrainedModel) -> float:
    """Bytes of a parameter that does not train."""
    return FULL if getattr(model.config, "quantization_config", None) is None else FEWEST


def _teachers_width(recipe: Recipe, model: PreTrainedModel) -> float:
    """Bytes of a teacher's parameter while a student learns from it."""
    section = recipe.teacher
    if section is None or _width(model) < FULL:
        return _width(model)
    if section.quantization is not None:
        return 1.0
    if section.dtype is None and section.device_map is None:
        return FULL
    return float(DTYPES[section.dtype or HELD_IN].itemsize)
