"""Every process writes its share of a language model's cache, reads all of it, and takes two steps of the student."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from hf_distill import DistillationTrainer, SoftTargets
from hf_distill.teachers.cache import codecs, filling
from tests import tiny

ROWS = tiny.rows("causal_lm", 48)


def trainer(folder: Path, pause: float) -> DistillationTrainer:
    """A student that learns from the folder, its teacher slowed down by so many seconds a batch."""
    teacher = tiny.model("causal_lm", layers=3, seed=3)
    teacher.register_forward_pre_hook(lambda *_: time.sleep(pause))
    made = DistillationTrainer(
        model=tiny.model("causal_lm", seed=4),
        teacher=teacher,
        objectives=SoftTargets(temperature=2.0),
        args=tiny.arguments(
            output_dir=str(folder.parent / "out"),
            per_device_train_batch_size=8 // int(os.environ.get("WORLD_SIZE", "1")),
            per_device_eval_batch_size=2,
            max_steps=2,
        ),
        train_dataset=ROWS,
        data_collator=tiny.Pad(),
    )
    made.cache_teacher(folder, codec=codecs.make("float32", {}))
    return made


if __name__ == "__main__":
    tiny.VOCABULARY = 4200
    filling.SHARD_BYTES = 1
    made = trainer(Path(sys.argv[1]), float(sys.argv[2]))
    made.train()
    if made.is_world_process_zero():
        made.model.save_pretrained(sys.argv[3])
