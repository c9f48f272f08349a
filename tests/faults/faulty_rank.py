"""Run by torchrun on two ranks: trains until a fault, on rank 1 alone, ends it. Writes what is told of NaN, and the
weights at the end, to a file of each rank; of another fault the file `gone` tells when it was:
`SCRIPT FOLDER nan|killed|raises`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, distributed

from hf_distill import Labels
from hf_distill.errors import NonFiniteLoss
from tests.faults.tiny_faults import Broken, trainer_for

STEP = 3


class Faulty(Broken):
    """What happens to rank 1 in step 3."""

    name = "faulty"

    def __init__(self, folder: Path, kind: str) -> None:
        super().__init__(at=STEP if kind == "nan" and os.environ["RANK"] == "1" else 0)
        self.folder, self.kind = folder, kind

    def forward(self, student: Any, teacher: Any, batch: Any) -> Tensor:
        value = super().forward(student, teacher, batch)
        if self.calls == STEP and os.environ["RANK"] == "1" and self.kind != "nan":
            (self.folder / "gone").touch()
            if self.kind == "raises":
                raise ValueError("something broke on rank 1")
            os.kill(os.getpid(), signal.SIGKILL)
        return value


def main(folder: Path, kind: str) -> None:
    arguments = {"max_steps": 8, "per_device_train_batch_size": 2, "optim": "adamw_torch_fused", "logging_steps": 8}
    objectives = Labels() + Faulty(folder, kind)
    trainer = trainer_for(objectives=objectives, arguments={**arguments, "learning_rate": 1e-3, "ddp_timeout": 60})
    rank = trainer.args.process_index
    try:
        trainer.train()
    except NonFiniteLoss as error:
        (folder / f"{rank}.txt").write_text(str(error))
        save_file({name: p.detach() for name, p in trainer.model.named_parameters()}, folder / f"{rank}.safetensors")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
