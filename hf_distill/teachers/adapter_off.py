"""A student's own weights, without its adapter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_distill.activations import MAIN, Activations, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives.base import Objective
from hf_distill.objectives.settings import check_flag
from hf_distill.tasks import Batch
from hf_distill.teachers.base import Teacher

logger = logging.getLogger(__name__)

LEAVE_THE_BASE = frozenset({"gaussian", "eva", "orthogonal", "mica"})
"""The named starts of an adapter that leave the base's weights as they are; others rewrite them, to begin where the
base began."""


class AdapterOff(Teacher):
    """What a PEFT student shows with its adapter switched off: the weights that it started from, which need no memory
    of their own.

    It keeps a student near its base, as a penalty on forgetting, and teaches nothing new: without other terms the
    student would stay where it starts. It runs whole, in evaluation mode and without gradient.

    With the adapter off, modules that the adapter saves whole (`modules_to_save`) are the base's again. PEFT puts a
    classifier's head there, and the base's is random unless its checkpoint had one: objectives that read logits then
    need `base_has_head=True`, which says that it had.

    Raises: `IncompatiblePair` for a student without an adapter, and for one whose adapter changes the base itself:
    whose biases train, or whose start rewrites the base's weights (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA). Students that
    are sharded (FSDP, ZeRO-3) or compiled are refused.
    """

    reads_student = True

    def __init__(self, *, base_has_head: bool = False) -> None:
        check_flag("adapter_off", "base_has_head", base_has_head)
        self.base_has_head = base_has_head
        self._student: Any = None
        self._capture: Capture | None = None
        self._autocast: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def accepts(self) -> frozenset[str]:
        return self.anatomy.accepts

    def meet(self, student: PreTrainedModel) -> None:
        if not hasattr(student, "disable_adapter") or not hasattr(student, "peft_config"):
            raise IncompatiblePair(
                f"AdapterOff is the student without its adapter, and the student, a {type(student).__name__}, has "
                "none; give a PeftModel (peft.get_peft_model), or another teacher."
            )
        for config in student.peft_config.values():
            _check_leaves_base(config)
        self._student = student
        self.anatomy = Anatomy.of(student)

    def bind(self, signals: frozenset[Signal]) -> None:
        saved = sorted({name for each in self._student.peft_config.values() for name in each.modules_to_save or ()})
        if saved and not self.base_has_head and any(signal.field.endswith("logits") for signal in signals):
            raise IncompatiblePair(
                f"the adapter saves {', '.join(saved)} whole, so that with the adapter off the teacher answers by the "
                "base's own, which are random if its checkpoint had none. If it had, say "
                "AdapterOff(base_has_head=True); else compare hidden states."
            )
        if any(signal.source != MAIN for signal in signals):
            raise IncompatiblePair(
                "AdapterOff shows the batch as it came, and an objective reads other passes over it; give it another "
                "teacher."
            )
        if self._capture is not None:
            self._capture.close()
        self._capture = Capture(self.anatomy, signals, role="teacher")

    def place(self, device: torch.device, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        self._autocast = autocast

    def compile(self, **settings: Any) -> None:
        raise DistillationError(
            "AdapterOff switches the student's adapter off and on in every step, and a compiled student would be "
            "compiled anew each time; leave torch_compile out."
        )

    def advise(self, objectives: Sequence[Objective]) -> None:
        if all(objective.needs_teacher for objective in objectives):
            logger.warning(
                "every term compares the student with itself without its adapter, which it equals at the start: "
                "nothing would be taught; add a term of labels, or of another teacher"
            )

    def activations(self, batch: Batch) -> Activations:
        if self._capture is None:
            raise DistillationError("the teacher is asked for activations before bind(signals).")
        training = [module for module in self._student.modules() if module.training]
        trains = [(parameter, parameter.requires_grad) for parameter in self._student.parameters()]
        self._student.eval()
        try:
            with torch.no_grad(), self._student.disable_adapter(), self._autocast():
                return self._capture(batch)[1]
        finally:
            for module in training:
                module.training = True
            for parameter, trained in trains:
                parameter.requires_grad_(trained)


def _check_leaves_base(config: Any) -> None:
    """Raises: `IncompatiblePair` for an adapter without which the student is not the base that it started from."""
    bias, start = getattr(config, "bias", "none"), getattr(config, "init_lora_weights", True)
    if bias != "none":
        raise IncompatiblePair(
            f"the adapter has bias={bias!r}: biases of the base train, and with the adapter off PEFT leaves them as "
            "they were trained, so that the teacher would move with the student; set bias='none'."
        )
    if isinstance(start, str) and start.lower() not in LEAVE_THE_BASE:
        others = ", ".join(map(repr, sorted(LEAVE_THE_BASE)))
        raise IncompatiblePair(
            f"the adapter has init_lora_weights={start!r}, which rewrites the base's weights, so that the teacher "
            f"would not be what the student started from; set True, False, {others}."
        )
