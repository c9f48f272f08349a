"""What is published of a student that is still training."""

from __future__ import annotations

import logging
from pathlib import Path

from transformers.trainer_utils import HubStrategy

from hf_distill.errors import HubError
from hf_distill.hub.publish import publish

logger = logging.getLogger(__name__)

WITH_OPTIMIZER = (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)
"""Strategies by which transformers would upload optimizer, scheduler and random state, which are pickles."""


def say_what_is_left_out(strategy: HubStrategy) -> None:
    """Warns, once before training, where a strategy stands for more than is published."""
    if strategy in WITH_OPTIMIZER:
        logger.warning(
            "hub_strategy %s: the student's weights are published at every save; optimizer, scheduler and random "
            "state are pickles, and stay here, so training is gone on with from output_dir and not from the Hub.",
            strategy.value,
        )


def publish_save(
    checkpoint: Path, repo_id: str, *, private: bool, revision: str | None, strategy: HubStrategy, stage: str = ""
) -> None:
    """Publishes the student of a checkpoint: at the top of the repository, and with `all_checkpoints` also in a folder
    `checkpoint-<step>` of it, behind the name of its stage where a run has stages.

    Training waits for it, as the checkpoint may be rotated away. It is tried once, and a failure is a warning: the
    next save, and the end of training, publish what is newest.
    """
    step = checkpoint.name.removeprefix("checkpoint-")
    own = f"{stage}-{checkpoint.name}/" if stage else f"{checkpoint.name}/"
    folders = ("", own) if strategy == HubStrategy.ALL_CHECKPOINTS else ("",)
    title = f"Training in progress, stage {stage}, step {step}" if stage else f"Training in progress, step {step}"
    try:
        for folder in folders:
            publish(
                checkpoint,
                repo_id,
                private=private,
                revision=revision,
                commit_message=title,
                path_in_repo=folder,
                waits=(),
            )
    except HubError as error:
        logger.warning("the save of step %s was not published, and training goes on: %s", step, error)
