"""The training arguments of a stage: the recipe's over the defaults."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from hf_distill.errors import RecipeError
from hf_distill.runs.tracking import check_trackers

DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "logging_steps": 0.02,
}
"""What a recipe need not say. Fifty logs a stage make a curve, whatever its length."""

QUIET: dict[str, Any] = {
    "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "report_to": "none",
    "disable_tqdm": True,
}  # fmt: skip
"""Arguments of every stage of a run that is one of many to be compared: only its steps are timed, it is judged by its
end, and nothing is kept of what lies between."""

RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""What newer releases of transformers call otherwise. Recipes say the older name, which every supported release takes,
the newer ones with a warning that it is deprecated."""


def training_arguments(
    given: Mapping[str, Any], folder: Path, seed: int, where: str, kind: type[TrainingArguments] = TrainingArguments
) -> TrainingArguments:
    """The arguments of a stage, which works in `folder`.

    Raises: `RecipeError` naming the stage for arguments that do not go together, or with this machine.
    """
    publishing = sorted(name for name in given if name == "push_to_hub" or name.startswith("hub_"))
    if publishing:
        raise RecipeError(
            f"{where}: {publishing[0]} may not stand among the arguments of a stage: the finished student is "
            "published, once, by --push_to_hub --hub_model_id owner/name."
        )
    pinned = {"dataloader_pin_memory": torch.accelerator.is_available()}  # else torch warns at every loader
    settings = {**DEFAULTS, **pinned, "seed": seed, **given, "output_dir": str(folder)}
    try:
        arguments = kind(**renamed(settings, {each.name for each in fields(kind)}))
    except (ValueError, ImportError) as error:
        raise RecipeError(f"{where}: {error}") from error
    check_trackers(arguments, where)
    return arguments


def renamed(settings: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The settings by the newer names, where these are known and not given as well."""
    newer = {old: new for old, new in RENAMED.items() if new in known and new not in settings}
    return {newer.get(name, name): value for name, value in settings.items()}


def evaluation_arguments(given: Mapping[str, Any], folder: Path, seed: int, where: str) -> TrainingArguments:
    """The same, for a trainer that only predicts, and may generate.

    Raises: `RecipeError`, as `training_arguments`.
    """
    idle = {
        "report_to": "none",  # a tracker would begin a run of its own
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "enable_jit_checkpoint": False,
    }
    return training_arguments({**given, **idle}, folder, seed, where, Seq2SeqTrainingArguments)
