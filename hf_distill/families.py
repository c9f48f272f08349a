"""What differs between model families: the paths of their modules and the heads of their classes.

This is the one module that knows family names. A family is one row of `FAMILIES`; everything else is read from the
model and its config. A model of a family without a row still serves its logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill.errors import DistillationError

Batch = Mapping[str, Tensor]
Head = Callable[[PreTrainedModel, Tensor, Batch], Tensor]
Leave = Callable[[nn.Module, Tensor, Tensor], Tensor]

# --- heads ----------------------------------------------------------------------------------------


def _chain(*paths: str) -> Head:
    """The named modules, one after the other."""

    def head(model: PreTrainedModel, hidden: Tensor, batch: Batch) -> Tensor:
        for path in paths:
            hidden = model.get_submodule(path)(hidden)
        return hidden

    return head


def _first_of(*paths: str) -> Head:
    """The first token's state, then the named modules."""

    def head(model: PreTrainedModel, hidden: Tensor, batch: Batch) -> Tensor:
        return _chain(*paths)(model, hidden[:, 0], batch)

    return head


def _first_then(*paths: str) -> Head:
    """The first token's state, then the named modules with a ReLU after the first (DistilBERT's classifier)."""

    def head(model: PreTrainedModel, hidden: Tensor, batch: Batch) -> Tensor:
        hidden = torch.relu(model.get_submodule(paths[0])(hidden[:, 0]))
        return _chain(*paths[1:])(model, hidden, batch)

    return head


