"""Recipes side by side on one task: the runs that were made, and a table and a picture of what they came to."""

from __future__ import annotations

import json
import logging
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from filelock import FileLock
from pydantic import Field, TypeAdapter, ValidationError

from hf_distill.errors import DataError
from hf_distill.evaluation import figures
from hf_distill.evaluation.evidence import Evidence, difference
from hf_distill.evaluation.fidelity import Interval
from hf_distill.evaluation.metrics import less_is_better
from hf_distill.evaluation.report import write_whole
from hf_distill.evaluation.summary import ABSENT, Count, escaped, one_line

logger = logging.getLogger(__name__)

SCORED, REFUSED, FAILED = OUTCOMES = ("scored", "refused", "failed")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A recipe that was run with a seed, or that was refused (`message`), or whose process failed.

    `recipe` is a digest of the recipe with all that was changed in it. `cpu_seconds` are those of one optimizer step,
    `kind` and `rows` what the metric's value is made of (`Evidence`).
    """

    name: str
    seed: int
    recipe: str
    outcome: str
    message: str = ""
    metric: str = ""
    value: float = math.nan
    kind: str = ""
    rows: Sequence[Sequence[float]] = ()
    steps: Count = 0
    cpu_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    peak_bytes: Count | None = None

    @cached_property
    def evidence(self) -> Evidence:
        """What the value is made of.

        Raises: `ValueError` for rows of several lengths, and `DataError`, which is one, as `Evidence`.
        """
        return Evidence(self.kind, np.asarray(self.rows, dtype=np.float64))

    @property
    def key(self) -> tuple[str, int, str]:
        """What tells it from others: name, seed and recipe."""
        return self.name, self.seed, self.recipe


def run_of(given: Any, place: str, remedy: str) -> Run:
    """The run that values from a file stand for.

    Raises: `DataError` that names the place, where they are none.
    """
    try:
        run = TypeAdapter(Run).validate_python(vars(Run(**given)))
        if run.outcome == SCORED:
            _ = run.evidence
        return run
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (TypeError, ValueError) as error:
        reason = str(error)
    raise DataError(f"{place}: no run of a comparison ({reason}); {remedy}.")


class Log:
    """The runs in `runs.jsonl`, one a line. Several processes may add to it; a line that was broken off is dropped."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def read(self) -> dict[tuple[str, int, str], Run]:
        """The runs by their key; the last one where there are several.

        Raises: `DataError` for a line that is none of these.
        """
        if not self.path.exists():
            return {}
        whole, _, _ = self.path.read_bytes().rpartition(b"\n")
        runs = [self._run(line, number) for number, line in enumerate(whole.splitlines(), start=1) if line]
        return {run.key: run for run in runs}

    def add(self, run: Run) -> None:
        """Puts a run down."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({name: value for name, value in asdict(run).items() if value == value})
        with FileLock(self.path.with_name(f".{self.path.name}.lock")), self.path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            file.truncate(file.read(size).rfind(b"\n") + 1)
            file.write(line.encode("utf-8") + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _run(self, line: bytes, number: int) -> Run:
        try:
            given = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{self.path}, line {number}: no run of a comparison ({error}); remove the line."
            ) from error
        run = run_of(given, f"{self.path}, line {number}", "remove the line")
        if run.outcome not in OUTCOMES:
            raise DataError(
                f"{self.path}, line {number}: outcome is {run.outcome!r}; it may be {', '.join(OUTCOMES)}."
            )
        return run


@dataclass(frozen=True, kw_only=True)
class Row:
    """A recipe over its seeds. `values` are those of each seed, `difference` is that to the control with its 95 %
    interval, `singles` those of each seed; `cost` is the CPU time of a step against that of the reference.

    Without scores there is a `message`: why the recipe was refused, or how its process ended.
    """

    name: str
    seeds: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    difference: Interval | None = None
    singles: tuple[float, ...] = ()
    steps: int = 0
    cpu_seconds: float | None = None
    cost: float | None = None
    peak_bytes: int | None = None
    message: str = ""

    @property
    def mean(self) -> float:
        """Of the values."""
        return statistics.mean(self.values)

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds; None for one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def compared(runs: Sequence[Run], *, control: str, reference: str) -> list[Row]:
    """A row for each name, in the order in which they come.

    The difference to `control` is over the seeds that both have; the CPU time is set against that of `reference`.
    """
    names = dict.fromkeys(run.name for run in runs)
    by_name = {name: _by_seed(runs, name) for name in names}
    unit = _mean([run.cpu_seconds for run in by_name.get(reference, {}).values()])
    return [
        _row(name, by_name[name], by_name.get(control, {}) if name != control else {}, unit)
        if by_name[name]
        else Row(name=name, message=next(run.message for run in runs if run.name == name))
        for name in names
    ]


def markdown(rows: Sequence[Row], metric: str, *, control: str, reference: str) -> str:
    """The table, and below it what was refused."""
    name = f"{metric} (less is better)" if less_is_better(metric) else metric
    heads = ["recipe", escaped(name), "each seed", f"against {_code(control)}, 95 %", "steps", "CPU s a step"]
    heads += [f"of {_code(reference)}", "peak MB"]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    scored = [row for row in rows if row.values]
    lines += ["| " + " | ".join([_code(row.name), *_cells(row)]) + " |" for row in scored]
    others = [f"- {_code(row.name)}: {escaped(one_line(row.message))}" for row in rows if not row.values]
    return "\n".join([*lines, *(["", "Not run:", "", *others] if others else [])])


def write(
    output_dir: str | os.PathLike[str], rows: Sequence[Row], metric: str, *, control: str, reference: str
) -> list[Path]:
    """Writes `comparison.md`, `comparison.json` and, where matplotlib is installed, `comparison.png`, which has the
    best on top; the paths."""
    folder = Path(output_dir)
    table = markdown(rows, metric, control=control, reference=reference) + "\n"
    plain = {"metric": metric, "control": control, "reference": reference, "rows": [_plain(row) for row in rows]}
    written = [
        write_whole(folder / "comparison.md", table.encode("utf-8")),
        write_whole(folder / "comparison.json", (json.dumps(plain, indent=2) + "\n").encode("utf-8")),
    ]
    drawn = [row for row in rows if row.difference is not None]
    if not drawn:
        return written
    if find_spec("matplotlib") is None:
        logger.warning('no picture is drawn: matplotlib is not installed (pip install "hf_distill[report]").')
        return written
    points = [figures.Difference(row.name, *row.difference, row.singles, row.cost) for row in drawn if row.difference]
    points.sort(key=lambda point: point.value, reverse=not less_is_better(metric))
    picture = figures.differences(points, f"{metric} against {control}", f"CPU time of a step, of {reference}")
    return [*written, write_whole(folder / "comparison.png", picture)]


def _by_seed(runs: Sequence[Run], name: str) -> dict[int, Run]:
    found = {run.seed: run for run in runs if run.name == name and run.outcome == SCORED}
    return dict(sorted(found.items()))


def _row(name: str, runs: Mapping[int, Run], controls: Mapping[int, Run], unit: float | None) -> Row:
    pairs = [(run.evidence, controls[seed].evidence) for seed, run in runs.items() if seed in controls]
    seconds = _mean([run.cpu_seconds for run in runs.values()])
    return Row(
        name=name,
        seeds=tuple(runs),
        values=tuple(run.value for run in runs.values()),
        difference=difference(pairs) if pairs else None,
        singles=tuple(ours.value() - theirs.value() for ours, theirs in pairs),
        steps=max(run.steps for run in runs.values()),
        cpu_seconds=seconds,
        cost=seconds / unit if seconds and unit else None,
        peak_bytes=max((run.peak_bytes for run in runs.values() if run.peak_bytes), default=None),
    )


def _code(name: str) -> str:
    return f"`{one_line(name).replace('`', '').replace('|', '/')}`"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _cells(row: Row) -> list[str]:
    spread = "" if row.spread is None else f" ({row.spread:.4f})"
    lead = row.difference
    return [
        f"{row.mean:.4f}{spread}",
        ", ".join(f"{value:.4f}" for value in row.values),
        ABSENT if lead is None else f"{lead.value:+.4f} [{lead.low:+.4f}, {lead.high:+.4f}]",
        f"{row.steps:,}" if row.steps else ABSENT,
        ABSENT if row.cpu_seconds is None else f"{row.cpu_seconds:.3f}",
        ABSENT if row.cost is None else f"{row.cost:.2f}",
        ABSENT if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f}",
    ]


def _plain(row: Row) -> dict[str, Any]:
    found = {field.name: getattr(row, field.name) for field in fields(row)}
    found["difference"] = None if row.difference is None else row.difference._asdict()
    scores = {"mean": row.mean, "spread": row.spread} if row.values else {}
    return {**found, **scores}
