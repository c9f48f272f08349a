"""What sentence-transformers keeps beside a transformer, read from a folder or the Hub: pooling, dense layers, norm.

The files are outside input: nothing is imported by the names that they hold, no pickle is read, and each value is
checked.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import cached_file

from hf_distill.errors import IncompatiblePair
from hf_distill.loading import load_model
from hf_distill.sentences import COSINE, KEY, NO_POOLING, POOLINGS, SIMILARITIES, SentenceEmbedding, give

logger = logging.getLogger(__name__)

MODULES = "modules.json"
POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The switches of older versions, one a way of pooling; later ones have one key `pooling_mode`."""

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "Sigmoid": nn.Sigmoid,
}
"""The activation functions of dense layers, by the ends of their names."""

_MOST_BYTES = 2**20
_WIDEST = 2**16


def load_encoder(name_or_path: str, *, role: str = "teacher", revision: str | None = None) -> PreTrainedModel:
    """The sentence encoder of a folder or Hub id in float32: the transformer, which knows how its vectors are made.

    Raises: as `load_model` and `read_modules`; `IncompatiblePair` where nothing says how the vectors are made.
    """
    model = load_model(name_or_path, "AutoModel", role=role, revision=revision)
    modules = read_modules(name_or_path, role, revision)
    if modules is None:
        raise IncompatiblePair(NO_POOLING.format(f"the {role} {name_or_path!r}"))
    give(model, *modules)
    return model


class SentenceModules(NamedTuple):
    """What lies behind the transformer, and the tokens that its texts are cut to if that is said."""

    embedding: SentenceEmbedding
    dense: nn.Sequential | None


def read_modules(name_or_path: str, role: str, revision: str | None = None) -> SentenceModules | None:
    """The modules of a folder or Hub id; None where there is no modules.json, and no word of it in config.json.

    `role` names the model in errors. The dense layers are in float32, and frozen: a student has them `fixed`.

    Raises: `IncompatiblePair` for modules, or an order of them, that are not known here, and for damaged files.
    """
    source = _Source(name_or_path, role, revision)
    told = source.json(MODULES)
    if told is None:
        return _of_config(source)
    kinds = _kinds(source, told)
    names = [kind for kind, _ in kinds]
    middle = names[2:-1] if names[-1] == "Normalize" else names[2:]
    if names[:2] != ["Transformer", "Pooling"] or any(name != "Dense" for name in middle):
        raise source.error(
            f"{MODULES} has the modules {', '.join(names)}; known are Transformer, Pooling, any number of Dense, and "
            "Normalize, in this order"
        )
    if kinds[0][1]:
        raise source.error(
            f"its transformer lies in the folder {kinds[0][1]!r}; give that folder as the model, and the pooling by "
            "itself"
        )
    pooling = _pooling(source, kinds[1][1])
    dense = [layer for kind, path in kinds if kind == "Dense" for layer in _dense(source, path)]
    embedding = SentenceEmbedding(
        pooling, names[-1] == "Normalize", max_length=_max_length(source), similarity=_similarity(source)
    )
    return SentenceModules(embedding, nn.Sequential(*dense).requires_grad_(False) if dense else None)


def _of_config(source: _Source) -> SentenceModules | None:
    """What a student of this package has in its configuration."""
    settings = source.json("config.json")
    told = settings.get(KEY) if isinstance(settings, dict) else None
    embedding = None if told is None else SentenceEmbedding.of(SimpleNamespace(**{KEY: told}))
    return None if embedding is None or embedding.width is not None else SentenceModules(embedding, None)


