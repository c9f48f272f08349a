"""Batches that no model can read: refused where they are put together, on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from hf_distill.errors import DataError
from hf_distill.tasks import IGNORED


class Readable:
    """A collator that gives what `collator` does, and refuses batches on which a model would fail: without any token,
    with tokens beyond a `vocabulary` of so many entries, and with labels beyond so many `classes`; `teachers` are the
    entries of a teacher that reads tokens of its own. None is for what is not to be looked at.

    On a CPU torch names the number alone, and on a GPU the whole process is lost (a device-side assert). It looks at
    what lies on the host, so that no step waits for the device.

    Raises: `DataError` that names the row, the number, and what there is.
    """

    def __init__(
        self,
        collator: Callable[[list[Any]], Any],
        vocabulary: int | None,
        classes: int | None,
        teachers: int | None = None,
    ) -> None:
        self.collator, self.vocabulary, self.classes, self.teachers = collator, vocabulary, classes, teachers

    def __call__(self, items: list[Any]) -> Any:
        batch = self.collator(items)
        if isinstance(batch, Mapping):
            self._check_tokens(batch.get("input_ids"), self.vocabulary, "the models have")
            self._check_tokens(batch.get("teacher_input_ids"), self.teachers, "the teacher has")
            self._check_labels(batch.get("labels"))
        return batch

    def _check_tokens(self, ids: Any, vocabulary: int | None, whose: str) -> None:
        if not isinstance(ids, Tensor):
            return
        if ids.numel() == 0:
            raise DataError(
                f"a batch of {ids.shape[0] if ids.dim() else 0} rows has no token at all: all its texts are empty. "
                "Leave such rows out, or have the tokenizer add its special tokens (add_special_tokens=True)."
            )
        if vocabulary is not None and _whole(ids):
            wrong = _first_outside(ids, vocabulary)
            if wrong is not None:
                raise DataError(
                    f"row {wrong[0] + 1} of a batch has the token {wrong[1]}, and {whose} embeddings for 0 to "
                    f"{vocabulary - 1}. Tokenize with the tokenizer of these models."
                )

    def _check_labels(self, labels: Any) -> None:
        if self.classes is None or not isinstance(labels, Tensor) or not _whole(labels):
            return
        wrong = _first_outside(labels, self.classes, IGNORED)
        if wrong is not None:
            raise DataError(
                f"row {wrong[0] + 1} of a batch has the label {wrong[1]}, and the student has logits for 0 to "
                f"{self.classes - 1}; {IGNORED} is for what has no label. Number the labels anew, or load the student "
                "with as many (num_labels)."
            )


def _whole(values: Tensor) -> bool:
    """Whether they are whole numbers on the host."""
    return values.device.type == "cpu" and values.numel() > 0 and not values.is_floating_point()


def _first_outside(values: Tensor, number: int, ignored: int | None = None) -> tuple[int, int] | None:
    """The first row that has a value which is neither `ignored` nor one of 0 to `number - 1`, and that value."""
    found = values.numpy()  # which needs no operators of torch
    if found.min() >= 0 and found.max() < number:
        return None
    places = np.argwhere(((found < 0) | (found >= number)) & (True if ignored is None else found != ignored))
    if not len(places):
        return None
    place = tuple(places[0].tolist())
    return (place[0] if place else 0), int(found[place])
