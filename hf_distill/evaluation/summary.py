"""What one run came to, and several of them side by side in a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from hf_distill.errors import DistillationError
from hf_distill.evaluation.latency import BATCH, Latency

ABSENT = "-"
Count = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A trained model as it is reported.

    `interval` is the 95 % interval of the metric that is reported, `agreement` the share of rows on which the model
    prefers the teacher's class, `calibration_error` the expected calibration error, `size_bytes` the size on disk and
    `history` the `log_history` of its Trainer (of several stages, one after the other). None is for what was not
    measured.
    """

    name: str
    role: Literal["teacher", "student", "control"]
    metrics: dict[str, float]
    parameters: Count
    size_bytes: Count
    interval: tuple[float, float] | None = None
    agreement: float | None = None
    calibration_error: float | None = None
    latency: Latency | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The name on one line, with the role where the name does not say it."""
        name = one_line(self.name)
        return name if name == self.role else f"{name} ({self.role})"


def table(runs: Sequence[RunSummary], metric: str) -> str:
    """The runs as one aligned table of plain text, a row each, and below it what its columns mean.

    Errors: DistillationError for no runs, or a run that lacks the metric.
    """
    rows = [header(metric), *cells(runs, metric)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", *notes(runs)])


def markdown_table(runs: Sequence[RunSummary], metric: str) -> str:
    """The same table in Markdown; names are escaped.

    Errors: as `table`.
    """
    rows = [header(metric), *cells(runs, metric)]
    head, *body = ["| " + " | ".join(map(escaped, row)) + " |" for row in rows]
    rule = "| --- |" + " ---: |" * (len(rows[0]) - 1)
    return "\n".join([head, rule, *body, "", " ".join(map(escaped, notes(runs)))])


def header(metric: str) -> list[str]:
    """The heads of the columns."""
    return [
        "run",
        f"{one_line(metric)} [95 %]",
        "agreement",
        "calibration error",
        "parameters",
        "size",
        "ms/sentence",
        "sentences/s",
    ]


def cells(runs: Sequence[RunSummary], metric: str) -> list[list[str]]:
    """The text of every cell, a row a run, under `header`.

    Errors: as `table`.
    """
    return [_cells(run, value) for run, value in zip(runs, values(runs, metric), strict=True)]


def values(runs: Sequence[RunSummary], metric: str) -> list[float]:
    """The metric of every run.

    Errors: as `table`.
    """
    if not runs:
        raise DistillationError("report: there are no runs to report.")
    for run in runs:
        if metric not in run.metrics:
            known = ", ".join(run.metrics) or "none"
            raise DistillationError(f"report: run {run.name!r} has no metric {metric!r}; it has: {known}.")
    return [run.metrics[metric] for run in runs]


def notes(runs: Sequence[RunSummary]) -> list[str]:
    """Sentences on what the columns mean and where the latencies were measured."""
    lines = [
        "95 %: confidence interval. Agreement: with the teacher's predictions. Size: on disk.",
        f"ms/sentence: median at batch 1; sentences/s: at batch {BATCH}, sorted by length; both without tokenisation.",
    ]
    measured = [(run.title, machine(run.latency)) for run in runs if run.latency is not None]
    if len({where for _, where in measured}) == 1:
        lines.append(f"Measured on {measured[0][1]}.")
    elif measured:
        lines.append("Measured on " + "; ".join(f"{where} ({name})" for name, where in measured) + ".")
    return lines


def machine(latency: Latency) -> str:
    """Where a latency was measured."""
    return f"{one_line(latency.device)}, {latency.threads} thread{'' if latency.threads == 1 else 's'}"


def one_line(text: str) -> str:
    """The text without line breaks and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _cells(run: RunSummary, value: float) -> list[str]:
    interval = "" if run.interval is None else f" [{run.interval[0]:.3f}, {run.interval[1]:.3f}]"
    latency = run.latency
    return [
        run.title,
        f"{value:.3f}{interval}",
        ABSENT if run.agreement is None else f"{run.agreement:.3f}",
        ABSENT if run.calibration_error is None else f"{run.calibration_error:.3f}",
        _scaled(run.parameters, ""),
        _scaled(run.size_bytes, "B"),
        ABSENT if latency is None else _three_digits(latency.milliseconds_per_sentence),
        ABSENT if latency is None else _three_digits(latency.sentences_per_second),
    ]


def _three_digits(value: float) -> str:
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _scaled(count: int, unit: str) -> str:
    """Three digits and a decimal prefix: 22.7 M, 90.9 MB."""
    value, prefixes = float(count), ["", "k", "M", "G", "T"]
    while value >= 999.5 and len(prefixes) > 1:
        value, prefixes = value / 1000, prefixes[1:]
    return f"{value:.3g} {prefixes[0]}{unit}".strip()


def escaped(text: str) -> str:
    """Markdown that shows the text: no table bars, emphasis, links or HTML."""
    return re.sub(r"([\\`*_{}\[\]|<>~#$!&])", r"\\\1", text)
