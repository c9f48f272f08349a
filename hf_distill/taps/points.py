"""The hooks that one tensor of a model is read by, and what each reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Read = Callable[[tuple[Any, ...], dict[str, Any], Any], Any]
"""What a hook keeps of the positional and keyword arguments and the output of a module."""


@dataclass(frozen=True, eq=False)
class Point:
    """A hook on `module`, what it reads, how often the module runs in one pass, and the run that is meant, from 0."""

    module: nn.Module
    read: Read
    runs: int = 1
    run: int = 0


@dataclass(frozen=True, eq=False)
class Tap:
    """How to get the tensor of one signal: an entry of the model's output, or the values of `points`, combined."""

    points: tuple[Point, ...] = ()
    combine: Callable[..., Tensor] = lambda value: value
    output: str = ""


def read_output(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    return output if isinstance(output, Tensor) else output[0]


def read_input(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    return args[0] if args else kwargs["hidden_states"]


def read_rotation(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    return kwargs["position_embeddings"]


def read_returned_bias(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    return output[1]


def read_given_bias(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    return kwargs["position_bias"] if "position_bias" in kwargs else args[2]
