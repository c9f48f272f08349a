"""Run by torchrun: trains with a whole student and with one in shards, and publishes each."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.distributed.train_in_shards import OF_TWO, trainer_of
from tests.hub.conftest import tiny_tokenizer

KINDS = ("whole", "student")


def main() -> None:
    folder = Path(sys.argv[1])
    for kind in KINDS:
        settings = {**OF_TWO, "output_dir": str(folder / kind), "hub_model_id": f"me/{kind}"}
        trainer = trainer_of(folder, kind, 2, **settings)
        trainer.processing_class = tiny_tokenizer()
        trainer.train()
        published = trainer.push_to_hub()
        if (published is not None) != trainer.is_world_process_zero():
            raise SystemExit("the first process publishes, and no other")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
