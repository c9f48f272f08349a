"""How much memory distill_mlm takes on a large file of text.

Generates a file, runs `scripts/distill_mlm.py` on it once with tokens streamed and once with them stored on the disk,
each in a process of its own, and prints the largest resident memory of each, and, to compare with, that of the same
training on a file of 1 MB. By default the file has 2 GB, and the limit that is compared with is 1.5 GB.

    python scripts/benchmarks/streaming_memory.py [--megabytes 2000] [--steps 200] [--folder FOLDER]

Twice the file's size should be free in FOLDER (by default a temporary one). `--megabytes 40 --steps 10` is a smoke
test.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from made_up_text import save_model, write_text

ROOT = Path(__file__).parents[2]
LIMIT = 1.5e9
"""Bytes of resident memory that a run of a small model stays below."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=2000.0)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        return measure(Path(folder), given.megabytes, given.steps)


def measure(folder: Path, megabytes: float, steps: int) -> int:
    """Runs both, and returns the exit status: 1 if one was above the limit."""
    text = folder / "text.txt"
    write_text(text, megabytes)
    write_text(folder / "small.txt", 1.0, seed=2)
    write_text(folder / "validation.txt", 0.1, seed=1)
    save_model(folder / "teacher", layers=4, width=256)
    print(f"{text.stat().st_size / 1e9:.2f} GB of text; {steps} steps of 8 rows of 128 tokens", flush=True)
    peaks = {}
    for kind, file, flags in RUNS:
        start = time.perf_counter()
        peaks[kind] = run(folder, kind, file, steps, flags)
        print(f"{kind:<9}{peaks[kind] / 1e9:6.2f} GB at most, {time.perf_counter() - start:7.0f} s", flush=True)
    print(f"the limit is {LIMIT / 1e9:.1f} GB")
    return int(max(peaks.values()) >= LIMIT)


RUNS: tuple[tuple[str, str, list[str]], ...] = (
    ("small", "small.txt", []),
    ("streamed", "text.txt", ["--streaming"]),
    ("stored", "text.txt", []),
)
"""Name, file and flags of each."""


def run(folder: Path, kind: str, file: str, steps: int, flags: list[str]) -> int:
    """The largest resident memory of a run, in bytes."""
    command = [
        sys.executable, str(ROOT / "scripts" / "distill_mlm.py"), "--train_file", str(folder / file),
        "--validation_file", str(folder / "validation.txt"), "--teacher_name_or_path", str(folder / "teacher"),
        "--student_layers", "2", "--max_seq_length", "128", "--max_steps", str(steps), "--use_cpu",
        "--per_device_train_batch_size", "8", "--cache_dir", str(folder / "cache"), "--disable_tqdm", "true",
        "--output_dir", str(folder / kind), "--do_train",
        "--eval_strategy", "no", "--save_steps", "0.5", *flags,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    raise SystemExit(main())
