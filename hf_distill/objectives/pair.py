"""What objectives are bound to: the shapes of both models, the task, and how their labels or vocabularies line up."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from hf_distill.anatomy import Anatomy, Shape
from hf_distill.errors import IncompatiblePair
from hf_distill.member_logits import OF_LAWS, Combining
from hf_distill.objectives.across import Across
from hf_distill.tasks import IGNORED, Task, task_of

logger = logging.getLogger(__name__)

LARGE_VOCABULARY = 4096
"""Logits of more columns go through the head in chunks; of fewer they are taken whole, in one product."""

GENERIC = re.compile(r"LABEL_\d+$")
SHIFTED = [[3, 4, IGNORED, IGNORED]]
"""Labels by which the inputs that two decoders make of them are compared."""
_NAME_THEM = " These are no names: rename them in id2label and label2id of both models' config, to what they mean."


@dataclass(frozen=True)
class Pair:
    """Student and teacher shape, the task, and the alignment of their logits.

    `teacher_columns[c]` is the teacher's column of the student's class c, `None` for the identity. `vocabulary` is the
    number of columns both sides share, `None` for all. `label_smoothing` is what the training arguments ask of hard
    labels. `temperatures`: of a teacher that shows its largest logits alone, those at which the sum of the rest is
    known; `None` for one that shows all.

    Of several teachers `members` has the pair with each, and `combining` says how their answers become one; `teacher`
    then tells what these answers look like, and has no layers. The pair with one of them has its name as `member`.

    `classes` are the names of the student's classes in its order; empty for a vocabulary and where there are none.

    A teacher may have some of the student's classes alone, as one from before the student learned others
    (`students.grow_labels`): `teacher_columns` is -1 at the classes that it lacks (`lacking`), and its answers are
    compared by objectives that keep to the others (`among_shared`). `student_columns` are then the columns of the
    student's that are compared, `None` for all.

    `across`: of a teacher that reads tokens of its own, which entries of the two vocabularies answer to each other;
    nothing can then be compared token by token.
    """

    student: Shape
    teacher: Shape | None
    task: Task
    teacher_columns: tuple[int, ...] | None = None
    vocabulary: int | None = None
    label_smoothing: float = 0.0
    temperatures: tuple[float, ...] | None = None
    members: Mapping[str, Pair] | None = None
    combining: Combining | None = None
    member: str = ""
    classes: tuple[str, ...] = ()
    student_columns: tuple[int, ...] | None = None
    across: Across | None = None

    @classmethod
    def from_shapes(cls, student: Shape, teacher: Shape | None, task: Task, **alignment: Any) -> Pair:
        """A pair without models, for tests and for reading an objective's needs."""
        return cls(student, teacher, task, **alignment)

    @classmethod
    def of(
        cls,
        student: Anatomy,
        teacher: Anatomy | None,
        task: Task,
        *,
        tokenizer_size: int | None = None,
        label_map: Mapping[str, str] | None = None,
        label_smoothing: float = 0.0,
        temperatures: tuple[float, ...] | None = None,
        across: Across | None = None,
    ) -> Pair:
        """The pair of two models, checked; `across` for a teacher that reads tokens of its own.

        Raises: `IncompatiblePair` where vocabularies, labels, problem types, lengths, or the tokens that labels are
        shifted by do not fit, naming both sides.
        """
        named = task.form in ("softmax", "sigmoid") and len(task.logit_fields) == 1 and not task.vocabulary_sized
        if label_map is not None and (teacher is None or not named):
            found = "there is no teacher" if teacher is None else f"a {task.name} task has no named labels"
            raise IncompatiblePair(f"label_map pairs the labels of student and teacher, and {found}; leave it out.")
        if teacher is None:
            return cls(student.shape, None, task, label_smoothing=label_smoothing)
        _check_problem(student, teacher, task)
        if across is not None:
            _check_across(student.shape, teacher.shape, task, across)
            return cls(student.shape, teacher.shape, task, label_smoothing=label_smoothing, across=across)
        _check_inputs(student.shape, teacher.shape, tokenizer_size)
        if task.name == "seq2seq_lm":
            _check_decoder_inputs(student.base, teacher.base)
        columns = vocabulary = None
        if task.vocabulary_sized:
            vocabulary = _shared_vocabulary(student.shape, teacher.shape, tokenizer_size)
        elif named:
            columns = _teacher_columns(student.base.config, teacher.base.config, label_map)
        config = student.base.config
        classes = tuple(str(config.id2label[i]) for i in range(config.num_labels)) if named else ()
        alignment = (columns, vocabulary, label_smoothing, temperatures)
        pair = cls(student.shape, teacher.shape, task, *alignment, classes=classes)
        if temperatures is not None:
            pair.check_same_columns()
        return pair

    @classmethod
    def together(cls, members: Mapping[str, Pair], combining: Combining) -> Pair:
        """The pair of a student with several teachers, out of its pair with each.

        Raises: `IncompatiblePair` where a rule asks for laws over classes and the task has scores.
        """
        first = next(iter(members.values()))
        if first.task.form == "identity" and combining.rule in OF_LAWS:
            raise IncompatiblePair(
                f"the rule {combining.rule!r} weighs teachers by the probability of classes, and {first.task.name} "
                "has none; give a number for each, or nothing."
            )
        shared = [pair.vocabulary for pair in members.values() if pair.vocabulary is not None]
        shapes = [pair.teacher for pair in members.values() if pair.teacher is not None]
        longest = min((shape.max_length for shape in shapes if shape.max_length is not None), default=None)
        families, ours = "+".join(dict.fromkeys(shape.family for shape in shapes)), first.student
        return replace(
            first,
            teacher=Shape(families, {}, ours.num_logits, ours.vocab_size, longest),
            teacher_columns=None,
            vocabulary=min(shared, default=None),
            temperatures=None,
            members={name: replace(pair, member=name) for name, pair in members.items()},
            combining=combining,
        )

    def of_member(self, name: str) -> Pair:
        """The pair with that one of several teachers, or itself without a name.

        Raises: `IncompatiblePair` for a name that no teacher has.
        """
        if not name:
            return self
        if name not in (self.members or {}):
            known = f"the teachers are {', '.join(self.members)}" if self.members else "there is one teacher"
            raise IncompatiblePair(f"a term is on the teacher {name!r}, and {known}.")
        return self.members[name]  # type: ignore[index]

    @property
    def has_large_vocabulary(self) -> bool:
        """Whether the student's logits are of a vocabulary, and large enough for chunks."""
        return self.task.vocabulary_sized and self.student.num_logits > LARGE_VOCABULARY

    @property
    def lacking(self) -> tuple[str, ...]:
        """The student's classes that the teacher does not have."""
        missing = [i for i, column in enumerate(self.teacher_columns or ()) if column < 0]
        return tuple(self.classes[i] if self.classes else str(i) for i in missing)

    def among_shared(self) -> Pair:
        """The pair over the classes that both models have; itself where these are all."""
        if not self.lacking:
            return self
        shared = [(i, column) for i, column in enumerate(self.teacher_columns or ()) if column >= 0]
        ours, theirs = zip(*shared, strict=True)
        return replace(self, student_columns=ours, teacher_columns=theirs)

    def among_new(self) -> Pair:
        """The pair over the student's classes that the teacher does not have, where there are any."""
        ours = tuple(i for i, column in enumerate(self.teacher_columns or ()) if column < 0)
        return replace(self, student_columns=ours, teacher_columns=None)

    def check_same_columns(self) -> None:
        """Raises: `IncompatiblePair` where both models' logits must be cut or reordered before they are compared."""
        if self.teacher is not None and (self.teacher_columns is not None or self.vocabulary is not None):
            raise IncompatiblePair(
                f"the student has {self.student.num_logits} output tokens, the teacher {self.teacher.num_logits}; the "
                "largest logits alone (codec top_k) cannot be cut to what both share. Cache the last hidden state, or "
                "train with the teacher itself."
            )

    def align(self, student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Both logits with the same classes in the student's order, cut before any softmax."""
        student_logits = self.own_columns(student_logits)
        if self.teacher_columns is not None:
            teacher_logits = teacher_logits.index_select(-1, _index(self.teacher_columns, teacher_logits.device))
        if self.vocabulary is not None:
            student_logits, teacher_logits = (
                student_logits[..., : self.vocabulary],
                teacher_logits[..., : self.vocabulary],
            )
        if student_logits.shape != teacher_logits.shape:
            raise IncompatiblePair(
                f"logits of shape {tuple(student_logits.shape)} (student) and {tuple(teacher_logits.shape)} (teacher) "
                "do not pair up; both models must see the same tokens and have the same classes."
            )
        return student_logits, teacher_logits

    def own_columns(self, student_tensor: Tensor) -> Tensor:
        """The columns that are compared of a tensor with one for each of the student's classes."""
        if self.student_columns is None:
            return student_tensor
        return student_tensor.index_select(-1, _index(self.student_columns, student_tensor.device))

    def own_targets(self, labels: Tensor) -> Tensor:
        """Class numbers as those among the columns that are compared, -100 for other classes."""
        if self.student_columns is None:
            return labels
        numbers = _index(self._places, labels.device)[labels.clamp(min=0)]
        return torch.where(labels == IGNORED, labels, numbers)

    @property
    def _places(self) -> tuple[int, ...]:
        """Where each of the student's classes stands among the columns that are compared."""
        columns = self.student_columns or ()
        return tuple(columns.index(i) if i in columns else IGNORED for i in range(self.student.num_logits))

    def align_members(
        self, student_logits: Tensor, teachers: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's logits and those of several teachers, as `align` does with one."""
        assert self.members is not None
        pairs, shared = self.members, slice(self.vocabulary)
        theirs = {name: pairs[name].align(student_logits, each)[1][..., shared] for name, each in teachers.items()}
        return student_logits[..., shared], theirs


@lru_cache(maxsize=64)
def _index(columns: tuple[int, ...], device: torch.device) -> Tensor:
    """An index tensor, made once for each device: making it anew would wait for the device at every step."""
    return torch.tensor(columns, device=device)


def _check_problem(student: Anatomy, teacher: Anatomy, task: Task) -> None:
    theirs = task_of(teacher.base)
    if theirs.name != task.name:
        raise IncompatiblePair(
            f"the student ({type(student.base).__name__}) solves {task.name}, the teacher "
            f"({type(teacher.base).__name__}) {theirs.name}; load both with the same head, and set the same "
            "config.problem_type."
        )
    if task.form == "identity" and student.shape.num_logits != teacher.shape.num_logits:
        raise IncompatiblePair(
            f"the student predicts {student.shape.num_logits} scores, the teacher {teacher.shape.num_logits}; "
            "num_labels must be equal."
        )


def _check_inputs(student: Shape, teacher: Shape, tokenizer_size: int | None) -> None:
    """Both models read the same input ids: what only one has a row for must be padding of its table."""
    smaller, larger = sorted((student.vocab_size, teacher.vocab_size))
    if smaller != larger and (tokenizer_size is None or tokenizer_size > smaller):
        raise IncompatiblePair(
            f"the student's vocabulary has {student.vocab_size} entries, the teacher's {teacher.vocab_size}, and the "
            f"tokenizer {tokenizer_size if tokenizer_size is not None else 'is not given (pass processing_class)'}; "
            "both models must read the same tokens. Take a teacher of the same tokenizer; or have a causal one read "
            "by its own, and learn by uld or gold: teachers.Frozen(model, tokenizer=…), in a recipe "
            "`teacher: {tokenizer: own}`."
        )


def _check_decoder_inputs(student: Any, teacher: Any) -> None:
    """Where rows have labels alone, each model shifts them by tokens of its own, and the decoders are compared
    position by position. It is refused for rows with `decoder_input_ids` as well: these are made by one of the two,
    and the other would begin with a token that it does not know as a start."""
    ours, theirs = _shifted(student), _shifted(teacher)
    if ours is None or theirs is None or ours == theirs:
        return
    tokens = ", ".join(
        f"{name} {getattr(student.config, name, None)} and {getattr(teacher.config, name, None)}"
        for name in ("decoder_start_token_id", "pad_token_id")
    )
    raise IncompatiblePair(
        f"of the labels {SHIFTED} the student's decoder reads {ours}, the teacher's {theirs}, and they are compared "
        f"position by position ({tokens}). Set both alike in the two models' config."
    )


def _shifted(model: Any) -> list[list[int]] | None:
    """What a model makes of labels for its decoder; None where it does not, or lacks the tokens for it."""
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift is None:
        return None
    try:
        found: list[list[int]] = shift(labels=torch.tensor(SHIFTED)).tolist()
    except (AttributeError, TypeError, ValueError):  # no start token: none in the config, None, or so said
        return None
    return found


def _check_across(student: Shape, teacher: Shape, task: Task, across: Across) -> None:
    """Models that read tokens of their own are compared by what they predict to come next, and by nothing else."""
    if task.name != "causal_lm":
        raise IncompatiblePair(
            f"the teacher reads by its own tokenizer, and the models solve {task.name}; only causal language models "
            "are compared across tokenizers. Take a teacher of the student's tokenizer."
        )
    across.check(student.num_logits, teacher.num_logits)


def _shared_vocabulary(student: Shape, teacher: Shape, tokenizer_size: int | None) -> int | None:
    if student.num_logits == teacher.num_logits:
        return None
    smaller = min(student.num_logits, teacher.num_logits)
    if tokenizer_size is None or tokenizer_size > smaller:
        raise IncompatiblePair(
            f"the student has {student.num_logits} output tokens, the teacher {teacher.num_logits}, the tokenizer "
            f"{tokenizer_size}; only columns beyond the tokenizer may be cut."
        )
    logger.info(
        "vocabularies of %d and %d are cut to %d shared columns", student.num_logits, teacher.num_logits, smaller
    )
    return smaller


def align_names(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, ...]:
    """The column of each of our labels among theirs, by its exact name; -1 where they have none of it."""
    return tuple(theirs.index(name) if name in theirs else -1 for name in ours)


def _teacher_columns(student: Any, teacher: Any, label_map: Mapping[str, str] | None) -> tuple[int, ...] | None:
    """The teacher's column of each student class, by exact names; `label_map` maps student names to teacher names."""
    ours = [str(student.id2label[i]) for i in range(student.num_labels)]
    theirs = [str(teacher.id2label[i]) for i in range(teacher.num_labels)]
    generic = [all(GENERIC.match(name) for name in side) for side in (ours, theirs)]
    if label_map is not None:
        unknown = sorted({*label_map} - {*ours}) or sorted({*label_map.values()} - {*theirs})
        if unknown:
            raise IncompatiblePair(
                f"label_map names {unknown[0]!r}; the student's labels are {ours}, the teacher's {theirs}. It maps "
                "student names to teacher names."
            )
        ours = [label_map.get(name, name) for name in ours]
    if len(ours) != len(theirs):
        return _part_of_labels(ours, theirs)
    if label_map is None and all(generic):
        if ours == theirs:
            logger.warning("the labels of student and teacher have no names; they are taken to be in the same order")
            return None
    elif label_map is None and any(generic):
        raise IncompatiblePair(
            f"the student's labels are {ours}, the teacher's {theirs}: one side has no names. Set id2label and "
            "label2id of both configs, or pass label_map={student name: teacher name}."
        )
    if sorted(ours) != sorted(theirs) or len(set(theirs)) != len(theirs):
        raise IncompatiblePair(
            f"the student's labels are {ours}, the teacher's {theirs}; they must be the same names. "
            "Pass label_map={student name: teacher name} if they mean the same."
        )
    columns = align_names(ours, theirs)
    if columns == tuple(range(len(ours))):
        return None
    logger.warning("the teacher's labels %s are reordered to the student's order %s", theirs, ours)
    return columns


def _part_of_labels(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, ...]:
    """The teacher's columns, -1 for the student's labels that it lacks, where all of its own are among these."""
    generic = all(GENERIC.match(name) for name in ours)
    if generic or len({*theirs}) < len(theirs) or len({*ours}) < len(ours) or not {*theirs} < {*ours}:
        raise IncompatiblePair(
            f"the student has {len(ours)} labels, the teacher {len(theirs)}; they must agree, or the student must "
            "have all of the teacher's by their names and others (students.grow_labels). The student's labels are "
            f"{list(ours)}, the teacher's {list(theirs)}.{_NAME_THEM if generic else ''}"
        )
    return align_names(ours, theirs)
