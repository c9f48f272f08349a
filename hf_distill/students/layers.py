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
from hf_distill.students.block_importance import MEASURED, Kept, important_layers
from hf_distill.students.copying import copy_weights, finished, new, of_the_teacher, plain_copy

logger = logging.getLogger(__name__)

PICKS = ("spread", "uniform", "first", "last", "distilbert")
"""Names of the ways to choose M of N layers by their place."""

ALL_PICKS = (*PICKS, *MEASURED)
"""These, and those that are measured on batches."""

DISTILBERT = (1, 3, 5, 8, 10, 12)
"""The layers of BERT-base that DistilBERT starts from (Sanh et al., 2019, arXiv:1910.01108)."""


def from_layers(
    teacher: nn.Module,
    layers: int | Sequence[int] = 3,
    pick: str = "spread",
    *,
    decoder_layers: int | Sequence[int] | None = None,
    contiguous: bool = False,
    calibration: Iterable[Mapping[str, Tensor]] | None = None,
) -> PreTrainedModel:
    """A shallower model of the teacher's class, with copies of chosen layers, of the embeddings and of the head.

    `layers` counts from 1: the chosen layers themselves, or how many of the N there are, chosen by `pick`: `spread`
    floor(i N/M + 1/2), i = 1 .. M; `uniform` i N/M, N a multiple of M; `first`; `last`; `distilbert` 1, 3, 5, 8, 10,
    12 of 12; or by what was measured on the batches of `calibration`: `importance`, those that change their input
    most, and `loss_rise`, those without which the loss of the labels rises most. With `contiguous` these two leave out
    one run of neighbouring layers. See `block_importance.important_layers`. In an encoder-decoder `layers` holds for
    both stacks unless `decoder_layers` is given.

    The student is in float32 and in eval mode, on the teacher's device, and shares no storage with it; with all
    layers kept it gives the teacher's output exactly. An adapter is merged first, into a copy. What a family keeps
    in its first block alone (T5's position bias) stays there, and what its first block lacks (ModernBERT's first
    norm) is left out. Where layers share a block (ALBERT), the student's layers share it as well.

    Raises: `IncompatiblePair` for a layer that does not exist or comes twice, for more layers than there are, for a
    teacher whose family has no row, whose weights are quantized, or whose modules are not those its class builds, and
    for a `calibration` that is missing, empty, or has no use.
    """
    return cut_layers(
        teacher, layers, pick, decoder_layers=decoder_layers, contiguous=contiguous, calibration=calibration
    )[0]


def cut_layers(
    teacher: nn.Module,
    layers: int | Sequence[int],
    pick: str,
    *,
    decoder_layers: int | Sequence[int] | None = None,
    contiguous: bool = False,
    calibration: Iterable[Mapping[str, Tensor]] | None = None,
) -> tuple[PreTrainedModel, Kept]:
    """The student of `from_layers`, and what it kept."""
    if calibration is not None and pick not in MEASURED:
        raise IncompatiblePair(
            f"from_layers: pick {pick!r} has no use for calibration; those that measure are {' and '.join(MEASURED)}."
        )
    base = plain_copy(teacher, "from_layers")
    anatomy = Anatomy.of(base)
    kept = kept_layers(anatomy, layers, pick, decoder_layers, contiguous, calibration, "from_layers")
    chosen = kept.layers
    config = shallower(anatomy, chosen, "from_layers")
    with torch.random.fork_rng(devices=[]):
        student = new(type(base), config, base)
    sources = sources_of(anatomy, student, chosen, "from_layers")
    copy_weights(student, base, sources, of_the_teacher(base, student.state_dict(), sources, "from_layers"))
    _tell_left_out(anatomy, sources, chosen)
    return finished(student, base), kept


