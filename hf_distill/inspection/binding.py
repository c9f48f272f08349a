"""The stages of a recipe bound to its models: what each term reads and learns, and what each refuses."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill import checks
from hf_distill.anatomy import Anatomy
from hf_distill.distillation import Distillation
from hf_distill.errors import DistillationError
from hf_distill.inspection.blueprint import Blueprint
from hf_distill.loading import load_tokenizer
from hf_distill.objectives import Objective, Pair
from hf_distill.objectives.terms import Term
from hf_distill.recipe import Recipe, Stage, Student
from hf_distill.recipe.rules.stages import PREVIOUS
from hf_distill.runs.adapters import adapted
from hf_distill.runs.chains import ensemble_of, written_teacher
from hf_distill.runs.freezing import at_rest, freeze
from hf_distill.runs.models import leading, reads_its_own, teacher_path
from hf_distill.tasks import task_of
from hf_distill.teachers import AdapterOff, Frozen, MovingAverage, Peers, Teacher
from hf_distill.vocabulary import may_run_in_part


@dataclass
class BoundStage:
    """A stage with its models. `terms` are as they were bound, each with what it refused, if anything; `problems` are
    those of the stage as a whole. `distillation` is None where there are any; where there is no `pair` either, no term
    is bound.
    """

    stage: Stage
    student: PreTrainedModel
    teacher: Teacher | None = None
    pair: Pair | None = None
    terms: list[tuple[Term, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    distillation: Distillation | None = None

    @property
    def all_problems(self) -> list[str]:
        """What does not fit, of the stage and of every term."""
        named = [f"stage {self.stage.name!r}: {text}" for text in self.problems]
        refused = [(term, text.removeprefix(f"{term.objective.name}: ")) for term, text in self.terms if text]
        return named + [f"stage {self.stage.name!r}, {term.name}: {text}" for term, text in refused]


Made = Mapping[str, PreTrainedModel]
"""The students of the stages so far, by the stage's name; that of the stage before as `previous`."""


def models_of_stages(blueprint: Blueprint) -> Iterator[tuple[Stage, PreTrainedModel, Made]]:
    """Every stage of a recipe in order, with a student of its own, as it is before the stage, and those of the stages
    before.

    Raises: `DistillationError` and its kinds for models that cannot be made.
    """
    made: dict[str, PreTrainedModel] = {}
    student: PreTrainedModel | None = None
    for stage in blueprint.recipe.stages:
        if student is None or stage.student is not None:
            student = blueprint.made(stage.student) if isinstance(stage.student, Student) else blueprint.student
        yield stage, copy.deepcopy(student), made
        made = {**made, PREVIOUS: student, stage.name: student}


def bound_stages(blueprint: Blueprint, tokenizer_size: int | None = None) -> Iterator[BoundStage]:
    """Every stage of a recipe with its models and terms, in order.

    Raises: as `models_of_stages`; what terms refuse is kept beside them.
    """
    for stage, student, made in models_of_stages(blueprint):
        found = BoundStage(stage, student)
        _bind(found, blueprint, made, tokenizer_size)
        yield found


def _bind(found: BoundStage, blueprint: Blueprint, made: Made, size: int | None) -> None:
    """Binds each term by itself, for all that they refuse, and then the stage as it is trained."""
    stage, place = found.stage, blueprint.place
    try:
        with place:
            _prepare(found, blueprint, made, size)
            terms = stage.terms()
            checks.has_peers(terms, found.teacher)
    except DistillationError as error:
        found.problems.append(str(error))
        found.pair, found.terms = None, [(term, "") for term in stage.terms()]
        return
    assert found.pair is not None
    for term in terms:
        found.terms.append((term, refusal(term.objective, found.pair, term.member, place)))
    if any(text for _, text in found.terms):
        return
    try:
        found.distillation = _whole(found, found.pair, place)
    except DistillationError as error:
        found.problems.append(str(error))


