"""Recipes tried on candidates, as runs in folders of their own, by successive halving."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from hf_distill.errors import OF_THE_PLACE, DataError, DistillationError
from hf_distill.recipe import Recipe
from hf_distill.runs import run
from hf_distill.runs.answering import evidence_of
from hf_distill.runs.arguments import QUIET
from hf_distill.runs.folder import read_json, write_json
from hf_distill.search.held_out import HeldOut, on_held_out
from hf_distill.search.survey import Candidate

logger = logging.getLogger(__name__)

REDUCTION = 3
"""Of so many trials one goes on, with so many times the rows."""

RUNGS = 3
FEWEST_ROWS = 64
MOST_ROWS = 2**40
PILOT_ROWS = 512
"""Rows that are trained on to see how long a row takes."""


@dataclass(frozen=True)
class Trial:
    """A recipe for a candidate, its learning rates times `scale`."""

    candidate: Candidate
    recipe_name: str
    scale: float
    recipe: Recipe

    @property
    def name(self) -> str:
        """That of its folder."""
        return f"{self.candidate.name.replace(' ', '-')}-{self.recipe_name}-{self.scale:g}"


@dataclass(frozen=True)
class Judged:
    """What came of a run: the metric on the rows held out, the seconds it took; or why it was refused."""

    rows: Annotated[int, Field(ge=1, le=MOST_ROWS)]
    value: Annotated[float, Field(allow_inf_nan=False)] | None
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    folder: str
    message: str = ""


def _judged(known: Mapping[str, Any], path: Path) -> Judged:
    """What stands in a file. Raises: `DataError` where that is no result of a run."""
    try:
        return TypeAdapter(Judged).validate_python(vars(Judged(**known)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except TypeError as error:
        reason = str(error)
    raise DataError(
        f"{path} holds no result of a trial ({reason}); remove it and the folder of its name, and the trial is run "
        "again."
    )


@dataclass
class Course:
    """How far a trial went, and how it ended: `finished`, `pruned`, `refused`, `out of time`, or it was not begun."""

    trial: Trial
    runs: list[Judged] = field(default_factory=list)
    outcome: str = "out of time"

    @property
    def standing(self) -> tuple[int, float]:
        """Rows and metric of its last scored run; more rows count more. (0, -∞) without any."""
        scored = [(each.rows, each.value) for each in self.runs if each.value is not None]
        return scored[-1] if scored else (0, -math.inf)

    @property
    def last(self) -> Judged:
        """Its last scored run."""
        return [each for each in self.runs if each.value is not None][-1]

    def to_dict(self) -> dict[str, Any]:
        """For the report."""
        trial = self.trial
        named = {"name": trial.name, "candidate": trial.candidate.name, "recipe": trial.recipe_name}
        scale = {"learning_rate_scale": trial.scale, "outcome": self.outcome}
        return {**named, **scale, "runs": [asdict(each) for each in self.runs]}


def trials_of(candidates: Sequence[Candidate], recipes: Mapping[str, Recipe], scales: Sequence[float]) -> list[Trial]:
    """Every recipe with every scale for every candidate, in the order in which they are tried: what stands first goes
    furthest where time is short."""
    return [
        Trial(candidate, name, scale, _for(recipe, candidate, scale))
        for scale in scales
        for name, recipe in recipes.items()
        for candidate in candidates
    ]


def told_of_untried(courses: Sequence[Course], seconds: float) -> str:
    """Which recipes there was no time to begin, of all that were to be tried; empty where there was for each."""
    begun = {course.trial.recipe_name for course in courses if course.runs}
    untried = [name for name in dict.fromkeys(course.trial.recipe_name for course in courses) if name not in begun]
    if not untried:
        return ""
    return (
        f"The time budget of {seconds:.0f} s was over after {len(begun)} of {len(begun) + len(untried)} recipes: "
        f"{', '.join(untried)} not tried. Give more (--time_budget), or fewer recipes (--recipes)."
    )


class Runner:
    """Trials as runs below `folder`; what came of each run is put down beside it, and not run again. What was broken
    off starts anew, as the seconds of its rest are not those of a run."""

    def __init__(self, held_out: HeldOut, folder: Path) -> None:
        self.held_out, self.folder = held_out, folder

    def judged(self, trial: Trial, rows: int) -> Judged:
        """The trial trained on `rows` rows, from the start and with its schedule to the end, so that trials of one
        rung are compared at the end of theirs; and its metric on the rows held out."""
        place = self.folder / trial.name / f"{rows}-rows"
        told = place.with_suffix(".json")
        known = read_json(told)
        if known is not None:
            return _judged(known, told)
        if place.exists():
            rmtree(place)
        found = self._run(trial, rows, place)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(told, asdict(found))
        return found

    def _run(self, trial: Trial, rows: int, place: Path) -> Judged:
        stages = range(len(trial.recipe.stages))
        quiet = {f"stages.{i}.arguments.{name}": value for i in stages for name, value in QUIET.items()}
        started = time.perf_counter()
        value, message = None, ""
        try:
            recipe = on_held_out(trial.recipe, self.held_out, rows).override(quiet)
            run(recipe, place, evaluate=False)
            value = evidence_of(recipe, place)[1].value()
            if not math.isfinite(value):
                value, message = None, f"the metric on the rows held out is {value}"
        except OF_THE_PLACE:
            raise
        except DistillationError as error:
            message = str(error)
        seconds = time.perf_counter() - started
        found = f"{value:.4f}" if value is not None else message
        logger.info("%s, %d rows, %.0f s: %s", trial.name, rows, seconds, found)
        return Judged(rows, value, seconds, str(place), message)


def tried(trials: Sequence[Trial], rows: int, seconds: float, judge: Callable[[Trial, int], Judged]) -> list[Course]:
    """Successive halving (`halve`) of the trials, of which there are so many training `rows`, in about `seconds`.

    A pilot run tells how long a row takes. It is of the first trial that is not refused, as a refusal tells nothing;
    those before it are refused for good.
    """
    refused: list[Course] = []
    pilot_rows = min(PILOT_ROWS, rows)
    for i, trial in enumerate(trials):
        pilot = judge(trial, pilot_rows)
        seconds = max(0.0, seconds - pilot.seconds)
        if pilot.value is not None:
            number, a_row = len(trials) - i, pilot.seconds / pilot.rows
            first_rows = first_rows_of(number, rows, seconds, a_row)
            logger.info("%d trials, from %d rows on, in %.0f s", number, first_rows, seconds)
            return [*refused, *halve(trials[i:], first_rows, seconds, judge, seconds_a_row=a_row)]
        refused.append(Course(trial, [pilot], "refused"))
    return refused


def halve(
    trials: Sequence[Trial],
    first_rows: int,
    seconds: float,
    judge: Callable[[Trial, int], Judged],
    *,
    seconds_a_row: float = 0.0,
) -> list[Course]:
    """Successive halving (Jamieson and Talwalkar, 2016, arXiv:1502.07943; one after the other as in Li et al., 2020,
    arXiv:1810.05934), by Optuna: each trial is run on `first_rows` rows, and goes on with three times as many while it
    is in the best third of those that came as far, up to nine times.

    No run is begun that would end after `seconds`, by how long others took, or before any was scored by
    `seconds_a_row`; the first one always is. The order and the outcome follow from the values and times alone, so that
    a search that was broken off is gone on with by doing it again, with runs that are there already.

    Raises: `DistillationError` where Optuna is missing.
    """
    optuna = _optuna()
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    courses, left = [Course(trial) for trial in trials], _Time(seconds, first_rows * seconds_a_row)
    for course in courses:
        asked = study.ask()
        for rung in range(RUNGS):
            if not left.allows(rung):
                break
            rows = first_rows * REDUCTION**rung
            found = judge(course.trial, rows)
            course.runs.append(found)
            left.add(rung, found)
            if found.value is None:
                course.outcome = "refused"
                break
            asked.report(found.value, REDUCTION**rung)
            last = rung == RUNGS - 1
            course.outcome = "finished" if last else "pruned" if asked.should_prune() else "out of time"
            if course.outcome != "out of time":
                break
        state = _state(optuna, course)
        study.tell(asked, course.standing[1] if state.name == "COMPLETE" else None, state=state)
    return courses


class _Time:
    """The seconds that runs took, and may take; `first` is what one of the first rung is expected to."""

    def __init__(self, most: float, first: float) -> None:
        self.most, self.first, self.spent = most, first, 0.0
        self.longest: dict[int, float] = {}

    def add(self, rung: int, found: Judged) -> None:
        self.spent += found.seconds
        if found.value is not None:
            self.longest[rung] = max(found.seconds, self.longest.get(rung, 0.0))

    def allows(self, rung: int) -> bool:
        """Whether a run of this rung is likely to end in time."""
        expected = self.longest[rung - 1] * REDUCTION if rung else self.first
        return self.spent == 0.0 or self.spent + self.longest.get(rung, expected) <= self.most


def first_rows_of(trials: int, rows: int, seconds: float, seconds_a_row: float) -> int:
    """The rows of the first rung, by which all rungs together take about `seconds`: each rung takes as long as
    another, as a third of its trials go on with three times the rows."""
    affordable = int(seconds / (seconds_a_row * trials * RUNGS))
    most: int = max(1, rows // REDUCTION ** (RUNGS - 1))
    return min(most, max(FEWEST_ROWS, affordable))


def _for(recipe: Recipe, candidate: Candidate, scale: float) -> Recipe:
    """The recipe with the candidate's student, every learning rate times `scale`."""
    rates = {
        f"stages.{i}.arguments.learning_rate": scale * float(stage.arguments.get("learning_rate", 5e-5))
        for i, stage in enumerate(recipe.stages)
    }
    return recipe.override({"student": candidate.shape.section(), **rates})


def _state(optuna: Any, course: Course) -> Any:
    states = optuna.trial.TrialState
    if course.outcome == "pruned":
        return states.PRUNED
    return states.COMPLETE if course.standing[0] else states.FAIL


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise DistillationError(
            f'Recipes are tried by Optuna, which is not installed ({error}): pip install "hf_distill[search]"'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
