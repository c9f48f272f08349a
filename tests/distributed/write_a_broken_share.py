"""Run by torchrun on two ranks: each writes its share of a cache, and rank 1 cannot. What each is told is written to
FOLDER/<rank>.txt: `SCRIPT FOLDER nan|full`."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import torch

from hf_distill import DistillationTrainer, SoftTargets
from hf_distill.errors import DistillationError
from hf_distill.teachers.cache.folder import CacheFolder
from tests import tiny


def no_room(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def main(folder: Path, kind: str) -> None:
    rank = int(os.environ["RANK"])
    teacher = tiny.model("single_label", layers=2, seed=3)
    trainer = DistillationTrainer(
        model=tiny.model("single_label", seed=4),
        teacher=teacher,
        objectives=SoftTargets(),
        args=tiny.arguments(output_dir=str(folder / "out"), per_device_eval_batch_size=2, ddp_timeout=60),
        train_dataset=tiny.rows("single_label", 16),
        data_collator=tiny.Pad(),
    )
    if rank == 1 and kind == "full":
        os.fsync = no_room
    if rank == 1 and kind == "nan":
        classify = teacher.classifier.forward
        teacher.classifier.forward = lambda rows: classify(rows) * torch.nan
    try:
        trainer.cache_teacher(folder / "cache")
    except DistillationError as error:
        (folder / f"{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    if rank == 0:
        held = CacheFolder(folder / "cache").facts()
        (folder / "rows.txt").write_text(str(sum(shard.rows for shard in held.shards)))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
