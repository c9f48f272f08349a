"""Tiny random models of every family in the table, with weights wide enough that attention is far from uniform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

COMMON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LENGTH = 11

CONFIGS: dict[str, Callable[[int], dict[str, Any]]] = {
    "bert": lambda n: COMMON | {"num_hidden_layers": n},
    "roberta": lambda n: COMMON | {"num_hidden_layers": n, "pad_token_id": 1, "bos_token_id": 0},
    "distilbert": lambda n: {
        "vocab_size": 96, "dim": 32, "n_layers": n, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40,
        "pad_token_id": 0,
    },
    "electra": lambda n: COMMON | {"num_hidden_layers": n, "embedding_size": 16},
    "albert": lambda n: COMMON | {"num_hidden_layers": n, "embedding_size": 16},
    "mpnet": lambda n: COMMON | {
        "num_hidden_layers": n, "pad_token_id": 1, "bos_token_id": 0, "relative_attention_num_buckets": 32,
    },
    "mobilebert": lambda n: COMMON | {
        "num_hidden_layers": n, "embedding_size": 16, "intra_bottleneck_size": 16, "num_attention_heads": 2,
    },
    "ib_bert": lambda n: COMMON | {
        "num_hidden_layers": n, "embedding_size": 16, "intra_bottleneck_size": 40, "num_attention_heads": 2,
    },
    "modernbert": lambda n: COMMON | {
        "num_hidden_layers": n, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 6,
        "layer_types": ["full_attention" if i % 3 == 0 else "sliding_attention" for i in range(n)],
    },
    "deberta-v2": lambda n: COMMON | {
        "num_hidden_layers": n, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8,
        "norm_rel_ebd": "layer_norm", "share_att_key": True, "type_vocab_size": 0, "position_biased_input": False,
        "conv_kernel_size": 3, "conv_act": "gelu",
    },
    "gpt2": lambda n: {
        "vocab_size": 96, "n_embd": 32, "n_layer": n, "n_head": 4, "n_positions": 40,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    },
    "llama": lambda n: COMMON | {"num_hidden_layers": n, "num_key_value_heads": 2},
    "qwen3": lambda n: COMMON | {
        "num_hidden_layers": n, "num_key_value_heads": 2, "head_dim": 16, "use_sliding_window": True,
        "sliding_window": 4,
        "layer_types": ["sliding_attention" if i % 2 else "full_attention" for i in range(n)],
    },
    **dict.fromkeys(("mistral", "qwen2"), lambda n: COMMON | {
        "num_hidden_layers": n, "num_key_value_heads": 2, "sliding_window": 4,
    }),
    "gemma2": lambda n: COMMON | {
        "num_hidden_layers": n, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 4,
        "query_pre_attn_scalar": 9, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
        "layer_types": ["full_attention" if i % 2 else "sliding_attention" for i in range(n)],
    },
    "cohere": lambda n: COMMON | {"num_hidden_layers": n, "num_key_value_heads": 2, "logit_scale": 0.25},
    "opt": lambda n: {
        "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": n, "num_attention_heads": 4, "ffn_dim": 48,
        "max_position_embeddings": 40, "word_embed_proj_dim": 32, "pad_token_id": 1, "bos_token_id": 0,
        "eos_token_id": 2,
    },
    "t5": lambda n: {
        "vocab_size": 96, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": n, "num_decoder_layers": n,
        "num_heads": 4, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
    },
    "bart": lambda n: {
        "vocab_size": 96, "d_model": 32, "encoder_layers": n, "decoder_layers": n, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 40,
        "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    },
}  # fmt: skip

ENCODERS = (
    "bert", "roberta", "distilbert", "electra", "albert", "mpnet", "mobilebert", "ib_bert", "modernbert", "deberta-v2",
)  # fmt: skip
DECODERS = ("gpt2", "llama", "qwen3")
ENCODER_DECODERS = ("t5", "bart")
FURTHER = ("mistral", "qwen2", "gemma2", "cohere", "opt")
"""Decoders that differ from those above in little, and have not all of the heads: `test_further_families.py`."""
FAMILIES = tuple(family for family in CONFIGS if family not in FURTHER)

CLASSIFIER, TOKENS, SPANS, BARE = (
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModel",
)
LANGUAGE = (
    dict.fromkeys(ENCODERS, "AutoModelForMaskedLM")
    | dict.fromkeys((*DECODERS, *FURTHER), "AutoModelForCausalLM")
    | dict.fromkeys(ENCODER_DECODERS, "AutoModelForSeq2SeqLM")
)
HEADS = [(family, LANGUAGE[family]) for family in FAMILIES]
HEADS += [(family, head) for family in FAMILIES for head in (CLASSIFIER, SPANS)]
HEADS += [(family, TOKENS) for family in FAMILIES if family != "bart"]


def config(family: str, layers: int = 3, **changes: Any) -> PreTrainedConfig:
    """A tiny configuration; three labels unless it says otherwise."""
    settings = CONFIGS[family](layers) | {"num_labels": 3} | changes
    return transformers.AutoConfig.for_model(family, **settings)


def widen(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Draws every parameter anew, so that norms, biases and attention all matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else 0.25 * noise)
    return model.eval()


def tiny(family: str, head: str = "", layers: int = 3, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model in eval mode with eager attention; `head` is the name of an auto class, the language head by default."""
    head = head or LANGUAGE[family]
    if head == SPANS:
        changes["num_labels"] = 2
    settings = config(family, layers, **changes)
    settings.use_cache = False  # as the Trainer sets it; a cache changes the last digits
    return widen(getattr(transformers, head).from_config(settings, attn_implementation="eager"), seed)


def batch(family: str, seed: int = 1) -> dict[str, Tensor]:
    """Three texts, padded on the right, each ending in one end token; encoder-decoders also get a target."""
    settings = config(family)
    generator = torch.Generator().manual_seed(seed)
    lengths = (LENGTH, 7, 4)
    ids = torch.full((3, LENGTH), settings.pad_token_id)
    mask = torch.zeros(3, LENGTH, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, : length - 1] = torch.randint(3, 96, (length - 1,), generator=generator)
        ids[row, length - 1] = 2
        mask[row, :length] = 1
    found = {"input_ids": ids, "attention_mask": mask}
    if family in ENCODER_DECODERS:
        targets = torch.randint(3, 96, (3, 6), generator=generator)
        found |= {"decoder_input_ids": targets, "decoder_attention_mask": mask[:, :6]}
    return found
