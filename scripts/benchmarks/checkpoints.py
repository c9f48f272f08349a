"""What it costs to write a checkpoint beside, with a manifest, against the Trainer's own.

    python scripts/benchmarks/checkpoints.py [--width 512] [--layers 6] [--rounds 7] [--pause 2] [--json FILE]

A BERT classifier (28 million parameters as it stands, 340 MB of weights and AdamW states) takes one step in a plain
`Trainer` and in a `DistillationTrainer` without a teacher; then both save in turns, each time as another step, with
`save_total_limit=1`. A save is what training waits for. The SHA-256 of the files and their fsync come after it, while
training goes on (here, the pause), and are told apart. Ratios are of the two saves of a round, and their median.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from hf_distill import DistillationTrainer, checkpoints


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between saves")
    parser.add_argument("--folder", type=Path, help="where checkpoints are written (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        found = measured(home, given)
    finally:
        shutil.rmtree(home)
    print(json.dumps(found, indent=1))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def measured(home: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each save, their ratios, and of what comes after."""
    trainers = {kind.__name__: ready(kind, home / kind.__name__, given) for kind in (Trainer, DistillationTrainer)}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    busy: dict[str, list[float]] = {name: [] for name in trainers}
    after: list[float] = []
    seal = checkpoints.seal

    def timed(checkpoint: Path) -> None:
        begin = time.perf_counter()
        seal(checkpoint)
        after.append(time.perf_counter() - begin)

    checkpoints.seal = timed
    for step in range(2, given.rounds + 3):
        for name in sorted(trainers, reverse=bool(step % 2)):
            trainer = trainers[name]
            trainer.state.global_step = step
            flush(home)
            begin, working = time.perf_counter(), time.thread_time()
            trainer._save_checkpoint(trainer.model, None)
            seconds[name].append(time.perf_counter() - begin)
            busy[name].append(time.thread_time() - working)
            time.sleep(given.pause)
    trainers["DistillationTrainer"]._settle()
    last = home / "Trainer" / f"checkpoint-{given.rounds + 2}"
    return {
        "megabytes": round(sum(path.stat().st_size for path in last.iterdir()) / 1e6, 1),
        "seconds": compared(seconds),
        "cpu_seconds": compared(busy),
        "sums_and_fsync_while_training_seconds": round(statistics.median(after), 4),
    }


def flush(home: Path) -> None:
    """Has all checkpoints written to the disk itself."""
    for path in home.rglob("*.*"):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def compared(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians without the first save, which makes what the others replace, and the ratios."""
    plain, ours = (seconds[kind.__name__][1:] for kind in (Trainer, DistillationTrainer))
    ratios = [b / a for a, b in zip(plain, ours, strict=True)]
    return {
        "trainer": round(statistics.median(plain), 4),
        "hf_distill": round(statistics.median(ours), 4),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(value, 3) for value in ratios],
        "ratio_of_fastest": round(min(ours) / min(plain), 3),
    }


def ready(kind: type[Trainer], folder: Path, given: argparse.Namespace) -> Trainer:
    """A trainer behind its first step, so that it has an optimizer with states."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=16_384,
        hidden_size=given.width,
        num_hidden_layers=given.layers,
        num_attention_heads=given.width // 64,
        intermediate_size=4 * given.width,
        max_position_embeddings=32,
    )
    arguments = TrainingArguments(
        str(folder),
        max_steps=1,
        save_strategy="steps",
        save_steps=1000,
        save_total_limit=1,
        per_device_train_batch_size=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    rows = [{"input_ids": [2, 3, 4], "attention_mask": [1, 1, 1], "labels": 0}]
    trainer = kind(model=BertForSequenceClassification(config), args=arguments, train_dataset=rows)
    trainer.train()
    return trainer


if __name__ == "__main__":
    logging.disable(logging.INFO)
    raise SystemExit(main())
