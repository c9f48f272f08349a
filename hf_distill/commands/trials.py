"""The trials of a comparison, one after the other, each in a process of its own."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from shutil import rmtree
from typing import Any

from filelock import FileLock, Timeout

from hf_distill.commands.comparing import Trial
from hf_distill.errors import Preempted
from hf_distill.evaluation.compare import FAILED, REFUSED, SCORED, Log, Run, run_of
from hf_distill.runs.folder import read_json, write_json
from hf_distill.runs.trial import ASKED, LOCK, TAKEN, TOLD

logger = logging.getLogger(__name__)


def carry_out(trials: Iterable[Trial], log: Log, folder: Path, *, retry: bool = False) -> None:
    """Runs the trials that the log does not have, and puts down what came of them; with `retry` also those without a
    score.

    A recipe that was refused with one seed is not tried with others. Trials that another process is at work on are
    passed over. The folder of a trial is removed when it is over, unless its process failed.

    Exits: `Preempted` where the process of a trial was asked to stop; called again, that trial goes on.
    """
    refused: set[str] = set()
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    for trial in trials:
        if trial.name in refused:
            continue
        run = _known_or_made(trial, log, folder / "trials" / f"{trial.name}-{trial.seed}", retry)
        if run is None:
            logger.warning("%s, seed %d: another process is at work on it.", trial.name, trial.seed)
        elif run.outcome == REFUSED:
            refused.add(trial.name)


def _known_or_made(trial: Trial, log: Log, folder: Path, retry: bool) -> Run | None:
    """The run of a trial; None where another process is at work on it."""
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            known = log.read().get(trial.key)
            if known is not None and (known.outcome == SCORED or not retry):
                return known
            run = _made(trial, folder)
            if run is None:
                return None
            log.add(run)
            if (folder / TOLD).exists():
                rmtree(folder)
    except Timeout:
        return None
    told = f"{run.metric} {run.value:.4f}" if run.outcome == SCORED else f"{run.outcome}: {run.message}"
    sys.stdout.write(f"{trial.name}, seed {trial.seed}: {told}\n")
    sys.stdout.flush()
    return run


def _made(trial: Trial, folder: Path) -> Run | None:
    """The run of a trial, made now unless its process was left behind and finished; None where it is still at work."""
    folder.mkdir(exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            asked = {"recipe": dict(trial.recipe), "train": trial.train, "files": dict(trial.files)}
            if read_json(folder / ASKED) != asked:
                _empty(folder)
                write_json(folder / ASKED, asked)
    except Timeout:
        return None
    status, log = 0, folder / "log.txt"
    if not (folder / TOLD).exists():
        with log.open("a", encoding="utf-8") as output:
            command = [sys.executable, "-m", "hf_distill.runs.trial", str(folder)]
            status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if status == TAKEN:
        return None
    if status == Preempted.STATUS:
        message = f"{trial.name}, seed {trial.seed}: its process was asked to stop; run again to go on."
        logger.warning(message)
        raise Preempted(message)
    told = read_json(folder / TOLD)
    facts: dict[str, Any] = {"name": trial.name, "seed": trial.seed, "recipe": trial.digest}
    if told is None:
        said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return Run(**facts, outcome=FAILED, message=f"{said[-1] if said else 'no message'} (status {status}; {log})")
    return run_of({**told, **facts}, str(folder / TOLD), "remove the folder, and the trial is run again")


def _empty(folder: Path) -> None:
    """Removes what a trial of another recipe, or of other files, left."""
    for path in folder.iterdir():
        if path.name != LOCK:
            rmtree(path) if path.is_dir() else path.unlink()
