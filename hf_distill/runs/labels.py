"""Which column of a model's logits is which class of the task."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel

from hf_distill.data.labels import LabelKind
from hf_distill.errors import IncompatiblePair
from hf_distill.objectives.pair import GENERIC
from hf_distill.tasks import IGNORED, task_of

logger = logging.getLogger(__name__)

Columns = tuple[int, ...]
"""`columns[c]` is the model's column of the task's class c, -1 for one that it does not have; empty for a task without
named classes."""

SEVERAL = "multi_label_classification"
"""The `problem_type` of models that give a text any number of classes."""


def label_settings(names: Sequence[str]) -> dict[str, Any]:
    """The settings of a model configuration that give a new head these labels; without any, one score."""
    if not names:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": None,  # that of a checkpoint for another task would stay
    }


def without_own_labels(head: dict[str, Any], own: Sequence[str]) -> dict[str, Any]:
    """The settings of a head but for the labels, where a checkpoint has the same ones, `own`: it keeps its head, and
    another order of names would be on the wrong columns of it."""
    names = list(head.get("label2id", ()))
    if not names or not _are_same(list(own), names):
        return head
    return {name: value for name, value in head.items() if name not in ("id2label", "label2id")}


def stored_labels(path: str, revision: str | None = None) -> tuple[str, ...]:
    """The labels of a model that is stored, in their order, as its configuration tells: one for a score, nothing where
    several have no names, or none are told, or it cannot be read, which is said when it is loaded."""
    try:
        config, _ = PreTrainedConfig.get_config_dict(path, revision=revision)
        told = config.get("id2label") or {}
        names = tuple(str(told[key]) for key in sorted(told, key=int))
    except (OSError, ValueError, TypeError, AttributeError):
        return ()
    named = len({*names}) == len(names) and not any(GENERIC.match(name) or name.isdigit() for name in names)
    return names if named or len(names) == 1 else ()


def align_labels(model: PreTrainedModel, role: str, names: Sequence[str]) -> Columns:
    """Gives the model's labels the spelling of `names`, the task's in order (none: a regression), and returns where
    each class of the task stands.

    Names are compared without regard to case, blanks, `_` and `-`. Where the model has none of its own (`LABEL_0` …),
    or one side has the numbers from 0 in their place, both are taken to be in the same order. A teacher may have some
    of the task's classes alone, by their names, as one from before its student's labels grew.

    Raises: `IncompatiblePair` if the numbers of labels or their names differ: the model was trained for something
    else.
    """
    config, wanted = model.config, len(names) or 1
    part = _of_some(config, names)
    if role.startswith("teacher") and part:
        return part
    if config.num_labels != wanted:
        task = f"{wanted} labels ({', '.join(names)})" if names else "a regression, one score"
        lacking = ", ".join(name for name, column in zip(names, part or (), strict=False) if column < 0)
        grown = f", or let its head grow (student: {{grow_labels: {{names: [{lacking}]}}}})" if lacking else ""
        raise IncompatiblePair(
            f"the {role} has {config.num_labels} labels ({', '.join(map(str, config.id2label.values()))}), the task "
            f"{task}: it was not trained for this task. Give a {role} that was{grown}.{_rule_of(names)}"
        )
    if not names:
        return (0,)
    found = [str(config.id2label[i]) for i in range(wanted)]
    in_order = None if _are_same(found, names) else _by_order(role, found, names)
    columns = in_order or _by_name(role, found, names)
    config.id2label = dict(sorted(zip(columns, names, strict=True)))
    config.label2id = {name: column for column, name in config.id2label.items()}
    return columns


def check_problem_type(model: PreTrainedModel, role: str, kind: LabelKind) -> None:
    """Has a model say that a text has any number of classes, where it does and the configuration says nothing.

    Raises: `IncompatiblePair` where it says another: it was trained with another law of the logits.
    """
    if model.config.problem_type is None and kind == "multi_label":
        model.config.problem_type = SEVERAL
    found = task_of(model).name
    if found != kind:
        raise IncompatiblePair(
            f"the task of the {role} is {found} (its problem_type is {model.config.problem_type!r}), and that of the "
            f"rows {kind}: it was not trained for this task. Give a {role} that was."
        )


def _rule_of(names: Sequence[str]) -> str:
    """A sentence on labels that may be scores."""
    if not names or not all(name.lstrip("-").isdigit() for name in names):
        return ""
    return (
        " Labels that are whole numbers are classes, unless --regression (data.regression) says that they are scores."
    )


def _are_same(found: list[str], names: Sequence[str]) -> bool:
    """Whether both sides have the same names, in whatever order: numbers are names as well, and those of eleven
    classes are sorted otherwise as text."""
    ours, theirs = sorted(map(_plain, names)), sorted(map(_plain, found))
    return ours == theirs and len({*theirs}) == len(theirs)


def _by_order(role: str, found: list[str], names: Sequence[str]) -> Columns | None:
    """The order as it is, where one side has no names."""
    generic = all(GENERIC.match(name) for name in found)
    numbered = [str(i) for i in range(len(names))] in (list(names), found)
    if not generic and not numbered:
        return None
    if found != list(names):
        logger.warning("labels of the %s, %s, are taken to be the task's in its order, %s", role, found, list(names))
    return tuple(range(len(names)))


def _by_name(role: str, found: list[str], names: Sequence[str]) -> Columns:
    if not _are_same(found, names):
        raise IncompatiblePair(
            f"the labels of the {role} are {found}, those of the task {list(names)}; they must be the same names. If "
            f"they mean the same, rename them in id2label and label2id of the {role}'s config.json."
        )
    theirs = [_plain(name) for name in found]
    return tuple(theirs.index(_plain(name)) for name in names)


def _of_some(config: Any, names: Sequence[str]) -> Columns | None:
    """The columns of a model that has fewer classes than the task, each of them one of the task's; else None."""
    theirs = [_plain(str(config.id2label[i])) for i in range(config.num_labels)]
    ours = [_plain(name) for name in names]
    if not 1 < len(theirs) < len(ours) or not {*theirs} <= {*ours} or len({*theirs}) < len(theirs):
        return None
    config.id2label = {i: names[ours.index(name)] for i, name in enumerate(theirs)}
    config.label2id = {name: column for column, name in config.id2label.items()}
    return tuple(theirs.index(name) if name in theirs else -1 for name in ours)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def in_model_order(dataset: Dataset, columns: Columns) -> Dataset:
    """The split with its class ids as the model counts them; rows of classes that it does not have lose theirs."""
    if columns == tuple(range(len(columns))) or "labels" not in dataset.column_names:
        return dataset
    ids = ids_in(columns)
    return dataset.map(lambda rows: {"labels": [ids[label] for label in rows["labels"]]}, batched=True)


def ids_in(columns: Columns) -> list[int]:
    """The model's id of each class of the task, -100 for one that it does not have."""
    return [column if column >= 0 else IGNORED for column in columns]


def in_task_order(logits: np.ndarray, columns: Columns) -> np.ndarray:
    """Logits `[..., classes]` with the task's classes in order, -inf for those that the model does not have."""
    ordered = logits[..., list(columns)]
    ordered[..., [i for i, column in enumerate(columns) if column < 0]] = -np.inf
    return ordered
