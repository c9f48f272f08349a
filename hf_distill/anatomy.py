"""Where one model keeps its blocks, projections, scores and head, and how their tensors are recorded.

What differs between families is a row of `families.FAMILIES`; everything else is read from the model and its config.
A model of a family without a row still serves its logits.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill.activations import LAYERED, PLAIN, Signal
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.families import FAMILIES, Batch, Family

Read = Callable[[tuple[Any, ...], dict[str, Any], Any], Any]

LOGITS = ("logits", "start_logits", "end_logits")
"""Fields that the model's output carries."""


@dataclass(frozen=True)
class StackShape:
    """The sizes of one stack of blocks. `hidden_size` is the width of `hidden[i]`, `head_size` that of one query,
    `feedforward_size` that of `feedforward[i]`, 0 where it cannot be read.
    """

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_size: int
    causal: bool
    feedforward_size: int = 0


@dataclass(frozen=True)
class Shape:
    """The sizes of a model.

    `stacks` has one entry `""`, or `"encoder"` and `"decoder"`; it is empty for a family without a row. `num_logits`
    is the width of the logits, 0 without a head (question answering: 2). `max_length` is the longest input that the
    position table takes, None where there is no such table.
    """

    family: str
    stacks: Mapping[str, StackShape]
    num_logits: int
    vocab_size: int
    max_length: int | None

    def stack(self, name: str = "") -> StackShape:
        """The shape of one stack; raises `IncompatiblePair` when the model has no such stack."""
        if name not in self.stacks:
            raise IncompatiblePair(_no_stack(self.family, name, self.stacks))
        return self.stacks[name]


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