def _prepare(found: BoundStage, blueprint: Blueprint, made: Made, size: int | None) -> None:
    """Freezes what the stage leaves alone, and pairs the student with its teacher."""
    stage, title = found.stage, f"stage {found.stage.name!r}"
    groups = tuple(stage.train) if isinstance(stage.train, list) else ()
    freeze(found.student, groups, title)
    at_rest(found.student, groups)
    if stage.lora is not None:
        found.student = adapted(found.student, stage.lora, title)
    found.teacher = teacher_of(stage, blueprint, made)
    student, task = Anatomy.of(found.student), task_of(found.student)
    smoothing = float(stage.arguments.get("label_smoothing_factor") or 0.0)
    if found.teacher is None:
        found.pair = Pair.of(student, None, task, label_smoothing=smoothing)
        return
    found.teacher.meet(found.student)
    settings: dict[str, Any] = {"tokenizer_size": size, "label_map": None, "label_smoothing": smoothing}
    if found.teacher.tokenizer is not None:
        ours = blueprint.recipe.student
        tokenizer = load_tokenizer(
            str(ours.model), role="student", revision=ours.revision, trust_remote_code=ours.trust_remote_code
        )
        settings["across"] = checks.two_tokenizers(tokenizer, found.teacher.tokenizer)
    found.pair = found.teacher.pair(student, task, **settings)


def teacher_of(stage: Stage, blueprint: Blueprint, made: Made) -> Teacher | None:
    """Who teaches a stage."""
    section = blueprint.recipe.teacher
    if stage.teacher is not None:
        return Frozen(copy.deepcopy(made[stage.teacher]))
    if section is None:
        return None
    if section.moving_average is not None:
        return MovingAverage(**section.moving_average.model_dump())
    if section.peers is not None:
        peers = [blueprint.made(blueprint.recipe.student) for _ in range(section.peers.count)]
        return Peers(peers, learning_rate=section.peers.learning_rate)
    if section.cached is not None:
        with torch.device("cpu"):  # its tables are numbers, whatever place the models are made at
            return written_teacher(blueprint.recipe)
    if section.adapter_off is not None:
        return None if stage.lora is None else AdapterOff(**section.adapter_off.model_dump())
    if section.ensemble is not None:
        return ensemble_of(section.ensemble, {name: Frozen(each) for name, each in blueprint.members.items()})
    return None if blueprint.teacher is None else Frozen(blueprint.teacher, tokenizer=_own_tokenizer(blueprint.recipe))


def _own_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase | None:
    """That of a teacher which reads by its own."""
    section = leading(recipe) if reads_its_own(recipe) else None
    if section is None:
        return None
    return load_tokenizer(
        teacher_path(section),
        role="teacher",
        revision=section.revision,
        trust_remote_code=section.trust_remote_code,
    )


def refusal(objective: Objective, pair: Pair, member: str = "", place: torch.device | str = "meta") -> str:
    """What an objective says against a pair; empty where it fits and is bound."""
    try:
        with torch.device(place):
            objective.bind(pair.of_member(member))
            objective.needs()
    except DistillationError as error:
        return str(error)
    return ""


def _whole(found: BoundStage, pair: Pair, place: torch.device) -> Distillation:
    teacher = found.teacher
    with place:
        distillation = Distillation(
            found.student,
            found.stage.terms(),
            pair,
            in_part=may_run_in_part(pair, taught=teacher is not None),
            teacher_head=None if teacher is None else teacher.head,
            alongside=None if teacher is None else teacher.alongside,
        )
        if teacher is not None:
            teacher.bind(distillation.reads().teacher)
            teacher.bind(frozenset())  # takes its hooks off
    found.terms = [(_with_objective(term, distillation.objectives[term.name]), "") for term, _ in found.terms]
    return distillation


def _with_objective(term: Term, objective: nn.Module) -> Term:
    """The same term with an objective that is bound."""
    return Term(objective, term.weight, term.name, term.member)  # type: ignore[arg-type]
