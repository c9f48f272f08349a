"""What a teacher is to the trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from hf_distill.activations import Activations, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.tasks import Batch


class Teacher(ABC):
    """Gives Activations for a batch. It is no submodule of anything that is trained, wrapped or saved."""

    anatomy: Anatomy

    @property
    def head(self) -> Callable[[Tensor], Tensor] | None:
        """What makes logits of `final`, without gradient, in a teacher that shows `final`; None where it does not."""
        return None

    @property
    @abstractmethod
    def accepts(self) -> frozenset[str]:
        """The batch columns that the teacher reads; the trainer keeps them in the data set."""

    @abstractmethod
    def bind(self, signals: frozenset[Signal]) -> None:
        """Prepare to give exactly these signals.

        Raises: `IncompatiblePair` for a signal that this teacher cannot give.
        """

    @property
    def temperatures(self) -> tuple[float, ...] | None:
        """Of a teacher that shows its largest logits alone (`TopLogits`) the temperatures of their tails; else
        None."""
        return None

    def prepare(self, rows: Any, collator: Callable[[list[Any]], Mapping[str, Any]], tokenizer: Any) -> None:  # noqa: B027
        """Look at the rows that are trained on, as `collator` puts them together, before the first step.

        Raises: `CacheMismatch` where they are not those that the teacher can tell of.
        """

    def reading(self, collator: Callable[[list[Any]], Mapping[str, Any]]) -> Callable[[list[Any]], Mapping[str, Any]]:
        """The collator of batches for this teacher; one that adds columns where the teacher reads any of its own."""
        return collator

    @abstractmethod
    def place(self, device: torch.device, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        """Move to the device that batches arrive on; `autocast` is the training's own mixed precision."""

    def compile(self, **settings: Any) -> None:  # noqa: B027
        """Have `torch.compile` compile with these settings what gives activations; nothing where no model runs."""

    @abstractmethod
    def activations(self, batch: Batch) -> Activations:
        """What the teacher shows for the batch, without gradient."""