class _Source:
    """The files of a model."""

    def __init__(self, name_or_path: str, role: str, revision: str | None) -> None:
        self.name, self.role, self.revision = name_or_path, role, revision

    def error(self, what: str) -> IncompatiblePair:
        return IncompatiblePair(f"the {self.role} {self.name!r} as a sentence encoder: {what}.")

    def file(self, name: str) -> Path | None:
        """Where a file lies, None where the model has none of that name."""
        folder = Path(self.name)
        if not folder.is_dir():
            try:
                validate_repo_id(self.name)
            except HFValidationError:
                return None
            found = cached_file(
                self.name,
                name,
                revision=self.revision,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
            return None if found is None else Path(found)
        path = folder / name
        if not path.is_file():
            return None
        root = folder.resolve()
        root = root.parents[1] if root.parent.name == "snapshots" else root
        if not path.resolve().is_relative_to(root):
            raise self.error(f"{name} is a link that leaves the folder; put the file itself there")
        return path

    def json(self, name: str) -> Any:
        """The content of a JSON file, None where there is none."""
        path = self.file(name)
        if path is None:
            return None
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise ValueError(f"it has {path.stat().st_size} bytes, and {_MOST_BYTES} are the most")
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self.error(f"{name} cannot be read ({error})") from error

    def settings(self, name: str) -> Mapping[str, Any]:
        """The object in a JSON file that must be there."""
        found = self.json(name)
        if not isinstance(found, dict):
            raise self.error(f"{name} {'is missing' if found is None else 'holds no object'}")
        return found


def _kinds(source: _Source, told: Any) -> list[tuple[str, str]]:
    """The last name of each module's type, and its folder, in order."""
    found: list[tuple[str, str]] = []
    for each in told if isinstance(told, list) else []:
        kind, path = (each.get(key) for key in ("type", "path")) if isinstance(each, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str) or not _is_name(path):
            raise source.error(f"{MODULES} has the entry {str(each)[:100]}; it needs a type, and a folder as its path")
        found.append((kind.rpartition(".")[2], path))
    if not found:
        raise source.error(f"{MODULES} holds no list of modules")
    return found


def _is_name(path: str) -> bool:
    """Whether a path is that of a folder right here, or empty."""
    return Path(path).name == path and path != ".." and "\\" not in path


def _pooling(source: _Source, folder: str) -> str:
    name = f"{folder}/config.json"
    settings = source.settings(name)
    mode = settings.get("pooling_mode")
    chosen: Sequence[Any] = [mode] if isinstance(mode, str) else mode if isinstance(mode, list) else []
    if mode is None:
        chosen = [each for key, each in POOLING_KEYS.items() if settings.get(key) is True]
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        found = ", ".join(map(str, chosen))[:100] or "none"
        raise source.error(f"{name} pools by {found}; known is one of {', '.join(POOLINGS)}")
    return str(chosen[0])


def _dense(source: _Source, folder: str) -> list[nn.Module]:
    """A linear layer and its activation function."""
    name = f"{folder}/config.json"
    settings = source.settings(name)
    wide, narrow = (_size(source, name, settings, key) for key in ("in_features", "out_features"))
    names = [settings.get(key) for key in ("module_input_name", "module_output_name")]
    if settings.get("use_residual") or any(each not in (None, "sentence_embedding") for each in names):
        raise source.error(f"{name} asks for a dense layer of another kind, with a residual or of token vectors")
    activation = ACTIVATIONS.get(str(settings.get("activation_function", "Tanh")).rpartition(".")[2])
    if activation is None:
        raise source.error(
            f"{name} has the activation function {str(settings['activation_function'])[:80]!r}; known are "
            f"{', '.join(ACTIVATIONS)}"
        )
    with torch.device("meta"):  # the weights of the file take the places; none of that size is made before
        linear = nn.Linear(wide, narrow, bias=bool(settings.get("bias", True)))
    path = source.file(f"{folder}/model.safetensors")
    if path is None:
        raise source.error(f"{folder} has no model.safetensors; pickled weights are not read: save the model again")
    try:
        weights = safetensors.torch.load_file(path)
        linear.load_state_dict(
            {key.removeprefix("linear."): each.float() for key, each in weights.items()}, assign=True
        )
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise source.error(f"the weights of {folder} do not fit its config.json ({first})") from error
    return [linear, activation()]


def _size(source: _Source, name: str, settings: Mapping[str, Any], key: str) -> int:
    size = settings.get(key)
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= _WIDEST:
        raise source.error(f"{name} has {str(size)[:40]} as {key}; it must be a whole number up to {_WIDEST}")
    return size


def _max_length(source: _Source) -> int | None:
    """What sentence_bert_config.json says, and a word about what it asks for and is left out."""
    settings = source.json("sentence_bert_config.json")
    settings = settings if isinstance(settings, dict) else {}
    if settings.get("do_lower_case"):
        logger.warning(
            "the %s %r lowers the case of texts before its tokenizer reads them (do_lower_case); here the tokenizer "
            "alone does, or does not",
            source.role,
            source.name,
        )
    length = settings.get("max_seq_length")
    return length if isinstance(length, int) and not isinstance(length, bool) and length > 0 else None


def _similarity(source: _Source) -> str:
    """What config_sentence_transformers.json says, else the cosine; and a word about a prompt, which is left out."""
    settings = source.json("config_sentence_transformers.json")
    settings = settings if isinstance(settings, dict) else {}
    prompt, told = settings.get("default_prompt_name"), settings.get("similarity_fn_name")
    if prompt:
        logger.warning(
            "the %s %r puts its prompt %.40r before texts; here texts are read as they are: write it into them",
            source.role,
            source.name,
            prompt,
        )
    if told in SIMILARITIES:
        return str(told)
    if told is not None:
        logger.warning(
            "the %s %r compares its vectors by %.40r, which is not known here; they are compared by their cosines",
            source.role,
            source.name,
            told,
        )
    return COSINE
