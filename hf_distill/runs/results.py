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

from pydantic import BaseModel, ValidationError

from hf_distill.errors import DistillationError
from hf_distill.evaluation.findings import Findings
from hf_distill.evaluation.report import write_findings, write_report
from hf_distill.evaluation.summary import RunSummary, table
from hf_distill.runs.folder import ALL_RESULTS, RunFolder, read_json, write_json
from hf_distill.runs.measuring import Answers, Role, key_of
from hf_distill.runs.workload import Workload

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
            kept = _Kept.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise DistillationError(
                f"{output_dir}: stages/results.json holds no results of this version ({place}: {first['msg']}); "
                "remove it, and the models are evaluated again."
            ) from error
        return cls(output_dir, kept.split, kept.metric, kept.runs, kept.metrics, kept.notes)


class _Kept(BaseModel):
    """What `to_dict` gives."""

    split: str
    metric: str
    metrics: dict[str, float]
    notes: tuple[str, ...]
    runs: tuple[RunSummary, ...]


def notes_of(workload: Workload, answers: Mapping[Role, Answers]) -> tuple[str, ...]:
    """What the table cannot say: on which rows, what the control is, and whether the student's lead is more than
    chance.
    """
    split = workload.reported_split
    notes = [f"All on {workload.name}, {split}: {workload.sizes[split]:,} rows."]
    if "control" in answers:
        lead = workload.lead(split, answers["student"].kept[split], answers["control"].kept[split])
        kind = "from the same start, on the labels alone" if workload.control_trains else "at its start, not trained"
        notes.append(f"Control: the same student, {kind}. {lead}".strip())
    kept: dict[str, Any] = {role: each.kept[split] for role, each in answers.items()}
    return (*notes, *workload.remarks(split, kept))


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


def write_pictures(folder: RunFolder, result: RunResult, findings: Findings) -> list[Path]:
    """`report/data.json`, from which `hf-distill report` can draw again, and where the library that draws is installed
    `report.html` and `report/*.png`."""
    kept = write_findings(folder.path, findings)
    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        logger.warning(
            'no report is drawn: %s is not installed (pip install "hf_distill[report]"; then hf-distill report %s).',
            " and ".join(missing),
            folder.path,
        )
        return [kept]
    return [kept, *write_report(folder.path, result.runs, result.metric, findings, result.notes)]
