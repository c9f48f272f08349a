"""A teacher without weights: its shapes, and, where it is kept, its head."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from huggingface_hub.utils._validators import validate_repo_id
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedModel

from hf_distill.anatomy import Anatomy
from hf_distill.errors import CacheMismatch, IncompatiblePair
from hf_distill.tasks import TASKS
from hf_distill.teachers.cache.codecs import Axes
from hf_distill.teachers.cache.plan import final_of

_CAME_FROM, _COMMIT = "_name_or_path", "_commit_hash"

ROUNDING = 1e-4
"""The most by which logits may differ, as a share of the largest, for a head that was rewritten to be the same one."""

_NO_MODEL = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, StrictDataclassError,
    TypeError, ValueError,
)  # fmt: skip
"""What the constructors of models and of their layers raise for settings that they do not take."""


def skeleton_of(class_name: str, config: Mapping[str, Any]) -> PreTrainedModel:
    """A model of a class of transformers whose parameters take no memory.

    Raises: `CacheMismatch` for a class or a configuration that the installed transformers does not know.
    """
    model_class = _class_named(class_name, str(config.get("model_type")))
    if model_class is None or model_class.config_class is None:
        raise CacheMismatch(
            f"the cached teacher is a {class_name}, which transformers {transformers.__version__} does not know; "
            "train with the teacher itself, or with another version of transformers."
        )
    try:
        settings = model_class.config_class.from_dict(dict(config))
        settings._attn_implementation = "eager"  # others may be code from the Hub, by the word of a file
        with torch.device("meta"):
            model: PreTrainedModel = model_class(settings)
        model.tie_weights()
        Anatomy.of(model)
    except _NO_MODEL as error:
        raise CacheMismatch(
            f"a {class_name} cannot be built from the configuration of the cached teacher by transformers "
            f"{transformers.__version__}: {type(error).__name__}: {error}. Train with the teacher itself, or with the "
            "version of transformers that the cache was written with."
        ) from error
    commit = config.get(_COMMIT)  # which configurations do not take from a dictionary
    model.config._commit_hash = commit if isinstance(commit, str) else None
    return model.eval()


def _class_named(name: str, model_type: str) -> Any:
    """A class of transformers, or one that was registered with its auto classes; None for another."""
    known = getattr(transformers, name, None)
    if isinstance(known, type) and issubclass(known, PreTrainedModel):
        return known
    if model_type not in CONFIG_MAPPING:
        return None
    config_class = CONFIG_MAPPING[model_type]
    mappings = [getattr(transformers, task.auto_class)._model_mapping for task in TASKS.values()]
    found = [mapping[config_class] for mapping in mappings if config_class in mapping]
    return next((each for each in found if each.__name__ == name), None)


def config_of(model: PreTrainedModel) -> dict[str, Any]:
    """The configuration of a model as JSON knows it. Where it came from is told as an id on the Hub alone, never as a
    folder of this machine."""
    told = {name: _without_paths(each) for name, each in model.config.to_dict().items()}
    name = hub_id(model.name_or_path)
    return {**told, _CAME_FROM: name or "", _COMMIT: getattr(model.config, _COMMIT, None) if name else None}


def hub_id(name: str) -> str | None:
    """`name` where it is the id of a model on the Hub, and no folder."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return None if not name or Path(name).is_dir() else name


def _without_paths(value: Any) -> Any:
    """A part of a configuration (that of a text model in a larger one) without where it came from."""
    if not isinstance(value, dict):
        return value
    return {name: _without_paths(each) for name, each in value.items() if name != _CAME_FROM}


def head_parameters(model: PreTrainedModel) -> dict[str, Tensor]:
    """The parameters of `model` that make logits out of its last hidden state, by their names, and the buffers beside
    its head (`final_logits_bias` of BART).

    Found on a skeleton: those that get a gradient from the head. A model of a family whose head is not known raises
    `IncompatiblePair`.
    """
    names = _head_names(skeleton_of(type(model).__name__, model.config.to_dict()))
    own = _own(model)
    return {name: own[name].detach() for name in names}


