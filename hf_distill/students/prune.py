"""The weights of a narrower student, cut from its teacher by what was measured to matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_distill.anatomy import Anatomy, StackShape
from hf_distill.errors import IncompatiblePair
from hf_distill.sentences import DENSE
from hf_distill.students.importance import LAYOUTS, Layout, Measured, Ranking, measure
from hf_distill.students.layers import block_names

MAKER = "from_shape"


def cut_weights(
    anatomy: Anatomy,
    student: PreTrainedModel,
    sources: Mapping[str, str],
    layers: Sequence[int],
    calibration: Iterable[Mapping[str, Tensor]],
    ranking: Ranking,
) -> tuple[dict[str, Tensor], list[int]]:
    """A tensor for each entry of the student's state, cut from the teacher's entry that `sources` names, and which of
    the teacher's hidden dimensions it has, counted from 0.

    Kept are the most important, as measured on the real tokens of `calibration` in the teacher's chosen `layers`; by
    the ranking `added`

    - hidden dimensions, the same everywhere, by the mean absolute activation in the embeddings' and the blocks'
      outputs, each of which is divided by its mean over the dimensions;
    - neurons of each feed-forward part by E[a_j^2] |w_j|^2, a_j the activation and w_j the column of the last layer
      that reads it: the mean squared length of what the neuron adds;
    - heads of each block by the same sum over the dimensions of their values, within groups that share keys after the
      groups themselves; inside a head the dimensions of values by that sum, too, those of queries and keys together
      by E[q_i^2] E[k_i^2]. Queries are scaled by sqrt(d'/d), so that scores of d' dimensions keep the divisor sqrt(d).

    By the ranking `activations` a is its score s(a) alone (`Ranking`), as Muralidharan et al., 2024, arXiv:2407.14679,
    rank: neurons by s of what the last layer reads, heads by the L2 norm of the scores of their values, hidden
    dimensions by the sum over the norms of all blocks of the score of their outputs.

    Weighing activations by the norm of the weights that read them follows Sun et al., 2023, arXiv:2306.11695.
    Everything is measured in one pass over the batches, without gradients and without labels.

    Raises: `IncompatiblePair` for a family without a layout, a size above the teacher's, heads narrower than the
    teacher's where positions turn pairs of their dimensions, an empty `calibration`, a tensor that no rule cuts, and
    one outside of the blocks for which the student has no place.
    """
    layout = LAYOUTS.get(anatomy.shape.family)
    if layout is None:
        raise IncompatiblePair(
            f"{MAKER}: {anatomy.shape.family!r} cannot be cut by importance; {', '.join(LAYOUTS)} can. Use "
            "initialisation='random'."
        )
    narrow = Anatomy.of(student)
    names = block_names(anatomy, "")
    blocks = {names[layer - 1]: anatomy.blocks()[layer - 1] for layer in layers}
    inner = inner_size(narrow)
    _check_sizes(anatomy, narrow)
    measured = measure(anatomy, layout, {layer: names[layer - 1] for layer in layers}, calibration, ranking)
    hidden = top(measured.hidden, narrow.shape.stack().hidden_size).to(anatomy.base.device)
    shapes = anatomy.shape.stack(), narrow.shape.stack()
    weighed = ranking.by == "added"
    rules = {
        f"{anatomy.blocks_path()}{name}.": _rules(
            layout, _keep(block, layout, measured, name, shapes, inner, weighed), hidden
        )
        for name, block in blocks.items()
    }
    tensors = _Cutter(anatomy, rules, hidden, shapes[1].hidden_size).all(student.state_dict(), sources)
    return tensors, hidden.tolist()


def inner_size(anatomy: Anatomy) -> int:
    """The width inside the feed-forward parts, of a family with a layout."""
    layout = LAYOUTS[anatomy.shape.family]
    return _matrix(anatomy.blocks()[0].get_submodule(layout.narrowing)).shape[1]


def heads_of_group(shape: StackShape) -> int:
    """How many heads share keys and values."""
    return shape.num_attention_heads // shape.num_key_value_heads


def _check_sizes(anatomy: Anatomy, narrow: Anatomy) -> None:
    """Whether the student is the teacher's size or smaller in every respect."""
    teacher, student = anatomy.shape.stack(), narrow.shape.stack()
    for what, mine, theirs in (
        ("hidden_size", student.hidden_size, teacher.hidden_size),
        ("num_key_value_heads", student.num_key_value_heads, teacher.num_key_value_heads),
        ("num_attention_heads for each of the key-value heads", heads_of_group(student), heads_of_group(teacher)),
        ("hidden_size / num_attention_heads", student.head_size, teacher.head_size),
        ("intermediate_size", inner_size(narrow), inner_size(anatomy)),
    ):
        if mine > theirs:
            raise IncompatiblePair(
                f"{MAKER}: {what} is {mine}, the teacher's {theirs}; nothing can be cut to more. Use "
                "initialisation='random'."
            )
    if anatomy.known_row.scores == "rotary" and student.head_size != teacher.head_size:
        raise IncompatiblePair(
            f"{MAKER}: heads are {student.head_size} wide, the teacher's {teacher.head_size}; in "
            f"{anatomy.shape.family!r} positions turn pairs of their dimensions by frequencies that depend on that "
            "width. Keep hidden_size / num_attention_heads, or use initialisation='random'."
        )


# --- choosing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kept:
    """What is kept of one block: indices of the outputs of its projections. `scale` of the queries; `width` is the
    teacher's number of queries, behind which keys begin where the projections are fused, `inside` that of its neurons,
    behind which gates do."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    joined: Tensor
    inner: Tensor
    scale: float
    width: int
    inside: int


def top(scores: Tensor, number: int) -> Tensor:
    """The indices of the largest scores, in their order of place."""
    return scores.argsort(descending=True, stable=True)[:number].sort().values


def _matrix(module: Any) -> Tensor:
    """The weights of a linear layer as `[outputs, inputs]`."""
    weight: Tensor = module.weight.detach()
    return weight.t() if isinstance(module, Conv1D) else weight


def _keep(
    block: nn.Module,
    layout: Layout,
    measured: Measured,
    name: str,
    shapes: tuple[StackShape, StackShape],
    inner: int,
    weighed: bool,
) -> _Kept:
    teacher, student = shapes
    attention: Any = block.get_submodule(layout.joined.rpartition(".")[0])
    groups, size = teacher.num_key_value_heads, teacher.head_size
    group = teacher.num_attention_heads // groups
    added = {path: measured.squares[name, path] for path in (layout.joined, layout.narrowing)}
    if weighed:
        for path in added:
            added[path] = added[path] * _matrix(block.get_submodule(path)).float().square().sum(dim=0)
    values = added[layout.joined].view(groups, group, size)
    queries = measured.squares[name, "queries"].view(groups, group, size)
    keys = measured.squares[name, "keys"].view(groups, size)
    kept: dict[str, list[Tensor]] = {"queries": [], "keys": [], "values": [], "joined": []}
    for g in top(values.sum(dim=(1, 2)), student.num_key_value_heads):
        heads = top(values[g].sum(dim=1), student.num_attention_heads // student.num_key_value_heads)
        compared = top(queries[g, heads].sum(dim=0) * keys[g], student.head_size)
        carried = top(values[g, heads].sum(dim=0), student.head_size)
        kept["keys"].append(g * size + compared)
        kept["values"].append(g * size + carried)
        kept["queries"].extend((g * group + head) * size + compared for head in heads)
        kept["joined"].extend((g * group + head) * size + carried for head in heads)
    place = next(block.parameters()).device
    indices = {field: torch.cat(parts).to(place) for field, parts in kept.items()}
    return _Kept(
        **indices,
        inner=top(added[layout.narrowing], inner).to(place),
        scale=(student.head_size / size) ** 0.5 if getattr(attention, "scale_attn_weights", True) else 1.0,
        width=teacher.num_attention_heads * size,
        inside=len(added[layout.narrowing]),
    )


# --- cutting --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rule:
    """Which outputs and inputs of a linear layer are kept; `scale` multiplies the first `scaled` outputs."""

    outputs: Tensor
    inputs: Tensor
    scale: float = 1.0
    scaled: int = 0

    def cut(self, tensor: Tensor, transposed: bool) -> Tensor:
        """The kept part of a weight or bias."""
        if tensor.dim() == 1:
            part = tensor[self.outputs]
        else:
            matrix = tensor.t() if transposed else tensor
            part = matrix[self.outputs][:, self.inputs]
        if self.scale != 1.0:
            part[: self.scaled] *= self.scale
        return part.t().contiguous() if transposed and tensor.dim() == 2 else part


def _rules(layout: Layout, kept: _Kept, hidden: Tensor) -> dict[str, _Rule]:
    """What is kept of the linear layers of a block, by their paths."""
    rules = {layout.joined: _Rule(hidden, kept.joined), layout.narrowing: _Rule(hidden, kept.inner)}
    inner = torch.cat([kept.inner, kept.inside + kept.inner]) if layout.fused_gate else kept.inner
    rules |= {path: _Rule(inner, hidden) for path in layout.widening}
    if layout.queries == layout.values:
        fused = torch.cat([kept.queries, kept.width + kept.keys, 2 * kept.width + kept.values])
        rules[layout.queries] = _Rule(fused, hidden, kept.scale, len(kept.queries))
        return rules
    rules[layout.queries] = _Rule(kept.queries, hidden, kept.scale, len(kept.queries))
    rules |= {layout.keys: _Rule(kept.keys, hidden), layout.values: _Rule(kept.values, hidden)}
    return rules


class _Cutter:
    """Cuts the teacher's tensors: the linear layers of blocks by their rules, everything else where a dimension of
    the teacher's width has become one of the student's."""

    def __init__(self, anatomy: Anatomy, rules: Mapping[str, Mapping[str, _Rule]], hidden: Tensor, width: int) -> None:
        self.base = anatomy.base
        self.blocks_path = anatomy.blocks_path()
        self.rules = rules
        self.hidden = hidden
        self.widths = (anatomy.shape.stack().hidden_size, width)

    def all(self, wanted: Mapping[str, Tensor], sources: Mapping[str, str]) -> dict[str, Tensor]:
        """A tensor for each entry of the student's state."""
        have = self.base.state_dict()
        self._check_left_out(set(have) - set(sources.values()))
        missing = [name for name, source in sources.items() if source not in have]
        if missing:
            raise IncompatiblePair(
                f"{MAKER}: the student has {missing[0]}, of which {type(self.base).__name__} has nothing to be cut."
            )
        return {name: self._one(name, have[source], source, wanted[name].shape) for name, source in sources.items()}

    def _check_left_out(self, names: Set[str]) -> None:
        """Refuses to lose what is outside of the blocks; dense layers behind the pooling are taken over elsewhere."""
        lost = sorted(name for name in names if not name.startswith((self.blocks_path, f"{DENSE}.")))
        if lost:
            raise IncompatiblePair(
                f"{MAKER}: {lost[0]} of the teacher would be lost, as the student of {self.widths[1]} hidden "
                f"dimensions has no such tensor: {type(self.base).__name__} builds no projection behind embeddings "
                "of that width. Take another hidden_size, or initialisation='random'."
            )

    def _one(self, name: str, tensor: Tensor, source: str, shape: torch.Size) -> Tensor:
        module = source.rpartition(".")[0]
        for prefix, rules in self.rules.items():
            rule = rules.get(module.removeprefix(prefix)) if module.startswith(prefix) else None
            if rule is not None:
                tensor = rule.cut(tensor, isinstance(self.base.get_submodule(module), Conv1D))
                break
        else:
            for dimension, sizes in enumerate(zip(tensor.shape, shape, strict=True)):
                if sizes[0] != sizes[1] and sizes == self.widths:
                    tensor = tensor.index_select(dimension, self.hidden)
        if tensor.shape != shape:
            raise IncompatiblePair(
                f"{MAKER}: {source} of the teacher cannot be cut to the student's {list(shape)}; all blocks share it, "
                "and each keeps heads of its own. Keep the teacher's num_attention_heads, or use "
                "initialisation='random'."
            )
        return tensor
