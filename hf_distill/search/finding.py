"""From a budget to a student: candidates are measured, recipes tried on those that fit, the best one trained."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hf_distill.errors import DistillationError
from hf_distill.hub.record import WEIGHT_FILES, sha256_of_files
from hf_distill.locks import claimed
from hf_distill.recipe import Recipe
from hf_distill.runs import models, run
from hf_distill.runs.commits import at_kept_commit
from hf_distill.runs.folder import read_json, write_json
from hf_distill.runs.workloads import load_workload
from hf_distill.runs.workloads.text_classification import TextClassification
from hf_distill.search import front
from hf_distill.search.asked import TRIALS, Settings, check_folder, common
from hf_distill.search.bench import Bench
from hf_distill.search.budget import Budget, told
from hf_distill.search.clock import Clock
from hf_distill.search.comparing import Compared, Comparison
from hf_distill.search.exporting import export
from hf_distill.search.forms import forms_here
from hf_distill.search.held_out import HeldOut, hold_out
from hf_distill.search.points import Point
from hf_distill.search.shapes import shapes_of
from hf_distill.search.survey import Candidate, survey
from hf_distill.search.trials import Course, Runner, told_of_untried, trials_of, tried

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What came of a search. `student` is the winner in its form, measured again at the end; `fits` whether that kept
    to the budget; `export` the folder to use; `points` the front with all that was compared; `notes` what to know."""

    output_dir: Path
    student: Point
    fits: bool
    export: Path
    points: Sequence[Point]
    metric: str
    notes: Sequence[str]

    @property
    def table(self) -> str:
        """The points, and the notes below."""
        return "\n".join([front.front_table(self.points, self.metric), "", *self.notes])


def find(
    recipes: Mapping[str, Recipe],
    budget: Budget,
    output_dir: str | os.PathLike[str],
    settings: Settings | None = None,
) -> Found:
    """The most accurate student of a classifier that keeps to a budget, as far as the recipes and the time tell.

    `recipes`, by name, are of the same trained teacher and the same labelled texts; each one's student is replaced by
    a candidate. Shapes cut from the teacher (`search.shapes`) are timed in each form that this machine has
    (`search.forms`), on texts of the reported split; the largest that fit are tried with every recipe by successive
    halving (`search.trials`), judged on a tenth of the training rows; the best one is trained on all of them
    (`final`), with the control on the labels alone, and written in its form (`export`). At the end teacher, student
    and control are measured again, and compared on the reported split, which nothing was chosen on.

    Every trial is a run folder below `trials`. Called again with the same folder, what was measured or trained is not
    again.

    Raises: `DistillationError` and its kinds; for a budget that nothing can meet before anything is trained.
    """
    folder, shared = Path(output_dir).expanduser(), common(recipes)
    if folder.exists() and not folder.is_dir():
        raise DistillationError(f"{folder} is a file; give a folder as output_dir.")
    pinned = {name: at_kept_commit(recipe, folder) for name, recipe in recipes.items()}
    shared = common(pinned)
    workload = load_workload(shared)
    assert isinstance(workload, TextClassification)  # as `common` saw to
    at_work = f"another process is at work in {folder}; wait for it, or choose another output_dir."
    with claimed(folder, DistillationError, at_work, f"output_dir {folder}"):
        settings = Settings() if settings is None else settings
        check_folder(folder, recipes, budget, settings, {**workload.sources, "teacher": _sums(shared)})
        return _Search(pinned, shared, workload, budget, settings, folder).result()


