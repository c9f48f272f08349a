"""The forms in which a model may answer on this machine: a precision and what runs it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import DistillationError
from hf_distill.hub.onnx import MAX_BYTES, OnnxModel, require_onnx, write_onnx

EAGER, ONNX, COMPILED = RUNTIMES = ("eager", "onnx", "compiled")
FLOAT32, BFLOAT16, INT8 = "float32", "bfloat16", "int8"


@dataclass(frozen=True)
class Form:
    """A precision and a runtime: PyTorch as it is (`eager`), compiled by `torch.compile`, or ONNX Runtime."""

    precision: str
    runtime: str

    @property
    def name(self) -> str:
        """`int8 onnx`."""
        return f"{self.precision} {self.runtime}"


PLAIN = Form(FLOAT32, EAGER)
"""That of training, and of the teacher's time which a share is of."""

FORMS = (
    PLAIN,
    Form(FLOAT32, ONNX),
    Form(FLOAT32, COMPILED),
    Form(BFLOAT16, EAGER),
    Form(BFLOAT16, COMPILED),
    Form(INT8, ONNX),
)
"""From the most exact and simplest on: of several that fit, the first is taken."""


def holds(form: Form, params: int) -> bool:
    """Whether a model of so many parameters can be had in a form: what is written for ONNX Runtime has a limit."""
    return form.runtime != ONNX or 4 * params < MAX_BYTES


@dataclass(frozen=True)
class Ready:
    """A model in a form: `model` says what it takes and where it is, `call` is what answers; bytes of its weights."""

    model: PreTrainedModel
    call: Callable[..., Any]
    size_bytes: int


def forms_here(device: torch.device, runtimes: tuple[str, ...] = RUNTIMES) -> tuple[list[Form], dict[str, str]]:
    """The forms of these runtimes that this machine has, and for each other runtime why it has not.

    Raises: `DistillationError` for a runtime that is none.
    """
    unknown = [runtime for runtime in runtimes if runtime not in RUNTIMES]
    if unknown or not runtimes:
        raise DistillationError(f"runtimes are {', '.join(RUNTIMES)}; given {', '.join(unknown) or 'none'}.")
    missing = {ONNX: _why_no_onnx(device), COMPILED: _why_not_compiled(device) if COMPILED in runtimes else ""}
    found = [form for form in FORMS if form.runtime in runtimes and not missing.get(form.runtime)]
    if not found:
        raise DistillationError(
            "; ".join(f"{name}: {why}" for name, why in missing.items() if name in runtimes and why)
        )
    return found, {name: why for name, why in missing.items() if name in runtimes and why}


def ready(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, form: Form, device: torch.device, folder: Path
) -> Ready:
    """The model in a form on a device, a copy but for float32; an ONNX file is written into `folder`, anew.

    Raises: `DistillationError` for a model that cannot be exported.
    """
    if form.runtime == ONNX:
        return _exported(model, tokenizer, form.precision == INT8, folder)
    placed: PreTrainedModel = (in_bfloat16(model) if form.precision == BFLOAT16 else model).to(device).eval()
    size = sum(parameter.numel() * parameter.element_size() for parameter in placed.parameters())
    call = torch.compile(placed, dynamic=True) if form.runtime == COMPILED else placed
    return Ready(placed, call, size)


def in_bfloat16(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with its parameters in bfloat16, and its buffers, which some positions are counted with, as they are."""
    copied = copy.deepcopy(model)
    for parameter in copied.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    copied.config.dtype = torch.bfloat16
    return copied


def _exported(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, quantized: bool, folder: Path) -> Ready:
    """Answers are compared later, on rows: a model that is not trained yet gives no two that lie apart."""
    path = write_onnx(model, tokenizer, folder, quantized=quantized, least_agreement=0.0)
    return Ready(model.to("cpu").eval(), OnnxModel(path), path.stat().st_size)


def _why_no_onnx(device: torch.device) -> str:
    if device.type != "cpu":
        return f"its models run on a CPU here, not on {device.type}"
    try:
        require_onnx()
    except DistillationError as error:
        return str(error)
    return ""


def _why_not_compiled(device: torch.device) -> str:
    """Tried on a sum, as a compiler may be missing, or not work; torch's own errors of this are `RuntimeError`s."""
    try:
        torch.compile(lambda x: (x + 1).sum())(torch.ones(2, device=device))
    except (RuntimeError, OSError) as error:
        return f"torch.compile does not work here ({str(error).strip().splitlines()[0]})"
    return ""