class Anatomy:
    """Where one model keeps what objectives read, resolved once.

    `model` is the model as given, `base` the plain `PreTrainedModel` below an adapter; `shape` its sizes; `accepts`
    the names of the explicit parameters of its `forward`. Modules are looked up below the adapter, so that hooks
    reach the wrapped projections and the adapter counts.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.base = _plain(model)
        config = self.base.config
        row = FAMILIES.get(config.model_type)
        self.row = row if row is not None and row.holds(config) else None
        self.roots = _roots(self.base, self.row) if self.row else {}
        self.shape = Shape(
            family=config.model_type,
            stacks={name: _stack_shape(self.row, root) for name, root in self.roots.items() if self.row},
            num_logits=_num_logits(self.base, self.row),
            vocab_size=int(getattr(config, "vocab_size", 0) or 0),
            max_length=self.row.max_length(config) if self.row else None,
        )
        self.accepts = _arguments(self.base)
        self._depths: Mapping[str, int] = {}

    @classmethod
    def of(cls, model: nn.Module) -> Anatomy:
        """The anatomy of a `PreTrainedModel` or `PeftModel`.

        Raises: `IncompatiblePair` for another kind of object, or for an adapter that lengthens the input.
        """
        return cls(model)

    def part(self, base: PreTrainedModel, depths: Mapping[str, int] | None = None) -> Anatomy:
        """The anatomy of a run of the submodel `base` in which only the first `depths` blocks of some stacks run."""
        part = copy.copy(self)
        part.base, part.accepts, part._depths = base, _arguments(base), depths or {}
        return part

    def blocks(self, stack: str = "") -> list[nn.Module]:
        """The blocks of one stack that run, one for each layer, first to last; a block that layers share comes
        repeatedly.
        """
        self.shape.stack(stack)
        blocks = _blocks(self._row(), self.roots[stack])
        return blocks[: max(self._depths[stack], 1)] if stack in self._depths else blocks

    def ends_behind_block(self, layer: int, stack: str = "") -> bool:
        """Whether the output of block `layer` passes another module before it is `hidden[layer]`."""
        block = self.blocks(stack)[layer - 1]
        return _block_end(self._row(), self.roots[stack], block, layer) is not block

    def blocks_path(self, stack: str = "") -> str:
        """The name of the blocks of one stack in `base`, with a dot behind it, as names of weights begin."""
        self.shape.stack(stack)
        root = next(name for name, module in self.base.named_modules() if module is self.roots[stack])
        return ".".join(part for part in (root, self._row().blocks) if part) + "."

    def layer_parameters(self, layer: int, stack: str = "") -> list[tuple[str, nn.Parameter]]:
        """The parameters of block `layer`, or for 0 the trainable ones that the embedding output depends on, by their
        names in `model`.

        Raises: `IncompatiblePair` for a layer that does not exist.
        """
        depth = self.shape.stack(stack).num_hidden_layers
        if not 0 <= layer <= depth:
            raise IncompatiblePair(f"layer {layer} does not exist; the model has layers 0 to {depth}.")
        if layer:
            ours = {id(parameter) for parameter in self.blocks(stack)[layer - 1].parameters()}
        else:
            others = {id(parameter) for _, parameter in self.unreached([Signal("hidden", 0, stack)])}
            ours = {id(p) for p in self.model.parameters() if p.requires_grad and id(p) not in others}
        return [(name, parameter) for name, parameter in self.model.named_parameters() if id(parameter) in ours]

    @property
    def knows_head(self) -> bool:
        """Whether `head` can be called."""
        return self.row is not None and class_ending(self.base, self.row.heads) is not None

    def head(self, hidden: Tensor, batch: Batch | None = None) -> Tensor:
        """The model's logits from `final` (of the decoder in an encoder-decoder); question answering gives `[..., 2]`.

        `batch` is read by sequence classifiers that pick a token or average over the text: those of decoders and of
        encoder-decoders, and ModernBERT's with `classifier_pooling="mean"`.

        Raises: `IncompatiblePair` for a head, or a family, that has no row; `DistillationError` without a needed
        batch.
        """
        heads = self._row().heads
        ending = class_ending(self.base, heads)
        if ending is None:
            raise IncompatiblePair(
                f"{type(self.base).__name__}: the head of this class is not known; for {self.shape.family!r} the "
                f"class names that are known end in {', '.join(heads)}."
            )
        return heads[ending](self.base, hidden, {} if batch is None else batch)

    def tap(self, signal: Signal) -> Tap:
        """What to hook for a signal, and how to read its tensor.

        Raises: `IncompatiblePair` where the model has no such signal; `DistillationError` for a malformed one.
        """
        if signal.field not in LAYERED + PLAIN or signal.field in ("input_gradient", "head_state"):
            raise DistillationError(f"{signal}: {signal.field!r} is not read from a forward pass.")
        if (signal.layer is not None) != (signal.field in LAYERED):
            kind = "needs a layer" if signal.field in LAYERED else "has no layers"
            raise DistillationError(f"{signal}: {signal.field!r} {kind}.")
        if signal.field in LOGITS:
            return self._logits(signal)
        if signal.field == "next_sentence_logits":
            return self._next_sentence(signal)
        if signal.field == "pooled":
            return self._pooled(signal)
        shape = self.shape.stack(signal.stack)
        first = 0 if signal.field == "hidden" else 1
        if signal.layer is not None and not first <= signal.layer <= shape.num_hidden_layers:
            raise IncompatiblePair(
                f"{signal}: layer {signal.layer} does not exist; the model ({self.shape.family!r}) has layers "
                f"{first} to {shape.num_hidden_layers}."
            )
        return self._stacked(signal, shape)

    def unreached(self, signals: Iterable[Signal]) -> list[tuple[str, nn.Parameter]]:
        """The trainable parameters that none of these signals depends on, by their names in `model`.

        Found by one forward and backward pass over a few tokens in eval mode; gradients are left as they were. Signals
        of other passes are taken for those of the main one; what has no gradient reaches nothing.
        """
        signals = {_reaching(signal) for signal in signals if signal.source.gradient}
        parameters = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        held = [p.grad for _, p in parameters]
        modes = [(module, module.training) for module in self.model.modules()]
        for _, parameter in parameters:
            parameter.grad = None
        try:
            self.model.eval()
            _backward(self, signals)
            return [(name, p) for name, p in parameters if p.grad is None]
        finally:
            for module, training in modes:
                module.training = training
            for (_, parameter), grad in zip(parameters, held, strict=True):
                parameter.grad = grad

    def _row(self) -> Family:
        if self.row is None:
            raise IncompatiblePair(_no_stack(self.shape.family, "", {}))
        return self.row

    def _logits(self, signal: Signal) -> Tap:
        spans = class_ending(self.base, ("ForQuestionAnswering",)) is not None
        if not self.shape.num_logits or spans != (signal.field != "logits"):
            gives = "start_logits and end_logits" if spans else "logits" if self.shape.num_logits else "no logits"
            raise IncompatiblePair(
                f"{signal}: {type(self.base).__name__} gives {gives}; load the model with the task's head."
            )
        pretraining = not (self.row is not None and self.row.detects) and class_ending(self.base, ("ForPreTraining",))
        return Tap(output="prediction_logits" if pretraining else signal.field)

    def _next_sentence(self, signal: Signal) -> Tap:
        if class_ending(self.base, ("ForPreTraining",)) is None or "next_sentence_label" not in self.accepts:
            raise IncompatiblePair(
                f"{signal}: {type(self.base).__name__} has no next-sentence head; load a model of a family that has "
                "one as AutoModelForPreTraining, or leave the term out."
            )
        return Tap(output="seq_relationship_logits")

    def _pooled(self, signal: Signal) -> Tap:
        for owner in (self.base.base_model, self.base):
            pooler = getattr(owner, self.row.pooler, None) if self.row else None
            if isinstance(pooler, nn.Module):
                return Tap((Point(pooler, _output),))
        raise IncompatiblePair(f"{signal}: {type(self.base).__name__} ({self.shape.family!r}) has no pooler.")

    def _stacked(self, signal: Signal, shape: StackShape) -> Tap:
        root, row = self.roots[signal.stack], self._row()
        if signal.field == "final":
            # An adapter calls base.forward, not base, so a hook on the base itself would not fire.
            return Tap(output="last_hidden_state") if root is self.base else Tap((Point(root, _output),))
        blocks = self.blocks(signal.stack)
        if signal.field == "embeddings" or signal.layer == 0:
            return Tap((Point(blocks[0], _input, *_runs(blocks, 1)),))
        assert signal.layer is not None
        block, runs = blocks[signal.layer - 1], _runs(blocks, signal.layer)
        if signal.field == "hidden":
            return Tap((Point(_block_end(row, root, block, signal.layer), _output, *runs),))
        if signal.field == "feedforward":
            return _feedforward(row, block, signal, self.shape.family, runs)
        attention = block.get_submodule(row.attention)
        if signal.field == "scores":
            return _scores(row, attention, shape, signal, runs)
        if signal.field.startswith("rotated_"):
            return _rotated(row, attention, shape, signal, runs)
        return _projection(row, attention, signal.field, runs)


# --- recording ------------------------------------------------------------------------------------


class Taps:
    """The hooks of a set of signals. They record only while `recording` is true; `clear` empties what was recorded."""

    def __init__(self, anatomy: Anatomy, signals: Iterable[Signal], owner: str) -> None:
        self.taps = {signal: anatomy.tap(signal) for signal in sorted(set(signals), key=str)}
        self.owner = owner
        self.recording = False
        self._seen: dict[tuple[int, Read], list[Any]] = {}
        self._meant: dict[tuple[int, Read], set[int]] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        for tap in self.taps.values():
            for point in tap.points:
                self._hook(point)

    def _hook(self, point: Point) -> None:
        key = (id(point.module), point.read)
        meant = self._meant.setdefault(key, set())
        meant.add(point.run)
        if key in self._seen:
            return
        seen = self._seen[key] = []
        read = point.read

        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if self.recording:
                seen.append(read(args, kwargs, output) if len(seen) in meant else None)

        self._handles.append(point.module.register_forward_hook(record, with_kwargs=True))

    def read(self, output: Any) -> dict[Signal, Tensor]:
        """The tensors of the pass that gave `output`; raises `DistillationError` when a hooked module did not run."""
        return {signal: self._value(signal, tap, output) for signal, tap in self.taps.items()}

    def clear(self) -> None:
        """Forgets what was recorded."""
        for seen in self._seen.values():
            seen.clear()

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()

    def _value(self, signal: Signal, tap: Tap, output: Any) -> Tensor:
        if tap.output:
            return tap.combine(output[tap.output])
        return tap.combine(*[self._seen_at(signal, point) for point in tap.points])

    def _seen_at(self, signal: Signal, point: Point) -> Any:
        seen = self._seen[id(point.module), point.read]
        if len(seen) != point.runs:
            raise DistillationError(
                f"{self.owner}: {signal} is read from a {type(point.module).__name__} that ran {len(seen)} times in "
                f"this forward pass instead of {point.runs}. A hook sees nothing when it was added after "
                "torch.compile compiled the model, when another copy of the model runs, or when the layer was "
                "dropped. Capture before compiling, run the model that is captured, set layerdrop to 0."
            )
        return seen[point.run]


def _output(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    return output if isinstance(output, Tensor) else output[0]


def _input(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    return args[0] if args else kwargs["hidden_states"]


def _rotation(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    return kwargs["position_embeddings"]


def _returned_bias(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    return output[1]


def _given_bias(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    return kwargs["position_bias"] if "position_bias" in kwargs else args[2]


def _reaching(signal: Signal) -> Signal:
    """A signal of the main pass that depends on the same parameters."""
    return Signal("logits" if signal.field == "input_gradient" else signal.field, signal.layer, signal.stack)


def _backward(anatomy: Anatomy, signals: Iterable[Signal]) -> None:
    taps = Taps(anatomy, signals, "unreached parameters")
    try:
        with torch.enable_grad():
            taps.recording = True
            output = anatomy.model(**_few_tokens(anatomy), return_dict=True)
            values = [value.float().sum() for value in taps.read(output).values() if value.requires_grad]
            if values:
                torch.autograd.backward(values)
    finally:
        taps.close()


def _few_tokens(anatomy: Anatomy) -> dict[str, Tensor]:
    """A batch of one short text, without padding and ending in the end token, which some heads look for."""
    config = anatomy.base.config
    if "input_ids" not in anatomy.accepts:
        raise IncompatiblePair(f"{type(anatomy.base).__name__} reads no input_ids; it is no text model.")
    pad, begin, end = (getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos"))
    ends = end if isinstance(end, list) else [end]
    special = {pad, begin, *ends}
    word = next(token for token in range(anatomy.shape.vocab_size) if token not in special)
    ids = torch.full((1, 4), word, device=anatomy.base.device)
    if ends[0] is not None:
        ids[0, -1] = ends[0]
    names = {"input_ids", "decoder_input_ids"} & anatomy.accepts
    return dict.fromkeys(names, ids)


# --- projections and scores -----------------------------------------------------------------------


def _runs(blocks: list[nn.Module], layer: int) -> tuple[int, int]:
    """How often the block of a layer runs in one pass, and how often it ran before it runs as this layer."""
    block = blocks[layer - 1]
    return blocks.count(block), blocks[: layer - 1].count(block)


def _projection(row: Family, attention: nn.Module, field_name: str, runs: tuple[int, int]) -> Tap:
    """Queries, keys or values `[batch, length, heads * head_size]`; `runs` are those of the block."""
    position = ("queries", "keys", "values").index(field_name)
    module = attention.get_submodule((row.queries, row.keys, row.values)[position])
    times = 1 if field_name == "values" else row.runs(attention)
    point = Point(module, _output, *(times * number for number in runs))
    if row.queries == row.values:
        return Tap((point,), lambda fused: fused.chunk(3, dim=-1)[position])
    return Tap((point,), lambda value: value.flatten(2))


def _feedforward(row: Family, block: nn.Module, signal: Signal, family: str, runs: tuple[int, int]) -> Tap:
    """What the feed-forward part has before its activation function, `[batch, length, feedforward_size]`."""
    if not row.widening:
        raise IncompatiblePair(f"{signal}: where the feed-forward part of {family!r} is, is not known.")
    point = Point(block.get_submodule(row.widening), _output, *runs)
    return Tap((point,), lambda value: value.chunk(2, dim=-1)[0]) if row.gated else Tap((point,))


def split_heads(value: Tensor, heads: int) -> Tensor:
    """`[batch, length, heads * size]` to `[batch, heads, length, size]`."""
    return value.view(*value.shape[:2], heads, -1).transpose(1, 2)


def rotate(value: Tensor, cos: Tensor, sin: Tensor, *, pairs: bool = False) -> Tensor:
    """Rotary position embedding of the halves of each head, or of neighbouring numbers (Su et al., 2021,
    arXiv:2104.09864)."""
    if pairs:
        turned = torch.stack((-value[..., 1::2], value[..., ::2]), dim=-1).flatten(-2)
    else:
        first, second = value.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
    return value * cos.unsqueeze(1) + turned * sin.unsqueeze(1)


def _rotated(row: Family, attention: nn.Module, shape: StackShape, signal: Signal, runs: tuple[int, int]) -> Tap:
    """Queries or keys as the attention multiplies them; where the family rotates nothing, as they are."""
    name = signal.field.removeprefix("rotated_")
    plain = _projection(row, attention, name, runs)
    if row.scores != "rotary":
        return plain
    heads = shape.num_attention_heads if name == "queries" else shape.num_key_value_heads

    def combine(value: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        states = split_heads(plain.combine(value), heads)
        return rotate(states, *rotation, pairs=row.turns_pairs).transpose(1, 2).flatten(2)

    return Tap((*plain.points, Point(attention, _rotation, *runs)), combine)


def _scores(row: Family, attention: nn.Module, shape: StackShape, signal: Signal, runs: tuple[int, int]) -> Tap:
    """Scores before mask and softmax, recomputed from queries and keys as the family does."""
    if not row.scores:
        raise IncompatiblePair(
            f"{signal}: {type(attention).__name__} adds position terms to its scores, so they cannot be recomputed "
            "exactly from queries and keys; read queries, keys or values instead."
        )
    queries, keys = (_projection(row, attention, name, runs) for name in ("queries", "keys"))
    scale = float(getattr(attention, "scaling", shape.head_size**-0.5))
    groups = shape.num_attention_heads // shape.num_key_value_heads
    cap = getattr(attention, "attn_logit_softcapping", None)

    def plain(query: Tensor, key: Tensor) -> Tensor:
        return torch.matmul(query, key.transpose(2, 3)) * scale

    def rotary(query: Tensor, key: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        found = plain(*(rotate(each, *rotation, pairs=row.turns_pairs) for each in (query, key)))
        return found if cap is None else torch.tanh(found / cap) * cap

    def biased(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        return plain(query, key) + bias

    def combine(query: Tensor, key: Tensor, *position: Any) -> Tensor:
        query = split_heads(queries.combine(query), shape.num_attention_heads)
        key = split_heads(keys.combine(key), shape.num_key_value_heads)
        if groups > 1:
            key = key.repeat_interleave(groups, dim=1)
        return forms[row.scores](query, key, *position)

    forms: dict[str, Callable[..., Tensor]] = {"plain": plain, "rotary": rotary}
    forms |= {"returned_bias": biased, "given_bias": biased}
    reads: dict[str, Read] = {
        "rotary": _rotation, "returned_bias": _returned_bias, "given_bias": _given_bias,
    }  # fmt: skip
    position = (Point(attention, reads[row.scores], *runs),) if row.scores in reads else ()
    return Tap(queries.points + keys.points + position, combine)


# --- reading a model ------------------------------------------------------------------------------


def _plain(model: Any) -> PreTrainedModel:
    base = model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model
    if not isinstance(base, PreTrainedModel):
        raise IncompatiblePair(
            f"{type(model).__name__} is neither a transformers PreTrainedModel nor a PEFT model; give the model "
            "itself, not a wrapper (torch.compile, DistributedDataParallel) around it."
        )
    if base is not model and any(adapter.is_prompt_learning for adapter in model.peft_config.values()):
        raise IncompatiblePair(
            "prompt-learning adapters lengthen the input, so tokens of the two models do not line up."
        )
    return base


def _arguments(base: nn.Module) -> frozenset[str]:
    """The names of the explicit parameters of a model's forward."""
    parameters = inspect.signature(base.forward).parameters.values()
    return frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


