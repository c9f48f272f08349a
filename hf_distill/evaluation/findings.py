"""What a report shows of a run beside its table, in the file that it can be drawn from again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hf_distill.errors import DistillationError

FILE_NAME = "data.json"

LARGEST = 8 << 20
"""Bytes; a file of ours has some thousand."""

Role = Literal["teacher", "student", "control"]
Text = Annotated[str, Field(max_length=400)]
LongText = Annotated[str, Field(max_length=2000)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Score = Annotated[float, Field(ge=-1e300, le=1e300)]
Row = Annotated[list[Share], Field(min_length=1, max_length=256)]
Cell = TypeVar("Cell", float, int)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Parting(_Strict):
    """How many items (`items` is their name) student and teacher both answered right, one of the two alone, and
    neither: with the same wrong answer, or with two. Of those that both answered right, `both_apart` have two answers,
    as a question may."""

    items: Text
    both: Count
    only_teacher: Count
    only_student: Count
    neither_alike: Count
    neither_apart: Count
    both_apart: Count = 0

    @property
    def total(self) -> int:
        """All items."""
        return self.both + self.only_teacher + self.only_student + self.neither_alike + self.neither_apart

    @property
    def alike(self) -> int:
        """Items with the same answer of both."""
        return self.both - self.both_apart + self.neither_alike


class Example(_Strict):
    """An item on which the two part. A confidence is the probability of the answer."""

    text: Text
    truth: Text
    teacher: Text
    student: Text
    teacher_confidence: Share | None = None
    student_confidence: Share | None = None


class Confusion(_Strict):
    """Items by their class (row) and the class that each model answered (column); in `between` the rows are the
    teacher's answers, and the columns the student's."""

    classes: Annotated[list[Text], Field(min_length=2, max_length=64)]
    counts: Annotated[dict[Role, list[list[Count]]], Field(min_length=1)]
    between: list[list[Count]] | None = None

    @model_validator(mode="after")
    def _check(self) -> Confusion:
        tables = [*self.counts.values(), *([] if self.between is None else [self.between])]
        for table in tables:
            _check_shape("confusion", table, len(self.classes), len(self.classes))
        return self


class Reliability(_Strict):
    """Items in bins of equal width by the confidence of the answer: how many there are, their mean confidence, and the
    share that is right, both 0 in an empty bin; `error` is the expected calibration error."""

    counts: Annotated[list[Count], Field(min_length=1, max_length=100)]
    confidence: list[Share]
    accuracy: list[Share]
    error: Share

    @model_validator(mode="after")
    def _check(self) -> Reliability:
        lengths = [len(self.counts), len(self.confidence), len(self.accuracy)]
        if len(set(lengths)) != 1:
            raise ValueError(f"reliability: {lengths} counts, confidences and accuracies; expected as many of each")
        return self


class Scores(_Strict):
    """A sample of a regression: the true score of each item, and that of the models."""

    truth: Annotated[list[Score], Field(min_length=1, max_length=1000)]
    found: Annotated[dict[Role, list[Score]], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Scores:
        for role, values in self.found.items():
            if len(values) != len(self.truth):
                raise ValueError(f"scores: {len(values)} of the {role} for {len(self.truth)} items")
        return self


class Likeness(_Strict):
    """Linear CKA of each layer of the student (row) with each of the teacher (column), from the embeddings up, at so
    many tokens."""

    cka: Annotated[list[Row], Field(min_length=1, max_length=256)]
    tokens: Count

    @model_validator(mode="after")
    def _check(self) -> Likeness:
        _check_shape("likeness", self.cka, len(self.cka), len(self.cka[0]))
        return self


class AttentionPair(_Strict):
    """How much each token (row) looks at each (column) in a layer of either model, the mean over its heads."""

    student_layer: int
    teacher_layer: int
    student: list[list[Share]]
    teacher: list[list[Share]]


class Attention(_Strict):
    """The maps of a few pairs of layers for one sentence."""

    tokens: Annotated[list[Text], Field(min_length=1, max_length=64)]
    pairs: Annotated[list[AttentionPair], Field(min_length=1, max_length=8)]

    @model_validator(mode="after")
    def _check(self) -> Attention:
        for pair in self.pairs:
            for table in (pair.student, pair.teacher):
                _check_shape("attention", table, len(self.tokens), len(self.tokens))
        return self


class Sample(_Strict):
    """A prompt, what the data have in answer to it, and what each model writes."""

    prompt: LongText
    wanted: LongText
    written: dict[Role, LongText]


class Findings(_Strict):
    """Everything; what a task does not have is None or empty. No text but that of the examples, of the samples, and of
    one sentence."""

    schema_version: Literal[1] = 1
    parting: Parting | None = None
    examples: Annotated[list[Example], Field(max_length=64)] = []
    samples: Annotated[list[Sample], Field(max_length=32)] = []
    confusion: Confusion | None = None
    reliability: dict[Role, Reliability] = {}
    scores: Scores | None = None
    likeness: Likeness | None = None
    likeness_before: Likeness | None = None
    """The same of the student as training found it."""
    attention: Attention | None = None

    @classmethod
    def read(cls, path: Path) -> Findings | None:
        """What a run left in this file, None where there is none.

        Raises: `DistillationError` for a file that is damaged, of another version, or none of ours.
        """
        if not path.exists():
            return None
        try:
            size = path.stat().st_size
            if size > LARGEST:
                raise DistillationError(f"{path} has {size:,} bytes, and {LARGEST:,} at most are read; remove it.")
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise DistillationError(
                f"{path} cannot be drawn: {place}: {first['msg']}. Another version wrote it, or it is damaged; remove "
                "it to draw the rest of the report."
            ) from error
        except OSError as error:
            raise DistillationError(f"{path} cannot be read: {error.strerror or error}.") from error


def _check_shape(name: str, table: list[list[Cell]], rows: int, columns: int) -> None:
    if len(table) != rows or any(len(row) != columns for row in table):
        raise ValueError(f"{name}: a table of {len(table)} rows; expected {rows} rows of {columns} each")
