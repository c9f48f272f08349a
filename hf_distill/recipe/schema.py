"""The sections of a recipe. Numbers may stand in quotes (`"1e-4"`); beyond that nothing is converted or ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hf_distill import objectives
from hf_distill.errors import DistillationError
from hf_distill.objectives.terms import Term, Terms
from hf_distill.recipe.fields import (
    Arguments,
    Cell,
    Columns,
    Count,
    Fraction,
    InsidePath,
    Layer,
    Module,
    Names,
    Number,
    Pattern,
    Scale,
    Seed,
    Sha256,
    Share,
    StageName,
    TermName,
    Text,
    Weight,
    distinct,
)
from hf_distill.recipe.problems import Problem, fail, shown
from hf_distill.recipe.rules import MAX_LAYERS, WEIGHING
from hf_distill.teachers.cache import codecs
from hf_distill.teachers.cache.codecs import Codec


class Section(BaseModel):
    """A mapping of a recipe: every key is known, every value has the right kind, and nothing changes afterwards."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=False,
    )

    @classmethod
    def keys(cls) -> list[str]:
        """The keys that may be written here."""
        return [info.alias or name for name, info in cls.model_fields.items()]

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class Files(Section):
    """Files of the user's: jsonl, json, csv, tsv or parquet, gzipped or not; relative to the working directory."""

    train: Text
    validation: Text | None = None
    test: Text | None = None


class PackagedFile(Section):
    """One data file inside an installed Python package, which is found without being imported."""

    name: Module
    """The name under which the package is imported."""
    file: InsidePath
    """The path inside the package."""
    sha256: Sha256
    """The SHA-256 digest of the file."""


class Split(Section):
    """What is cut from the training data when the files bring no such split."""

    validation: Fraction = 0.0
    test: Fraction = 0.0
    seed: Seed = 0


class HubData(Section):
    """A data set on the Hub; its splits are train, validation and test."""

    id: Text
    config: Text | None = None
    revision: Text | None = None
    """Branch, tag or commit."""


class QuestionAnswering(Section):
    """The rows are SQuAD's: id, context, question, and answers with text and answer_start; an answer is a span of the
    context."""

    version_2_with_negative: bool = False
    """Some questions have no answer, as in SQuAD v2."""
    doc_stride: Count = 128
    """Tokens that two windows over a long context share."""
    n_best_size: Count = 20
    """How many starts, and how many ends, are looked at in each window."""
    max_answer_length: Count = 30
    """Tokens of an answer at most."""
    null_score_diff_threshold: Number = 0.0
    """No answer is given where its score is higher than that of the best one by more than this."""


class TokenClassification(Section):
    """The rows are lists of tokens with a tag for each."""

    tokens_column: Text = "tokens"
    tags_column: Text
    tag_names: Names | None = None
    """The tags in the order of their ids; without them they are those that the data set names, or those of the
    training rows."""
    label_all_tokens: bool = False
    """Train on every word piece of a token, not only on its first."""


class HubText(HubData):
    """A split of a data set on the Hub, which is streamed."""

    split: Text = "train"


class TextSource(Section):
    """Text from files, or from the Hub: exactly one of files and hub."""

    files: Annotated[list[Text], Field(min_length=1), AfterValidator(distinct)] | None = None
    """.txt, .jsonl, both also .gz, and .parquet; relative to the working directory."""
    hub: HubText | None = None
    unit: Literal["line", "paragraph"] = "line"
    """What a document is in a .txt file."""
    column: Text = "text"
    """Where the text is in .jsonl, .parquet and on the Hub."""
    documents: Count | None = None
    """Read so many documents at most."""
    weight: Scale | None = None
    """The share of this source among several; without weights every row of each comes once in an epoch."""


class Masks(Section):
    """Which tokens are hidden, to be predicted; special tokens never are."""

    probability: Annotated[Share, Field(gt=0.0)] = 0.15
    """The share of tokens to predict."""
    masked: Share = 0.8
    """The share of these that becomes the mask token."""
    random: Share = 0.1
    """The share of these that becomes any token; the rest stays."""
    smoothing: Weight | None = None
    """Prefer rare tokens, by the weight max(count, 1) ** -smoothing, as DistilBERT does with 0.7."""
    counts: Text | None = None
    """A JSON list of token counts for smoothing; without it they are those of the training text."""
    whole_word: bool = False
    """Hide whole words."""


