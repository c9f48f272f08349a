"""Whether the models of a recipe fit each other and their task: labels, vocabularies, tokenizers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill import checks
from hf_distill.anatomy import Anatomy
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.inspection.blueprint import Blueprint, stored_class
from hf_distill.inspection.kinds import Kind
from hf_distill.inspection.layout import listed
from hf_distill.loading import load_tokenizer
from hf_distill.recipe import Member, Recipe
from hf_distill.recipe import Student as StudentSection
from hf_distill.recipe import Teacher as TeacherSection
from hf_distill.runs.labels import align_labels
from hf_distill.runs.models import leading, reads_its_own, remedy_of_two, teacher_path
from hf_distill.tasks import CausalLM

TRAINED_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForCTC")
"""Heads of one task each. Others belong to pre-training, or write."""

ENDING = re.compile(r"(For\w+|LMHeadModel)$")
"""What the name of a model's class says of its head."""


@dataclass(frozen=True)
class Comparison:
    """What was compared, what it is on both sides, and what does not fit, if anything."""

    name: str
    found: str
    problem: str = ""


def check_tasks(blueprint: Blueprint) -> None:
    """Raises: `IncompatiblePair` where a checkpoint of the recipe was trained for another task than the recipe's."""
    section = leading(blueprint.recipe)
    trains_first = isinstance(section, TeacherSection) and section.fine_tune is not None
    if blueprint.teacher is not None and not trains_first:
        _check_task(blueprint, blueprint.teacher, "teacher")
    for name, member in list(blueprint.members.items())[1:]:
        _check_task(blueprint, member, f"teacher {name!r}")
    student = blueprint.recipe.student
    if student.model is not None:
        model = blueprint.student
        if stored_class(model.config).endswith(TRAINED_HEADS):
            _check_task(blueprint, model, "student")


def _check_task(blueprint: Blueprint, model: PreTrainedModel, role: str) -> None:
    stored, wanted = stored_class(model.config), type(model).__name__
    if blueprint.kind.auto_class == "AutoModel" or stored in ("", wanted) or _ending(stored) == _ending(wanted):
        return
    remedy = "" if role == "student" else ", or let the run train it first (teacher.fine_tune in a recipe)"
    raise IncompatiblePair(
        f"the {role} was saved as a {stored}, and the task, {blueprint.kind.name}, is that of a {wanted}. Give a "
        f"{role} of this task{remedy}."
    )


def _ending(name: str) -> str:
    found = ENDING.search(name)
    return "" if found is None else found.group(1)


def comparisons(blueprint: Blueprint, tokenizers: Tokenizers) -> Iterator[Comparison]:
    """Vocabularies, tokenizers, labels and lengths of teacher and student."""
    student, teacher = blueprint.student, blueprint.teacher
    yield _vocabulary(student, teacher, tokenizers.size)
    yield from tokenizers.compared
    if blueprint.kind.classifies:
        yield _labels(blueprint, student, teacher)
    tables = {"student": Anatomy.of(student).shape.max_length}
    tables |= {} if teacher is None else {"teacher": Anatomy.of(teacher).shape.max_length}
    known = [f"{role} {table}" for role, table in tables.items() if table is not None]
    longest = min([blueprint.recipe.max_length, *(table for table in tables.values() if table is not None)])
    cut = f"; texts are cut to {longest} tokens"
    yield Comparison("positions", (", ".join(known) or "no table") + cut)


def _vocabulary(student: PreTrainedModel, teacher: PreTrainedModel | None, size: int | None) -> Comparison:
    ours = Anatomy.of(student).shape.vocab_size
    theirs = ours if teacher is None else Anatomy.of(teacher).shape.vocab_size
    found = f"{ours} entries" if teacher is None else f"student {ours} entries, teacher {theirs}"
    problem = ""
    if size is not None and size > min(ours, theirs):
        problem = (
            f"the tokenizer has {size} entries, and the smaller table of embeddings {min(ours, theirs)}: some ids "
            "have no row. Take the tokenizer that the models were trained with."
        )
    return Comparison("vocabulary", found, problem)


