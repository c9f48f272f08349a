"""How far what was heard is from what was said: edit distance (Levenshtein, 1966)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def edits(found: Sequence[Hashable], wanted: Sequence[Hashable]) -> int:
    """The least number of insertions, deletions and replacements, of one item each, that make `wanted` of `found`."""
    places = np.arange(len(wanted) + 1)
    row = places
    for item in found:
        replaced = row[:-1] + np.fromiter((item != other for other in wanted), dtype=np.int64, count=len(wanted))
        reached = np.concatenate([row[:1] + 1, np.minimum(replaced, row[1:] + 1)])
        row = np.minimum.accumulate(reached - places) + places  # insertions, as many as are worth it
    return int(row[-1])


def split_at(items: Sequence[int], mark: int) -> list[tuple[int, ...]]:
    """The parts between marks, such as words between blanks; empty ones are none."""
    found: list[list[int]] = [[]]
    for item in items:
        if item == mark:
            found.append([])
        else:
            found[-1].append(item)
    return [tuple(part) for part in found if part]
