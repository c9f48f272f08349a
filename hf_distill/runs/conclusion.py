"""After training: everything that is left in the folder."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from hf_distill.hub.license import license_of
from hf_distill.hub.record import WEIGHT_FILES, CacheFacts, ModelFacts, sha256_of_files
from hf_distill.ranks import is_main_process
from hf_distill.runs import findings, models, record, results
from hf_distill.runs.caching import cache_facts
from hf_distill.runs.chains import finished_student
from hf_distill.runs.comparison import Comparison
from hf_distill.runs.preparation import Setup
from hf_distill.runs.publishing import Publication
from hf_distill.runs.results import RunResult


def conclude(setup: Setup, *, evaluate: bool, command: Sequence[str], publication: Publication | None) -> RunResult:
    """Evaluates, and writes the student, its results, record, card and report; the main process alone writes."""
    student = finished_student(setup, setup.jobs.student[-1])
    compared = Comparison(setup)
    if evaluate and setup.workload.judged_by_objectives:
        compared.add_judged(student)
    elif evaluate:
        compared.add_all(student)
    result = compared.result()
    if is_main_process():
        folder = setup.folder
        folder.take_student(setup.jobs.student[-1].folder)
        measured = (setup.jobs.student[-1].mark or {}).get("metrics", {})
        trained = {name: value for name, value in measured.items() if not name.startswith("eval_")}
        trained |= setup.workload.counted()
        results.write_results(folder, train=trained, **({"eval": compared.flat()} if evaluate else {}))
        record.write_record(folder, _story(setup, compared, command), student, publication)
        if result.runs:
            results.write_pictures(folder, result, findings.of_run(setup, compared.answers, student))
        folder.keep_results(result.to_dict())
    return result


def _story(setup: Setup, compared: Comparison, command: Sequence[str]) -> record.Story:
    return record.Story(
        command=command,
        recipe=setup.recipe,
        workload=setup.workload,
        jobs=setup.jobs.student,
        losses=setup.losses,
        cuts=setup.cuts,
        teacher=_teacher_facts(setup),
        other_teachers=_other_teachers(setup),
        teacher_cache=_cache_facts(setup),
        metrics={role: compared.metrics(role) for role in compared.answers} or {"student": compared.flat()},
        intervals=compared.intervals(),
        latencies={role: found.latency for role, found in compared.summaries.items() if found.latency is not None},
    )


def _other_teachers(setup: Setup) -> list[ModelFacts]:
    """Of several teachers those beside the first."""
    several = None if setup.recipe.teacher is None else setup.recipe.teacher.ensemble
    if several is None:
        return []
    paths = {name: models.teacher_path(member) for name, member in several.members.items()}
    return [_facts(model, paths[name]) for name, model in list(setup.all_members().items())[1:]]


def _facts(model: PreTrainedModel, name_or_path: str) -> ModelFacts:
    """With the licence that its card states."""
    facts = ModelFacts.of(model, name_or_path)
    return facts.model_copy(update=license_of(name_or_path, facts.revision)._asdict())


def _cache_facts(setup: Setup) -> CacheFacts | None:
    found = cache_facts(setup.recipe, setup.folder)
    return None if found is None else CacheFacts(**found.told())


def _teacher_facts(setup: Setup) -> ModelFacts | None:
    """The teacher by the name of what it was loaded from; of one that was trained here, the sums of its own files."""
    section = models.leading(setup.recipe)
    if setup.teacher is None or section is None:
        return None
    facts = _facts(setup.teacher, models.teacher_path(section))
    if setup.jobs.teacher is None:
        return facts
    return facts.model_copy(update={"files": sha256_of_files(setup.jobs.teacher.folder, WEIGHT_FILES)})
