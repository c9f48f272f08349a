"""The parts of a report: what each shows, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hf_distill.evaluation import diagrams, figures, heat_maps
from hf_distill.evaluation.findings import Example, Findings, Parting, Role
from hf_distill.evaluation.page import Part
from hf_distill.evaluation.summary import RunSummary, one_line

Draw = Callable[[Sequence[RunSummary], str], bytes | None]

TRADE_OFFS: dict[str, tuple[str, Draw]] = {
    "accuracy_latency.png": ("Latency and {metric}", figures.accuracy_latency),
    "accuracy_size.png": ("Size and {metric}", figures.accuracy_size),
    "accuracy_training_time.png": ("Training time and {metric}", figures.accuracy_training_time),
}
CURVES = {"losses.png": ("Losses and evaluation over the steps", figures.losses)}
PROGRESS = {"progress.png": ("Evaluation over the steps", figures.progress)}

ROLES: tuple[Role, ...] = ("teacher", "student", "control")
OF_ONE_RUN = {"accuracy_latency.png": TRADE_OFFS["accuracy_latency.png"], **CURVES}
"""Size and training time of three models are told by the table."""


def pictures(runs: Sequence[RunSummary], metric: str, which: Mapping[str, tuple[str, Draw]]) -> list[Part]:
    """Those of the pictures that would not be empty.

    Errors: DistillationError if matplotlib is missing, or a run lacks the metric.
    """
    drawn = [(file, heading, draw(runs, metric)) for file, (heading, draw) in which.items()]
    shown = one_line(metric)
    return [Part(heading.replace("{metric}", shown), file=file, png=png) for file, heading, png in drawn if png]


def of_findings(found: Findings | None) -> list[Part]:
    """What there is beside the pictures of `pictures`.

    Errors: DistillationError if matplotlib is missing.
    """
    if found is None:
        return []
    parts = [_parting(found.parting)] if found.parting is not None and found.parting.total else []
    if found.examples:
        parts.append(_examples(found))
    if found.samples:
        parts.append(_samples(found))
    if found.confusion is not None:
        parts.append(
            Part(
                "Which classes are taken for which",
                "Row: the true class; column: the answer; the darker a cell, the larger its share of the row.",
                file="confusion.png",
                png=heat_maps.confusion(found.confusion),
            )
        )
    if found.reliability:
        parts.append(
            Part(
                "How sure the models are",
                "A dot on the dashed line stands for answers that are right as often as the model is sure of them; "
                "below the line it is too sure, above it not sure enough.",
                file="reliability.png",
                png=diagrams.reliability(found.reliability),
            )
        )
    return [*parts, *_inside(found)]


def _inside(found: Findings) -> list[Part]:
    parts = []
    if found.scores is not None:
        parts.append(
            Part(
                "Scores against the true ones",
                f"{len(found.scores.truth):,} rows from all over the split; on the dashed line both are equal.",
                file="scores.png",
                png=diagrams.scores(found.scores),
            )
        )
    if found.likeness is not None:
        parts.append(
            Part(
                "How alike the layers are",
                "1: the one layer is the other, turned and scaled; 0: nothing in common (linear CKA).",
                file="layers.png",
                png=heat_maps.likeness(found.likeness, found.likeness_before),
            )
        )
    if found.attention is not None:
        parts.append(
            Part(
                "Where the heads look",
                "Each token (row) looks at those in the columns; the mean over the heads of a layer.",
                file="attention.png",
                png=heat_maps.attention(found.attention),
            )
        )
    return parts


def _parting(found: Parting) -> Part:
    kinds = {
        "both are right": found.both,
        "the teacher alone is right": found.only_teacher,
        "the student alone is right": found.only_student,
        "both are wrong, with one answer": found.neither_alike,
        "both are wrong, with two answers": found.neither_apart,
    }
    return Part(
        "How often student and teacher agree",
        f"The student gives the teacher's answer to {found.alike:,} of {found.total:,} {found.items} "
        f"({_percent(found.alike, found.total)}).",
        head=("", found.items, "share"),
        rows=[(kind, f"{count:,}", _percent(count, found.total)) for kind, count in kinds.items()],
    )


def _percent(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %"


def _examples(found: Findings) -> Part:
    text = "A few that they answer differently: one of them right, or both wrong; those first of which the student is "
    text = f"{text}surest." if any(each.student_confidence is not None for each in found.examples) else ""
    return Part(
        "Where they part",
        text or "A few that they answer differently.",
        head=("text", "true answer", "teacher", "student"),
        rows=[_row(each) for each in found.examples],
        kind="texts",
    )


def _samples(found: Findings) -> Part:
    roles = [role for role in ROLES if any(role in sample.written for sample in found.samples)]
    return Part(
        "What the models write",
        "To the first prompts of the validation rows, always the likeliest token.",
        head=("prompt", "in the data", *roles),
        rows=[
            (sample.prompt, sample.wanted, *(sample.written.get(role, "") for role in roles))
            for sample in found.samples
        ],
        kind="texts",
    )


def _row(example: Example) -> tuple[str, ...]:
    return (
        example.text,
        example.truth,
        _sure(example.teacher, example.teacher_confidence),
        _sure(example.student, example.student_confidence),
    )


def _sure(answer: str, confidence: float | None) -> str:
    return answer if confidence is None else f"{answer} ({confidence:.2f})"
