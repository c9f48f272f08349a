"""What a card tells of how good, how large and how fast a student is, and its other forms."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from hf_distill.evaluation.latency import BATCH
from hf_distill.hub.markdown import code, escaped, table
from hf_distill.hub.record import Export, Record, Side, Speed
from hf_distill.tasks import Embeddings
from hf_distill.tasks.classes import MultiLabel, Regression

SPLITS = {"eval_": "validation", "test_": "test", "predict_": "test"}
TITLES: dict[Side, str] = {"student": "student", "teacher": "teacher", "control": "student without teacher"}
_NO_QUALITY = re.compile(r"(loss|runtime|_per_second|epoch|steps?|samples|_time|memory|num_.*)(_mm)?$")
_OF_TEACHER = re.compile(r"(agreement|calibration_error|kl)(_mm)?$")

AGREEMENT = (
    "Agreement is the share of rows on which a model prefers the teacher's class (of scores, their correlation)."
)
AGREEMENTS = {MultiLabel.name: "Agreement is the share of rows of which a model says the same classes as the teacher."}
"""What agreement is, by task."""

Values = Mapping[tuple[str, str], float]


def quality(metrics: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """Metrics of quality by (name, split); losses, times and counts are left out, and so are `fidelity`'s."""
    return {key: value for key, value in _by_split(metrics).items() if not _OF_TEACHER.fullmatch(key[0])}


def results(record: Record) -> str:
    """Student, teacher and control side by side, with intervals."""
    sides = {side: quality(metrics) for side, metrics in _metrics(record).items()}
    if not any(sides.values()):
        return "The run recorded no metric of quality."
    notes = []
    if any(record.intervals.values()):
        notes.append("Brackets hold 95 % intervals.")
    if sides.get("control"):
        kind = "at its start, not trained" if record.task == Embeddings.name else "trained on the labels alone"
        notes.append(f"The student without teacher is the same student, {kind}.")
    return "\n\n".join([_sides(sides, record), *([" ".join(notes)] if notes else [])])


def fidelity(record: Record) -> str:
    """Agreement with the teacher, and calibration."""
    sides = {
        side: {key: value for key, value in _by_split(metrics).items() if _OF_TEACHER.fullmatch(key[0])}
        for side, metrics in _metrics(record).items()
    }
    if not any(sides.values()):
        return ""
    return _sides(sides, record) + (
        f"\n\n{AGREEMENTS.get(record.task, AGREEMENT)}" + _of_calibration(sides.values()) + _of_laws(sides.values())
    )


def _of_calibration(sides: Iterable[Values]) -> str:
    """What the calibration error is, where there is one."""
    known = any(name.startswith("calibration_error") for side in sides for name, _ in side)
    told = " The calibration error is the mean gap between confidence and accuracy over 15 bins of confidence (ECE)."
    return told if known else ""


def _of_laws(sides: Iterable[Values]) -> str:
    """What the KL is, where there is one."""
    known = any(name == "kl" for side in sides for name, _ in side)
    return " Kl is KL(teacher || model) in nats, the mean over tokens." if known else ""


def size(record: Record) -> str:
    """Parameters, bytes and speed of student and teacher."""
    rows = [
        [title, f"{model.num_parameters:,}", _number(model.num_hidden_layers), f"{model.num_bytes / 1e6:,.1f} MB"]
        for title, model in (("student", record.student), ("teacher", record.teacher))
        if model
    ]
    parts = [table(["", "parameters", "layers", "weights in memory"], rows)]
    if record.teacher and record.teacher.num_parameters:
        share = record.student.num_parameters / record.teacher.num_parameters
        parts.append(f"The student has {share:.1%} of the teacher's parameters.")
    return "\n\n".join([*parts, *_speeds(record)])


