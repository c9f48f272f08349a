"""Models and tokenizers from a folder or the Hub, with errors a reader understands."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import DistillationError, IncompatiblePair

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    name_or_path: str,
    auto_class: str,
    *,
    role: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: torch.dtype = torch.float32,
    fresh_head: bool = False,
    **config: Any,
) -> PreTrainedModel:
    """The model of a folder or Hub id under one of the `AutoModelFor…` classes.

    The dtype is the one asked for, whatever the file holds: a student trained in a bfloat16 file's own dtype would
    lose most of its small updates. `role` names the model in errors.

    Raises: `DistillationError` if nothing can be loaded; `IncompatiblePair` if weights are missing from the checkpoint
    and would be random, unless a `fresh_head` is wanted.
    """
    try:
        model, report = getattr(transformers, auto_class).from_pretrained(
            name_or_path,
            revision=revision,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            output_loading_info=True,
            **config,
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DistillationError(f"the {role} {name_or_path!r} cannot be loaded as {auto_class}: {reason}") from error
    missing = sorted(report["missing_keys"])
    if auto_class == "AutoModel":  # the pooler belongs to pre-training; many checkpoints come without
        missing = [name for name in missing if not name.startswith("pooler.")]
    if missing and not fresh_head:
        raise IncompatiblePair(
            f"the {role} {name_or_path!r} has no weights for "
            f"{', '.join(missing[:4])}{' …' if len(missing) > 4 else ''}: as {auto_class} they are random. Give a "
            "checkpoint that was trained for this task."
        )
    loaded: PreTrainedModel = model
    return loaded


def load_feature_extractor(name_or_path: str, *, role: str, revision: str | None = None) -> Any:
    """The feature extractor of a folder or Hub id: what makes of a sound what a model reads.

    Raises: `DistillationError` if there is none.
    """
    try:
        return transformers.AutoFeatureExtractor.from_pretrained(name_or_path, revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DistillationError(
            f"the {role} {name_or_path!r} has no feature extractor, which reads sounds ({reason}); save the one that "
            "it was trained with beside it."
        ) from error


def load_tokenizer(
    name_or_path: str, *, role: str, revision: str | None = None, trust_remote_code: bool = False, **settings: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub id, with `settings` of its own class in place of those in its files.

    Raises: `DistillationError` if there is none.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
            name_or_path, revision=revision, trust_remote_code=trust_remote_code, **settings
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DistillationError(f"the tokenizer of the {role} {name_or_path!r} cannot be loaded: {reason}") from error
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # made up out of the model's type alone
        raise DistillationError(
            f"the {role} {name_or_path!r} has no tokenizer; save the one that it was trained with beside it."
        )
    return tokenizer
