"""The quickstart's distillation, left alone for long, and killed again and again.

    python scripts/benchmarks/soak.py memory [--minutes 40] [--folder FOLDER] [--json FILE]
    python scripts/benchmarks/soak.py kills [--kills 12] [--seed 0] [--folder FOLDER] [--json FILE]

Both run `scripts/distill_glue.py` on the recipe `quickstart` without its control, with an accumulation of 2 and two
workers, evaluations and checkpoints.

`memory` lets it go on, without an end, and from the beginning of the distillation looks every ten seconds at its
resident memory, at what its workers hold for themselves, and at its threads and open files. Told are the growth over
the last three quarters of the time, by the line of least squares through the means of twelve equal parts with its 95 %
interval, and the spread of the samples about that line. The exit status is 1 if the growth is above zero by more than
its interval and by more than the spread. The run is stopped by SIGTERM, and has to leave with 75. `--minutes 4` is a
smoke test.

`kills` runs it once to its end, and then with SIGKILL sent to all of its processes at random instants, three of four
after a checkpoint is begun, each time started again by the same command. After every kill the newest checkpoint, and
in the end the student, are compared bit by bit with those of the run that was left alone. The exit status is 1 if any
differs. `--rows 160` is a smoke test.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil
import torch
import tqdm
import yaml
from safetensors.torch import load_file
from transformers.trainer import safe_globals

from hf_distill.checkpoints import last_whole
from hf_distill.commands.glue import main as distil

ROOT = Path(__file__).parents[2]
EVERY = 10.0
"""Seconds between two looks."""

PARTS = 12
"""Means of so many parts of the time are independent enough for an interval."""

STUDENT = 2.228
"""The 0.975 quantile of Student's t with PARTS - 2 degrees of freedom."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "kills"])
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--rows", type=int, default=3300, help="rows that are trained on, of 3,300")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where runs are written (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    given = parser.parse_args()
    if given.folder is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        if given.what == "memory":
            found = left_alone(Path(folder), given.minutes, given.rows)
        else:
            found = killed_often(Path(folder), given.kills, given.rows, random.Random(given.seed))
    print(json.dumps({key: value for key, value in found.items() if key != "samples"}, indent=1), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(not found["passed"])


# ---- the run ----


def recipe(folder: Path, rows: int, epochs: int = 1, **arguments: Any) -> Path:
    """The quickstart with an accumulation of 2, two workers, and these arguments, also where its teacher is trained;
    `epochs` of the distillation."""
    told = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8"))
    told["control"] = False
    told["max_samples"] = {"train": rows, "validation": 64, "test": 64}
    (stage,) = told["stages"]
    halves = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2, "dataloader_num_workers": 2}
    saving = {"eval_strategy": "steps", "save_strategy": "steps", "logging_steps": 5}
    for trained in (told["teacher"]["fine_tune"], stage):
        trained["arguments"] |= {**halves, **saving, **arguments}
    stage["arguments"]["num_train_epochs"] = epochs
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(told), encoding="utf-8")
    return path


def command(recipe: Path, output: Path) -> list[str]:
    return ["--recipe", str(recipe), "--output_dir", str(output), "--use_cpu", "--disable_tqdm", "true"]


def fail(status: int | None, output: Path) -> NoReturn:
    log = output.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
    raise SystemExit(f"a run ended with status {status}\n{log[-3000:]}")


# ---- left alone ----


