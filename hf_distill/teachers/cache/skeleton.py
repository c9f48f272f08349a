"""A teacher without weights: its shapes, and, where it is kept, its head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedModel

from hf_distill.anatomy import Anatomy
from hf_distill.errors import CacheMismatch, IncompatiblePair
from hf_distill.tasks import TASKS


def skeleton_of(class_name: str, config: Mapping[str, Any]) -> PreTrainedModel:
    """A model of a class of transformers whose parameters take no memory.

    Raises: `CacheMismatch` for a class or a configuration that the installed transformers does not know.
    """
    model_class = _class_named(class_name, str(config.get("model_type")))
    if model_class is None:
        raise CacheMismatch(
            f"the cached teacher is a {class_name}, which transformers {transformers.__version__} does not know; "
            "train with the teacher itself, or with another version of transformers."
        )
    with torch.device("meta"):
        model: PreTrainedModel = model_class(model_class.config_class.from_dict(dict(config)))
    model.tie_weights()
    return model.eval()


def _class_named(name: str, model_type: str) -> Any:
    """A class of transformers, or one that was registered with its auto classes; None for another."""
    if hasattr(transformers, name):
        return getattr(transformers, name)
    if model_type not in CONFIG_MAPPING:
        return None
    config_class = CONFIG_MAPPING[model_type]
    mappings = [getattr(transformers, task.auto_class)._model_mapping for task in TASKS.values()]
    found = [mapping[config_class] for mapping in mappings if config_class in mapping]
    return next((each for each in found if each.__name__ == name), None)


def head_parameters(model: PreTrainedModel) -> dict[str, Tensor]:
    """The parameters of `model` that make logits out of its last hidden state, by their names.

    Found on a skeleton: those that get a gradient from the head. A model of a family whose head is not known raises
    `IncompatiblePair`.
    """
    names = _head_names(skeleton_of(type(model).__name__, model.config.to_dict()))
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach() for name in names}


def _head_names(skeleton: PreTrainedModel) -> list[str]:
    anatomy = Anatomy.of(skeleton)
    skeleton.requires_grad_(True)
    width = anatomy.shape.stack().hidden_size
    with torch.enable_grad():
        logits = anatomy.head(torch.zeros(1, 1, width, device="meta", dtype=skeleton.dtype))
        torch.autograd.backward(logits.sum())
    names = [name for name, parameter in skeleton.named_parameters() if parameter.grad is not None]
    if not names:
        raise IncompatiblePair(f"{type(skeleton).__name__} has no head whose weights could be kept.")
    return names


def give_head(skeleton: PreTrainedModel, head: Mapping[str, Tensor]) -> None:
    """Puts a head's weights into a skeleton, at every place where the model has them."""
    own = dict(skeleton.named_parameters())
    places = skeleton.state_dict(keep_vars=True)
    filled = {
        place: head[name]
        for name in head
        for place, parameter in places.items()
        if name in own and parameter is own[name]
    }
    if set(head) - set(own):
        raise CacheMismatch(f"the cached head has weights that {type(skeleton).__name__} has not: {sorted(head)[0]}.")
    skeleton.load_state_dict(filled, strict=False, assign=True)
    skeleton.requires_grad_(False)


def move_head(skeleton: PreTrainedModel, device: torch.device) -> None:
    """Moves the weights that a skeleton has; what is tied stays tied."""
    moved: dict[int, torch.nn.Parameter] = {}
    for module in skeleton.modules():
        for name, parameter in [*module.named_parameters(recurse=False)]:
            if parameter.device.type not in ("meta", device.type):
                own = moved.setdefault(id(parameter), torch.nn.Parameter(parameter.to(device), requires_grad=False))
                setattr(module, name, own)
