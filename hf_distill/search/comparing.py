"""Teacher, students and control at the end of a search, on the rows that are reported."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from hf_distill.model_sizes import num_parameters
from hf_distill.recipe import Recipe
from hf_distill.runs import models
from hf_distill.runs.workload import Workload
from hf_distill.search.clock import Clock
from hf_distill.search.forms import PLAIN, Form, holds
from hf_distill.search.judging import Judge
from hf_distill.search.points import Point, Points
from hf_distill.search.trials import Course


@dataclass(frozen=True)
class Compared:
    """All points, the winner in its form among them as `student`."""

    points: Sequence[Point]
    student: Point


class Comparison:
    """`final` is the run folder of the winner, `forms` those that the machine has."""

    def __init__(self, recipe: Recipe, workload: Workload, clock: Clock, folder: Path, final: Path) -> None:
        self.recipe, self.workload, self.clock, self.final = recipe, workload, clock, final
        self.points = Points(folder, clock, lambda: Judge(recipe, workload, clock.teacher, clock.tokenizer))

    def compared(self, courses: Sequence[Course], winner: Course, forms: Sequence[Form]) -> Compared:
        """Teacher and student in float32 and in every form, the control in float32 and in the student's form, and of
        every other candidate its best trial, as far as that went."""
        chosen, point = winner.trial.candidate.form, self.points.point
        shown = dict.fromkeys((PLAIN, *forms))
        size = num_parameters(self.clock.teacher)
        of_teacher = [form for form in shown if holds(form, size)]
        teachers = [point(form.name, "teacher", form, lambda: self.clock.teacher) for form in of_teacher]
        students = {form: point(form.name, "student", form, self.student) for form in shown}
        controls = [point(form.name, "control", form, self._control) for form in dict.fromkeys((PLAIN, chosen))]
        return Compared([*teachers, *students.values(), *controls, *self._others(courses, winner)], students[chosen])

    def student(self) -> PreTrainedModel:
        """The winner, trained on all rows."""
        return self.trained(self.final)

    def trained(self, place: Path) -> PreTrainedModel:
        """The student of a run folder."""
        return models.load_finished(place, self.workload.auto_class, "student", self.recipe.student)

    def _control(self) -> PreTrainedModel:
        return self.trained(self.final / "stages" / "control")

    def _others(self, courses: Sequence[Course], winner: Course) -> Iterator[Point]:
        for candidate in dict.fromkeys(course.trial.candidate for course in courses):
            same = [course for course in courses if course.trial.candidate == candidate]
            best = max(same, key=lambda course: course.standing)
            if best.standing[0] and candidate != winner.trial.candidate:
                name = f"{candidate.name}, {best.last.rows:,} rows"
                student = functools.partial(self.trained, Path(best.last.folder))
                yield self.points.point(name, "student", candidate.form, student)
