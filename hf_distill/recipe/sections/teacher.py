"""The model to learn from, and what is kept of what it shows and writes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hf_distill.errors import DistillationError
from hf_distill.recipe.fields import Arguments, Count, Number, Seed, Share, Text, Whole
from hf_distill.recipe.problems import Problem, fail
from hf_distill.recipe.sections.base import Section
from hf_distill.recipe.sections.kinds_of_teacher import Alongside, Base, Following, OnDisk, PackagedModel, Several
from hf_distill.teachers.cache import codecs
from hf_distill.teachers.cache.codecs import Codec


class FineTune(Section):
    """Train the teacher on the labels of the task first."""

    tokens_per_batch: Count | None = None
    """The most cells of a batch, padding included, in place of per_device_train_batch_size."""
    arguments: Arguments = Field(default={})
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
    settings: dict[str, Any] = Field(default={})
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


class TextFilters(Section):
    """What a text that the teacher wrote must be like to be learned, beside having come to its end; what is not given
    is not asked. How many texts fall to what is told and recorded."""

    min_tokens: Count | None = None
    """Tokens at least, the end of the text included."""
    max_tokens: Count | None = None
    min_mean_log_probability: Annotated[Number, Field(le=0.0)] | None = None
    """The teacher's own log P of the text by the number of its tokens, at least."""
    max_repetition: Share | None = None
    """The share of its runs of four tokens that stand in it before, at most."""
    min_similarity: Share | None = None
    """Sentence BLEU with the text of the data, from 0 to 1, at least."""
    distinct: bool = False
    """Of texts that say the same, of whatever rows, keep the first."""

    @model_validator(mode="after")
    def _leave_something(self) -> TextFilters:
        least, most = self.min_tokens, self.max_tokens
        if least is not None and most is not None and least > most:
            raise fail([Problem(("min_tokens",), f"is {least}, and max_tokens {most}; no text has both.")])
        return self


class Drawn(Section):
    """The tokens of a text are drawn, each from softmax(logits / temperature), and not searched for; {} is the
    teacher's own law. The texts follow from the seed and the number of the row."""

    temperature: Annotated[Number, Field(gt=0.0, le=100.0)] = 1.0
    top_k: Annotated[Whole, Field(ge=0)] = 0
    """The most probable tokens that are drawn from; 0 for all."""
    top_p: Annotated[Share, Field(gt=0.0)] = 1.0
    """Of these the fewest that have this probability together."""
    seed: Seed = 0


class Writing(Section):
    """What the teacher writes for the training rows, by beam search or by drawing, is kept in a folder, for stages
    that learn it in place of the targets of the data (`targets`); {} for the defaults. For pairs of texts
    (data.translation); for conversations (data.chat), of which it answers what stands before the assistant's last
    answer; and for sounds (data.speech), of which it is what the teacher hears."""

    folder: Text | None = None
    """Where; by default in the folder of the run. Runs with the same teacher and rows may share it."""
    beams: Annotated[Count, Field(le=256)] = 5
    hypotheses: Annotated[Count, Field(le=256)] = 1
    """The best ones that are kept of each row, at most as many as there are beams; with drawing, as many are drawn."""
    drawing: Drawn | None = None
    """Draw the tokens, as is usual of language models, in place of the search. Not for sounds."""
    max_new_tokens: Count = 128
    """Tokens of a text at most; one that is cut off is left out. Not for sounds."""
    length_penalty: Annotated[Number, Field(ge=-50.0, le=50.0)] = 1.0
    """Texts of a row are ranked by log P / length ** length_penalty. Not for sounds."""
    batch_size: Count = 16
    """Rows that are written for at a time."""
    filters: TextFilters | None = None
    """Which texts are learned. Not for sounds."""


class Teacher(Section):
    """The model to learn from: exactly one of model, package, ensemble, moving_average, peers, adapter_off and
    cached."""

    model: Text | None = None
    """The id of a model on the Hub, or the path of a folder."""
    package: PackagedModel | None = None
    ensemble: Several | None = None
    moving_average: Following | None = None
    peers: Alongside | None = None
    adapter_off: Base | None = None
    cached: OnDisk | None = None
    revision: Text | None = None
    """Branch, tag or commit on the Hub."""
    trust_remote_code: bool = False
    """Run the Python code of the repository; only with a commit as revision."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What its weights are held and computed in while a student learns from it; without it float32, or the mixed
    precision of the training."""
    quantization: Literal["int8"] | None = None
    """Hold its linear layers in 8 bits (torchao, the extra quant); what is computed is bfloat16, or as dtype says. The
    student is a model of its own."""
    device_map: Text | None = None
    """Lay it over devices when it is loaded: auto, or one device such as cuda:1; without it, it is where the student
    is. The student is a model of its own."""
    tokenizer: Literal["own"] | None = None
    """own: it reads by its own tokenizer, which is not the student's, and is learned from by uld or gold; without it
    both must read by the same."""
    fine_tune: FineTune | None = None
    cache: TeacherCache | None = None
    generate: Writing | None = None
