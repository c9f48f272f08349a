"""What hidden dimensions, heads and neurons of a model do on a few batches: the ground for cutting some of them."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives.settings import check_choice

NORMS = ("first norm", "second norm")
"""How the norms of a block are called among what is measured."""

Aggregation = Literal["mean", "l2", "var"]
AGGREGATIONS: tuple[Aggregation, ...] = ("mean", "l2", "var")
"""How a list of scores becomes one: mean |s|, sqrt(sum s^2), or mean (s - mean s)^2."""


@dataclass(frozen=True)
class Layout:
    """Modules below a block: the projections to queries, keys and values (one and the same where they are fused as
    [q | k | v]), the projection of what the heads give, the first and last layers of the feed-forward part, and the
    norms of attention and feed-forward part. `fused_gate`: the first layer gives [inner | gate]."""

    queries: str
    keys: str
    values: str
    joined: str
    widening: tuple[str, ...]
    narrowing: str
    norms: tuple[str, ...]
    fused_gate: bool = False


_BERT = Layout(
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    ("intermediate.dense",), "output.dense", ("attention.output.LayerNorm", "output.LayerNorm"),
)  # fmt: skip
_LLAMA = Layout(
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", ("input_layernorm", "post_attention_layernorm"),
)  # fmt: skip
LAYOUTS = {
    "bert": _BERT,
    "roberta": _BERT,
    "electra": _BERT,
    "albert": Layout(
        "attention.query", "attention.key", "attention.value", "attention.dense", ("ffn",), "ffn_output",
        ("attention.LayerNorm", "full_layer_layer_norm"),
    ),
    "mpnet": Layout(
        "attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o", ("intermediate.dense",),
        "output.dense", ("attention.LayerNorm", "output.LayerNorm"),
    ),
    "distilbert": Layout(
        "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", ("ffn.lin1",), "ffn.lin2",
        ("sa_layer_norm", "output_layer_norm"),
    ),
    "modernbert": Layout(
        "attn.Wqkv", "attn.Wqkv", "attn.Wqkv", "attn.Wo", ("mlp.Wi",), "mlp.Wo", ("attn_norm", "mlp_norm"),
        fused_gate=True,
    ),
    "gpt2": Layout(
        "attn.c_attn", "attn.c_attn", "attn.c_attn", "attn.c_proj", ("mlp.c_fc",), "mlp.c_proj", ("ln_1", "ln_2")
    ),
    "opt": Layout(
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", ("fc1",), "fc2",
        ("self_attn_layer_norm", "final_layer_norm"),
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "cohere": replace(_LLAMA, norms=("input_layernorm",)),
}  # fmt: skip
"""Families whose width can be cut."""


@dataclass(frozen=True)
class Ranking:
    """What dimensions, heads and neurons are ranked by.

    `added`: what each adds to the output, E[a^2] times the squared norm of the weights that read it. `activations`:
    the activations alone, aggregated over the tokens of a text first, `over_tokens`, and then `over_texts`; by
    default sqrt(sum_texts (mean_tokens |a|)^2), which Muralidharan et al., 2024, arXiv:2407.14679, found best.

    Raises: `DistillationError` for names of something else, and aggregations beside `added`.
    """

    by: Literal["added", "activations"] = "added"
    over_texts: Aggregation | None = None
    over_tokens: Aggregation | None = None

    def __post_init__(self) -> None:
        check_choice("from_shape", "ranking", self.by, ("added", "activations"))
        for name in ("over_texts", "over_tokens"):
            value = getattr(self, name)
            if value is None:
                continue
            check_choice("from_shape", name, value, AGGREGATIONS)
            if self.by == "added":
                raise DistillationError(
                    f"from_shape: {name} is {value!r}, and ranking is 'added', which sums squares; set "
                    "ranking='activations'."
                )


@dataclass(frozen=True)
class Measured:
    """What was seen on the real tokens of all batches.

    `hidden`, `[hidden_size]`: how much each hidden dimension matters. `squares`: for the name of a block and
    `queries`, `keys`, or the path of the layer that reads them, the sum of squares of each dimension, or its squared
    score.
    """

    hidden: Tensor
    squares: Mapping[tuple[str, str], Tensor]


def measure(
    anatomy: Anatomy,
    layout: Layout,
    blocks: Mapping[int, str],
    calibration: Iterable[Mapping[str, Tensor]],
    ranking: Ranking,
) -> Measured:
    """Runs the model over the batches without gradients and in eval mode. `blocks` are the layers that matter, with
    the names of their blocks.

    Raises: `IncompatiblePair` for batches that are no mappings to tensors, hold no input, or together hold no text.
    """
    signals = [Signal(field, layer) for layer in blocks for field in ("hidden", "queries", "keys")]
    capture = Capture(anatomy, [Signal("hidden", 0), *signals], "teacher")
    scores = _Squares() if ranking.by == "added" else _Aggregated(ranking)
    batches = 0
    with closing(capture), torch.no_grad(), evaluating(anatomy.base), _seen(anatomy, layout, blocks) as seen:
        for batch in calibration:
            _, shown = capture(checked(batch, anatomy.base.device, "from_shape"))
            mask = shown.mask.unsqueeze(-1).float()  # type: ignore[union-attr]
            for layer in (0, *blocks):
                scores.add_state(layer, shown.hidden[layer], mask)
            for layer, name in blocks.items():
                scores.add((name, "queries"), shown.queries[layer], mask)
                scores.add((name, "keys"), shown.keys[layer], mask)
            for key, value in seen:
                scores.add(key, value.view(*mask.shape[:2], -1), mask)  # some families flatten rows and places
            seen.clear()
            batches += 1
    if not batches:
        raise IncompatiblePair("from_shape: calibration has no batch; importance is measured on at least one.")
    if not scores.has_text:
        raise IncompatiblePair("from_shape: calibration has no batch with text; attention_mask is 0 everywhere.")
    return scores.measured()


class _Squares:
    """Sums of squares over all tokens. Hidden dimensions: the mean absolute activation in the output of the embeddings
    and of each block, divided by its mean over the dimensions, summed over these outputs."""

    def __init__(self) -> None:
        self.squares: dict[tuple[str, str], Tensor] = {}
        self.absolute: dict[int, Tensor] = {}

    def add_state(self, layer: int, state: Tensor, mask: Tensor) -> None:
        self.absolute[layer] = self.absolute.get(layer, 0) + (state.float().abs() * mask).sum(dim=(0, 1))

    def add(self, key: tuple[str, str], value: Tensor, mask: Tensor) -> None:
        if key[1] not in NORMS:
            self.squares[key] = self.squares.get(key, 0) + (value.float().square() * mask).sum(dim=(0, 1))

    @property
    def has_text(self) -> bool:
        return bool(self.absolute[0].any())

    def measured(self) -> Measured:
        parts = [value / value.mean() for value in self.absolute.values()]
        return Measured(torch.stack(parts).sum(dim=0), self.squares)


class _Aggregated:
    """Scores by activations alone. Hidden dimensions: the sum over the norms of all blocks of the score on their
    outputs."""

    def __init__(self, ranking: Ranking) -> None:
        self.over_texts, self.over_tokens = ranking.over_texts or "l2", ranking.over_tokens or "mean"
        self.sums: dict[tuple[str, str], Tensor] = {}
        self.texts: dict[tuple[str, str], int] = {}

    def add_state(self, layer: int, state: Tensor, mask: Tensor) -> None:
        """The states themselves do not count, but the norms' outputs."""

    def add(self, key: tuple[str, str], value: Tensor, mask: Tensor) -> None:
        real = mask.squeeze(-1).any(dim=1)
        found = _aggregated(value[real].float(), mask[real], self.over_tokens).cpu().double()
        parts = torch.stack([found.abs().sum(0), found.sum(0), found.square().sum(0)])
        self.sums[key] = self.sums.get(key, 0) + parts
        self.texts[key] = self.texts.get(key, 0) + len(found)

    @property
    def has_text(self) -> bool:
        return any(self.texts.values())

    def measured(self) -> Measured:
        scores = {key: self._score(key) for key in self.sums}
        of_norms = [score for (_, part), score in scores.items() if part in NORMS]
        squares = {key: score.square() for key, score in scores.items() if key[1] not in NORMS}
        return Measured(torch.stack(of_norms).sum(dim=0), squares)

    def _score(self, key: tuple[str, str]) -> Tensor:
        absolute, total, squares = self.sums[key]
        number = self.texts[key]
        found: Tensor = {
            "l2": squares.sqrt(),
            "mean": absolute / number,
            "var": squares / number - (total / number).square(),
        }[self.over_texts]
        return found


