"""The sections of a recipe. Numbers may stand in quotes (`"1e-4"`); beyond that nothing is converted or ignored."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    SerializerFunctionWrapHandler,
    Tag,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hf_distill import objectives
from hf_distill.errors import DistillationError
from hf_distill.member_logits import RULES
from hf_distill.objectives.terms import Term, Terms
from hf_distill.objectives.weights import Learned, Schedule
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


class Member(Section):
    """One of several teachers: exactly one of model and package."""

    model: Text | None = None
    """The id of a model on the Hub, or the path of a folder."""
    package: PackagedModel | None = None
    revision: Text | None = None
    """Branch, tag or commit on the Hub."""
    trust_remote_code: bool = False
    """Run the Python code of the repository; only with a commit as revision."""


def _weights_form(value: Any) -> str | None:
    return "list" if isinstance(value, list) else "rule" if value in RULES else None


class Several(Section):
    """Several teachers at once. Terms over logits learn from all of them together, others name one as `on`. The first
    one is the teacher that students are made from, and that they are compared with at the end."""

    members: Annotated[dict[TermName, Member], Field(min_length=1)]
    """The teachers, by a name for each."""
    combine: Literal["prob", "logit", "losses"] = "prob"
    """What is averaged: probabilities at each term's temperature, logits, or the terms' values against each."""
    weights: (
        Annotated[
            Annotated[list[Weight], Tag("list")] | Annotated[Literal["label_ce", "entropy", "softmax"], Tag("rule")],
            Discriminator(
                _weights_form, "weights", "must be a list of numbers, or one of label_ce, entropy and softmax"
            ),
        ]
        | None
    ) = None
    """A number for each teacher, or the rule by which each row weighs them: by their loss on its label, or by how sure
    they are; equal without it."""
    routing: Literal["max_prob", "gold"] | None = None
    """Give each row to one teacher: the surest, or the one surest of its label."""
    tau: Scale = 1.0
    """The temperature of the rule softmax."""


class Following(Section):
    """The moving average of the student's own weights, as a mean teacher; {} for the defaults."""

    decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """The share that stays of the average in each step."""
    warmup: bool = True
    """Begin with a smaller share, so that early weights are soon forgotten."""


class Alongside(Section):
    """Models that train with the student and learn from it as it does from them, made as the recipe's student is, from
    other seeds. The student is the one that is evaluated and left."""

    count: Annotated[Count, Field(le=16)] = 1
    """How many beside the student."""
    learning_rate: Scale | None = None
    """Theirs; that of the student without it."""


class Teacher(Section):
    """The model to learn from: exactly one of model, package, ensemble, moving_average and peers."""

    model: Text | None = None
    """The id of a model on the Hub, or the path of a folder."""
    package: PackagedModel | None = None
    ensemble: Several | None = None
    moving_average: Following | None = None
    peers: Alongside | None = None
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


class FewSample(Section):
    """Few-sample recovery (FSKD): the projections of what was cut are fitted to the teacher on a few unlabelled rows,
    by least squares. {} takes the settings that were measured to be best."""

    sentences: Annotated[Count, Field(ge=5)] = 100
    """Training rows, of which every fifth judges the fit."""
    target: Literal["stream", "sublayer"] = "stream"
    """Fit the sum after a projection to the teacher's, or the projection's output alone."""
    fit: Literal["full", "block"] | None = None
    """Fit new weights, or a matrix that is merged into the weights; without it full where inputs were lost."""
    ridge: Weight = 0.1
    """How much a fit is drawn to what was there, in units of the mean square of what it reads."""


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
    few_sample: FewSample | None = None
    """Correct what was cut on a few rows before anything is trained; with from_layers or from_shape."""
    revision: Text | None = None
    """Branch, tag or commit on the Hub."""
    trust_remote_code: bool = False
    """Run the Python code of the repository; only with a commit as revision."""


class Slope(Section):
    """From one weight to another, between two shares of the steps."""

    initial: Weight = Field(alias="from")
    """The weight until then."""
    final: Weight = Field(alias="to")
    """The weight from then on."""
    start: Share = 0.0
    stop: Share = 1.0


class EarlyStop(Section):
    """One weight until a share of the steps is over, then another."""

    initial: Weight = Field(default=1.0, alias="from")
    final: Weight = Field(default=0.0, alias="to")
    stop: Share


class Rise(Section):
    """A weight that is reached when a share of the steps is over."""

    final: Weight = Field(default=1.0, alias="to")
    stop: Share


class LearnedWeight(Section):
    """A weight that is learned, by the uncertainty of the term; {} is what `learned` alone says."""

    learning_rate: Scale = 1e-3
    """That of the weight, in place of the student's."""


class VaryingWeight(Section):
    """A weight that is no number: exactly one schedule over the steps, whose start and stop are shares of them, or
    learned."""

    linear: Slope | None = None
    cosine: Slope | None = None
    early_stop: EarlyStop | None = None
    """Such as {stop: 0.5}: the teacher is left out in the second half."""
    warmup: Rise | None = None
    """From 0 in a straight line."""
    ramp_up: Rise | None = None
    """exp(-5 (1 - u)^2) of the weight, u the share of the ramp that is over."""
    learned: LearnedWeight | None = None

    @model_validator(mode="after")
    def _one(self) -> VaryingWeight:
        given = list(self.model_dump())
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise fail([Problem((), f"give exactly one of {', '.join(type(self).keys())}; found {found}.")])
        try:
            self.made()
        except DistillationError as error:
            raise fail([Problem((given[0],), str(error))]) from error
        return self

    def made(self) -> Schedule | Learned:
        """What it says."""
        if self.learned is not None:
            return Learned(self.learned.learning_rate)
        (name,) = self.model_dump()
        settings: dict[str, Any] = getattr(self, name).model_dump()
        make: Callable[..., Schedule] = getattr(Schedule, name)
        return make(**settings)


