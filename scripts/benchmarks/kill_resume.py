"""Whether a run of distill_mlm that is killed is gone on with bit by bit.

Runs `scripts/distill_mlm.py` on a tiny model once to its end, and once with SIGKILL sent to it at random instants of
that time, each time started again by the same command. Prints where it went on, and whether the two students are
bitwise equal.

    python scripts/benchmarks/kill_resume.py [--steps 2000] [--kills 3] [--seed 0]

`--steps 40` is a smoke test.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from made_up_text import save_model, write_text

ROOT = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return compare(Path(folder), given.steps, given.kills, random.Random(given.seed))


def compare(folder: Path, steps: int, kills: int, instants: random.Random) -> int:
    """Runs both, and returns the exit status: 1 if the students differ."""
    write_text(folder / "text.txt", 0.5)
    save_model(folder / "teacher", layers=2, width=64)
    start = time.perf_counter()
    finish(start_run(folder, "whole", steps))
    seconds = time.perf_counter() - start
    print(f"{steps} steps without a kill: {seconds:.0f} s", flush=True)
    before = 0.0
    for instant in sorted(instants.uniform(0.05, 0.95) * seconds for _ in range(kills)):
        kill_after(instant - before, start_run(folder, "killed", steps))
        print(f"killed at {instant:.0f} s; its last checkpoint is of step {last_step(folder)}", flush=True)
        before = instant
    finish(start_run(folder, "killed", steps))
    sums = [hashlib.sha256((folder / name / "model.safetensors").read_bytes()).hexdigest() for name in NAMES]
    equal = sums[0] == sums[1]
    print(f"{'equal' if equal else 'DIFFERENT'}: {sums[0]} without a kill, {sums[1]} after {kills}")
    return int(not equal)


NAMES = ("whole", "killed")


def kill_after(seconds: float, process: subprocess.Popen[bytes]) -> None:
    """Kills a run and its workers; one that ends before is a failure."""
    try:
        status = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    else:
        raise SystemExit(f"ended with status {status} before it could be killed")


def start_run(folder: Path, name: str, steps: int) -> subprocess.Popen[bytes]:
    """The command, in a process group of its own so that its workers are killed with it."""
    command = [
        sys.executable, str(ROOT / "scripts" / "distill_mlm.py"), "--train_file", str(folder / "text.txt"),
        "--teacher_name_or_path", str(folder / "teacher"), "--student_layers", "1", "--max_seq_length", "32",
        "--max_steps", str(steps), "--per_device_train_batch_size", "16", "--gradient_accumulation_steps", "2",
        "--dataloader_num_workers", "1", "--save_steps", str(max(steps // 40, 1)), "--eval_strategy", "no",
        "--cache_dir", str(folder / "cache"), "--use_cpu", "--disable_tqdm", "true",
        "--output_dir", str(folder / name), "--do_train",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    log = (folder / f"{name}.log").open("ab")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Waits for the end of a run, which must be a good one."""
    status = process.wait()
    if status:
        raise SystemExit(f"{' '.join(map(str, process.args))} ended with status {status}")  # type: ignore[arg-type]


def last_step(folder: Path) -> int:
    """The newest checkpoint of the run that is killed, 0 if there is none."""
    names = [path.name for path in (folder / "killed" / "stages" / "01-distil").glob("checkpoint-*")]
    return max((int(name.removeprefix("checkpoint-")) for name in names), default=0)


if __name__ == "__main__":
    raise SystemExit(main())
