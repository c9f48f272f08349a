"""A student cut from its teacher's own layers."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill.anatomy import Anatomy
from hf_distill.errors import IncompatiblePair

logger = logging.getLogger(__name__)

PICKS = ("spread", "uniform", "first", "last", "distilbert")
"""Names of the ways to choose M of N layers."""

DISTILBERT = (1, 3, 5, 8, 10, 12)
"""The layers of BERT-base that DistilBERT starts from (Sanh et al., 2019, arXiv:1910.01108)."""


def from_layers(
    teacher: nn.Module,
    layers: int | Sequence[int] = 3,
    pick: str = "spread",
    *,
    decoder_layers: int | Sequence[int] | None = None,
) -> PreTrainedModel:
    """A shallower model of the teacher's class, with copies of chosen layers, of the embeddings and of the head.

    `layers` counts from 1: the chosen layers themselves, or how many of the N there are, chosen by `pick`: `spread`
    floor(i N/M + 1/2), i = 1 .. M; `uniform` i N/M, N a multiple of M; `first`; `last`; `distilbert` 1, 3, 5, 8, 10,
    12 of 12. In an encoder-decoder it holds for both stacks unless `decoder_layers` is given.

    The student is in float32 and in eval mode, on the teacher's device, and shares no storage with it; with all
    layers kept it gives the teacher's output exactly. An adapter is merged first, into a copy. What a family keeps
    in its first block alone (T5's position bias) stays there, and what its first block lacks (ModernBERT's first
    norm) is left out.

    Raises: `IncompatiblePair` for a layer that does not exist or comes twice, for more layers than there are, for a
    teacher whose family has no row, whose weights are quantized, or whose modules are not those its class builds.
    """
    base = _plain_copy(teacher)
    anatomy = Anatomy.of(base)
    anatomy.blocks(next(iter(anatomy.shape.stacks), ""))  # refuses a family without a row
    chosen = _choose_all(anatomy, layers, pick, decoder_layers)
    config = _config(anatomy, chosen)
    with torch.random.fork_rng(devices=[]):
        student: PreTrainedModel = type(base)(config).to(torch.float32)
    sources = _sources(anatomy, student.state_dict(), chosen)
    _untie(student, base, sources)
    student.load_state_dict(_weights(anatomy, student.state_dict(), sources))
    _tell_left_out(anatomy, sources, chosen)
    if getattr(base, "generation_config", None) is not None:
        student.generation_config = copy.deepcopy(base.generation_config)
    return student.to(base.device).eval()


def _plain_copy(teacher: nn.Module) -> PreTrainedModel:
    """The plain model; for an adapter a copy into which it is merged."""
    base = Anatomy.of(teacher).base
    if getattr(base, "is_quantized", False):
        raise IncompatiblePair(
            f"from_layers: the weights of {type(base).__name__} are quantized; load the teacher without a "
            "quantization config."
        )
    if base is teacher:
        return base
    adapted: Any = teacher
    merged: PreTrainedModel = copy.deepcopy(adapted).merge_and_unload()
    return merged


def _choose_all(
    anatomy: Anatomy, layers: int | Sequence[int], pick: str, decoder_layers: int | Sequence[int] | None
) -> dict[str, list[int]]:
    """The chosen layers of each stack."""
    stacks = anatomy.shape.stacks
    if decoder_layers is not None and "decoder" not in stacks:
        raise IncompatiblePair(
            f"from_layers: decoder_layers is given, but {anatomy.shape.family!r} has a single stack."
        )
    asked = dict.fromkeys(stacks, layers)
    if decoder_layers is not None:
        asked["decoder"] = decoder_layers
    return {stack: _choose(asked[stack], pick, shape.num_hidden_layers, stack) for stack, shape in stacks.items()}


def _choose(layers: int | Sequence[int], pick: str, depth: int, stack: str) -> list[int]:
    where = f"from_layers ({stack})" if stack else "from_layers"
    if pick not in PICKS:
        raise IncompatiblePair(f"{where}: unknown pick {pick!r}; the picks are {', '.join(PICKS)}.")
    if isinstance(layers, int):
        return _by_name(layers, pick, depth, where)
    chosen = list(layers)
    if pick != "spread":
        raise IncompatiblePair(
            f"{where}: layers {chosen} are given one by one, so pick {pick!r} has nothing to choose."
        )
    if not chosen or any(isinstance(layer, bool) or not isinstance(layer, int) for layer in chosen):
        raise IncompatiblePair(f"{where}: layers must be whole numbers, at least one, but are {chosen}.")
    outside = [layer for layer in chosen if not 1 <= layer <= depth]
    if outside:
        raise IncompatiblePair(f"{where}: layer {outside[0]} does not exist; the teacher's layers are 1 to {depth}.")
    if chosen != sorted(set(chosen)):
        raise IncompatiblePair(f"{where}: layers {chosen} must be distinct and in increasing order.")
    return chosen


def _by_name(number: int, pick: str, depth: int, where: str) -> list[int]:
    if isinstance(number, bool) or not 1 <= number <= depth:
        raise IncompatiblePair(
            f"{where}: {number} layers are asked for, but the teacher has {depth}; take 1 to {depth}."
        )
    steps = range(1, number + 1)
    if pick == "uniform" and depth % number:
        raise IncompatiblePair(f"{where}: pick 'uniform' needs {depth} to be a multiple of {number}; use 'spread'.")
    if pick == "distilbert" and (number, depth) != (6, 12):
        raise IncompatiblePair(
            f"{where}: pick 'distilbert' takes 6 of 12 layers, not {number} of {depth}; use 'spread'."
        )
    return {
        "spread": [(2 * i * depth + number) // (2 * number) for i in steps],
        "uniform": [i * depth // number for i in steps],
        "first": list(steps),
        "last": [depth - number + i for i in steps],
        "distilbert": list(DISTILBERT),
    }[pick]


def _config(anatomy: Anatomy, chosen: Mapping[str, Sequence[int]]) -> Any:
    """The teacher's configuration with the new depth; lists with one entry a layer are cut along."""
    row, config = anatomy.row, copy.deepcopy(anatomy.base.config)
    assert row is not None
    for stack, layers in chosen.items():
        setattr(config, row.depth[stack], len(layers))
    for name in row.per_layer:
        values = getattr(config, name, None)
        if values is not None:
            setattr(config, name, [values[layer - 1] for layer in next(iter(chosen.values()))])
    config.dtype = torch.float32
    config._name_or_path = ""
    return config


