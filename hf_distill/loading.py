"""Models and tokenizers from a folder or the Hub, with errors a reader understands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.access_tokens import TOKEN
from hf_distill.errors import DistillationError, IncompatiblePair, UnreadableModel

_READ = (".safetensors", ".bin", ".json", ".model", ".jinja", ".py", "vocab.txt", "merges.txt")
"""What the library reads of a model's folder."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


HELD_IN = "bfloat16"
"""What is computed in where a model lies in memory in a way of its own (`Held`), and no dtype is given."""


@dataclass(frozen=True)
class Held:
    """How a model that is only read lies in memory: its linear layers in 8 bits (`int8`, by torchao), and on which
    devices (`auto`, or one device)."""

    int8: bool = False
    device_map: str | None = None

    def settings(self) -> dict[str, Any]:
        """What `from_pretrained` is asked for.

        Raises: `DistillationError` where torchao is missing.
        """
        found: dict[str, Any] = {} if self.device_map is None else {"device_map": self.device_map}
        return {**found, "quantization_config": _int8()} if self.int8 else found


def stays(model: Any) -> bool:
    """Whether a model stays where it is, as it was laid over devices when it was loaded."""
    return getattr(model, "hf_device_map", None) is not None


def brought(batch: Mapping[str, Tensor], model: Any) -> Mapping[str, Tensor]:
    """A batch as a model reads it: on its device where it stays on one, else as it is."""
    if not stays(model):
        return batch
    return {name: value.to(model.device) for name, value in batch.items() if isinstance(value, Tensor)}


def is_cast(model: Any) -> bool:
    """Whether the weights of a model may be given another type: not where it stays, and not in few bits."""
    return not stays(model) and not getattr(model, "is_quantized", False)


def _int8() -> Any:
    try:
        from torchao.quantization import Int8WeightOnlyConfig
    except ImportError as error:
        raise DistillationError(
            f'weights of 8 bits need torchao ({error}); install it: pip install "hf_distill[quant]"'
        ) from error
    return transformers.TorchAoConfig(Int8WeightOnlyConfig())


def load_model(
    name_or_path: str,
    auto_class: str,
    *,
    role: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: torch.dtype = torch.float32,
    fresh_head: bool = False,
    held: Held | None = None,
    **config: Any,
) -> PreTrainedModel:
    """The model of a folder or Hub id under one of the `AutoModelFor…` classes, `held` as it says.

    The dtype is the one asked for, whatever the file holds: a student trained in a bfloat16 file's own dtype would
    lose most of its small updates. `role` names the model in errors.

    Raises: `DistillationError` if nothing can be loaded, the folder points out of itself, or its settings hold an
    access token; `IncompatiblePair` if weights are missing from the checkpoint and would be random, unless a
    `fresh_head` is wanted.
    """
    _stays_inside(name_or_path, role)
    try:
        model, report = getattr(transformers, auto_class).from_pretrained(
            name_or_path,
            revision=revision,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            output_loading_info=True,
            **(held.settings() if held is not None else {}),
            **config,
        )
    except Exception as error:  # what the library raises on a damaged or hostile folder is of every kind
        raise UnreadableModel(
            f"the {role} {name_or_path!r} cannot be loaded as {auto_class}: {_reason(error)}"
        ) from error
    _holds_no_token(model.config.to_dict(), "config.json", name_or_path, role)
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

    Raises: `DistillationError` if there is none, or the folder points out of itself.
    """
    _stays_inside(name_or_path, role)
    try:
        return transformers.AutoFeatureExtractor.from_pretrained(name_or_path, revision=revision)
    except Exception as error:  # as above
        raise UnreadableModel(
            f"the {role} {name_or_path!r} has no feature extractor, which reads sounds ({_reason(error)}); save the "
            "one that it was trained with beside it."
        ) from error


def load_tokenizer(
    name_or_path: str, *, role: str, revision: str | None = None, trust_remote_code: bool = False, **settings: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub id, with `settings` of its own class in place of those in its files.

    Raises: `DistillationError` if there is none, the folder points out of itself, or its settings hold an access
    token.
    """
    _stays_inside(name_or_path, role)
    try:
        tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
            name_or_path, revision=revision, trust_remote_code=trust_remote_code, **settings
        )
    except Exception as error:  # as above
        raise UnreadableModel(
            f"the tokenizer of the {role} {name_or_path!r} cannot be loaded: {_reason(error)}"
        ) from error
    _holds_no_token(tokenizer.init_kwargs, "tokenizer_config.json", name_or_path, role)
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # made up out of the model's type alone
        raise DistillationError(
            f"the {role} {name_or_path!r} has no tokenizer; save the one that it was trained with beside it."
        )
    return tokenizer


def _reason(error: Exception) -> str:
    """The first line of what a library says, or the kind of its error where it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def _holds_no_token(settings: dict[str, Any], file: str, name_or_path: str, role: str) -> None:
    """Refuses settings with an access token: they are written beside every student that is made of the model."""
    if TOKEN.search(json.dumps(settings, default=str)):
        raise DistillationError(
            f"the {role} {name_or_path!r}: its {file} holds what looks like an access token, which would be copied "
            "into the student's. Remove it there, and revoke it if it is real."
        )


def _stays_inside(name_or_path: str, role: str) -> None:
    """Refuses a folder whose files, by links or by names in an index of shards, lie outside it: the library reads
    whatever file they name. Those of the Hub's cache are links to the blobs beside them.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        return
    root = folder.resolve()
    root = root.parents[1] if root.parent.name == "snapshots" else root
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and path.name.endswith(_READ) and not path.resolve().is_relative_to(root):
            raise DistillationError(
                f"the {role} {name_or_path!r}: {path.name} is a link that leaves the folder (to {path.resolve()}); "
                "put the file itself there."
            )
        outside = _names_outside(path) if path.name.endswith(".index.json") else None
        if outside is not None:
            raise DistillationError(
                f"the {role} {name_or_path!r}: {path.name} names {outside!r}, and shards lie in the folder itself; it "
                "is damaged, or made to read other files. Save the model again with save_pretrained."
            )


def _names_outside(index: Path) -> str | None:
    """What an index of shards names that is no plain name of a file, if anything; a damaged one is the library's to
    refuse.
    """
    try:
        named = json.loads(index.read_bytes())["weight_map"].values()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return next((str(name) for name in named if "\\" in str(name) or Path(str(name)).name != str(name)), None)
