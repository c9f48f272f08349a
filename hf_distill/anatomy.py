"""Where one model keeps its blocks, projections and head.

What differs between families is a row of `families.FAMILIES`; everything else is read from the model and its config.
A model of a family without a row still serves its logits.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill.errors import IncompatiblePair
from hf_distill.families import FAMILIES, Batch, Family
from hf_distill.sentences import SentenceEmbedding

WIDE_LOGITS = 1024
"""Logits of more columns are a vocabulary's: they are too many to copy, and worth a codec in a cache."""


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
    position table takes, or of a model with rotary positions the context that it was made for; None where positions
    are relative and have no end. `sentence` says how vectors of texts are made, None for a model that gives none.
    """

    family: str
    stacks: Mapping[str, StackShape]
    num_logits: int
    vocab_size: int
    max_length: int | None
    sentence: SentenceEmbedding | None = None

    @property
    def sentence_width(self) -> int:
        """The width of the vectors of texts."""
        width = None if self.sentence is None else self.sentence.width
        return self.stack().hidden_size if width is None else width

    def stack(self, name: str = "") -> StackShape:
        """The shape of one stack; raises `IncompatiblePair` when the model has no such stack."""
        if name not in self.stacks:
            raise IncompatiblePair(_no_stack(self.family, name, self.stacks))
        return self.stacks[name]


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
            sentence=_sentence(config, self.row),
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
        blocks = _blocks(self.known_row, self.roots[stack])
        return blocks[: max(self._depths[stack], 1)] if stack in self._depths else blocks

    def ends_behind_block(self, layer: int, stack: str = "") -> bool:
        """Whether the output of block `layer` passes another module before it is `hidden[layer]`."""
        return self.block_end(layer, stack) is not self.blocks(stack)[layer - 1]

    def block_end(self, layer: int, stack: str = "") -> nn.Module:
        """The module whose output is `hidden[layer]`: the block, or what follows the first one in the family."""
        path, _, name = self.known_row.first_block_end.rpartition(".")
        last = getattr(self.roots[stack].get_submodule(path), name, None) if name and layer == 1 else None
        return self.blocks(stack)[layer - 1] if last is None else last

    def blocks_path(self, stack: str = "") -> str:
        """The name of the blocks of one stack in `base`, with a dot behind it, as names of weights begin."""
        self.shape.stack(stack)
        root = next(name for name, module in self.base.named_modules() if module is self.roots[stack])
        return ".".join(part for part in (root, self.known_row.blocks) if part) + "."

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
        heads = self.known_row.heads
        ending = class_ending(self.base, heads)
        if ending is None:
            raise IncompatiblePair(
                f"{type(self.base).__name__}: the head of this class is not known; for {self.shape.family!r} the "
                f"class names that are known end in {', '.join(heads)}."
            )
        return heads[ending](self.base, hidden, {} if batch is None else batch)

    @property
    def known_row(self) -> Family:
        """The row of the family; raises `IncompatiblePair` where there is none, or it is of other configurations."""
        if self.row is None:
            raise IncompatiblePair(_no_stack(self.shape.family, "", {}))
        return self.row


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


def _sentence(config: Any, row: Family | None) -> SentenceEmbedding | None:
    """How vectors of texts are made, with their width where no stack tells it."""
    found = SentenceEmbedding.of(config)
    if found is None or found.width is not None or row is not None:
        return found
    return replace(found, width=int(getattr(config, "hidden_size", 0) or 0) or None)


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
