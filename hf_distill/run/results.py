"""What a run came to, and the files that tell it."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_distill.evaluation import fidelity
from hf_distill.evaluation.latency import Latency
from hf_distill.evaluation.report import write_report
from hf_distill.evaluation.summary import RunSummary, table
from hf_distill.hub.record import write_whole
from hf_distill.run.corpus import Corpus
from hf_distill.run.folder import ALL_RESULTS, RunFolder, read_json, write_json
from hf_distill.run.measuring import Answers, Role, correct_rows, key_of

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
        """The runs side by side, and what the columns mean; empty where nothing was evaluated."""
        return "\n".join([table(self.runs, self.metric), *self.notes]) if self.runs else ""

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
        """What `to_dict` gave."""
        return cls(
            output_dir,
            data["split"],
            data["metric"],
            tuple(map(_summary, data["runs"])),
            data["metrics"],
            tuple(data["notes"]),
        )


def _summary(data: Mapping[str, Any]) -> RunSummary:
    interval, latency = data["interval"], data["latency"]
    made = {"interval": interval and tuple(interval), "latency": latency and Latency(**latency)}
    return RunSummary(**{**data, **made})


def notes_of(corpus: Corpus, answers: Mapping[Role, Answers]) -> tuple[str, ...]:
    """What the table cannot say: on which rows, what the control is, and whether the student's lead is more than
    chance.
    """
    split = corpus.reported_split
    notes = [f"All on {corpus.name}, {split}: {len(corpus.text.splits[split]):,} rows."]
    if "control" in answers:
        note = "Control: the same student, from the same start, on the labels alone."
        if corpus.metrics[0] == "accuracy":
            rows = [correct_rows(answers[role], corpus, split) for role in ("student", "control")]
            note += f" Student against control, row by row: p = {fidelity.mcnemar_p_value(*rows):.2g} (McNemar)."
        notes.append(note)
    return tuple(notes)


def all_metrics(answers: Answers, summary: RunSummary, corpus: Corpus) -> dict[str, float]:
    """A model's metrics, with agreement and calibration error on the reported split."""
    more = {"agreement": summary.agreement, "calibration_error": summary.calibration_error}
    split = corpus.reported_split
    return {**answers.metrics, **{key_of(name, split): value for name, value in more.items() if value is not None}}


def write_results(folder: RunFolder, **parts: Mapping[str, float]) -> None:
    """Writes `<part>_results.json` for each part, and all of them together into `all_results.json`."""
    everything = read_json(folder.path / ALL_RESULTS) or {}
    for part, values in parts.items():
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        write_json(folder.path / f"{part}_results.json", finite)
        everything |= finite
    write_json(folder.path / ALL_RESULTS, everything)


def write_predictions(folder: RunFolder, name: str, logits: np.ndarray, label_names: Sequence[str]) -> Path:
    """`predict_results_<name>.txt`: a row's number and its label, separated by a tab, under a line that says so.

    Labels are names, or scores to three digits where there are none.
    """
    if label_names:
        rows = [label_names[column] for column in logits.argmax(axis=1)]
    else:
        rows = [f"{score:.3f}" for score in logits[:, 0]]
    lines = ["index\tprediction", *(f"{i}\t{row}" for i, row in enumerate(rows))]
    return write_whole(folder.path / f"predict_results_{name}.txt", "\n".join(lines) + "\n")


def write_pictures(folder: RunFolder, result: RunResult) -> list[Path]:
    """`report.html` and `report/*.png`, where the library that draws them is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning('no report is drawn: matplotlib is not installed (pip install "hf_distill[report]").')
        return []
    return write_report(folder.path, result.runs, result.metric)
