"""The processes of a job: which one this is, and what they must agree on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch

from hf_distill.errors import DistillationError

logger = logging.getLogger(__name__)

Found = TypeVar("Found")


def is_main_process() -> bool:
    """Whether this process writes the files that all processes share; known as soon as it starts."""
    return int(os.environ.get("RANK", "0")) == 0


def place() -> tuple[int, int]:
    """This process and the number of them, as far as they have met."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed else (0, 1)


def wait_for_everyone() -> None:
    """Returns when every process has come here."""
    if place()[1] > 1:
        torch.distributed.barrier()


def share_tensors(tensors: Iterable[torch.Tensor]) -> None:
    """Gives tensors, in place, the values that they have in the first process."""
    rank, processes = place()
    for tensor in tensors if processes > 1 else ():
        told: list[Any] = [tensor.detach().cpu() if rank == 0 else None]
        torch.distributed.broadcast_object_list(told, src=0)
        if rank != 0:
            tensor.copy_(told[0])


def agreed(find: Callable[[], Found]) -> Found:
    """What `find` gives in the first process, in all of them. A folder that each looks into for itself may have
    changed in between, and shares of rows that were dealt out from unequal lists overlap or leave some out.

    Raises: what `find` raised in the first process; in the others the same `DistillationError`, or one that tells of
    an error of another kind.
    """
    rank, processes = place()
    if processes == 1:
        return find()
    told: list[Any] = [None]
    failure: Exception | None = None
    if rank == 0:
        try:
            told = [find()]
        except Exception as error:  # raised below, when the others, which would wait for ever, have heard of it
            failure, told = error, [_tellable(error, "the first process")]
    torch.distributed.broadcast_object_list(told, src=0)
    if failure is not None:
        raise failure
    if isinstance(told[0], DistillationError):
        raise told[0]
    found: Found = told[0]
    return found


def together(do: Callable[[], Found]) -> Found:
    """What `do` gives in this process, once it is done in all of them.

    Raises: what `do` raised in this process; where it was done, what the first of those told that failed: the same
    `DistillationError`, or one that tells of an error of another kind.
    """
    rank, processes = place()
    if processes == 1:
        return do()
    found: list[Found] = []
    failure: Exception | None = None
    try:
        found.append(do())
    except Exception as error:  # raised below, when the others, which would wait for ever, have heard of it
        failure = error
        logger.error("process %d of %d failed, and waits to tell the others: %s", rank, processes, error)
    told: list[Any] = [None] * processes
    own = None if failure is None else _tellable(failure, f"process {rank} of {processes}")
    torch.distributed.all_gather_object(told, own)
    if failure is not None:
        raise failure
    for heard in filter(None, told):
        raise heard
    return found[0]


def _tellable(error: Exception, who: str) -> DistillationError:
    """The error as other processes can hear of it; those of other kinds need not survive the way."""
    if isinstance(error, DistillationError):
        return error
    return DistillationError(f"{who} failed with {type(error).__name__}: {error}")