def _own(model: PreTrainedModel) -> dict[str, Tensor]:
    """What a head can be made of, by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers(recurse=False))}


def _head_names(skeleton: PreTrainedModel) -> list[str]:
    anatomy = Anatomy.of(skeleton)
    skeleton.requires_grad_(True)
    width = anatomy.shape.stack(final_of(anatomy).stack).hidden_size
    with torch.enable_grad():
        logits = anatomy.head(torch.zeros(1, 1, width, device="meta", dtype=skeleton.dtype))
        torch.autograd.backward(logits.sum())
    names = [name for name, parameter in skeleton.named_parameters() if parameter.grad is not None]
    if not names:
        raise IncompatiblePair(f"{type(skeleton).__name__} has no head whose weights could be kept.")
    return [*names, *(name for name, _ in skeleton.named_buffers(recurse=False))]


def give_head(skeleton: PreTrainedModel, head: Mapping[str, Tensor]) -> None:
    """Puts a head's weights into a skeleton, at every place where the model has them.

    Raises: `CacheMismatch` for the weights of another head.
    """
    own = _own(skeleton)
    expected = {name: tuple(own[name].shape) for name in _head_names(skeleton)}
    found = {name: tuple(each.shape) for name, each in head.items()}
    if found != expected or not all(each.is_floating_point() for each in head.values()):
        raise CacheMismatch(f"the head of a {type(skeleton).__name__} is {expected}, and the cached one {found}.")
    places = skeleton.state_dict(keep_vars=True)
    filled = {
        place: head[name]
        for name in head
        for place, parameter in places.items()
        if name in own and parameter is own[name]
    }
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
    for name, buffer in [*skeleton.named_buffers(recurse=False)]:
        setattr(skeleton, name, buffer.to(device))


def read_axes(skeleton: PreTrainedModel, axes: Axes) -> bool:
    """Has the head of a skeleton read the axes of a state in place of the state, by a product with the weights of the
    layer at which the head begins; the weights as they were are let go.

    False, and nothing is changed, for a head in half precision, where the product would round anew, for one that does
    not begin with a linear layer, and for one that would give other logits.
    """
    if {each.dtype for each in skeleton.parameters() if not each.is_meta} != {torch.float32}:
        return False
    anatomy = Anatomy.of(skeleton)
    drawn = torch.randn(1, 2, len(axes.back), generator=torch.Generator().manual_seed(0))
    state = drawn @ axes.back + axes.offset
    first, logits = _first_linear(anatomy, state)
    if first is None:
        return False
    weight, bias = first.weight, first.bias
    first.weight = _fixed(weight @ axes.back.T)
    first.bias = _fixed(weight @ axes.offset + (0.0 if bias is None else bias))
    error = (anatomy.head(drawn) - logits).abs().amax()
    if not error <= ROUNDING * logits.abs().amax():
        first.weight, first.bias = weight, bias
        return False
    for module in skeleton.modules():
        for name, parameter in [*module.named_parameters(recurse=False)]:
            if parameter is weight:
                setattr(module, name, _fixed(parameter.to("meta")))
    return True


def _first_linear(anatomy: Anatomy, state: Tensor) -> tuple[torch.nn.Linear | None, Tensor]:
    """The linear layer that reads the state itself, and the logits."""
    found: list[torch.nn.Linear] = []

    def record(module: torch.nn.Linear, args: tuple[Tensor, ...]) -> None:
        if args[0] is state:
            found.append(module)

    linears = [module for module in anatomy.base.modules() if isinstance(module, torch.nn.Linear)]
    hooks = [module.register_forward_pre_hook(record) for module in linears]
    try:
        logits = anatomy.head(state)
    finally:
        for hook in hooks:
            hook.remove()
    return (found[0] if len(found) == 1 else None), logits


def _fixed(tensor: Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor, requires_grad=False)
