"""The arguments of a training, in a checkpoint as JSON."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINING_ARGS_NAME

ARGUMENTS = "training_arguments.json"

BUDGET = "tokens_per_batch"
"""The trainer's own setting, told of beside the arguments."""


def replace_pickled_arguments(folder: Path, args: Any, tokens_per_batch: int | None = None) -> None:
    """Puts the arguments down as JSON with tokens masked, and the token budget; the pickle that the Trainer writes
    would hold tokens in clear.
    """
    (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    told = {**args.to_sanitized_dict(), BUDGET: tokens_per_batch}
    text = json.dumps(told, indent=2, default=str, sort_keys=True)
    (folder / ARGUMENTS).write_text(text + "\n", encoding="utf-8")


def let_others_read(folder: Path, like: str = ARGUMENTS) -> None:
    """Gives the weights in a folder the mode of another file in it: safetensors writes files that their owner alone
    may read.
    """
    mode = stat.S_IMODE((folder / like).stat().st_mode)
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)