class UnlabelledText(Section):
    """Raw text, packed into rows."""

    train: Annotated[list[TextSource], Field(min_length=1)]
    validation: Annotated[list[TextSource], Field(min_length=1)] | None = None
    held_out: Count = 1000
    """Rows of the training text that are kept for validation where there is no other, at most a tenth of them."""
    task: Literal["masked_lm", "causal_lm", "encoder"] = "masked_lm"
    """Models with a head for masked words, or for the next word, or without a head, trained by objectives of hidden
    states and relations."""
    packing: Literal["full", "whole", "none"] = "full"
    """Full rows across documents, rows of whole documents, or one document a row."""
    masking: Masks | None = None
    streaming: bool = False
    """Tokenise while training, and put nothing on the disk; without it tokens are stored first."""
    shuffle: Count = 10_000
    """Rows of a stream that are held to be shuffled."""
    cache_dir: Text | None = None
    """Where tokens are stored; by default beside the caches of the library datasets."""


class Data(Section):
    """The rows to train on, in place of a GLUE task: from files, a package or the Hub; and what they are: texts with a
    label (text_columns and label_column), question_answering or token_classification. Or text, which names its own
    sources."""

    files: Files | None = None
    package: PackagedFile | None = None
    hub: HubData | None = None
    where: dict[str, Cell] = {}
    """Keep the rows with these values in these columns."""
    text_columns: Columns | None = None
    """One column of text, or two for pairs."""
    label_column: Text | None = None
    label_names: Names | None = None
    """The labels in the order of their ids; without them they are taken from the training rows."""
    question_answering: QuestionAnswering | None = None
    token_classification: TokenClassification | None = None
    text: UnlabelledText | None = None
    deduplicate: bool = False
    """Drop rows whose text was there before."""
    split: Split | None = None


class Augmentation(Section):
    """More training rows for the stages that ask for them (`rows: augmented`): each row, followed by variants of it
    whose words a masked LM or word vectors replaced, as TinyBERT does. For texts with a label."""

    masked_lm: Text
    """The id of a masked LM on the Hub, or the path of a folder."""
    revision: Text | None = None
    """Branch, tag or commit on the Hub."""
    samples: Count = 20
    """Variants drawn of each text; equal ones count once."""
    replace: Annotated[Share, Field(gt=0.0)] = 0.4
    """The probability of a word to be replaced."""
    candidates: Count = 15
    """Words that may take its place."""
    word_vectors: Text | None = None
    """A file in GloVe's text format, for words of several pieces; without it such words stay."""


class MaxSamples(Section):
    """How many rows of each split are used; all without a number."""

    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None


class PackagedModel(Section):
    """A model folder inside an installed Python package, which is found without being imported."""

    name: Module
    """The name under which the package is imported."""
    folder: InsidePath
    """The path inside the package."""
    sha256: Annotated[dict[InsidePath, Sha256], Field(min_length=1)]
    """The SHA-256 digests of files in the folder."""


class FineTune(Section):
    """Train the teacher on the labels of the task first."""

    tokens_per_batch: Count | None = None
    """The most cells of a batch, padding included, in place of per_device_train_batch_size."""
    arguments: Arguments = {}
    """Arguments of transformers.TrainingArguments."""


class TeacherCache(Section):
    """What the teacher shows of the training rows is written into a folder, where it is not there yet, and read from
    it while the student trains; the teacher is not in memory then."""

    folder: Text | None = None
    """Where; by default in the folder of the run. Runs with the same teacher, rows and objectives may share it."""
    codec: Text | None = None
    """How states and a vocabulary's logits are written: float16 by default, or another of
    hf_distill.teachers.cache.codecs. Of language models the last hidden state is written, with top_k the largest
    logits."""
    settings: dict[str, Any] = {}
    """Settings of the codec, as in k: 64."""

    @model_validator(mode="after")
    def _made(self) -> TeacherCache:
        if self.codec is None and self.settings:
            raise fail([Problem(("settings",), "are those of a codec, and none is named; add codec.")])
        try:
            self.made_codec()
        except (DistillationError, TypeError, ValueError) as error:
            raise fail([Problem(("codec",), str(error))]) from error
        return self

    def made_codec(self) -> Codec | None:
        """The codec, None for the default."""
        return None if self.codec is None else codecs.make(self.codec, self.settings)


class Teacher(Section):
    """The model to learn from: exactly one of model and package."""

    model: Text | None = None
    """The id of a model on the Hub, or the path of a folder."""
    package: PackagedModel | None = None
    revision: Text | None = None
    """Branch, tag or commit on the Hub."""
    trust_remote_code: bool = False
    """Run the Python code of the repository; only with a commit as revision."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What its weights are held and computed in while a student learns from it; without it float32, or the mixed
    precision of the training."""
    fine_tune: FineTune | None = None
    cache: TeacherCache | None = None