def _sources(anatomy: Anatomy, names: Iterable[str], chosen: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """The teacher's name of each of the student's weights, the number of the block exchanged."""
    prefixes = {stack: anatomy.blocks_path(stack) for stack in chosen}
    have, sources = anatomy.base.state_dict().keys(), {}
    for name in names:
        sources[name] = name
        for stack, prefix in prefixes.items():
            if name.startswith(prefix):
                number, _, rest = name.removeprefix(prefix).partition(".")
                source = f"{prefix}{chosen[stack][int(number)] - 1}.{rest}"
                # What the chosen block lacks is what the first block holds for all.
                sources[name] = name if number == "0" and source not in have else source
    return sources


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


def _weights(anatomy: Anatomy, wanted: Mapping[str, Tensor], sources: Mapping[str, str]) -> dict[str, Tensor]:
    """The teacher's tensor for each entry of the student's state."""
    have = anatomy.base.state_dict()
    wrong = [
        name for name, source in sources.items() if source not in have or have[source].shape != wanted[name].shape
    ]
    if wrong:
        raise IncompatiblePair(
            f"from_layers: {type(anatomy.base).__name__} builds {wrong[0]} from its configuration, but the teacher "
            "holds no such tensor of that shape: its modules were replaced, or an adapter is attached "
            "(merge_and_unload() it first)."
        )
    return {name: have[source] for name, source in sources.items()}


def _tell_left_out(anatomy: Anatomy, sources: Mapping[str, str], chosen: Mapping[str, Sequence[int]]) -> None:
    used = set(sources.values())
    kept = [f"{anatomy.blocks_path(stack)}{layer - 1}." for stack, layers in chosen.items() for layer in layers]
    for name in anatomy.base.state_dict():
        if name not in used and name.startswith(tuple(kept)):
            logger.info("from_layers: %s is left out; the class has no such weight in its first block", name)
