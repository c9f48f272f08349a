"""Models of which each process holds a part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, distributed, nn

STUDENT, OBJECTIVES = "student.", "objectives."
"""How the names in a `Distillation` begin."""


def in_shards(model: nn.Module) -> bool:
    """Whether each process holds a part of the parameters: of a model that was sharded when it was loaded or by
    `fully_shard` (FSDP2), or that DeepSpeed ZeRO-3 cut up. It must then run as a whole: an engine gathers what the
    forward passes of the modules that it knows read, not what is read besides.
    """
    if partitioned(model):
        return True
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    return any(is_shard(parameter.data) for parameter in model.parameters())


def is_shard(tensor: Tensor) -> bool:
    """Whether a tensor is a `DTensor`, of which each process holds a part."""
    if not distributed.is_available():  # torch may be built without it
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def partitioned(model: nn.Module) -> bool:
    """Whether ZeRO-3 cut up the parameters."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def whole(value: Any) -> Any:
    """A value that processes may hold in parts, such as the norm of gradients, with all of it in each."""
    gather = getattr(value, "full_tensor", None)
    return value if gather is None else gather()


def gathered(named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The same names, each with the whole of its tensor, one after the other; all processes go through them together.

    Parameters that ZeRO-3 cut up must come as they are, not as what `state_dict` makes of them.
    """
    for name, tensor in named:
        if hasattr(tensor, "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([tensor]):
                yield name, tensor.data
        else:
            yield name, whole(tensor)


def fold(model: nn.Module) -> None:
    """Gives back what FSDP2 gathered for a forward pass: the root keeps it for a backward pass, and a model that is
    only read has none.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def of_student(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of the state of a `Distillation`, which an engine gathered, is the student's, under its own names.

    The state of a bare student comes back as it is.
    """
    mine = {name.removeprefix(STUDENT): each for name, each in state.items() if name.startswith(STUDENT)}
    return mine or dict(state)


def of_objectives(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of the state of a `Distillation` the objectives learned, as `<term>.<parameter>`."""
    return {name.removeprefix(OBJECTIVES): each for name, each in state.items() if name.startswith(OBJECTIVES)}
