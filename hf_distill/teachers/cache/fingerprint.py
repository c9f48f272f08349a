"""What must be the same for a cache to serve: the teacher, its tokenizer and chat template, and how it was run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import IncompatiblePair
from hf_distill.teachers.cache.folder import digest_of

_SAYS_NOTHING = frozenset(
    {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures", "_commit_hash"}
    | {"problem_type"}
)
"""Entries of a configuration that do not change what a model shows, or are told by others. Classifiers set
`problem_type`, which decides on their own loss alone, when they first see labels."""

_OF_ADAPTERS = ("peft_config", "adapter_layer_names")
"""Attributes of models and layers that peft has put an adapter around, or into."""


def check_plain(model: nn.Module) -> None:
    """Refuses a model with an adapter, around it or inside (`model.add_adapter`): which adapter is active, how it is
    scaled and whether it is switched off is in neither settings nor weights, so that models which compute different
    things would have the same digest.

    Raises: `IncompatiblePair` with the remedy.
    """
    if any(hasattr(module, mark) for module in model.modules() for mark in _OF_ADAPTERS):
        raise IncompatiblePair(
            "the teacher is a model with an adapter, which no cache is made of; give model.merge_and_unload() of the "
            "PeftModel (an adapter that model.add_adapter put inside: save it, and load it by "
            "peft.PeftModel.from_pretrained)."
        )


def teacher_digest(model: PreTrainedModel) -> str:
    """The digest of a model's class, settings, and every number of its parameters and buffers.

    Raises: `IncompatiblePair` for a model with an adapter.
    """
    check_plain(model)
    config = {name: value for name, value in model.config.to_diff_dict().items() if name not in _SAYS_NOTHING}
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([type(model).__name__, config], sort_keys=True, default=str).encode())
    # The state has no buffers that are not saved, and a forward pass reads them all the same.
    for name, tensor in sorted({**dict(model.named_buffers()), **model.state_dict()}.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def tokenizer_facts(tokenizer: Any) -> dict[str, str | None]:
    """What a fingerprint tells of a tokenizer: its digest, and that of its chat template where it has one; None for
    what is not known."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return {"tokenizer": None, "chat_template": None}
    template = getattr(tokenizer, "chat_template", None)
    told = digest_of(json.dumps(template, sort_keys=True).encode()) if template else None
    return {"tokenizer": tokenizer_digest(tokenizer), "chat_template": told}


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """The digest of all that decides which ids a text gets, but for truncation and padding."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        told: Any = [type(tokenizer).__name__, tokenizer.get_vocab(), repr(sorted(tokenizer.added_tokens_encoder))]
    else:
        whole = json.loads(backend.to_str())
        told = {name: part for name, part in whole.items() if name not in ("truncation", "padding")}
    return digest_of(json.dumps(told, sort_keys=True).encode())