def _labels(blueprint: Blueprint, student: PreTrainedModel, teacher: PreTrainedModel | None) -> Comparison:
    """The labels of the data, of the teacher and of the student, by their names."""
    names = {"data": blueprint.kind.labels, "student": _names(student)}
    names |= {} if teacher is None else {"teacher": _names(teacher)}
    sides = {role: listed(found, 6) or "a score" for role, found in names.items() if found is not None}
    alike = set(sides.values())
    said = f"the same on all sides: {alike.pop()}" if len(alike) == 1 else _by_side(sides)
    problems = []
    if blueprint.kind.labels is not None:
        for role, model in (("teacher", teacher), ("student", student)):
            if model is not None:
                problems.append(_aligned(model, role, blueprint.kind.labels))
    return Comparison("labels", said, " ".join(filter(None, problems)))


def _by_side(sides: Mapping[str, str]) -> str:
    return "; ".join(f"{role}: {found}" for role, found in sides.items())


def _names(model: PreTrainedModel) -> tuple[str, ...]:
    config = model.config
    return tuple(str(config.id2label[i]) for i in range(config.num_labels)) if config.num_labels > 1 else ()


def _aligned(model: PreTrainedModel, role: str, names: tuple[str, ...]) -> str:
    """What is against these labels; where they fit, the model's get the spelling of the data's, as in a run."""
    try:
        align_labels(model, role, names)
    except IncompatiblePair as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Tokenizers:
    """The tokenizer that the student reads with, None where none could be read, how that of the teacher compares, and
    the entries of the largest.
    """

    size: int | None
    compared: tuple[Comparison, ...]
    of_student: PreTrainedTokenizerBase | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> Tokenizers:
        """Those of a recipe's models, compared entry by entry. What cannot be loaded is told as a problem."""
        sections = list(_sections(recipe))
        found: dict[str, PreTrainedTokenizerBase] = {}
        problems = []
        ends_pad = Kind.of(recipe).name == CausalLM.name
        for role, path, section in sections:
            try:
                found[role] = _readable(path, role, section, ends_pad)
            except DistillationError as error:
                problems.append(str(error))
        own = reads_its_own(recipe)
        for role, path, _ in sections[:1] if len(found) == len(sections) and not own else ():
            remedy = remedy_of_two(recipe)
            problems += [text for other in list(found)[1:] for text in _differences(other, found, role, path, remedy)]
        said = f"{', '.join(f'{role} {len(tokenizer)}' for role, tokenizer in found.items())} entries"
        said += ", the teacher's for both" if list(found) == ["teacher"] and len(sections) == 1 else ""
        said += ", each its own" if own else ""
        size = None if own else max(map(len, found.values()), default=None)
        comparison = Comparison("tokenizer", said if found else "none could be read", " ".join(problems))
        return cls(size, (comparison,), next(reversed(found.values()), None))


def _sections(recipe: Recipe) -> Iterator[tuple[str, str, TeacherSection | Member | StudentSection]]:
    """The models that have a tokenizer of their own: role, path, and where the recipe names them."""
    teacher = leading(recipe)
    several = None if recipe.teacher is None else recipe.teacher.ensemble
    named = {"teacher": teacher} if several is None else {f"teacher {n!r}": m for n, m in several.members.items()}
    for role, section in named.items():
        if section is not None:
            yield role, teacher_path(section), section
    if recipe.student.model is not None:
        yield "student", recipe.student.model, recipe.student


def _readable(path: str, role: str, section: Any, ends_pad: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; `ends_pad` where the end of a text stands for padding that it lacks, as in a run."""
    settings = {"revision": section.revision, "trust_remote_code": section.trust_remote_code}
    tokenizer = load_tokenizer(path, role=role, **settings)
    if tokenizer.pad_token is None and (tokenizer.eos_token is None or not ends_pad):
        raise IncompatiblePair(
            f"the tokenizer of the {role} {path!r} has no padding token, and a batch needs one; set pad_token in its "
            "tokenizer_config.json."
        )
    return tokenizer


def _differences(
    role: str, found: Mapping[str, PreTrainedTokenizerBase], first: str, path: str, remedy: str
) -> list[str]:
    """What tells the tokenizer of a role from the first one, that of the model at `path`."""
    try:
        checks.equal_tokenizers(found[role], found[first], path, remedy)
    except IncompatiblePair as error:
        return [str(error) if role == "student" else f"{role}, against {first}: {error}"]
    return []