def _roots(base: PreTrainedModel, row: Family) -> dict[str, nn.Module]:
    backbone: nn.Module = base.base_model
    if row.two_stacks:
        parts = {name: getattr(backbone, name) for name in ("encoder", "decoder") if hasattr(backbone, name)}
        if len(parts) == 2:
            return parts
        return {"": next(iter(parts.values()), backbone)}
    return {"": backbone}


def _blocks(row: Family, root: nn.Module) -> list[nn.Module]:
    return row.order(root.get_submodule(row.blocks), root.config)


def _block_end(row: Family, root: nn.Module, block: nn.Module, layer: int) -> nn.Module:
    """The module whose output leaves the block: the block, or what follows the first one in the family."""
    path, _, name = row.first_block_end.rpartition(".")
    last = getattr(root.get_submodule(path), name, None) if name and layer == 1 else None
    return block if last is None else last


def _stack_shape(row: Family, root: Any) -> StackShape:
    blocks, config = _blocks(row, root), root.config
    attention: Any = blocks[0].get_submodule(row.attention)
    heads = int(_first(attention, "num_attention_heads", "num_heads", "n_heads") or config.num_attention_heads)
    return StackShape(
        num_hidden_layers=len(blocks),
        hidden_size=int(config.hidden_size),
        num_attention_heads=heads,
        num_key_value_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_size=int(_first(attention, "attention_head_size", "head_dim", "key_value_proj_dim") or 0),
        causal=bool(getattr(attention, "is_causal", False)),
        feedforward_size=_feedforward_size(row, blocks[0]),
    )


