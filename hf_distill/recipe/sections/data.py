"""The rows to train on, and what they are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from hf_distill.data.chat import MESSAGES
from hf_distill.data.chat import Columns as ChatColumns
from hf_distill.data.chat_day import DATE
from hf_distill.recipe.fields import Cell, Columns, Count, Date, Names, Number, Share, Text, Whole, distinct
from hf_distill.recipe.problems import Problem, fail
from hf_distill.recipe.sections.base import Section
from hf_distill.recipe.sections.sources import Files, HubData, PackagedFile, Split
from hf_distill.recipe.sections.text import UnlabelledText


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


class Generate(Section):
    """Texts that student, teacher and control generate in evaluation, to be scored by BLEU, chrF and ROUGE; {} takes
    the most likely word each time."""

    beams: Count = 1
    max_new_tokens: Count | None = None
    """Tokens of a text at most, those of a target without it."""


class Translation(Section):
    """The rows are pairs of texts: one is read, the other is written, by models with an encoder and a decoder."""

    source_column: Text = "source"
    target_column: Text = "target"
    prefix: str = ""
    """What stands before each source, as in "translate English to German: "."""
    max_target_length: Count = 128
    """Tokens of a target at most."""
    generate: Generate | None = None
    """Have the models generate, and score what they write; without it nothing is generated in evaluation."""


class Chat(Section):
    """The rows are conversations, read through the tokenizer's chat template; what the assistant says in them is
    learned by causal models, and nothing else. {} is for a column `messages`."""

    messages_column: Text | None = None
    """A column of lists of messages, each with a role and its content; messages, unless there are completions."""
    prompt_column: Text | None = None
    """A column of prompts, texts or lists of messages; with completion_column. Without it training rows are prompts
    that a model answers, in every stage, and other rows conversations in messages_column."""
    completion_column: Text | None = None
    """What the assistant says to the prompt. Where a model writes in every stage, training rows need none."""
    system: Text | None = None
    """What stands first, as the system's, in conversations that have no such message."""
    template: Text | None = None
    """A file with a chat template (Jinja) in place of the tokenizer's; the student is saved with it."""
    date: Date = DATE
    """The day that a template is told which asks for it."""
    packing: bool = False
    """Put several conversations into each training row of max_length tokens, each read as if it stood alone."""
    samples: Annotated[Whole, Field(ge=0, le=32)] = 4
    """Validation prompts that teacher and student answer in the report."""

    @model_validator(mode="after")
    def _one_kind_of_column(self) -> Chat:
        pair = (self.prompt_column, self.completion_column)
        if pair == (None, None):
            return self
        if pair[0] is None:
            raise fail([Problem(("prompt_column",), "is missing: it goes with completion_column.")])
        if self.messages_column is not None and pair[1] is not None:
            raise fail([Problem(("messages_column",), "does not go with prompts and completions; leave it out.")])
        if pair[0] == pair[1]:
            raise fail([Problem(("completion_column",), f"{pair[0]!r} is the column of the prompts as well.")])
        return self

    @property
    def columns(self) -> ChatColumns:
        """The columns that are read."""
        messages = self.messages_column or (MESSAGES if self.completion_column is None else None)
        return ChatColumns(messages, self.prompt_column, self.completion_column, self.system)


class Speech(Section):
    """The rows are sounds with the text that is said in each, for models that hear (CTC). A sound is the path of a
    file, from the folder of the rows' file on, or a list of samples. Nothing is cut."""

    audio_column: Text = "audio"
    text_column: Text = "text"
    sampling_rate: Count | None = None
    """Samples a second of sounds that are lists, by default what the models hear; files say their own."""


class Embeddings(Section):
    """The rows are sentences, for encoders that give each a vector. What is learned from are the training rows; what
    is judged by are pairs of texts in validation and test."""

    rows: Literal["sentences", "triplets", "parallel"] = "sentences"
    """What a training row is: sentences, every text of its columns by itself; a query with a passage that answers it
    and one that does not; or a text and its translation."""
    text_columns: Annotated[list[Text], AfterValidator(distinct)] = Field(["text"], min_length=1, max_length=10)
    """Of triplets three columns, of parallel texts two."""
    margin_column: Text | None = None
    """Of triplets: how much higher a teacher scores the first passage, as a cross-encoder does."""
    pair_columns: Columns | None = None
    """The two columns of validation and test; by default the first two of text_columns."""
    score_column: Text | None = None
    """Gold similarities from 0 to 5 of the pairs. Without it the second text is searched by the first."""
    pooling: Literal["cls", "mean", "max", "mean_sqrt_len_tokens", "lasttoken"] | None = None
    """How the student's token states become a vector; by default as the teacher's."""
    normalize: bool | None = None
    """Whether the student's vectors are scaled to the length 1; by default as the teacher's."""
    similarity: Literal["cosine", "dot"] | None = None
    """How two vectors are compared, in the evaluation and by who uses the student; by default as the teacher's are."""

    @property
    def judged_columns(self) -> list[str]:
        """The columns of the pairs."""
        return self.text_columns[:2] if self.pair_columns is None else self.pair_columns


class Data(Section):
    """The rows to train on, in place of a GLUE task: from files, a package or the Hub; and what they are: texts with a
    label (text_columns and label_column), question_answering, token_classification, translation, chat, speech or
    embeddings. Or text, which names its own sources."""

    files: Files | None = None
    package: PackagedFile | None = None
    hub: HubData | None = None
    where: dict[str, Cell] = Field(default={})
    """Keep the rows with these values in these columns."""
    text_columns: Columns | None = None
    """One column of text, or two for pairs."""
    label_column: Text | None = None
    """A class or a score, or a list of the classes that the text has, of which there may be any number."""
    label_names: Names | None = None
    """The labels in the order of their ids; without them they are taken from the training rows, and numbers from 0 on
    have the names that the teacher has for them."""
    regression: bool = False
    """The labels are scores. Without it they are where one of them has a fraction, or the teacher gives one score;
    other whole numbers are classes."""
    question_answering: QuestionAnswering | None = None
    token_classification: TokenClassification | None = None
    translation: Translation | None = None
    chat: Chat | None = None
    speech: Speech | None = None
    embeddings: Embeddings | None = None
    text: UnlabelledText | None = None
    deduplicate: bool = False
    """Drop rows whose text was there before."""
    exemplars: Text | None = None
    """A file of rows of old tasks, which are trained on as well; for texts with a label. What
    hf_distill.data.exemplars writes, or any file of rows."""
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
