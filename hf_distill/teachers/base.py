"""What a teacher is to the trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from hf_distill.activations import Activations, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.tasks import Batch


class Teacher(ABC):
    """Gives Activations for a batch. It is no submodule of anything that is trained, wrapped or saved."""

    anatomy: Anatomy

    @property
    @abstractmethod
    def accepts(self) -> frozenset[str]:
        """The batch columns that the teacher reads; the trainer keeps them in the data set."""

    @abstractmethod
    def bind(self, signals: frozenset[Signal]) -> None:
        """Prepare to give exactly these signals.

        Raises: `IncompatiblePair` for a signal that this teacher cannot give.
        """

    @abstractmethod
    def place(self, device: torch.device, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        """Move to the device that batches arrive on; `autocast` is the training's own mixed precision."""

    @abstractmethod
    def activations(self, batch: Batch) -> Activations:
        """What the teacher shows for the batch, without gradient."""