_NUMERIC_WEIGHT: TypeAdapter[float] = TypeAdapter(Weight, config=ConfigDict(strict=True, allow_inf_nan=False))


def _weight(given: Any) -> Any:
    if isinstance(given, Mapping):
        return VaryingWeight.model_validate(given)
    return given if given == "learned" else _NUMERIC_WEIGHT.validate_python(given)


TermWeight = Annotated[float | VaryingWeight | Literal["learned"], PlainValidator(_weight)]


class WeightedObjective(Section):
    """One term of a stage, written `{soft_targets: {temperature: 2.0}, weight: 5.0, name: soft}`; of several teachers
    `on` names the one that it learns from."""

    objective: Any
    settings: Any
    weight: TermWeight = 1.0
    name: TermName | None = None
    on: TermName | None = None

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
        weight = self.weight.made() if isinstance(self.weight, VaryingWeight) else self.weight
        return Term(objectives.make(self.objective, self.settings), weight, self.name or "", self.on or "")

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As it is written in the recipe."""
        named = {key: value for key, value in (("name", self.name), ("on", self.on)) if value is not None}
        varies = self.weight if isinstance(self.weight, VaryingWeight) else None
        weight = self.weight if varies is None else varies.model_dump(by_alias=True)
        return {self.objective: self.settings, "weight": weight, **named}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "title": cls.__name__,
            "description": cls.__doc__,
            "type": "object",
            "properties": {
                "weight": {"type": "number", "minimum": 0, "default": 1.0},
                "name": {"type": "string"},
                "on": {"type": "string"},
            },
            "additionalProperties": {"type": "object"},
            "minProperties": 1,
            "maxProperties": 4,
        }


def _weight_schema() -> JsonSchemaValue:
    number = {"type": "number", "minimum": 0}
    kinds = {name: {"type": "object"} for name in VaryingWeight.model_fields}
    one = {"additionalProperties": False, "minProperties": 1, "maxProperties": 1}
    varying = {"type": "object", "properties": kinds, **one}
    return {"anyOf": [number, {"const": "learned"}, varying], "default": 1.0}


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


def _student_form(value: Any) -> str | None:
    return "(fresh)" if value == "fresh" else "(student)" if isinstance(value, dict | Student) else None


def _train_form(value: Any) -> str | None:
    return "all" if value == "all" else "groups" if isinstance(value, list) else None


class QuantizeUniform(Section):
    """Quantized distillation: the stage trains floats, and computes with their values on a uniform grid, which are
    what is saved; {} is 4 bits in buckets of 256."""

    bits: Annotated[Count, Field(le=8)] = 4
    bucket_size: Annotated[Count, Field(ge=2)] = 256
    """Values that share a scale."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    style: Literal["ste", "truncated", "scale"] = "ste"
    """How gradients reach the floats."""
    include_embeddings: bool = True
    include_head: bool = False
    """Also what stands on top of the base model, such as a classifier."""


class QuantizePoints(Section):
    """Differentiable quantization: the weights stay as they are, each at the nearest of a few points, and the points
    alone train; {} is 16 points in buckets of 256."""

    points: Annotated[Count, Field(ge=2, le=256)] = 16
    """Points for each tensor."""
    bucket_size: Annotated[Count, Field(ge=2)] = 256
    """Values that share a scale."""
    init: Literal["quantiles", "uniform"] = "quantiles"
    include_embeddings: bool = True
    include_head: bool = False
    """Also what stands on top of the base model, such as a classifier."""


class Stage(Section):
    """One training run. Stages follow each other, each with the student of the one before unless it says otherwise."""

    name: StageName
    objectives: Annotated[list[WeightedObjective], Field(min_length=1)]
    """The terms of the loss."""
    teacher: StageName | None = None
    """Learn from the finished student of an earlier stage, by the stage's name, or of the stage before (previous), in
    place of the recipe's teacher."""
    student: (
        Annotated[
            Annotated[Literal["fresh"], Tag("(fresh)")] | Annotated[Student, Tag("(student)")],
            Discriminator(_student_form, "student", "must be fresh, or a student such as {from_layers: {layers: 3}}"),
        ]
        | None
    ) = None
    """Start anew with the recipe's student (fresh), or start with this one."""
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
    quantize_uniform: QuantizeUniform | None = None
    quantize_points: QuantizePoints | None = None
    tokens_per_batch: Count | None = None
    """The most cells of a batch, padding included: many short rows or few long ones, in place of
    per_device_train_batch_size."""
    arguments: Arguments = {}
    """Arguments of transformers.TrainingArguments."""

    @model_validator(mode="after")
    def _enough_examples(self) -> Stage:
        """A batch has as many examples as the objectives relate; over all processes it depends on their number."""
        size = self.arguments.get("per_device_train_batch_size")
        if not isinstance(size, int) or self.tokens_per_batch is not None:
            return self
        for objective in (term.objective for term in self.terms()):
            if size < objective.smallest_batch and not objective.gather:
                text = (
                    f"is {size}, and {objective.name} relates at least {objective.smallest_batch} examples of a batch "
                    "to each other."
                )
                raise fail([Problem(("arguments", "per_device_train_batch_size"), text)])
        return self

    def terms(self) -> Terms:
        """New objectives with their weights and names, not yet bound to any models."""
        return Terms([entry.term() for entry in self.objectives])