def _sums(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of the teacher's files; of a model on the Hub the recipe may name a commit."""
    section = models.leading(recipe)
    assert section is not None  # as `common` saw to
    place = Path(models.teacher_path(section))
    return sha256_of_files(place, WEIGHT_FILES) if place.is_dir() else {}


class _Search:
    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        shared: Recipe,
        workload: TextClassification,
        budget: Budget,
        settings: Settings,
        folder: Path,
    ) -> None:
        self.recipes, self.workload, self.budget, self.folder = recipes, workload, budget, folder
        self.shared, self.settings = shared, settings
        self.remarks: list[str] = []
        device = torch.device(settings.device)
        self.forms, self.left_out = forms_here(device, settings.runtimes)
        teacher = models.load_teacher(shared, workload).to(device).eval()
        workload.fit(teacher, "teacher")
        tokenizer = models.load_tokenizer_of(shared, workload)
        self.clock = Clock(teacher, tokenizer, device, workload.texts(), shared.max_length)
        self.bench = Bench(self.clock, folder)

    def result(self) -> Found:
        """Step by step; each finds what is there already."""
        held_out = hold_out(self.workload, self.folder / "data")
        with self._timed("measuring"):
            candidates = self._candidates()
        with self._timed("trials"):
            courses = self._courses(candidates, held_out)
        winner = max(courses, key=lambda course: course.standing)
        if winner.standing[0] == 0:
            said = "; ".join(dict.fromkeys(each.message for course in courses for each in course.runs))
            raise DistillationError(f"search: no recipe could be tried on {candidates[0].name}: {said}")
        final = self.folder / "final"
        with self._timed("training"):
            run(winner.trial.recipe.override({"control": True}), final)
        comparison = Comparison(self.shared, self.workload, self.clock, self.folder, final)
        with self._timed("comparing"):
            forms = [form for form in self.forms if form.name not in self.bench.refused]
            compared = comparison.compared(courses, winner, forms)
            tokenizer, form = self.clock.tokenizer, winner.trial.candidate.form
            place = export(comparison.student(), tokenizer, form, final, self.folder / "export")
        found = self._found(winner, compared, place)
        front.write(self.folder, found.points, found.metric, self._report(candidates, courses, winner, found))
        return found

    def _candidates(self) -> list[Candidate]:
        shapes, refused = shapes_of(self.clock.teacher)
        self.left_out |= {"other widths": "; ".join(refused)} if refused else {}
        for name, why in self.left_out.items():
            logger.warning("left out: %s: %s", name, why)
        found = survey(shapes, self.forms, self.bench, self.budget, self.settings.keep)
        for each in found:
            logger.info("kept: %s: %s", each.name, told(each.cost.amounts()))
        return found

    def _courses(self, candidates: Sequence[Candidate], held_out: HeldOut) -> list[Course]:
        trials = trials_of(candidates, self.recipes, self.settings.learning_rate_scales)
        runner = Runner(held_out, self.folder / TRIALS)
        courses = tried(trials, held_out.rows, self.settings.time_budget, runner.judged)
        untried = told_of_untried(courses, self.settings.time_budget)
        if untried:
            logger.warning("%s", untried)
            self.remarks.append(untried)
        return courses

    def _found(self, winner: Course, compared: Compared, place: Path) -> Found:
        over = self.budget.overrun(compared.student.cost.amounts())
        trial, verb = winner.trial, "keeps to" if over <= 1 else "exceeds"
        notes = [
            f"Student: {trial.candidate.name}, by {trial.recipe_name} with learning rates times {trial.scale:g}. "
            f"Measured again, it {verb} the budget of {told(self.budget.limits())}: {over:.2f} of it.",
            f"Use it from {place}.",
            *self.remarks,
            *(f"Left out: {name}: {why}" for name, why in {**self.left_out, **self.bench.refused}.items()),
        ]
        metric = self.workload.metrics[0]
        return Found(self.folder, compared.student, over <= 1, place, compared.points, metric, notes)

    def _report(
        self, candidates: Sequence[Candidate], courses: Sequence[Course], winner: Course, found: Found
    ) -> dict[str, Any]:
        costs = [{"model": name, "form": form, **asdict(cost)} for (name, form), cost in self.bench.known.items()]
        return {
            "budget": self.budget.limits(),
            "left_out": {**self.left_out, **self.bench.refused},
            "measured": costs,
            "kept": [candidate.name for candidate in candidates],
            "trials": [course.to_dict() for course in courses],
            "winner": winner.trial.name,
            "form": winner.trial.candidate.form.name,
            "fits": found.fits,
            "export": found.export.relative_to(self.folder).as_posix(),
            "seconds": self._seconds(),
        }

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        """Adds the seconds of a step to those of earlier calls."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = self._seconds()
            total = seconds.get(step, 0.0) + time.perf_counter() - started
            write_json(self.folder / "seconds.json", {**seconds, step: total})

    def _seconds(self) -> dict[str, float]:
        return read_json(self.folder / "seconds.json") or {}
