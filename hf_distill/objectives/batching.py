"""What objectives ask of the composition of training batches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassPairs:
    """Each row of a training batch brings a partner: another row of its class, drawn anew in every epoch.

    The partners are read in the pass `passes.Partner`. Rows whose class has no other row have none, which the column
    `passes.FOUND` says.
    """