def _layers_form(value: Any) -> str | None:
    if isinstance(value, list):
        return "list"
    return "count" if isinstance(value, int | str) and not isinstance(value, bool) else None


Layers = Annotated[
    Annotated[Count, Tag("count")]
    | Annotated[list[Count], Field(min_length=1), AfterValidator(distinct), Tag("list")],
    Discriminator(_layers_form, "layers", "must be a number of layers, or a list of layers counted from 1"),
]
Pick = Literal["spread", "uniform", "first", "last", "distilbert"]


class FromLayers(Section):
    """A student cut from its teacher."""

    layers: Layers
    """How many of the teacher's layers, or which, counted from 1."""
    pick: Pick = "spread"
    """Which layers a number stands for; a list of layers needs no pick."""


class DistilBert(Section):
    """A student with DistilBERT's architecture, cut from a BERT; {} is the published one, six of twelve layers."""

    layers: Layers = 6
    """How many of the teacher's layers, or which, counted from 1."""
    pick: Pick | None = None
    """Which layers a number stands for; distilbert without it. A list of layers needs no pick."""
    token_types: Literal["dropped", "folded"] = "dropped"
    """Whether the first segment's embedding is added to that of each position, or left out as in the published one."""


class FromShape(Section):
    """A student of the teacher's class with other sizes; those that are not given stay the teacher's."""

    num_hidden_layers: Count | None = None
    hidden_size: Count | None = None
    num_attention_heads: Count | None = None
    num_key_value_heads: Count | None = None
    """Heads of keys and values, where the family groups heads."""
    intermediate_size: Count | None = None
    """The width inside the feed-forward layers."""
    initialisation: Literal["random", "importance"] = "random"
    """Random weights, or those of the teacher that matter most on the training rows."""
    calibration_rows: Count | None = None
    """How many rows importance is measured on, 256 without it."""
    pick: Pick = "spread"
    """Which of the teacher's layers are kept."""


class Bottlenecks(Section):
    """The sizes of a model built as MobileBERT is, where they are not the published ones."""

    num_hidden_layers: Count | None = None
    hidden_size: Count | None = None
    """The width of what a block takes and gives."""
    embedding_size: Count | None = None
    intra_bottleneck_size: Count | None = None
    """The width inside a block."""
    num_attention_heads: Count | None = None
    intermediate_size: Count | None = None
    num_feedforward_networks: Count | None = None


class MobileBert(Bottlenecks):
    """A MobileBERT with the teacher's vocabulary and labels; {} is the published one."""

    variant: Literal["mobilebert", "tiny"] = "mobilebert"


class Student(Section):
    """The model to train: a model, or one way to make it from the teacher."""

    model: Text | None = None
    """The id of a model on the Hub, or the path of a folder."""
    from_layers: FromLayers | None = None
    distilbert: DistilBert | None = None
    from_shape: FromShape | None = None
    mobilebert: MobileBert | None = None
    ib_bert: Bottlenecks | None = None
    """An IB-BERT, MobileBERT's teacher, with the teacher's vocabulary and labels; {} is the published one."""
    revision: Text | None = None
    """Branch, tag or commit on the Hub."""
    trust_remote_code: bool = False
    """Run the Python code of the repository; only with a commit as revision."""


