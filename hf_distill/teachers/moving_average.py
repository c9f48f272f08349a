"""A teacher that follows the student slowly."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import PreTrainedModel

from hf_distill.activations import Activations, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.errors import BrokenCheckpoint, DistillationError
from hf_distill.objectives.settings import check_flag, check_number
from hf_distill.tasks import Batch
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.frozen import Frozen

logger = logging.getLogger(__name__)


class MovingAverage(Teacher):
    """The exponential moving average of the student's own weights, a mean teacher (Tarvainen & Valpola, 2017,
    arXiv:1703.01780).

    After every step of the optimizer theta' <- d theta' + (1 - d) theta, theta the student's weights and theta' the
    teacher's, which start as the student's; buffers are copied. d is `decay`, with `warmup` min(decay, 1 - 1/(t + 1))
    after t earlier steps, so that the first step copies the student and early weights are soon forgotten. The paper
    has 0.99 while its consistency weight ramps up, and 0.999 afterwards.

    It answers in evaluation mode, without dropout, where the paper's code leaves dropout on. It is held in at least
    float32, saved in each checkpoint as `teacher.safetensors`, and resumed exactly. Every process holds it whole;
    students that are sharded (FSDP, ZeRO-3) are refused.

    Raises: `DistillationError` for a setting out of range.
    """

    reads_student = True

    def __init__(self, *, decay: float = 0.999, warmup: bool = True) -> None:
        check_number("moving_average", "decay", decay, 0.0, 1.0)
        if decay == 1.0:
            raise DistillationError("moving_average: decay is 1, and the teacher would never move; use one below 1.")
        check_flag("moving_average", "warmup", warmup)
        self.decay, self.warmup = float(decay), warmup
        self._student: PreTrainedModel | None = None
        self._mean: Frozen | None = None

    @property
    def mean(self) -> Frozen:
        """The averaged student."""
        if self._mean is None:
            raise DistillationError("the moving average is used before it has met the student (meet(student)).")
        return self._mean

    @property
    def anatomy(self) -> Anatomy:  # type: ignore[override]
        """The averaged student's."""
        return self.mean.anatomy

    @property
    def accepts(self) -> frozenset[str]:
        return self.mean.accepts

    def meet(self, student: PreTrainedModel) -> None:
        if self._mean is not None and self._student is student and _shapes(student) == _shapes(self._mean.model):
            return
        if self._mean is not None:
            logger.warning("the student is another one, or has other weights than before; its average begins anew")
        copied = copy.deepcopy(student)
        for tensor in (*copied.parameters(), *copied.buffers()):
            if tensor.dtype in (torch.float16, torch.bfloat16):
                tensor.data = tensor.data.float()
        self._student, self._mean = student, Frozen(copied)

    def bind(self, signals: frozenset[Signal]) -> None:
        self.mean.bind(signals)

    def place(self, device: torch.device, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        self.mean.place(device, autocast)

    def compile(self, **settings: Any) -> None:
        self.mean.compile(**settings)

    def activations(self, batch: Batch) -> Activations:
        return self.mean.activations(batch)

    def decay_after(self, steps: int) -> float:
        """The share of the average that stays in the step behind so many others."""
        return min(self.decay, 1.0 - 1.0 / (steps + 1)) if self.warmup else self.decay

    @torch.no_grad()
    def after_step(self, steps_before: int) -> None:
        assert self._student is not None
        mean = self.mean.model
        averaged = list(mean.parameters())
        given = [now.to(ours.dtype) for ours, now in zip(averaged, self._student.parameters(), strict=True)]
        update: Any = get_ema_multi_avg_fn(self.decay_after(steps_before))  # type: ignore[no-untyped-call]
        update(averaged, given, steps_before)
        for ours, theirs in zip(mean.buffers(), self._student.buffers(), strict=True):
            ours.copy_(theirs)

    def state(self) -> dict[str, Tensor]:
        model = self.mean.model
        return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        ours = self.state()
        wanted, found = ({name: tuple(tensor.shape) for name, tensor in each.items()} for each in (ours, state))
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        if differing:
            name = differing[0]
            raise BrokenCheckpoint(
                f"the teacher of the checkpoint has {name!r} in the shape {found.get(name)}, and the student here in "
                f"{wanted.get(name)} ({len(differing)} such tensors); it is of another run."
            )
        for name, tensor in ours.items():
            tensor.copy_(state[name])


def _shapes(model: PreTrainedModel) -> list[torch.Size]:
    return [parameter.shape for parameter in model.parameters()]
