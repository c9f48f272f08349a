"""What the rows and the batches of them hold."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader
from transformers import DataCollatorWithFlattening
from transformers.trainer_utils import has_length

from hf_distill.data.batching import fits_budget, lengths_of
from hf_distill.errors import DataError, DistillationError
from hf_distill.objectives.pair import Pair

if TYPE_CHECKING:
    from hf_distill.training.binding import BoundTrainer

logger = logging.getLogger(__name__)


def fits_data(trainer: BoundTrainer, needs_labels: bool) -> None:
    """Refuses a data set without the labels that the terms read, or with rows longer than a model's position table.

    A collator makes the labels of a language model out of the text, and any labels out of columns that are kept.
    """
    rows = trainer.train_dataset
    if isinstance(rows, Mapping):
        kind, split = type(rows).__name__, "train" if "train" in rows else next(iter(rows), "train")
        raise DataError(
            f"train_dataset is a {kind} of the splits {', '.join(rows)}; give one of them: train_dataset=…[{split!r}]."
        )
    columns = getattr(rows, "column_names", None)
    if columns is None:
        return
    task = trainer.distillation.pair.task
    collated = task.vocabulary_sized or not trainer.args.remove_unused_columns
    given = {"labels", *columns} if {"label", "label_ids"} & set(columns) else set(columns)
    missing = [name for name in task.label_names if name not in given]
    if needs_labels and missing and not collated:
        raise DataError(
            f"the training data have no column {missing[0]!r}, which the objectives read (columns: "
            f"{', '.join(columns)}). Add labels, or train on soft targets alone: objectives=SoftTargets()."
        )
    if trainer.args.length_column_name in columns and hasattr(trainer.train_dataset, "__len__"):
        longest = max(trainer.train_dataset[trainer.args.length_column_name][:], default=0)
        fits_positions(trainer.distillation.pair, longest)


def fits_positions(pair: Pair, length: int, teachers_length: int | None = None) -> None:
    """Refuses an input that is longer than the position table of either model; a teacher with a tokenizer of its own
    reads `teachers_length` tokens of it.
    """
    theirs = length if pair.across is None else teachers_length or 0
    for role, shape, read in (("student", pair.student, length), ("teacher", pair.teacher, theirs)):
        if shape is not None and shape.max_length is not None and read > shape.max_length:
            raise DataError(
                f"a row has {read} tokens, and the {role} ({shape.family}) reads {shape.max_length} at most. "
                f"Truncate the texts: tokenizer(…, truncation=True, max_length={shape.max_length})."
            )


def fits_token_budget(trainer: BoundTrainer) -> None:
    """Refuses `tokens_per_batch` with what makes batches in another way, or where a row is known to be longer."""
    tokens, rows, column = trainer.tokens_per_batch, trainer.train_dataset, trainer.args.length_column_name
    if tokens is None:
        return
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise DistillationError(f"tokens_per_batch is {tokens!r}; it must be a whole number of 1 or more.")
    given = {
        "auto_find_batch_size": trainer.args.auto_find_batch_size,
        "split_batches": trainer.accelerator.split_batches,
        "dispatch_batches": trainer.accelerator.dispatch_batches,
    }
    for name in (name for name, value in given.items() if value):
        raise DistillationError(
            f"tokens_per_batch says what is in a batch, and {name} changes it; leave one of them out."
        )
    if rows is not None and not hasattr(rows, "__len__"):
        raise DataError(
            "tokens_per_batch needs the lengths of all rows, and those of a stream are not known; set "
            "per_device_train_batch_size, or store the text first (streaming: false)."
        )
    if hasattr(rows, "epoch_batches"):
        rows.epoch_batches(0, tokens)
    elif column in (getattr(rows, "column_names", None) or ()):
        fits_budget(max(rows[column][:], default=0), tokens)


def fits_batches(trainer: BoundTrainer) -> None:
    """Refuses batches with too few examples for an objective that relates them to each other, and warns of few."""
    if trainer.train_dataset is None:
        return
    processes, distillation = trainer.accelerator.num_processes, trainer.distillation
    named = list(zip(distillation.objectives, distillation.terms(), strict=True))
    for name, objective in named:
        exchanged = processes > 1 and (objective.gather or objective.reads_rows)
        if exchanged and (trainer.tokens_per_batch or not trainer.accelerator.even_batches):
            other = "tokens_per_batch" if trainer.tokens_per_batch else "even_batches=False"
            raise DistillationError(
                f"objective {name!r} exchanges the examples of {processes} processes, each of which must have as "
                f"many, and {other} deals out batches of unequal sizes; leave {other} out"
                f"{', or set gather=False' if objective.gather else ''}."
            )
    wanted = max((max(objective.smallest_batch, objective.advised_batch) for _, objective in named), default=1)
    found, setting = _examples(trainer) if wanted > 1 else (wanted, "")
    for name, objective in named:
        related = found * (processes if objective.gather else 1)
        together = f"objective {name!r} relates the examples of a batch to each other; {setting} makes it {related}"
        if related < objective.smallest_batch:
            raise DistillationError(
                f"{together}; it needs {objective.smallest_batch}. Raise {setting}: accumulating gradients makes no "
                "batch larger."
            )
        if related < objective.advised_batch:
            logger.warning("%s; below %d it says little. Raise it.", together, objective.advised_batch)


def left_over(trainer: BoundTrainer) -> int:
    """How many rows the last round of an epoch has, over all processes, where accelerate fills it with repeated ones;
    0 where it has none of these, or nobody knows how many rows there are."""
    if trainer.tokens_per_batch is not None:
        return 0
    return _rest(trainer, trainer.train_dataset, trainer._train_batch_size)


def _rest(trainer: BoundTrainer, rows: Any, batch_size: int) -> int:
    """The same of any rows, in batches of a size."""
    accelerator = trainer.accelerator
    if not accelerator.even_batches or trainer.args.dataloader_drop_last or not has_length(rows):
        return 0
    together = batch_size * (1 if accelerator.split_batches else accelerator.num_processes)
    return int(len(rows) % together)


def fits_joined_rows(trainer: BoundTrainer) -> None:
    """Refuses a collator that joins rows where some are repeated to fill the batches of several processes: what they
    were is gone by then, and they would count twice."""
    _refuse_joined(trainer, trainer.train_dataset, left_over(trainer), "an epoch")


def fits_joined_evaluation(trainer: BoundTrainer, loader: DataLoader[Any]) -> None:
    """Refuses the same where the rows of `loader` are evaluated, if they can be counted: a subclass may give any
    loader."""
    rows = getattr(loader, "dataset", None)
    _refuse_joined(trainer, rows, _rest(trainer, rows, trainer.args.eval_batch_size), "an evaluation")


def _refuse_joined(trainer: BoundTrainer, rows: Any, left: int, when: str) -> None:
    processes = trainer.accelerator.num_processes
    if processes > 1 and left and isinstance(trainer.data_collator, DataCollatorWithFlattening):
        raise DistillationError(
            f"DataCollatorWithFlattening joins the rows of a batch. The last batches of {when} have {left} rows; "
            f"{processes} processes fill them with rows from its beginning, which could not be told apart any more, "
            f"and would count twice. Set dataloader_drop_last=True, or leave {left} of the {len(rows)} rows out."
        )


def _examples(trainer: BoundTrainer) -> tuple[int, str]:
    """The examples of a full batch of a process, at least, and the setting that says so."""
    tokens, rows = trainer.tokens_per_batch, trainer.train_dataset
    if tokens is None:
        split = trainer.accelerator.num_processes if trainer.accelerator.split_batches else 1
        return trainer.args.per_device_train_batch_size // split, "per_device_train_batch_size"
    packed = hasattr(rows, "epoch_batches")
    lengths = rows.epoch_batches(0, tokens).lengths if packed else lengths_of(rows, trainer.args.length_column_name)
    return tokens // int(lengths.max(initial=1)), "tokens_per_batch"