def exports(record: Record) -> str:
    """The student's other forms, each beside the student itself."""
    if not record.exports:
        return ""
    header = ["file", "size", "same answer", "largest difference", "accuracy", "ms per sentence"]
    rows = [
        [
            code(name),
            f"{each.bytes / 1e6:,.1f} MB",
            f"{each.agreement:.2%}",
            f"{each.largest_difference:.2g}",
            _change(each.original_accuracy, each.accuracy, 4),
            _change(_milliseconds(each.original_speed), _milliseconds(each.speed), 2),
        ]
        for name, each in record.exports.items()
    ]
    of_scores = record.task == Regression.name
    compared = [_compared(name, each, of_scores) for name, each in record.exports.items()]
    return "\n\n".join(
        [
            "Graphs for ONNX Runtime, each compared with the student (before → after).",
            table(header, rows),
            "\n".join(f"- {text}" for text in dict.fromkeys(compared)),
        ]
    )


def _compared(name: str, export: Export, of_scores: bool) -> str:
    speed = export.speed
    threads = "" if speed is None else f"{speed.threads} thread{'' if speed.threads == 1 else 's'}"
    timed = "" if speed is None else f", timed on {threads} of {escaped(speed.device)}"
    kind = "of scores the correlation, " if of_scores else ""
    return f"{code(name)}: {kind}{export.rows:,} rows of {escaped(export.texts)}{timed}."


def _milliseconds(speed: Speed | None) -> float | None:
    return None if speed is None else speed.milliseconds_per_sentence


def _change(before: float | None, after: float | None, digits: int) -> str:
    return "n/a" if before is None or after is None else f"{before:.{digits}f} → {after:.{digits}f}"


def _speeds(record: Record) -> list[str]:
    if not record.speeds:
        return []
    ordered = [side for side in TITLES if side in record.speeds]
    rows = [
        [
            TITLES[side],
            f"{speed.milliseconds_per_sentence:.2f} [{speed.low:.2f}, {speed.high:.2f}]",
            f"{speed.sentences_per_second:,.1f}",
        ]
        for side in ordered
        for speed in [record.speeds[side]]
    ]
    return [
        table(["", "ms per sentence [quartiles]", "sentences per second"], rows),
        f"One sentence at a time, and {BATCH} in a batch, {_where(record, record.speeds[ordered[0]])}.",
    ]


def _where(record: Record, speed: Speed) -> str:
    texts = f"{speed.sentences:,} sentences of the data"
    if speed.device != "cpu":
        return f"{texts}, on {escaped(speed.device)}"
    hardware = record.hardware
    return f"{texts}, on {speed.threads} of {hardware.cores} cores ({escaped(hardware.processor)})"


def _metrics(record: Record) -> dict[Side, Mapping[str, float]]:
    sides: dict[Side, Mapping[str, float]] = {
        "student": record.metrics,
        "teacher": record.teacher_metrics,
        "control": record.control_metrics,
    }
    return {side: metrics for side, metrics in sides.items() if metrics}


def _by_split(metrics: Mapping[str, float]) -> dict[tuple[str, str], float]:
    return {_metric_and_split(key): value for key, value in metrics.items() if not _NO_QUALITY.search(key)}


def _metric_and_split(key: str) -> tuple[str, str]:
    prefix = next((prefix for prefix in SPLITS if key.startswith(prefix)), "eval_")
    return key.removeprefix(prefix), SPLITS[prefix]


def _sides(sides: Mapping[Side, Values], record: Record) -> str:
    """A row for each metric and split, a column for each side that has any."""
    shown = {side: values for side, values in sides.items() if values}
    names = list(dict.fromkeys(name for values in shown.values() for name in values))
    intervals = {side: {_metric_and_split(key): i for key, i in of.items()} for side, of in record.intervals.items()}
    rows = [
        [code(metric), escaped(split)]
        + [
            _cell(values.get((metric, split)), intervals.get(side, {}).get((metric, split)))
            for side, values in shown.items()
        ]
        for metric, split in names
    ]
    return table(["metric", "split", *(TITLES[side] for side in shown)], rows)


def _cell(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


def _number(value: int | None) -> str:
    return "n/a" if value is None else str(value)
