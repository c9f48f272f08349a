"""Which files of a run are published, and whether they are fit to be."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from hf_distill.errors import HubError
from hf_distill.hub.front_matter import check
from hf_distill.hub.record import FILE_NAME as RECORD
from hf_distill.hub.record import Record, is_hub_id
from hf_distill.hub.redaction import secrets_in

WEIGHTS = (
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model-*-of-*.safetensors",
    "adapter_model.safetensors.index.json",
)
PACKED = "quantized.safetensors"
"""The codes of a student whose weights lie on grids; beside the weights, never in their place."""

GRAPHS = ("onnx/*.onnx", "onnx/*.onnx.data")
"""Mostly numbers, among which a short path of this machine may stand by chance; the exporter leaves none in them."""

OF_SENTENCES = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "?_Dense/config.json",
    "?_Dense/model.safetensors",
)
"""What sentence-transformers reads beside a sentence encoder."""

FOLDERS = ("onnx", "1_Pooling", "?_Dense", "additional_chat_templates")
"""Folders of which files are published."""

EXPORTS = (*GRAPHS, "onnx/*.json")
"""Exports of the student, in a folder of their own; what is there is published."""

VOCABULARIES = (
    "added_tokens.json",
    "bpe.codes",
    "byte_maps.json",
    "dict.txt",
    "emoji.json",
    "entity_vocab.json",
    "merges.txt",
    "normalizer.json",
    "prophetnet.tokenizer",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "source.spm",
    "spiece.model",
    "spm.model",
    "spm_char.model",
    "target.spm",
    "target_vocab.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab-src.json",
    "vocab-tgt.json",
    "vocab.json",
    "vocab.txt",
    "word_pronunciation.json",
    "word_shape.json",
)
"""What the tokenizers of transformers are loaded from, by the names that their classes give these files."""

TEMPLATES = ("chat_template.jinja", "additional_chat_templates/*.jinja")
OF_A_TOKENIZER = (*VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", *TEMPLATES)
OF_A_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
SETTINGS = ("config.json", "generation_config.json")
"""Of the model itself, beside its weights."""

PUBLISHED = (
    *SETTINGS,
    *WEIGHTS,
    PACKED,
    *EXPORTS,
    *OF_SENTENCES,
    *OF_A_TOKENIZER,
    *OF_A_PROCESSOR,
    "README.md",
    RECORD,
)
"""What is published of a run's folder: files in it and in its `FOLDERS` whose names match. None of these is
ever a pickle."""

SOURCES = {
    "adapter_config.json": ("base_model_name_or_path", "Publish the merged student (merge_and_unload)"),
    "config.json": ("_name_or_path", "Take the key out"),
}
"""Keys that name the model that a student comes from, and what to do where that is on this machine alone."""

OBJECTIVE_STATE = "distillation.safetensors"
"""Projections and banks of the objectives; published only when asked for."""

_CHUNK = 1 << 20


def is_published(name: str, patterns: tuple[str, ...] = PUBLISHED) -> bool:
    """Whether a file of this name, `config.json` or `onnx/model.onnx`, is on the list."""
    return any(fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)


@dataclass(frozen=True)
class LocalFile:
    """One file to publish. The Hub knows a plain file by its `git_oid`, a large one by its `sha256`."""

    path: Path
    size: int
    sha256: str
    git_oid: str

    @classmethod
    def of(cls, path: Path) -> LocalFile:
        """Read `path` once and sum it in both ways."""
        size = path.stat().st_size
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                sha256.update(chunk)
                git.update(chunk)
        return cls(path, size, sha256.hexdigest(), git.hexdigest())


def select(folder: Path, *, include_objective_state: bool = False) -> dict[str, LocalFile]:
    """The files of `folder` that are published, by name, checked.

    Raises:
        HubError: no such folder; no model in it, or shards missing; a file that cannot be read; a link on the list
            that leaves the folder; a token or a path of this machine inside a file; a card or a record that is not
            valid, or of other weights.
    """
    if not folder.is_dir():
        raise HubError(f"{folder} is not a folder; publish wants the folder that a model was saved in.")
    patterns = (*PUBLISHED, OBJECTIVE_STATE) if include_objective_state else PUBLISHED
    with reading(folder):
        return _checked(folder, patterns)


@contextmanager
def reading(place: Path) -> Iterator[None]:
    """Raises: `HubError` where the disk does not give what is at `place`, or below it."""
    try:
        yield
    except OSError as error:
        raise HubError(
            f"Cannot read {error.filename or place}: {error.strerror}. Make it readable, or remove it if it is not "
            "needed, and publish again."
        ) from error


def _checked(folder: Path, patterns: tuple[str, ...]) -> dict[str, LocalFile]:
    inside = [path for name in FOLDERS for path in folder.glob(f"{name}/*")]
    paths = {path.relative_to(folder).as_posix(): path for path in sorted([*folder.iterdir(), *inside])}
    listed = {name: path for name, path in paths.items() if is_published(name, patterns)}
    files = {name: LocalFile.of(_plain(path, folder)) for name, path in listed.items()}
    _check_model(folder, files)
    _check_secrets(folder, files)
    _check_sources(files)
    if "README.md" in files:
        check(files["README.md"].path.read_text(encoding="utf-8", errors="replace"))
    if RECORD in files:
        _check_record(Record.read(folder), files, folder)
    return files


def _check_record(record: Record, files: dict[str, LocalFile], folder: Path) -> None:
    """A record that knows the sums of its student's weights must be of the weights that lie there, and graphs must be
    of its student."""
    for name, told in record.student.files.items():
        if is_published(name, WEIGHTS) and name.endswith(".safetensors"):
            found = files[name].sha256 if name in files else "missing"
            if found != told:
                raise HubError(
                    f"{folder}: {RECORD} tells of another student: its {name} has the SHA-256 {told}, the one here "
                    f"is {found}. Publish the folder as the run left it."
                )
    for name in files:
        if is_published(name, ("onnx/*.onnx",)) and (
            name not in record.exports or record.exports[name].sha256 != files[name].sha256
        ):
            raise HubError(
                f"{folder}: {name} is not a graph that {RECORD} tells of, so it may be one of another student. Remove "
                "it, or have it written again: `hf-distill publish` with --onnx, --int8."
            )


def _plain(path: Path, folder: Path) -> Path:
    """`path` itself, or what its link points to inside the folder."""
    target = path.resolve()
    if not target.is_relative_to(folder.resolve()):
        raise HubError(f"{path} is a link that leaves the folder (to {target}); put the file itself there.")
    if not target.exists() or not stat.S_ISREG(target.stat().st_mode):
        raise HubError(f"{path} is not a plain file, so it cannot be published; remove it or put the file there.")
    return target


def _check_model(folder: Path, files: dict[str, LocalFile]) -> None:
    if "adapter_config.json" not in files and "config.json" not in files:
        raise HubError(f"{folder} holds neither config.json nor adapter_config.json; save the model there first.")
    if not any(name.endswith(".safetensors") and is_published(name, WEIGHTS) for name in files):
        raise HubError(f"{folder} holds no weights in safetensors; save the model with save_pretrained first.")
    for index in (name for name in files if name.endswith(".safetensors.index.json")):
        missing = _shards(files[index].path) - set(files)
        if missing:
            raise HubError(f"{folder}: {index} names shards that are not there: {', '.join(sorted(missing)[:5])}.")


def _shards(index: Path) -> set[str]:
    try:
        return {str(shard) for shard in json.loads(index.read_bytes())["weight_map"].values()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise HubError(f"{index} is not an index of shards: it needs a 'weight_map' of names.") from error


def _check_secrets(folder: Path, files: dict[str, LocalFile]) -> None:
    problems = []
    for name, file in files.items():
        binary = is_published(name, (*VOCABULARIES, *GRAPHS))
        found = secrets_in(_text_of(file.path), folder, paths=not binary)
        problems += [f"{name} holds {what}" for what in found]
    if problems:
        raise HubError(f"Nothing was published from {folder}: {'; '.join(problems)}. Remove it and publish again.")


def _check_sources(files: dict[str, LocalFile]) -> None:
    """Nobody else has what the files say that the student comes from, where that is a path."""
    for name, (key, remedy) in SOURCES.items():
        value = _value(files[name].path, key) if name in files else None
        if not isinstance(value, str) or not value or (is_hub_id(value) and not Path(value).exists()):
            continue
        both = " If it is that id, publish from another working directory, where no such path is."
        raise HubError(
            f"{files[name].path}: {key} is {value!r}, a path of this machine, which nobody else can load. {remedy}, "
            f"or write the model's id on the Hub there.{both if is_hub_id(value) else ''}"
        )


def _value(path: Path, key: str) -> object:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return found.get(key) if isinstance(found, dict) else None


def _text_of(path: Path) -> bytes:
    """What can hold text: the whole file, or the header of a safetensors file."""
    with path.open("rb") as file:
        if path.suffix != ".safetensors":
            return file.read()
        return file.read(min(int.from_bytes(file.read(8), "little"), 100 * _CHUNK))
