"""Two epochs in batches with a budget of tokens, on as many processes as were started: `SCRIPT FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import save_file

from tests.test_batches import trainer_for


def main(folder: str) -> None:
    trainer = trainer_for(tokens_per_batch=160)
    trainer.train()
    state = {name: parameter.detach().clone() for name, parameter in trainer.distillation.named_parameters()}
    save_file(state, Path(folder) / f"{trainer.args.process_index}.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
