"""From a recipe to a student: `run`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hf_distill.ranks import wait_for_everyone
from hf_distill.recipe import Recipe
from hf_distill.runs.answering import evaluate_alone, predict_tests
from hf_distill.runs.conclusion import conclude
from hf_distill.runs.folder import RunFolder
from hf_distill.runs.preparation import Jobs, plan, prepare
from hf_distill.runs.publishing import Publication
from hf_distill.runs.results import RunResult
from hf_distill.runs.training import train_all
from hf_distill.runs.workload import Workload
from hf_distill.runs.workloads import load_workload

logger = logging.getLogger(__name__)


def run(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    train: bool = True,
    evaluate: bool = True,
    predict: bool = False,
    command: Sequence[str] = (),
    publication: Publication | None = None,
    resume_despite: Collection[str] = (),
) -> RunResult:
    """Does what a recipe says, and leaves the student with its card, record, results and report in `output_dir`.

    `recipe` is one that was loaded, its plain values, the path of a file, or the name of a shipped one. Each stage
    has a folder of its own below `output_dir/stages`. Called again with the same recipe and folder, finished stages
    are skipped and a broken-off one goes on from its last whole checkpoint; where all is finished, nothing is trained.

    `evaluate` compares teacher, student and control on the reported split; `predict` writes
    `predict_results_<task>.txt` for the tests. Without `train` the student in `output_dir` (or else the recipe's, if
    that has a head) is evaluated or predicts as it is. `command` is what the record names as the way to make the
    student again.

    `resume_despite` names what may differ between a stage's last checkpoint and the run that goes on from it, as for
    `DistillationTrainer`: `world_size`, or `teacher`. Another recipe, or other data, needs another folder.

    With several processes every one of them calls this; the main one writes. At SIGTERM a stage writes a checkpoint at
    the end of the step, and the process exits with 75.

    Raises: `DistillationError` and its kinds, before anything is trained or written where that can be known.
    """
    loaded = as_recipe(recipe)
    if train:
        return trained(loaded, output_dir, evaluate, predict, command, publication, resume_despite=resume_despite)
    folder = RunFolder(output_dir)
    if publication is not None:
        publication.check()
    result = evaluate_alone(loaded, folder, evaluate=evaluate, predict=predict)
    return result if publication is None else replace(result, url=publication.send(folder))


def as_recipe(recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str]) -> Recipe:
    """The recipe of plain values, of a file, or of the name of a shipped one."""
    if isinstance(recipe, Recipe):
        return recipe
    return Recipe.from_dict(recipe) if isinstance(recipe, Mapping) else Recipe.load(recipe)


def trained(
    recipe: Recipe,
    output_dir: str | os.PathLike[str],
    evaluate: bool,
    predict: bool,
    command: Sequence[str],
    publication: Publication | None,
    check: Callable[[Workload], None] | None = None,
    resume_despite: Collection[str] = (),
) -> RunResult:
    """What `run` does where it trains; `check` may refuse the rows before anything is written."""
    folder = RunFolder(output_dir)
    if publication is not None:
        publication.check()
    workload = load_workload(folder.pinned(recipe), predict=predict)
    if check is not None:
        check(workload)
    folder.check(recipe, workload.sources)
    jobs = plan(recipe, folder, resume_despite)
    kept = folder.results() if jobs.finished else None
    result = None if kept is None else RunResult.from_dict(folder.path, kept)
    if result is not None and (result.metrics or not evaluate):
        logger.warning("%s: the run is finished; nothing is trained.", folder.path)
    else:
        result = _train(recipe, folder, workload, jobs, evaluate, command, publication)
    if predict:
        result = replace(result, predictions=tuple(predict_tests(recipe, folder, workload)))
    return result if publication is None else replace(result, url=publication.send(folder))


def _train(
    recipe: Recipe,
    folder: RunFolder,
    workload: Workload,
    jobs: Jobs,
    evaluate: bool,
    command: Sequence[str],
    publication: Publication | None,
) -> RunResult:
    setup = prepare(recipe, folder, workload, jobs)
    with folder.claimed(recipe, workload.sources, workload.commits):
        wait_for_everyone()
        saves = None if publication is None else publication.callback()
        train_all(setup, () if saves is None else (saves,))
        result = conclude(setup, evaluate=evaluate, command=command, publication=publication)
        wait_for_everyone()
    return result