def kept_layers(
    anatomy: Anatomy,
    layers: int | Sequence[int],
    pick: str,
    decoder_layers: int | Sequence[int] | None,
    contiguous: bool,
    calibration: Iterable[Mapping[str, Tensor]] | None,
    maker: str,
) -> Kept:
    """The chosen layers of each stack, by their place or by what is measured; `maker` is named in messages.

    Raises: `IncompatiblePair`, as `from_layers`.
    """
    if pick not in MEASURED:
        if contiguous:
            raise IncompatiblePair(
                f"{maker}: contiguous goes with a pick that is measured, {' or '.join(MEASURED)}, not with {pick!r}."
            )
        return Kept(choose_all(anatomy, layers, pick, decoder_layers, maker), {})
    if calibration is None:
        raise IncompatiblePair(f"{maker}: pick {pick!r} needs calibration, batches on which layers are measured.")
    places = choose_all(anatomy, _whole(layers, pick, maker), "first", _whole(decoder_layers, pick, maker), maker)
    numbers = {stack: len(chosen) for stack, chosen in places.items()}
    kept = important_layers(anatomy, numbers, pick, calibration, contiguous=contiguous, maker=maker)
    _check_numbers(anatomy, kept.layers, maker)
    _tell_kept(kept, pick, maker)
    return kept


def _whole(layers: Any, pick: str, maker: str) -> Any:
    if isinstance(layers, Sequence):
        raise IncompatiblePair(
            f"{maker}: layers {list(layers)} are given one by one, so pick {pick!r} has nothing to choose."
        )
    return layers


def _tell_kept(kept: Kept, pick: str, maker: str) -> None:
    for stack, layers in kept.layers.items():
        scores = ", ".join(f"{score:.4g}" for score in kept.scores[stack])
        logger.info("%s: %s keeps %slayers %s; scores %s", maker, pick, f"{stack} " if stack else "", layers, scores)


def choose_all(
    anatomy: Anatomy,
    layers: int | Sequence[int],
    pick: str,
    decoder_layers: int | Sequence[int] | None = None,
    maker: str = "from_layers",
) -> dict[str, list[int]]:
    """The chosen layers of each stack; `maker` is named in messages.

    Raises: `IncompatiblePair` for layers that cannot be chosen, and for a family without a row.
    """
    stacks = anatomy.shape.stacks
    anatomy.blocks(next(iter(stacks), ""))  # refuses a family without a row
    if decoder_layers is not None and "decoder" not in stacks:
        raise IncompatiblePair(f"{maker}: decoder_layers is given, but {anatomy.shape.family!r} has a single stack.")
    asked = dict.fromkeys(stacks, layers)
    if decoder_layers is not None:
        asked["decoder"] = decoder_layers
    chosen = {
        stack: _choose(asked[stack], pick, shape.num_hidden_layers, f"{maker} ({stack})" if stack else maker)
        for stack, shape in stacks.items()
    }
    _check_numbers(anatomy, chosen, maker)
    return chosen


def _check_numbers(anatomy: Anatomy, chosen: Mapping[str, Sequence[int]], maker: str) -> None:
    """Refuses to move a block to another place where it would compute something else there."""
    config, flags = anatomy.base.config, anatomy.row.by_number if anatomy.row else ()
    for layers in chosen.values():
        moved = [layer for place, layer in enumerate(layers, start=1) if layer != place]
        for flag in flags:
            if moved and getattr(config, flag, False):
                raise IncompatiblePair(
                    f"{maker}: with {flag} a block of {anatomy.shape.family!r} computes by its number, and layer "
                    f"{moved[0]} would get another one; take the first layers (pick 'first')."
                )


def _choose(layers: int | Sequence[int], pick: str, depth: int, where: str) -> list[int]:
    if pick not in PICKS:
        raise IncompatiblePair(f"{where}: unknown pick {pick!r}; the picks are {', '.join(PICKS)}.")
    if isinstance(layers, int):
        return _by_name(layers, pick, depth, where)
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        raise IncompatiblePair(f"{where}: layers must be a whole number or a list of them, not {layers!r}.")
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


