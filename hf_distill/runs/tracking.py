"""How trackers (TensorBoard, trackio, wandb …) see a run: as one run of theirs for each stage, told apart by name.

The Trainer's own callbacks write, where `report_to` asks for them. Steps count from 0 in every stage, so that two
stages in one curve would lie upon each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
)

from hf_distill.errors import RecipeError
from hf_distill.suggestions import did_you_mean

PROJECT = "hf-distill"
"""The project of trackio, unless the arguments have one."""

RUNS = "runs"
"""The folder of TensorBoard's files in that of the run; each stage has one in it."""


def names(given: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """`run_name` and `project` of a stage that works in `<run>/stages/<stage>`: `<run>-<stage>`, or the given name
    with the stage behind it.
    """
    run = given.get("run_name") or _run(folder).name
    return {"run_name": f"{run}-{folder.name}", "project": given.get("project") or PROJECT}


def _run(folder: Path) -> Path:
    return folder.resolve().parents[1]


def check_trackers(arguments: TrainingArguments, where: str) -> None:
    """Raises: `RecipeError` for a tracker that transformers does not know, or that is not installed."""
    for name in arguments.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            hint = did_you_mean(name, INTEGRATION_TO_CALLBACK, ", ") or "."
            raise RecipeError(
                f"{where}: report_to: there is no tracker {name!r}{hint} The trackers are none, "
                f"{', '.join(sorted(INTEGRATION_TO_CALLBACK))}."
            )
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:
            raise RecipeError(
                f"{where}: report_to: {name} cannot be used here: {error} `pip install 'hf_distill[trackers]'` brings "
                "tensorboard, trackio and wandb."
            ) from error


@contextmanager
def followed(trainer: Trainer, folder: Path) -> Iterator[None]:
    """The training and the end of a stage that works in `folder`: what its trackers have open is closed behind it,
    however it ends, so that the next one is not written into it.
    """
    _place(trainer, folder)
    try:
        yield
    finally:
        _close(trainer)


def _place(trainer: Trainer, folder: Path) -> None:
    """Has TensorBoard write into `runs/<stage>` of the run, or of the folder that TENSORBOARD_LOGGING_DIR names."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            root = Path(callback.logging_dir or _run(folder) / RUNS)
            callback.logging_dir = str(root / folder.name)


def _close(trainer: Trainer) -> None:
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback | TrackioCallback):
            callback.on_train_end(trainer.args, trainer.state, trainer.control, model=trainer.model)
        elif isinstance(callback, WandbCallback) and callback._wandb.run is not None:
            callback._wandb.finish()
