"""Symbols that are aligned with frames (connectionist temporal classification)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hf_distill.errors import DataError


class WithoutBlanks:
    """A collator that gives what `collator` does, and refuses symbols that are the blank: it stands between the
    symbols of a text, never in it. `blanks` names the columns of symbols, each with its blank.

    It looks where batches are put together, on the host, so that no step waits for the device.

    Raises: `DataError` that names the column and the row.
    """

    def __init__(self, collator: Callable[[list[Any]], Mapping[str, Any]], blanks: Mapping[str, int]) -> None:
        self.collator, self.blanks = collator, dict(blanks)

    def __call__(self, items: list[Any]) -> Mapping[str, Any]:
        batch = self.collator(items)
        for name, blank in self.blanks.items():
            wrong = (batch[name] == blank).flatten(1).any(1).nonzero().flatten().tolist() if name in batch else []
            if wrong:
                raise DataError(
                    f"row {wrong[0] + 1} of a batch has the symbol {blank} in {name!r}, which is the blank of the "
                    "model (ctc) and no part of a text; leave it out, and pad with -100 where there is no symbol."
                )
        return batch
