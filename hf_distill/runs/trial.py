"""One run of a comparison, in a process of its own, so that its CPU time and memory are its own:
`python -m hf_distill.runs.trial FOLDER`.

The folder holds `asked.json`; `told.json` is written into it when the run is over, one way or the other.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hf_distill.errors import OF_THE_PLACE, DistillationError, NonFiniteLoss
from hf_distill.evaluation.compare import FAILED, REFUSED, SCORED
from hf_distill.recipe import Recipe
from hf_distill.runs.answering import evidence_of
from hf_distill.runs.folder import MARK, RunFolder, read_json, write_json
from hf_distill.runs.memory import most_held
from hf_distill.runs.progress import CPU_SECONDS
from hf_distill.runs.running import run

ASKED, TOLD, LOCK = "asked.json", "told.json", ".lock"

TAKEN = 69
"""The exit status where another process is at work in the folder ("service unavailable", `EX_UNAVAILABLE` of
sysexits.h)."""


def main(argv: Sequence[str]) -> int:
    """Does the run of a folder; the exit status."""
    folder = Path(argv[0])
    try:
        with FileLock(folder / LOCK, timeout=0):
            asked = read_json(folder / ASKED)
            if asked is None:
                raise DistillationError(f"{folder} holds no {ASKED}; it is no folder of a comparison.")
            write_json(folder / TOLD, told(asked, folder / "run"))
    except Timeout:
        return TAKEN
    return 0


def told(asked: Mapping[str, Any], output_dir: Path) -> dict[str, Any]:
    """What came of it: a score with its evidence and costs, or the message of a refusal.

    `asked` is the `recipe`, and whether to `train`; without that the recipe's student is scored as it is.
    """
    try:
        recipe, folder = Recipe.from_dict(asked["recipe"]), RunFolder(output_dir)
        before = _marks(folder)
        if asked["train"]:
            run(recipe, output_dir, evaluate=False)
        was_trained = bool(before) and _marks(folder) == before  # by an earlier process, whose peak it was
        costs = {**_steps(folder), "peak_bytes": None if was_trained else most_held()}
        metric, evidence = evidence_of(recipe, output_dir)
    except (NonFiniteLoss, *OF_THE_PLACE) as error:
        return {"outcome": FAILED, "message": str(error)}
    except DistillationError as error:
        return {"outcome": REFUSED, "message": str(error)}
    return {
        "outcome": SCORED,
        "metric": metric,
        "value": evidence.value(),
        "kind": evidence.kind,
        "rows": evidence.rows.tolist(),
        **costs,
    }


def _steps(folder: RunFolder) -> dict[str, Any]:
    """The optimizer steps of all stages, and the CPU seconds of one of them on average."""
    marks = _marks(folder)
    steps = sum(int(mark["steps"]) for mark in marks)
    timed = [(mark["steps"], mark["metrics"][CPU_SECONDS]) for mark in marks if CPU_SECONDS in mark["metrics"]]
    total = sum(number for number, _ in timed)
    return {"steps": steps, "cpu_seconds": sum(number * each for number, each in timed) / total if total else None}


def _marks(folder: RunFolder) -> list[dict[str, Any]]:
    """What finished stages left."""
    return [read_json(path) or {} for path in sorted(folder.stages.glob(f"*/{MARK}"))]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
