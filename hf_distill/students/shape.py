"""A student of the teacher's class with another depth and width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill.anatomy import Anatomy
from hf_distill.errors import IncompatiblePair
from hf_distill.students.copying import copy_weights, finished, new, plain_copy
from hf_distill.students.layers import choose_all, shallower, sources_of
from hf_distill.students.prune import cut_weights

MAKER = "from_shape"
INITIALISATIONS = ("random", "importance")
INTERMEDIATE = {
    "bert": "intermediate_size",
    "roberta": "intermediate_size",
    "electra": "intermediate_size",
    "albert": "intermediate_size",
    "mpnet": "intermediate_size",
    "modernbert": "intermediate_size",
    "llama": "intermediate_size",
    "qwen3": "intermediate_size",
    "distilbert": "hidden_dim",
    "gpt2": "n_inner",
}
"""Entry of the configuration with the width inside the feed-forward layers, for each family that can be resized."""


def from_shape(
    teacher: nn.Module,
    *,
    num_hidden_layers: int | None = None,
    hidden_size: int | None = None,
    num_attention_heads: int | None = None,
    num_key_value_heads: int | None = None,
    intermediate_size: int | None = None,
    initialisation: Literal["random", "importance"] = "random",
    calibration: Iterable[Mapping[str, Tensor]] | None = None,
    pick: str = "spread",
) -> PreTrainedModel:
    """A model of the teacher's class and vocabulary with other sizes; what is not given stays the teacher's.

    Published shapes: TinyBERT 4 layers, 312 wide, 12 heads, 1200 inside (Jiao et al., 2020, arXiv:1909.10351); MiniLM
    6 or 12 layers, 384 wide, 12 heads, 1536 inside (Wang et al., 2020, arXiv:2002.10957).

    `initialisation` is `random`, as the class draws its weights (from torch's random state), or `importance`: depth is
    cut by `pick` as in `from_layers`, width to what matters most on the batches of `calibration`, see
    `prune.cut_weights`; with nothing cut the student then gives the teacher's output exactly.

    A head is `hidden_size / num_attention_heads` wide; where the configuration has a `head_dim` of its own (Llama,
    Qwen3) that stays the teacher's, as rotary frequencies depend on it. `num_key_value_heads`, where the family groups
    heads, keeps the teacher's ratio. An embedding size equal to the teacher's width (ELECTRA) becomes the student's.

    The student is in float32 and in eval mode, on the teacher's device. On the meta device, sizes can be counted
    without memory.

    Raises: `IncompatiblePair` for a family that cannot be resized, sizes that do not fit each other or (`importance`)
    exceed the teacher's, and a `calibration` that is missing, empty, or has no use.
    """
    if initialisation not in INITIALISATIONS:
        raise IncompatiblePair(
            f"{MAKER}: initialisation must be {' or '.join(INITIALISATIONS)}, not {initialisation!r}."
        )
    if (calibration is not None) != (initialisation == "importance"):
        raise IncompatiblePair(
            f"{MAKER}: initialisation {initialisation!r} {'needs' if calibration is None else 'has no use for'} "
            "calibration, batches on which importance is measured."
        )
    base = plain_copy(teacher, MAKER)
    anatomy = Anatomy.of(base)
    given = {
        "hidden_size": hidden_size,
        "num_attention_heads": num_attention_heads,
        "num_key_value_heads": num_key_value_heads,
        "intermediate_size": intermediate_size,
    }
    chosen = _layers(anatomy, num_hidden_layers, pick)
    config = _resized(anatomy, shallower(anatomy, chosen, MAKER), given)
    if calibration is None:
        return finished(new(type(base), config, base), base)
    with torch.random.fork_rng(devices=[]):
        student = new(type(base), config, base)
    sources = sources_of(anatomy, student, chosen, MAKER)
    tensors = cut_weights(anatomy, student, sources, chosen[""], calibration)
    copy_weights(student, base, sources, tensors)
    return finished(student, base)


def _layers(anatomy: Anatomy, number: int | None, pick: str) -> dict[str, list[int]]:
    family = anatomy.shape.family
    if family not in INTERMEDIATE or len(anatomy.shape.stacks) != 1:
        raise IncompatiblePair(
            f"{MAKER}: models of family {family!r} cannot be resized; those of {', '.join(INTERMEDIATE)} can."
        )
    depth = anatomy.shape.stack().num_hidden_layers
    return choose_all(anatomy, depth if number is None else number, pick, maker=MAKER)


def _resized(anatomy: Anatomy, config: Any, given: Mapping[str, int | None]) -> Any:
    """The configuration with the given sizes."""
    for name, size in given.items():
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise IncompatiblePair(f"{MAKER}: {name} must be a whole number, at least 1, not {size!r}.")
    teacher, family = anatomy.shape.stack(), anatomy.shape.family
    hidden = given["hidden_size"] or teacher.hidden_size
    heads = given["num_attention_heads"] or teacher.num_attention_heads
    if hidden % heads:
        raise IncompatiblePair(f"{MAKER}: hidden_size {hidden} must be a multiple of num_attention_heads {heads}.")
    _check_rotation(anatomy, config, hidden, heads)
    if getattr(config, "embedding_size", None) == teacher.hidden_size:
        config.embedding_size = hidden
    config.hidden_size, config.num_attention_heads = hidden, heads
    if given["intermediate_size"] is not None:
        setattr(config, INTERMEDIATE[family], given["intermediate_size"])
    elif family == "gpt2" and config.n_inner is None:
        config.n_inner = 4 * teacher.hidden_size
    _group_heads(anatomy, config, given["num_key_value_heads"])
    return config


def _check_rotation(anatomy: Anatomy, config: Any, hidden: int, heads: int) -> None:
    """Whether rotary position embeddings, which turn pairs of dimensions, find them in every head."""
    rotated = anatomy.row is not None and anatomy.row.scores == "rotary" and not hasattr(config, "head_dim")
    if rotated and hidden // heads % 2:
        raise IncompatiblePair(
            f"{MAKER}: hidden_size / num_attention_heads = {hidden} / {heads} = {hidden // heads} is odd, and rotary "
            "position embeddings turn pairs of dimensions; change one of the two."
        )


def _group_heads(anatomy: Anatomy, config: Any, given: int | None) -> None:
    teacher, heads = anatomy.shape.stack(), config.num_attention_heads
    if not hasattr(config, "num_key_value_heads"):
        if given is not None:
            raise IncompatiblePair(
                f"{MAKER}: num_key_value_heads is given, but {anatomy.shape.family!r} does not group its heads."
            )
        return
    if hasattr(config, "head_dim"):
        config.head_dim = teacher.head_size
    group = teacher.num_attention_heads // teacher.num_key_value_heads
    groups = heads // group if given is None else given
    if groups < 1 or heads % groups or (given is None and heads % group):
        raise IncompatiblePair(
            f"{MAKER}: {heads} heads do not fall into {given or f'groups of {group} as the teacher has'}; give a "
            "num_key_value_heads that divides num_attention_heads."
        )
    config.num_key_value_heads = groups
