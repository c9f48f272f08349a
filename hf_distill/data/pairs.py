"""Training rows that each bring another row of their class."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from hf_distill.errors import DataError
from hf_distill.passes import FOUND, PARTNER
from hf_distill.tasks import IGNORED

logger = logging.getLogger(__name__)

Collator = Callable[[list[Any]], Mapping[str, Any]]

_SHOWN = 5
LABELS = ("labels", "label", "label_ids")
"""Names that the column of classes may have in a data set."""


class Partners:
    """The partner of each row: another row of its class.

    It is a function of `(seed, epoch, row)` alone: neither order, workers, processes nor a resumed run change it
    (Philox, a counter-based generator: Salmon et al., 2011). `classes` `[rows]`: the class of each row, -100 for none.
    Errors: DataError for classes that are not whole numbers, one a row, and where no class has two rows.
    """

    def __init__(self, classes: Sequence[int] | NDArray[np.int64], seed: int = 0) -> None:
        found = np.asarray(classes)
        if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
            raise DataError(
                f"rows are paired by their class, and the labels are {found.dtype} of shape {found.shape}; they must "
                "be one whole number a row. Objectives that pair rows are for single-label classification."
            )
        self.seed = seed
        self._order = np.argsort(found, kind="stable")
        names, starts, sizes = np.unique(found[self._order], return_index=True, return_counts=True)
        sizes = np.where(names == IGNORED, 1, sizes)
        self.alone = [int(name) for name, size in zip(names, sizes, strict=True) if size == 1 and name != IGNORED]
        """Classes with one row, which has no partner."""
        if not len(found) or sizes.max() < 2:
            raise DataError(
                f"no class has two of the {len(found)} training rows, so none has a partner. Look at the label column."
            )
        counts = np.diff(np.append(starts, len(found)))
        self._start, self._size = np.repeat(starts, counts), np.repeat(sizes, counts)  # by place in the order
        self._place = np.empty_like(self._order)
        self._place[self._order] = np.arange(len(found))

    def __len__(self) -> int:
        return len(self._order)

    def of(self, row: int, epoch: int) -> int | None:
        """The row that is the partner of `row` in an epoch; None where its class has no other."""
        place = int(self._place[row])
        start, size = int(self._start[place]), int(self._size[place])
        if size < 2:
            return None
        bits = np.random.Philox(key=[self.seed, 0], counter=[0, 0, epoch, row])
        drawn = int(np.random.Generator(bits).integers(size - 1))
        return int(self._order[start + drawn + (start + drawn >= place)])


class Paired(NamedTuple):
    """A row, its partner or itself, and whether it has one."""

    row: Any
    partner: Any
    found: bool


class PairedRows(Dataset[Paired]):
    """The rows of a data set, each with its partner of the epoch that `set_epoch` chose, in worker processes, too."""

    def __init__(self, rows: Any, partners: Partners) -> None:
        self.rows, self.partners = rows, partners
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Chooses the partners of that epoch, counted from 0."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.partners)

    def __getitem__(self, row: int) -> Paired:
        partner = self.partners.of(row, int(self._epoch))
        own = self.rows[row]
        return Paired(own, own if partner is None else self.rows[partner], partner is not None)


class PairedCollator:
    """Batches of `Paired` rows: what `collator` makes of the rows and, in columns that begin with `partner_`, of their
    partners, each padded for itself; `partner_found` says which rows have one.
    """

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, pairs: list[Paired]) -> dict[str, Any]:
        batch = dict(self.collator([pair.row for pair in pairs]))
        partners = self.collator([pair.partner for pair in pairs])
        found = torch.tensor([pair.found for pair in pairs])
        return {**batch, **{f"{PARTNER}{name}": value for name, value in partners.items()}, FOUND: found}


def pair_up(rows: Any, seed: int, names: Mapping[int, str]) -> Partners:
    """The partners of a data set's rows; classes with one row are warned about by their `names`.

    Raises: `DataError` for a stream, for rows without labels, and as `Partners`.
    """
    if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
        raise DataError(
            "rows are paired by their class, and those of a stream are not known beforehand; give a data set with a "
            "length, or leave out the objective that pairs rows (cs_kd)."
        )
    partners = Partners(_classes(rows), seed)
    if partners.alone:
        listed = ", ".join(repr(names.get(each, str(each))) for each in partners.alone[:_SHOWN])
        more = f" and {len(partners.alone) - _SHOWN} more" if len(partners.alone) > _SHOWN else ""
        logger.warning("the classes %s%s have one training row each, which gets no partner", listed, more)
    return partners


def _classes(rows: Any) -> Any:
    columns = getattr(rows, "column_names", None) or list(rows[0] if len(rows) else ())
    column = next((name for name in LABELS if name in columns), None)
    if column is None:
        raise DataError(
            f"rows are paired by their class, and the training data have no column {LABELS[0]!r} (columns: "
            f"{', '.join(map(str, columns))}). Add labels, or leave out the objective that pairs rows (cs_kd)."
        )
    return rows[column][:] if hasattr(rows, "column_names") else [row[column] for row in rows]