def _pooled_modernbert(model: PreTrainedModel, hidden: Tensor, batch: Batch) -> Tensor:
    if model.config.classifier_pooling == "cls":
        pooled = hidden[:, 0]
    else:
        mask = _read(model, batch, "attention_mask")
        pooled = (hidden * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    return _chain("head", "drop", "classifier")(model, pooled, batch)


def _word_embeddings_head(model: PreTrainedModel, hidden: Tensor, batch: Batch) -> Tensor:
    """DeBERTa-v2: the old head has a decoder of its own, the new one multiplies with the word embeddings."""
    if model.config.legacy:
        return _chain("cls")(model, hidden, batch)
    words = model.get_submodule("deberta.embeddings.word_embeddings")
    logits: Tensor = model.get_submodule("lm_predictions")(hidden, words)
    return logits


def _last_token(model: PreTrainedModel, hidden: Tensor, batch: Batch) -> Tensor:
    """Scores at the last token that is no padding, as decoders classify."""
    logits: Tensor = model.get_submodule("score")(hidden)
    pad = model.config.get_text_config().pad_token_id
    if pad is None:
        return logits[:, -1]
    return _at_last(logits, _read(model, batch, "input_ids") != pad)


def _end_token(model: PreTrainedModel, hidden: Tensor, batch: Batch) -> Tensor:
    """Classification from the state at the last end token (T5, BART)."""
    ends = _read(model, batch, "input_ids") == model.config.eos_token_id
    return _chain("classification_head")(model, _at_last(hidden, ends), batch)


def _at_last(states: Tensor, where: Tensor) -> Tensor:
    positions = torch.arange(where.shape[1], device=where.device)
    last = (positions * where).argmax(-1)
    return states[torch.arange(len(states), device=states.device), last]


def _scaled(model: PreTrainedModel, hidden: Tensor, batch: Batch) -> Tensor:
    """T5: the state is scaled down where the output layer is tied to the embeddings."""
    if model.config.scale_decoder_outputs:
        hidden = hidden * model.config.d_model**-0.5
    return _chain("lm_head")(model, hidden, batch)


def _biased(model: PreTrainedModel, hidden: Tensor, batch: Batch) -> Tensor:
    logits = _chain("lm_head")(model, hidden, batch)
    bias: Tensor = model.get_buffer("final_logits_bias")
    return logits + bias.to(logits.device)


def _capped(model: PreTrainedModel, hidden: Tensor, batch: Batch) -> Tensor:
    """Gemma 2: c tanh(logits / c)."""
    logits, cap = _chain("lm_head")(model, hidden, batch), model.config.final_logit_softcapping
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _multiplied(model: PreTrainedModel, hidden: Tensor, batch: Batch) -> Tensor:
    """Cohere: the logits times a constant."""
    return _chain("lm_head")(model, hidden, batch) * float(model.config.logit_scale)


def _read(model: PreTrainedModel, batch: Batch, name: str) -> Tensor:
    if name not in batch:
        raise DistillationError(f"the head of {type(model).__name__} needs {name}; call head(hidden, batch).")
    return batch[name]


# --- what follows an attention's sum over values, within the attention ----------------------------


def _nothing(attention: nn.Module, states: Tensor, hidden_states: Tensor) -> Tensor:
    return states


def _through(*paths: str) -> Leave:
    """The named modules, one after the other."""

    def leave(attention: nn.Module, states: Tensor, hidden_states: Tensor) -> Tensor:
        for path in paths:
            states = attention.get_submodule(path)(states)
        return states

    return leave


def _with_residual(attention: nn.Module, states: Tensor, hidden_states: Tensor) -> Tensor:
    """ALBERT: the residual and its norm are the attention's."""
    output: Tensor = _through("dense", "output_dropout")(attention, states, hidden_states)
    normed: Tensor = attention.get_submodule("LayerNorm")(hidden_states + output)
    return normed


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """One row: `blocks` below the stack, `attention` below a block, `queries`, `keys`, `values` below the attention.

    Equal paths for queries and values mean one fused projection [q | k | v]. `scores`: `plain` q k^T, `rotary`,
    those with the attention's `returned_bias` (second of what it returns) or `given_bias` (its argument
    `position_bias`) added, or empty where they cannot be recomputed. `runs`: how often the projections of queries and
    keys run when a block runs, their content first. `order`: the blocks in the order in which they run, from the
    modules at `blocks` and the config. `groups`: config entry with the number of groups of layers that share their
    weights. `first_block_end`: what the first block's output still passes. `pooler`: what gives the pooled state.
    `two_stacks`: an encoder and a decoder. `depth`: config entry with the number of layers of each stack.
    `per_layer`: config entries with one value a layer. `by_number`: config flags that make what a block computes
    depend on its number. `detects`: the pretraining class tells replaced tokens, with one logit each.

    For runs in part: `attention_norm`: the norm that a block applies before its attention, empty where there is none,
    None where its projections read something else. `normed`: for a norm over heads at `queries` or `keys`, the
    projection that it follows. `block_outputs`: how many outputs a block returns in a tuple, 0 for a bare tensor.
    `final_norm`: the norm that follows the blocks. `position`: which position of the last layer a sequence classifier
    reads, by its config: `first`, `last` (the last token that is no padding, through `score`), or empty. `leave`: what
    the attention does after its sum over values, from that sum and what the attention received; None where the
    attention takes no other queries than its keys. `plain_mask`: an attention mask only hides positions, the same
    ones in all layers.

    `widening`: below a block, what gives the state of its feed-forward part before the activation function, of the
    gate where there is one; empty where it is not known. `gated`: that state is the first half of what it gives.

    `holds`: whether the row is that of a config; where it is not, the family counts as one without a row.
    `turns_pairs`: the rotary position embedding turns neighbouring numbers of a head in place of its halves.
    """

    blocks: str
    attention: str
    queries: str
    keys: str
    values: str
    heads: Mapping[str, Head]
    max_length: Callable[[Any], int | None] = lambda config: int(config.max_position_embeddings)
    scores: str = "plain"
    runs: Callable[[Any], int] = lambda attention: 1
    order: Callable[[Any, Any], list[nn.Module]] = lambda blocks, config: list(blocks)
    groups: str = ""
    first_block_end: str = ""
    pooler: str = "pooler"
    two_stacks: bool = False
    depth: Mapping[str, str] = field(default_factory=lambda: {"": "num_hidden_layers"})
    per_layer: tuple[str, ...] = ()
    by_number: tuple[str, ...] = ()
    detects: bool = False
    attention_norm: str | None = ""
    normed: Mapping[str, str] = field(default_factory=dict)
    block_outputs: int = 0
    final_norm: str = ""
    position: Callable[[Any], Literal["", "first", "last"]] = lambda config: ""
    score: str = "score"
    leave: Leave | None = None
    plain_mask: bool = False
    widening: str = ""
    gated: bool = False
    holds: Callable[[Any], bool] = lambda config: True
    turns_pairs: bool = False


_SPANS: Head = _chain("qa_outputs")
_TOKENS: Head = _chain("dropout", "classifier")
_BERT_HEADS: Mapping[str, Head] = {
    "ForMaskedLM": _chain("cls"),
    "LMHeadModel": _chain("cls"),
    "ForPreTraining": _chain("cls.predictions"),
    "ForTokenClassification": _TOKENS,
    "ForQuestionAnswering": _SPANS,
}
_DECODER_HEADS: Mapping[str, Head] = {
    "ForCausalLM": _chain("lm_head"),
    "LMHeadModel": _chain("lm_head"),
    "ForSequenceClassification": _last_token,
    "ForTokenClassification": _chain("dropout", "score"),
    "ForQuestionAnswering": _SPANS,
}


def _unbounded(config: Any) -> int | None:
    return None


STRETCHING = {"linear", "dynamic", "yarn"}
"""The kinds of rotary positions whose `factor` multiplies the context that the model was made for."""


def _rotary_context(config: Any) -> int:
    """There is no table: words farther on are read without an error, and without sense."""
    told, rope = int(config.max_position_embeddings), getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") not in STRETCHING:
        return told
    return max(told, int(rope.get("factor", 1.0) * rope.get("original_max_position_embeddings", told)))


def _reads_first(config: Any) -> Literal["first"]:
    return "first"


def _reads_last(config: Any) -> Literal["last"]:
    return "last"


_FIRST: Mapping[str, Any] = {"position": _reads_first, "leave": _nothing, "plain_mask": True}
_BOTTLENECK: Mapping[str, Any] = {"attention_norm": None, "position": lambda config: ""}


def _shared_blocks(groups: Any, config: Any) -> list[nn.Module]:
    """ALBERT: each group runs for its share of the layers, all its inner blocks each time."""
    layers_of_a_group = config.num_hidden_layers / len(groups)
    return [
        block
        for layer in range(config.num_hidden_layers)
        for block in groups[int(layer / layers_of_a_group)].albert_layers
    ]


def _bert(name: str, **changes: Any) -> Family:
    """A row laid out as BERT's, whose backbone is `name`."""
    classifier = _chain(f"{name}.pooler", "dropout", "classifier")
    heads = {**_BERT_HEADS, "ForSequenceClassification": classifier}
    row: dict[str, Any] = {"heads": heads, "widening": "intermediate.dense", **_FIRST, **changes}
    return Family("encoder.layer", "attention.self", "query", "key", "value", **row)


def _llama(attention_queries: str, attention_keys: str, **changes: Any) -> Family:
    """A row laid out as Llama's."""
    row: dict[str, Any] = {
        "heads": _DECODER_HEADS, "max_length": _rotary_context, "scores": "rotary", "per_layer": ("layer_types",),
        "attention_norm": "input_layernorm", "final_norm": "norm", "position": _reads_last,
        "leave": _through("o_proj"), "widening": "mlp.gate_proj", **changes,
    }  # fmt: skip
    return Family("layers", "self_attn", attention_queries, attention_keys, "v_proj", **row)


_ALL_POSITIONS: Mapping[str, Any] = {"position": lambda config: "", "leave": None}
"""For blocks that are not known to run for one position alone."""


FAMILIES: dict[str, Family] = {
    "bert": _bert("bert"),
    "roberta": _bert(
        "roberta",
        heads={
            "ForMaskedLM": _chain("lm_head"),
            "ForCausalLM": _chain("lm_head"),
            "ForSequenceClassification": _chain("classifier"),
            "ForTokenClassification": _TOKENS,
            "ForQuestionAnswering": _SPANS,
        },
        max_length=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
    ),
    "distilbert": Family(
        "transformer.layer", "attention", "q_lin", "k_lin", "v_lin",
        heads={
            "ForMaskedLM": _chain("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
            "ForSequenceClassification": _first_then("pre_classifier", "dropout", "classifier"),
            "ForTokenClassification": _TOKENS,
            "ForQuestionAnswering": _chain("dropout", "qa_outputs"),
        },
        depth={"": "n_layers"}, position=_reads_first, leave=_through("out_lin"), plain_mask=True,
        widening="ffn.lin1",
    ),
    "electra": _bert(
        "electra",
        heads={
            "ForMaskedLM": _chain("generator_predictions", "generator_lm_head"),
            "ForCausalLM": _chain("generator_predictions", "generator_lm_head"),
            "ForPreTraining": _chain("discriminator_predictions"),
            "ForSequenceClassification": _chain("classifier"),
            "ForTokenClassification": _TOKENS,
            "ForQuestionAnswering": _SPANS,
        },
        detects=True,
    ),
    "albert": Family(
        "encoder.albert_layer_groups", "attention", "query", "key", "value",
        heads={
            "ForMaskedLM": _chain("predictions"),
            "ForPreTraining": _chain("predictions"),
            "ForSequenceClassification": _first_of(
                "albert.pooler", "albert.pooler_activation", "dropout", "classifier"
            ),
            "ForTokenClassification": _TOKENS,
            "ForQuestionAnswering": _SPANS,
        },
        order=_shared_blocks, groups="num_hidden_groups", pooler="pooler_activation",
        position=_reads_first, leave=_with_residual, plain_mask=True, widening="ffn",
    ),
    "mpnet": Family(
        "encoder.layer", "attention.attn", "q", "k", "v",
        heads={
            "ForMaskedLM": _chain("lm_head"),
            "ForSequenceClassification": _chain("classifier"),
            "ForTokenClassification": _TOKENS,
            "ForQuestionAnswering": _SPANS,
        },
        max_length=lambda config: config.max_position_embeddings - 2,  # positions start behind the padding's, 1
        scores="given_bias", block_outputs=1, position=_reads_first, widening="intermediate.dense",
    ),
    "mobilebert": _bert("mobilebert", **_BOTTLENECK),
    "ib_bert": _bert("mobilebert", **_BOTTLENECK),
    "modernbert": Family(
        "layers", "attn", "Wqkv", "Wqkv", "Wqkv",
        heads={
            "ForMaskedLM": _chain("head", "decoder"),
            "ForSequenceClassification": _pooled_modernbert,
            "ForTokenClassification": _chain("head", "drop", "classifier"),
            "ForQuestionAnswering": _chain("head", "drop", "classifier"),
        },
        max_length=_rotary_context, scores="rotary", per_layer=("layer_types",),
        attention_norm="attn_norm", final_norm="final_norm", leave=_through("Wo", "out_drop"),
        position=lambda config: "first" if config.classifier_pooling == "cls" else "",
        widening="mlp.Wi", gated=True,
    ),
    "deberta-v2": Family(
        "encoder.layer", "attention.self", "query_proj", "key_proj", "value_proj",
        heads={
            "ForMaskedLM": _word_embeddings_head,
            "ForSequenceClassification": _chain("pooler", "dropout", "classifier"),
            "ForTokenClassification": _TOKENS,
            "ForQuestionAnswering": _SPANS,
        },
        max_length=lambda config: int(config.max_position_embeddings) if config.position_biased_input else None,
        scores="",
        # With share_att_key the content projections run a second time, for the position embeddings.
        runs=lambda attention: 2 if attention.relative_attention and attention.share_att_key else 1,
        first_block_end="encoder.conv", block_outputs=2, position=_reads_first, widening="intermediate.dense",
    ),
    "gpt2": Family(
        "h", "attn", "c_attn", "c_attn", "c_attn",
        heads={**_DECODER_HEADS, "ForTokenClassification": _TOKENS, "DoubleHeadsModel": _chain("lm_head")},
        depth={"": "n_layer"}, by_number=("scale_attn_by_inverse_layer_idx",),
        attention_norm="ln_1", final_norm="ln_f", position=_reads_last, leave=_through("c_proj", "resid_dropout"),
        widening="mlp.c_fc",
    ),
    "llama": _llama("q_proj", "k_proj"),
    "mistral": _llama("q_proj", "k_proj"),
    "qwen2": _llama("q_proj", "k_proj"),
    "gemma2": _llama("q_proj", "k_proj", heads={**_DECODER_HEADS, "ForCausalLM": _capped}, **_ALL_POSITIONS),
    "cohere": _llama(
        "q_proj", "k_proj", heads={"ForCausalLM": _multiplied},
        holds=lambda config: not config.use_qk_norm, turns_pairs=True, **_ALL_POSITIONS,
    ),
    "opt": Family(
        "layers", "self_attn", "q_proj", "k_proj", "v_proj", heads=_DECODER_HEADS,
        two_stacks=True,  # of which there is a decoder alone, as in BART's
        attention_norm="self_attn_layer_norm", final_norm="final_layer_norm",
        # Else the norms follow the parts that they precede here, or the state is of another width behind the blocks.
        holds=lambda config: (
            config.do_layer_norm_before
            and not config._remove_final_layer_norm
            and config.word_embed_proj_dim == config.hidden_size
        ),
    ),
    "qwen3": _llama("q_norm", "k_norm", normed={"q_norm": "q_proj", "k_norm": "k_proj"}),
    "t5": Family(
        "block", "layer.0.SelfAttention", "q", "k", "v",
        heads={
            "ForConditionalGeneration": _scaled,
            "ForSequenceClassification": _end_token,
            "ForTokenClassification": _TOKENS,
            "ForQuestionAnswering": _SPANS,
        },
        max_length=_unbounded, scores="returned_bias", two_stacks=True,
        depth={"": "num_layers", "encoder": "num_layers", "decoder": "num_decoder_layers"},
        attention_norm="layer.0.layer_norm", block_outputs=3, final_norm="final_layer_norm",
    ),
    "bart": Family(
        "layers", "self_attn", "q_proj", "k_proj", "v_proj",
        heads={
            "ForConditionalGeneration": _biased,
            "ForCausalLM": _chain("lm_head"),
            "ForSequenceClassification": _end_token,
            "ForQuestionAnswering": _SPANS,
        },
        two_stacks=True,
        depth={"": "decoder_layers", "encoder": "encoder_layers", "decoder": "decoder_layers"},
        widening="fc1",
    ),
}  # fmt: skip
"""Rows by `config.model_type`."""