def left_alone(folder: Path, minutes: float, rows: int) -> dict[str, Any]:
    """What a run took while it went on, since it began to distil."""
    output = folder / "run"
    endless = recipe(folder, rows, epochs=10_000, save_steps=50, eval_steps=50, save_total_limit=2)
    words = [sys.executable, str(ROOT / "scripts" / "distill_glue.py"), *command(endless, output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with output.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
    while not (output / "stages" / "01-distil").exists() and process.poll() is None:
        time.sleep(1.0)
    begin, samples = time.monotonic(), []
    while (seconds := time.monotonic() - begin) < 60 * minutes and process.poll() is None:
        samples.append({"seconds": round(seconds, 1), **looked_at(psutil.Process(process.pid))})
        time.sleep(EVERY)
    process.send_signal(signal.SIGTERM)
    if process.wait() != 75:
        fail(process.returncode, output)
    checkpoint = last_whole(output / "stages" / "01-distil")
    late = [sample for sample in samples if sample["seconds"] >= 15 * minutes]
    grown = growth([(each["seconds"], each["megabytes"]) for each in late])
    return {
        "minutes": minutes,
        "steps": None if checkpoint is None else int(checkpoint.name.removeprefix("checkpoint-")),
        "megabytes": grown,
        "workers": extremes([sample["of_workers"] for sample in late]),
        "threads": extremes([sample["threads"] for sample in late]),
        "files": extremes([sample["files"] for sample in late]),
        "passed": not grown["above_noise"],
        "samples": samples,
    }


def looked_at(process: psutil.Process) -> dict[str, float]:
    """Resident megabytes of a process, those that its workers have for themselves, and its threads and open files."""
    with process.oneshot():
        found = {
            "megabytes": process.memory_info().rss / 1e6,
            "threads": process.num_threads(),
            "files": process.num_fds(),
        }
    below = 0.0
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # those of an evaluation come and go
            below += child.memory_full_info().uss / 1e6
    return {**found, "of_workers": below}


def extremes(values: list[float]) -> dict[str, float]:
    told = {"first": values[0], "last": values[-1], "least": min(values), "most": max(values)}
    return {key: round(value, 1) for key, value in told.items()}


def growth(points: list[tuple[float, float]]) -> dict[str, Any]:
    """How much is more at the end of the line through points (seconds, megabytes) than at its beginning."""
    seconds, values = np.array(points).T
    parts = np.array_split(np.arange(len(points)), PARTS)
    x, y = (np.array([series[part].mean() for part in parts]) for series in (seconds, values))
    spread_x = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread_x
    residual = y - y.mean() - slope * (x - x.mean())
    error = float((residual**2).sum() / (PARTS - 2) / spread_x) ** 0.5
    length = float(seconds[-1] - seconds[0])
    about = values - y.mean() - slope * (seconds - x.mean())
    grown, half, noise = slope * length, STUDENT * error * length, float(about.std())
    return {
        "minutes": round(length / 60, 1),
        "mean": round(float(values.mean()), 1),
        "growth": round(grown, 2),
        "interval": [round(grown - half, 2), round(grown + half, 2)],
        "spread": round(noise, 2),
        "above_noise": grown > max(half, noise),
    }


# ---- killed ----


def killed_often(folder: Path, kills: int, rows: int, instants: random.Random) -> dict[str, Any]:
    """How many times a run went on exactly after it was killed."""
    tqdm.tqdm.set_lock(threading.RLock())  # its own would stay locked in all forks when its holder is killed
    each = max(rows // 32 // 8, 1)
    whole, begin = folder / "whole", time.monotonic()
    kept = recipe(folder, rows, save_steps=each, eval_steps=each, save_total_limit=10_000)
    finish(started(kept, whole), whole)
    seconds = time.monotonic() - begin
    between = seconds / len(list(whole.glob("stages/*/checkpoint-*")))
    print(f"a run takes {seconds:.0f} s", flush=True)
    broken = recipe(folder, rows, save_steps=each, eval_steps=each, save_total_limit=2)
    exact, ends, stood = [], [], Counter[str]()
    while len(exact) < kills or not ends:
        output = folder / f"killed-{len(ends)}"
        process = started(broken, output)
        if len(exact) < kills and killed(process, output, len(exact), seconds, between, instants):
            place, same = newest(output), same_so_far(output, whole)
            exact.append(same)
            stood[place.split("/")[0]] += 1
            print(f"{len(exact)}: killed at {place}: {'exact' if same else 'DIFFERENT'}", flush=True)
            continue
        finish(process, output)
        ends.append(same_tensors(output / "model.safetensors", whole / "model.safetensors"))
        print(f"a student after {len(exact)} kills in all: {'exact' if ends[-1] else 'DIFFERENT'}", flush=True)
        shutil.rmtree(output)
    told = {"kills": kills, "exact": sum(exact), "students": len(ends), "exact_students": sum(ends)}
    return {**told, "stood_in": dict(stood), "run_seconds": round(seconds), "passed": all(exact) and all(ends)}


def started(recipe: Path, output: Path) -> ForkProcess:
    """The command as a fork of this process, which has all modules, in a process group of its own with its workers."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(recipe, output))
    process.start()
    return process


def run(recipe: Path, output: Path) -> NoReturn:
    os.setsid()
    log = os.open(output.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    raise SystemExit(distil(command(recipe, output)))


def finish(process: ForkProcess, output: Path) -> None:
    process.join()
    if process.exitcode:
        fail(process.exitcode, output)


def killed(
    process: ForkProcess, output: Path, number: int, seconds: float, between: float, instants: random.Random
) -> bool:
    """Kills a run with its workers: every fourth one within the `seconds` that a whole run takes, its start included;
    the others within two times the seconds `between` checkpoints, after one is begun. False if it was over before.
    """
    now = time.time()
    while number % 4 and not begun_since(now, output) and process.is_alive():
        time.sleep(0.002)
    process.join(instants.uniform(0.0, 2 * between if number % 4 else seconds))
    if not process.is_alive():
        return False
    os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    return True


def begun_since(time_of_start: float, output: Path) -> bool:
    """Whether a checkpoint is being written that the run before did not leave."""
    for part in output.glob("stages/*/.checkpoint-*.part"):
        with contextlib.suppress(FileNotFoundError):  # it is in its place by now
            if part.stat().st_mtime > time_of_start:
                return True
    return False


def newest(output: Path) -> str:
    """The newest whole checkpoint of the newest stage, as `01-distil/checkpoint-24`."""
    for stage in ("01-distil", "00-teacher"):
        checkpoint = last_whole(output / "stages" / stage)
        if checkpoint is not None:
            return f"{stage}/{checkpoint.name}"
        if (output / "stages" / stage / "stage.json").exists():
            return f"{stage} (finished)"
    return "the beginning"


def same_so_far(output: Path, whole: Path) -> bool:
    """Whether what a killed run has reached is what the other had there: student, objectives, optimizer, schedule and
    random states of its newest checkpoint."""
    place = Path("stages", newest(output))
    if not (output / place / "manifest.json").exists():
        return True  # nothing was trained yet that stays
    names = [path.name for path in (whole / place).iterdir()]
    return all(
        same_tensors(output / place / name, whole / place / name)
        for name in names
        if name.endswith((".safetensors", ".pt", ".pth"))
    )


def same_tensors(ours: Path, theirs: Path) -> bool:
    return equal(*map(loaded, (ours, theirs)))


def loaded(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    with safe_globals():  # the random states are of numpy
        return torch.load(path, weights_only=True)


def bits(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    return tensor.flatten().view(torch.uint8).numpy().reshape(*tensor.shape, -1)


def equal(ours: Any, theirs: Any) -> bool:
    """Of nested values, bit by bit."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(equal(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    if isinstance(ours, torch.Tensor):
        # not by torch: its threads would be missing in the runs that are forked from here, which would wait for them
        return ours.dtype == theirs.dtype and bool(np.array_equal(*map(bits, (ours, theirs))))
    return bool(np.array_equal(ours, theirs)) if isinstance(ours, np.ndarray) else bool(ours == theirs)


if __name__ == "__main__":
    raise SystemExit(main())
