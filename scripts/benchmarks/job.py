"""A whole job, from text to a saved student: hf_distill, TextBrewer as its SST-2 notebook goes, and the plain Trainer.

    python scripts/benchmarks/job.py --teacher FOLDER --dataset_dir FOLDER --environments FOLDER --output job.json
    python scripts/benchmarks/job.py … --rows 192 --epochs 1 --seeds 1 --only hf_trainer hf_distill    # does it run?

SST-2 (or any folder with train.jsonl[.gz] and validation.jsonl[.gz] of `sentence` and `label`). All train the same
student of three layers, the teacher's layers 2, 4 and 6, by 0.5 CE + 0.5 T^2 KL at T = 2 for equally many steps of 32
rows: AdamW at 1e-4, weight decay 0.01, 10 % warm-up, linear decay, no clipping. Each run is a process of its own; CPU
seconds are those of all its threads after the imports, up to the saved student; memory is the resident set at its
peak; accuracy is that of the last step on the validation rows. A run that is in the output file is not repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from peers.catalogue import CATALOGUE
from peers.environments import python_of
from peers.measuring import environment
from runs import Runs, settings_of
from transformers import AutoModelForSequenceClassification

from hf_distill import students

ARMS = {"textbrewer": "textbrewer", "hf_trainer": "hf_kd", "hf_distill": "hf_distill", "hf_distill_bf16": "hf_distill"}
"""Each job, and the implementation whose environment it needs."""


def write_start(teacher: Path, folder: Path) -> Path:
    """The student before its first step, the same for all."""
    loaded = AutoModelForSequenceClassification.from_pretrained(teacher, dtype=torch.float32)
    students.from_layers(loaded, layers=3).save_pretrained(folder)
    return folder


def one_run(arm: str, settings: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    python = python_of(CATALOGUE[ARMS[arm]], given.environments)
    command = [str(python), "-m", "peers.jobs.worker", arm, json.dumps(settings)]
    done = subprocess.run(command, env=environment(given.threads), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arm} with seed {settings['seed']} ended with status {done.returncode}; see above")
    return {"arm": arm, "seed": settings["seed"], **json.loads(done.stdout.splitlines()[-1])}


def table(runs: list[dict[str, Any]]) -> str:
    """Means over seeds; ratios of CPU time to TextBrewer's, or to the first row's where it was not run."""
    arms = [arm for arm in ARMS if any(run["arm"] == arm for run in runs)]
    base = statistics.mean(run["cpu_seconds"] for run in runs if run["arm"] == arms[0])
    lines = [
        f"| | seeds | steps | CPU s (up to the first step) | / {arms[0]} | peak MB | accuracy, each seed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm in arms:
        found = sorted((run for run in runs if run["arm"] == arm), key=lambda run: run["seed"])
        mean = {
            key: statistics.mean(run[key] for run in found)
            for key in ("cpu_seconds", "first_step", "peak_megabytes", "accuracy")
        }
        each = ", ".join(f"{run['accuracy']:.4f}" for run in found)
        seeds = ", ".join(str(run["seed"]) for run in found)
        lines.append(
            f"| {arm} | {seeds} | {found[0]['steps']} | {mean['cpu_seconds']:.1f} ({mean['first_step']:.1f}) "
            f"| {mean['cpu_seconds'] / base:.4f} | {mean['peak_megabytes']:.0f} | {mean['accuracy']:.4f} ({each}) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="model of six layers, and tokenizer")
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--environments", type=Path, help="the folder of setup_peers.py, for textbrewer")
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    runs = Runs(given.output, settings_of(given, "rows", "epochs", "threads"))
    with tempfile.TemporaryDirectory() as folder:
        start = write_start(given.teacher, Path(folder, "start"))
        for arm, seed in runs.missing(given.only, given.seeds):
            place = Path(folder, f"{arm}-{seed}")
            asked = {"data": given.dataset_dir, "teacher": given.teacher, "start": start, "folder": place}
            whole = {name: str(path.resolve()) for name, path in asked.items()}
            whole |= {"rows": given.rows, "epochs": given.epochs, "seed": seed}
            runs.add(one_run(arm, whole, given))
            shutil.rmtree(place)
            print(table(runs.found), flush=True)


if __name__ == "__main__":
    main()
