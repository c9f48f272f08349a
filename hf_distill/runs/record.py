"""The record of a run and the card made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from transformers import PreTrainedModel

from hf_distill.distillation import Distillation
from hf_distill.evaluation.latency import Latency
from hf_distill.hub.card import Card
from hf_distill.hub.emissions import emissions_of
from hf_distill.hub.license import license_of
from hf_distill.hub.record import (
    CacheFacts,
    CutFacts,
    ModelFacts,
    ObjectiveFacts,
    Origin,
    Record,
    Speed,
    batch_size_facts,
    environment,
    finite_metrics,
    is_start,
)
from hf_distill.hub.student import student_facts
from hf_distill.hub.terms import layer_maps, objective_facts
from hf_distill.recipe import Recipe
from hf_distill.runs.folder import RunFolder
from hf_distill.runs.generating import texts_counted
from hf_distill.runs.measuring import Role
from hf_distill.runs.origins import origins_of, value_at
from hf_distill.runs.publishing import Publication
from hf_distill.runs.stages import Job
from hf_distill.runs.workload import Workload
from hf_distill.tasks import task_of


@dataclass(frozen=True)
class Losses:
    """The terms of all stages, and the layers that they pair, by the term's name; with several stages after the
    stage's name and a dot."""

    objectives: Sequence[ObjectiveFacts]
    layer_maps: Mapping[str, list[tuple[int, int]]]

    @classmethod
    def of(cls, bound: Mapping[str, Distillation]) -> Losses:
        """The facts of bound stages, by their names; the models that they are bound to are let go."""
        facts: list[ObjectiveFacts] = []
        pairs: dict[str, list[tuple[int, int]]] = {}
        for stage, distillation in bound.items():
            prefix = "" if len(bound) == 1 else f"{stage}."
            facts += objective_facts(distillation, prefix)
            pairs |= layer_maps(distillation, prefix)
        return cls(facts, pairs)


@dataclass(frozen=True)
class Story:
    """What is told of a run; `jobs` are the student's."""

    command: Sequence[str]
    recipe: Recipe
    workload: Workload
    jobs: Sequence[Job]
    losses: Losses
    cuts: Mapping[str, CutFacts]
    teacher: ModelFacts | None
    other_teachers: Sequence[ModelFacts]
    teacher_cache: CacheFacts | None
    metrics: Mapping[Role, Mapping[str, float]]
    intervals: Mapping[Role, Mapping[str, tuple[float, float]]]
    latencies: Mapping[Role, Latency]


def write_record(folder: RunFolder, story: Story, student: PreTrainedModel, publication: Publication | None) -> None:
    """Writes `distillation.json`, and `README.md` as it will be published, if it will be."""
    record = _record(story, student, folder)
    record.write(folder.path)
    card = Card.from_record(record) if publication is None else publication.card(record)
    card.write(folder.path)


def _record(story: Story, student: PreTrainedModel, folder: RunFolder) -> Record:
    versions, hardware = environment()
    marks = [job.mark or {} for job in story.jobs]
    arguments = story.jobs[-1].arguments()
    metrics = {role: finite_metrics(_lasting(values)) for role, values in story.metrics.items()}
    return Record(
        command=list(story.command),
        teacher=story.teacher,
        other_teachers=list(story.other_teachers),
        teacher_cache=story.teacher_cache,
        student=student_facts(student, folder.path),
        cuts=dict(story.cuts),
        task=task_of(student).name,
        objectives=list(story.losses.objectives),
        layer_maps=dict(story.losses.layer_maps),
        recipe=story.recipe.to_dict(),
        origins=_origins(story.recipe),
        training_arguments={
            **arguments.to_dict(),
            "mixed_precision": arguments.mixed_precision,
            **batch_size_facts(story.jobs[-1].tokens_per_batch),
        },
        texts=texts_counted(folder),
        data=story.workload.facts(story.recipe),
        seeds={"training": story.recipe.seed, **_split_seed(story.recipe)},
        versions=versions,
        hardware=hardware,
        steps=sum(int(mark.get("steps", 0)) for mark in marks),
        epochs=float(sum(mark.get("epochs", 0.0) for mark in marks)),
        metrics=metrics.get("student", {}),
        control_metrics=metrics.get("control", {}),
        teacher_metrics=metrics.get("teacher", {}),
        intervals={role: dict(found) for role, found in story.intervals.items() if found},
        speeds={role: Speed(**asdict(latency)) for role, latency in story.latencies.items()},
        emissions=emissions_of(job.folder for job in story.jobs),
    )


def _origins(recipe: Recipe) -> dict[str, Origin]:
    """The models and files of a recipe; those that the student starts from with their licences, which hold for it."""
    values, found = recipe.to_dict(), origins_of(recipe)
    licences = {key: license_of(value_at(values, key), each.revision) for key, each in found.items() if is_start(key)}
    return found | {key: found[key].model_copy(update=stated._asdict()) for key, stated in licences.items()}


def _lasting(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without the times, which say nothing about the model; `_mm` are those of a second validation (MNLI)."""
    times = ("_runtime", "_per_second")
    return {name: value for name, value in metrics.items() if not name.removesuffix("_mm").endswith(times)}


def _split_seed(recipe: Recipe) -> dict[str, int]:
    return {"split": recipe.data.split.seed} if recipe.data is not None and recipe.data.split is not None else {}
