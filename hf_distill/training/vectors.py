"""The vectors that a teacher gives some training texts, before training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from hf_distill.errors import DataError
from hf_distill.teachers import Teacher


def sentence_vectors(
    teacher: Teacher, batches: Iterable[Mapping[str, Any]], number: int, device: torch.device, member: str = ""
) -> Tensor:
    """The teacher's sentence vectors of the first texts of some batches, `number` or as many as there are, on the
    CPU: `[texts, width]`; of several teachers those of `member`.

    Raises: `DataError` where there is no text, or a vector that is no number.
    """
    found: list[Tensor] = []
    for batch in batches:
        given = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
        with torch.no_grad():
            found.append(teacher.activations(given).member(member).sentence.float().cpu())
        if sum(map(len, found)) >= number:
            break
    vectors = torch.cat(found)[:number] if found else torch.empty(0, 0)
    if not len(vectors) or not bool(vectors.isfinite().all()):
        what = "hold NaN or infinite numbers" if len(vectors) else "are those of no training text"
        raise DataError(f"the teacher's vectors, of which principal components are to be taken, {what}.")
    return vectors
