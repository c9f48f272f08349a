"""F1 of what was counted in each row: how much is right, was said and is true."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hf_distill.evaluation import fidelity
from hf_distill.evaluation.evidence import Evidence, entity_f1
from hf_distill.runs.workload import Interval

Counts = NDArray[np.int64]
"""`[rows, 3]`."""


def interval(counts: Counts) -> Interval:
    """Of F1, over resampled rows."""
    found = fidelity.bootstrap(entity_f1, counts)
    return found.low, found.high


def lead(student: Counts, control: Counts, metric: str, rows: str) -> str:
    """A sentence on how far the student's F1 is ahead; `metric` is what it is called, `rows` what they are."""
    both = np.stack([student, control], axis=1)
    found = fidelity.bootstrap(lambda chosen: entity_f1(chosen[:, 0]) - entity_f1(chosen[:, 1]), both)
    return (
        f"Student against control: {metric} {found.value:+.3f}, 95 % [{found.low:+.3f}, {found.high:+.3f}] "
        f"(bootstrap over {rows})."
    )


def evidence(counts: Counts) -> Evidence:
    """The counts themselves."""
    return Evidence("entities", counts.astype(np.float64))
