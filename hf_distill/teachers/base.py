"""What a teacher is to the trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.activations import Activations, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.objectives.base import Objective
from hf_distill.objectives.pair import Pair
from hf_distill.tasks import Batch, Task
from hf_distill.teachers.alongside import Alongside


class Teacher(ABC):
    """Gives Activations for a batch. It is no submodule of anything that is trained, wrapped or saved."""

    anatomy: Anatomy
    reads_student: ClassVar[bool] = False
    """Whether it is made of the student's parameters, which each process must then hold whole."""

    tokenizer: PreTrainedTokenizerBase | None = None
    """What it reads by, where that is not the student's: it is then fed columns of its own, `teacher_input_ids` and
    the like."""

    @property
    def models(self) -> tuple[nn.Module, ...]:
        """The models that it runs and that share nothing with the student; none where no such model is in memory."""
        return ()

    @property
    def alongside(self) -> Alongside | None:
        """Models of it that train with the student, so that they run and are saved inside `Distillation`; None where
        it stays apart."""
        return None

    def meet(self, student: PreTrainedModel) -> None:  # noqa: B027
        """Be shown the student before anything else; a teacher that is made of it is made here."""

    def pair(self, student: Anatomy, task: Task, **settings: Any) -> Pair:
        """The student's pair with this teacher; settings as in `Pair.of`.

        Raises: `IncompatiblePair` where they do not fit.
        """
        return Pair.of(student, self.anatomy, task, temperatures=self.temperatures, **settings)

    @property
    def head(self) -> Callable[[Tensor], Tensor] | None:
        """What makes logits of `final`, without gradient, in a teacher that shows `final`; None where it does not. One
        that reads another signal has it as `reads`."""
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

    def advise(self, objectives: Sequence[Objective]) -> None:  # noqa: B027
        """Be shown the bound objectives, and warn of those that can make little of this teacher."""

    def after_step(self, steps_before: int) -> None:  # noqa: B027
        """Be told that the optimizer has moved the student, after so many earlier steps of the run."""

    def after_epoch(self) -> None:  # noqa: B027
        """Be told that an epoch is over."""

    def state(self) -> dict[str, Tensor]:
        """What changes while the student trains, and belongs into a checkpoint; empty for a teacher that stays."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Take back what `state` gave."""

    def go_on_from(self, learned: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Be shown what terms and models beside the student learned in an earlier stage, by names as in
        `distillation.safetensors`, before a stage begins."""

    @abstractmethod
    def activations(self, batch: Batch) -> Activations:
        """What the teacher shows for the batch, without gradient."""
