"""What the makers of students share: the plain teacher below an adapter, and the copying of its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill.anatomy import Anatomy
from hf_distill.errors import IncompatiblePair
from hf_distill.sentences import keep_vectors


def plain_copy(teacher: nn.Module, maker: str) -> PreTrainedModel:
    """The plain model; for an adapter a copy into which it is merged. `maker` is named in messages.

    Raises: `IncompatiblePair` for quantized weights.
    """
    base = Anatomy.of(teacher).base
    if getattr(base, "is_quantized", False):
        raise IncompatiblePair(
            f"{maker}: the weights of {type(base).__name__} are quantized; load the teacher without a "
            "quantization config."
        )
    if base is teacher:
        return base
    adapted: Any = teacher
    merged: PreTrainedModel = copy.deepcopy(adapted).merge_and_unload()
    return merged


def new(kind: type[PreTrainedModel], config: Any, teacher: PreTrainedModel) -> PreTrainedModel:
    """A model of the class in float32, on the meta device where the teacher is, so that sizes can be counted there."""
    place = teacher.device if teacher.device.type == "meta" else torch.device("cpu")
    with place:
        return kind(config).to(torch.float32)


def copy_weights(
    student: PreTrainedModel, teacher: PreTrainedModel, sources: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> None:
    """Loads `tensors`, one for each entry of the student's state; `sources` are the teacher's names of these."""
    _untie(student, teacher, sources)
    student.load_state_dict(dict(tensors))


def finished(student: PreTrainedModel, teacher: PreTrainedModel) -> PreTrainedModel:
    """The student on the teacher's device in eval mode, with a copy of its settings for generation, and the pooling,
    dense layers and norm of a sentence encoder."""
    if getattr(teacher, "generation_config", None) is not None:
        student.generation_config = copy.deepcopy(teacher.generation_config)
    keep_vectors(student, teacher)
    placed: PreTrainedModel = student.to(teacher.device).eval()
    return placed


def _untie(student: PreTrainedModel, teacher: PreTrainedModel, sources: Mapping[str, str]) -> None:
    """Gives the student weights of their own where the teacher has them, whatever its configuration says of ties.

    A checkpoint that holds both weights of a tie is loaded untied (T5 1.1 and its kin), and then the configuration
    is silent.
    """
    theirs = dict(teacher.named_parameters(remove_duplicate=False))
    seen: dict[int, str] = {}
    for name, parameter in list(student.named_parameters(remove_duplicate=False)):
        first = seen.setdefault(id(parameter), name)
        if theirs.get(sources[name]) is not theirs.get(sources[first]):
            owner, _, attribute = name.rpartition(".")
            setattr(student.get_submodule(owner), attribute, nn.Parameter(parameter.detach().clone()))


def of_the_teacher(
    teacher: PreTrainedModel, wanted: Mapping[str, Tensor], sources: Mapping[str, str], maker: str
) -> dict[str, Tensor]:
    """The teacher's tensor for each entry of the student's state `wanted`.

    Raises: `IncompatiblePair` where the teacher has no such tensor of that shape.
    """
    have = teacher.state_dict()
    wrong = [
        name for name, source in sources.items() if source not in have or have[source].shape != wanted[name].shape
    ]
    if wrong:
        raise IncompatiblePair(
            f"{maker}: {type(teacher).__name__} builds {wrong[0]} from its configuration, but the teacher "
            "holds no such tensor of that shape: its modules were replaced, or an adapter is attached "
            "(merge_and_unload() it first)."
        )
    return {name: have[source] for name, source in sources.items()}
