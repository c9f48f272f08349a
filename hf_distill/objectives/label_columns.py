"""Which of the student's classes each term is about, where a teacher has some of them alone."""

from __future__ import annotations

from hf_distill.errors import IncompatiblePair
from hf_distill.objectives.base import Objective
from hf_distill.objectives.terms import Terms


def check_columns(terms: Terms) -> None:
    """Refuses bound terms that compare answers over other classes than both models have, and terms that each keep to
    some classes where these are together not all of the student's.

    Raises: `IncompatiblePair` with the term, and the classes that are left over.
    """
    for term in terms:
        lacking = _lacking(term.objective)
        if lacking:
            teacher = f"the teacher {term.member!r}" if term.member else "its teacher"
            raise IncompatiblePair(
                f"objective {term.objective.name!r} compares answers class by class, and {teacher} has no "
                f"{', '.join(map(repr, lacking))}; take learning_without_forgetting, which keeps to the labels that "
                "both have, or a teacher of all labels."
            )
    reading = [term.objective for term in terms if _reads_answers(term.objective)]
    columns = [objective.pair.student_columns for objective in reading]
    kept = {column for each in columns for column in each or ()}
    from_teachers = any(objective.needs_teacher for objective in reading if objective.pair.student_columns is not None)
    if from_teachers and None not in columns:
        pair = reading[0].pair
        left = [pair.classes[i] if pair.classes else str(i) for i in range(pair.student.num_logits) if i not in kept]
        if left:
            raise IncompatiblePair(
                f"the student's labels {', '.join(map(repr, left))} are learned from no teacher, and no term reads "
                "labels; the student's labels must be those of its teachers together. Add a term of labels, or a "
                "teacher that has them."
            )


def _reads_answers(objective: Objective) -> bool:
    return any(signal.field in ("logits", "input_gradient") for signal in objective.needs().student)


def _lacking(objective: Objective) -> tuple[str, ...]:
    """The student's classes that a teacher whose answers it reads lacks."""
    if not any(signal.field in ("logits", "input_gradient") for signal in objective.needs().teacher):
        return ()
    pairs = [objective.pair, *(objective.pair.members or {}).values()]
    return next((pair.lacking for pair in pairs if pair.lacking), ())