def shallower(anatomy: Anatomy, chosen: Mapping[str, Sequence[int]], maker: str) -> Any:
    """The teacher's configuration with the new depth; lists with one entry a layer are cut along.

    Raises: `IncompatiblePair` where shared layers run several at a time, and other than whole runs are chosen.
    """
    row, config = anatomy.row, copy.deepcopy(anatomy.base.config)
    assert row is not None
    for stack, layers in chosen.items():
        depth = row.depth[stack]
        # ALBERT's inner blocks run together as one of the layers that its configuration counts.
        inner = len(anatomy.blocks(stack)) // getattr(config, depth) if row.groups else 1
        if len(layers) % inner:
            raise IncompatiblePair(
                f"{maker}: {len(layers)} layers are asked for, but {anatomy.shape.family!r} runs {inner} inner "
                f"layers at a time; take a multiple of {inner}."
            )
        setattr(config, depth, len(layers) // inner)
        if row.groups:
            setattr(config, row.groups, len(_kept(anatomy, stack, layers)))
    for name in row.per_layer:
        values = getattr(config, name, None)
        if values is not None:
            setattr(config, name, [values[layer - 1] for layer in next(iter(chosen.values()))])
    config.dtype = torch.float32
    config._name_or_path = ""
    return config


def sources_of(
    anatomy: Anatomy, student: PreTrainedModel, chosen: Mapping[str, Sequence[int]], maker: str
) -> dict[str, str]:
    """The teacher's name of each entry of the student's state, the number of the block exchanged.

    Raises: `IncompatiblePair` where layers that share weights cannot be had in that order.
    """
    have = anatomy.base.state_dict().keys()
    sources = {name: name for name in student.state_dict()}
    for stack, layers in chosen.items():
        prefix, kept = anatomy.blocks_path(stack), _kept(anatomy, stack, layers)
        _check_order(anatomy, student, stack, layers, kept, maker)
        for name in sources:
            if name.startswith(prefix):
                source = prefix + _renumbered(name.removeprefix(prefix), kept)
                # What the chosen block lacks is what the first block holds for all.
                is_first = name.removeprefix(prefix).startswith("0.")
                sources[name] = name if is_first and source not in have else source
    return sources


def _renumbered(name: str, kept: Sequence[int]) -> str:
    number, *rest = name.split(".")
    return ".".join([str(kept[int(number)] - 1), *rest])


def block_names(anatomy: Anatomy, stack: str) -> list[str]:
    """Of each layer the name of its block behind `blocks_path`."""
    prefix = anatomy.blocks_path(stack)
    names = {id(module): name.removeprefix(prefix) for name, module in anatomy.base.named_modules()}
    return [names[id(block)] for block in anatomy.blocks(stack)]


def _kept(anatomy: Anatomy, stack: str, layers: Sequence[int]) -> list[int]:
    """The numbers, from 1, of what is kept: of the chosen layers, or of the groups that share their weights."""
    names = block_names(anatomy, stack)
    return sorted({int(names[layer - 1].split(".")[0]) + 1 for layer in layers})


def _check_order(
    anatomy: Anatomy, student: PreTrainedModel, stack: str, layers: Sequence[int], kept: Sequence[int], maker: str
) -> None:
    """Whether the student runs copies of the chosen blocks in the chosen order, which shared weights may prevent."""
    theirs = block_names(anatomy, stack)
    wanted = [theirs[layer - 1] for layer in layers]
    found = [_renumbered(name, kept) for name in block_names(Anatomy.of(student), stack)]
    if found != wanted:
        raise IncompatiblePair(
            f"{maker}: layers {list(layers)} run the shared blocks {', '.join(wanted)}, but a student of that depth "
            f"runs {', '.join(found)}; choose the same number of layers from each group."
        )


def _tell_left_out(anatomy: Anatomy, sources: Mapping[str, str], chosen: Mapping[str, Sequence[int]]) -> None:
    used = set(sources.values())
    kept = [
        f"{anatomy.blocks_path(stack)}{number - 1}."
        for stack, layers in chosen.items()
        for number in _kept(anatomy, stack, layers)
    ]
    for name in anatomy.base.state_dict():
        if name not in used and name.startswith(tuple(kept)):
            logger.info("from_layers: %s is left out; the class has no such weight in its first block", name)