class WeightedObjective(Section):
    """One term of a stage, written `{soft_targets: {temperature: 2.0}, weight: 5.0, name: soft}`."""

    objective: Any
    settings: Any
    weight: Weight = 1.0
    name: TermName | None = None

    @classmethod
    def keys(cls) -> list[str]:
        """The keys that may be written here."""
        return [*WEIGHING, *objectives.names()]

    @model_validator(mode="before")
    @classmethod
    def _unfolded(cls, value: Any) -> Any:
        """Take the one key that names an objective apart; what else is there is left for the schema to refuse."""
        if not isinstance(value, dict):
            return value
        own = [key for key in value if key not in WEIGHING]
        registered = [key for key in own if key in objectives.names()]
        named = registered or [key for key in own if isinstance(value[key], dict)] or own
        named += [
            key for key in own if key in cls.model_fields and key not in named
        ]  # names of ours are none of the format's
        rest = {key: item for key, item in value.items() if key not in named}
        if len(named) == 1:
            return {"objective": named[0], "settings": value[named[0]], **rest}
        return {"objective": named, "settings": None, **rest}

    @field_validator("objective", mode="plain")
    @classmethod
    def _one_objective(cls, given: Any) -> str:
        if not isinstance(given, str):
            found = ", ".join(given) or "none"
            raise fail(
                [Problem((), f"names one objective, as in soft_targets: {{temperature: 2.0}}; found {found}.")], up=1
            )
        return given

    @field_validator("settings", mode="plain")
    @classmethod
    def _made(cls, settings: Any, info: ValidationInfo) -> Any:
        name = info.data.get("objective")
        if name is None:
            return settings
        if not isinstance(settings, dict):
            text = f"must be a mapping of settings, {{}} for none; given {shown(settings)}."
            raise fail([Problem((name,), text)], up=1)
        try:
            objectives.make(name, settings)
        except (ValueError, TypeError) as error:
            raise fail([Problem((name, *_setting_named_by(error, settings)), str(error))], up=1) from error
        return settings

    def term(self) -> Term:
        """The objective with its weight and name."""
        return Term(objectives.make(self.objective, self.settings), self.weight, self.name or "")

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As it is written in the recipe."""
        named = {} if self.name is None else {"name": self.name}
        return {self.objective: self.settings, "weight": self.weight, **named}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "title": cls.__name__,
            "description": cls.__doc__,
            "type": "object",
            "properties": {"weight": {"type": "number", "minimum": 0, "default": 1.0}, "name": {"type": "string"}},
            "additionalProperties": {"type": "object"},
            "minProperties": 1,
            "maxProperties": 3,
        }


def _setting_named_by(error: Exception, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The setting that the message speaks of first, if any."""
    places = {name: re.search(rf"\b{re.escape(name)}\b", str(error)) for name in settings}
    named = sorted((match.start(), name) for name, match in places.items() if match)
    return (named[0][1],) if named else ()


class TrainGroup(Section):
    """Parameters that train, at a share of the learning rate: exactly one of parameters and layers."""

    parameters: Pattern | None = None
    """A regular expression that is searched in the names of the student's parameters."""
    layers: Annotated[list[Layer], Field(min_length=1), AfterValidator(distinct)] | None = None
    """Layers of the student, counted from 1; 0 is the embeddings."""
    learning_rate_scale: Scale = 1.0


def _below_form(value: Any) -> str | None:
    if value == "frozen":
        return "frozen"
    return "scale" if isinstance(value, int | float | str) and not isinstance(value, bool) else None


class Progressive(Section):
    """A stage for each layer of the student, from the first one up. At stage l the objectives compare layer l alone,
    and layer l trains, at the first stage the embeddings as well."""

    layers: Annotated[Count, Field(le=MAX_LAYERS)]
    """How many layers, and stages."""
    teacher_layers: list[Count] | None = None
    """The teacher's layer for each; the same numbers as the student's without it."""
    below: Annotated[
        Annotated[Literal["frozen"], Tag("frozen")] | Annotated[Scale, Tag("scale")],
        Discriminator(_below_form, "below", "must be frozen, or a share of the learning rate such as 0.1"),
    ] = 0.1
    """What becomes of the layers below, whose stage is over."""


def _train_form(value: Any) -> str | None:
    return "all" if value == "all" else "groups" if isinstance(value, list) else None


class Stage(Section):
    """One training run. Stages follow each other, each with the student of the one before."""

    name: StageName
    objectives: Annotated[list[WeightedObjective], Field(min_length=1)]
    """The terms of the loss."""
    rows: Literal["original", "augmented"] = "original"
    """The training rows, or those that `augmentation` makes of them."""
    train: Annotated[
        Annotated[Literal["all"], Tag("all")] | Annotated[list[TrainGroup], Field(min_length=1), Tag("groups")],
        Discriminator(
            _train_form,
            "train",
            "must be all, or a list of {parameters: pattern} or {layers: [1, 2]}, each with a "
            "learning_rate_scale if it is not 1",
        ),
    ] = "all"
    """All parameters, or groups of them; the rest is frozen."""
    progressive: Progressive | None = None
    """Makes of this stage one for each layer, `<name>-01`, `<name>-02` ..., when the recipe is read."""
    tokens_per_batch: Count | None = None
    """The most cells of a batch, padding included: many short rows or few long ones, in place of
    per_device_train_batch_size."""
    arguments: Arguments = {}
    """Arguments of transformers.TrainingArguments."""

    def terms(self) -> Terms:
        """New objectives with their weights and names, not yet bound to any models."""
        return Terms([entry.term() for entry in self.objectives])
