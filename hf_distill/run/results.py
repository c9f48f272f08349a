"""What a run came to, and the files that tell it."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_distill.errors import DistillationError
from hf_distill.evaluation.latency import Latency
from hf_distill.evaluation.report import write_report
from hf_distill.evaluation.summary import RunSummary, table
from hf_distill.run.folder import ALL_RESULTS, RunFolder, read_json, write_json
from hf_distill.run.measuring import Answers, Role, key_of
from hf_distill.run.workload import Workload

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """`runs` are teacher, student and control on the split `split`, of whose metrics `metric` is the one reported.

    `metrics` are the student's on every scored split, as in `eval_results.json`; `notes` is what stands below the
    table; `predictions` are the files of predicted tests; `url` is where the student was published.
    """

    output_dir: Path
    split: str = ""
    metric: str = ""
    runs: tuple[RunSummary, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    predictions: tuple[Path, ...] = ()
    url: str | None = None

    @property
    def table(self) -> str:
        """The runs side by side, what the columns mean, and the notes; empty where nothing was evaluated."""
        return "\n".join([*([table(self.runs, self.metric)] if self.runs else []), *self.notes])

    def run(self, role: Role) -> RunSummary:
        """The run of that role."""
        return next(run for run in self.runs if run.role == role)

    def to_dict(self) -> dict[str, Any]:
        """Plain values of the evaluation, without predictions and publication."""
        return {
            "split": self.split,
            "metric": self.metric,
            "metrics": dict(self.metrics),
            "notes": list(self.notes),
            "runs": [dataclasses.asdict(run) for run in self.runs],
        }

    @classmethod
    def from_dict(cls, output_dir: Path, data: Mapping[str, Any]) -> RunResult:
        """What `to_dict` gave. Raises: `DistillationError` for anything else, as another version may have written."""
        try:
            return cls(
                output_dir,
                data["split"],
                data["metric"],
                tuple(map(_summary, data["runs"])),
                data["metrics"],
                tuple(data["notes"]),
            )
        except (KeyError, TypeError) as error:
            raise DistillationError(
                f"{output_dir}: stages/results.json holds no results of this version ({error}); remove it, and the "
                "models are evaluated again."
            ) from error


def _summary(data: Mapping[str, Any]) -> RunSummary:
    interval, latency = data["interval"], data["latency"]
    made = {"interval": interval and tuple(interval), "latency": latency and Latency(**latency)}
    return RunSummary(**{**data, **made})


def notes_of(workload: Workload, answers: Mapping[Role, Answers]) -> tuple[str, ...]:
    """What the table cannot say: on which rows, what the control is, and whether the student's lead is more than
    chance.
    """
    split = workload.reported_split
    notes = [f"All on {workload.name}, {split}: {workload.sizes[split]:,} rows."]
    if "control" in answers:
        lead = workload.lead(split, answers["student"].kept[split], answers["control"].kept[split])
        notes.append(f"Control: the same student, from the same start, on the labels alone. {lead}".strip())
    return tuple(notes)


def all_metrics(answers: Answers, summary: RunSummary, workload: Workload) -> dict[str, float]:
    """A model's metrics, with agreement and calibration error on the reported split."""
    more = {"agreement": summary.agreement, "calibration_error": summary.calibration_error}
    split = workload.reported_split
    return {**answers.metrics, **{key_of(name, split): value for name, value in more.items() if value is not None}}


def write_results(folder: RunFolder, **parts: Mapping[str, float]) -> None:
    """Writes `<part>_results.json` for each part, and all of them together into `all_results.json`."""
    everything = read_json(folder.path / ALL_RESULTS) or {}
    for part, values in parts.items():
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        write_json(folder.path / f"{part}_results.json", finite)
        everything |= finite
    write_json(folder.path / ALL_RESULTS, everything)


def write_pictures(folder: RunFolder, result: RunResult) -> list[Path]:
    """`report.html` and `report/*.png`, where the library that draws them is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning('no report is drawn: matplotlib is not installed (pip install "hf_distill[report]").')
        return []
    return write_report(folder.path, result.runs, result.metric)