def _feedforward_size(row: Family, block: nn.Module) -> int:
    if not row.widening:
        return 0
    width = int(_first(block.get_submodule(row.widening), "out_features", "nf"))
    return width // 2 if row.gated else width


def _first(owner: Any, *names: str) -> Any:
    return next((getattr(owner, name) for name in names if hasattr(owner, name)), None)


def class_ending(base: PreTrainedModel, endings: Iterable[str]) -> str | None:
    """The one of `endings` that the name of the model's class, or of a class it derives from, has."""
    names = [cls.__name__ for cls in type(base).__mro__]
    return next((ending for name in names for ending in endings if name.endswith(ending)), None)


def _num_logits(base: PreTrainedModel, row: Family | None) -> int:
    config = base.config
    if class_ending(base, ("ForQuestionAnswering",)):
        return 2
    if class_ending(base, ("ForSequenceClassification", "ForTokenClassification")):
        return int(config.num_labels)
    if class_ending(base, ("ForCTC",)):
        return int(config.vocab_size)
    if class_ending(base, ("ForPreTraining",)) and row is not None and row.detects:
        return 1
    if class_ending(base, ("ForMaskedLM", "ForPreTraining")) or base.get_output_embeddings() is not None:
        return int(config.get_text_config().vocab_size)
    return 0 if base.base_model is base else int(config.num_labels)


def _no_stack(family: str, name: str, stacks: Mapping[str, Any]) -> str:
    if not stacks and family in FAMILIES:
        return f"the row of {family!r} in the family table is not of this configuration; only its logits can be read."
    if not stacks:
        return f"{family!r} has no row in the family table ({', '.join(FAMILIES)}), so only its logits can be read."
    wanted = f"stack {name!r}" if name else "single stack of blocks"
    found = " and ".join(repr(stack) for stack in stacks)
    return f"{family!r} has no {wanted}, but {found}; say which one the objective reads."