def _aggregated(values: Tensor, mask: Tensor, how: Aggregation) -> Tensor:
    """Of each text the scores of the dimensions over its real tokens, `[texts, width]`."""
    number = mask.sum(dim=1)
    if how == "l2":
        return (values.square() * mask).sum(dim=1).sqrt()
    if how == "mean":
        return (values.abs() * mask).sum(dim=1) / number
    means = (values * mask).sum(dim=1) / number
    return ((values - means.unsqueeze(1)).square() * mask).sum(dim=1) / number


def checked(batch: object, device: torch.device, maker: str) -> dict[str, Tensor]:
    """A batch of calibration on the device; `maker` is named in messages.

    Raises: `IncompatiblePair` for one that is no mapping to tensors, or holds no input.
    """
    if not isinstance(batch, Mapping) or not all(isinstance(value, Tensor) for value in batch.values()):
        raise IncompatiblePair(
            f"{maker}: a batch of calibration is {reprlib.repr(batch)}; it must map names to tensors. Give a list "
            "of batches."
        )
    if not {"input_ids", "inputs_embeds"} & batch.keys():
        raise IncompatiblePair(f"{maker}: a batch of calibration holds neither input_ids nor inputs_embeds.")
    return {name: value.to(device) for name, value in batch.items()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """All modules in eval mode for a while."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _seen(
    anatomy: Anatomy, layout: Layout, blocks: Mapping[int, str]
) -> Iterator[list[tuple[tuple[str, str], Tensor]]]:
    """A list that fills with what the last layers of attention and feed-forward part read, and what the norms give, at
    every forward pass; norms are called by the first of `NORMS` and so on."""
    seen: list[tuple[tuple[str, str], Tensor]] = []
    by_name = {name: anatomy.blocks()[layer - 1] for layer, name in blocks.items()}

    def reads(key: tuple[str, str]) -> Any:
        return lambda module, args: seen.append((key, args[0]))

    def gives(key: tuple[str, str]) -> Any:
        return lambda module, args, output: seen.append((key, output))

    handles = []
    for name, block in by_name.items():
        for path in (layout.joined, layout.narrowing):
            handles.append(block.get_submodule(path).register_forward_pre_hook(reads((name, path))))
        for norm, path in zip(NORMS, layout.norms, strict=False):
            handles.append(block.get_submodule(path).register_forward_hook(gives((name, norm))))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
