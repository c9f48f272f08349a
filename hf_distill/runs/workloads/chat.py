"""Conversations with an assistant, whose own words causal models learn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.data.chat import (
    ANSWER,
    ASSISTANT,
    CONTENT,
    LINE,
    PROMPT,
    ROLE,
    TRAIN,
    Conversation,
    Conversations,
    before_answers,
    conversations,
    messages_of,
    with_answers,
)
from hf_distill.data.chat import Columns as ChatColumns
from hf_distill.data.chat_template import ChatTemplate
from hf_distill.data.chat_tokens import tokenize_conversations
from hf_distill.data.documents import POSITIONS, PaddedRows, packed
from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.evaluation.language_models import NEW_TOKENS, Prompt
from hf_distill.recipe import Data, Recipe
from hf_distill.recipe.rules.answers import readers_of_answers
from hf_distill.recipe.sections.data import Chat as Settings
from hf_distill.runs import models
from hf_distill.runs.abilities import Retargetable, Sources
from hf_distill.runs.labels import Columns
from hf_distill.runs.workload import Collator, Limits
from hf_distill.runs.workloads.labelled_rows import LabelledRows
from hf_distill.runs.workloads.splits import at_most, data_name, tables_with, with_cuts
from hf_distill.runs.workloads.words import WordAnswers, Words
from hf_distill.tasks import CausalLM

SAMPLE = 50
"""Conversations on whose words two tokenizers must agree, and on which a sentence's time is measured."""
LARGEST_TEMPLATE = 1 << 20
"""Bytes of a file with a chat template."""
KEEPS_APART = ("sdpa", "eager", "flex_attention")
"""Attentions that keep the documents of a row apart, whatever the number of rows."""


@dataclass(frozen=True)
class Chat(WordAnswers, LabelledRows, Retargetable):
    """A model is judged by the assistant's tokens, each predicted behind the right ones before it. Every split has
    answers, but for training rows where a model writes all that is learned. The training rows are packed where the
    recipe says so, the others are not.

    A teacher that writes answers each training conversation once, in place of the assistant's last answer, and that
    alone is learned then: the answers before it are those of the data, as what was asked goes on from them.
    """

    auto_class = CausalLM.auto_class
    metrics = ("perplexity", "accuracy")
    in_words = True

    name: str
    data: Conversations
    settings: Settings
    template: str | None = None
    """The chat template in place of the tokenizer's."""
    left_out: dict[str, int] = field(default_factory=dict)
    """How many conversations of a split have nothing to learn among their first tokens, once it was read."""

    # ---- judging ----

    @staticmethod
    def targets(labels: Any) -> Any:
        return labels[:, 1:]

    def remarks(self, split: str, answers: Mapping[str, Words]) -> list[str]:
        """And what of the data was left out."""
        lost = {name: number for name, number in self.left_out.items() if number}
        told = ", ".join(f"{number:,} of {self.sizes[name]:,} in {name}" for name, number in lost.items())
        of_data = f"Left out, as no answer stands, or has room, among the first tokens that are read: {told}."
        return [*super().remarks(split, answers), *([of_data] if told else []), *self._unanswered()]

    def _unanswered(self) -> list[str]:
        """How many training rows are prompts alone."""
        rows = self.splits[TRAIN]
        number = sum(rows[PROMPT][:]) if PROMPT in rows.column_names else 0
        told = f"Of the {len(rows):,} training rows {number:,} have no answer in the data; a model wrote what was"
        return [f"{told} learned of them."] if number else []

    # ---- the models ----

    def samples(self) -> Iterator[str]:
        for row in self.splits["train"].select(range(min(SAMPLE, len(self.splits["train"])))):
            yield from (text for message in messages_of(row) if (text := message.get(CONTENT)))

    def texts(self) -> list[str]:
        split = self.splits[self.evaluated_splits[0]]
        rows = split.select(range(min(SAMPLE, len(split))))
        return [" ".join(message.get(CONTENT, "") for message in messages_of(row)) for row in rows]

    def fit(self, model: PreTrainedModel, role: str) -> Columns:
        attention = getattr(model.config, "_attn_implementation", None) or "eager"
        if self.settings.packing and attention not in KEEPS_APART:
            raise IncompatiblePair(
                f"the attention of the {role} runs as {attention!r}, which does not keep the conversations of packed "
                f"rows apart (data.chat.packing); load it with one of {', '.join(KEEPS_APART)}, or do not pack."
            )
        return ()

    def prompts(self, tokenizer: PreTrainedTokenizerBase, limits: Limits) -> list[Prompt]:
        """The first validation conversations up to the assistant's first answer, those that leave room for one."""
        found: list[Prompt] = []
        templates = [self._template_of(each) for each in self.readers(tokenizer)]
        for messages, answer, place in self._answered():
            if len(found) == self.settings.samples:
                break
            read = [template.beginning(messages[:answer], place) for template in templates]
            known = [min(known_lengths(template.tokenizer, limits)) for template in templates]
            if all(len(ids) + NEW_TOKENS <= most for ids, most in zip(read, known, strict=True)):
                said = " ".join(message.get(CONTENT, "") for message in messages[:answer])
                found.append(Prompt(read[0], said, messages[answer].get(CONTENT, ""), *read[1:]))
        return found

    def ends(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """What the chat template puts behind an answer. A tokenizer's own end of a text is often another token."""
        messages, answer, place = next(self._answered(), ([], 0, ""))
        end = self._template_of(tokenizer).end(messages[:answer], place) if answer else None
        return () if end is None else (end,)

    def _answered(self) -> Iterator[tuple[Conversation, int, str]]:
        """The validation conversations, the number of the assistant's first answer to something, and their place."""
        split = self.evaluated_splits[0]
        for row in self.splits[split]:
            messages = messages_of(row)
            answer = next(i for i, message in enumerate(messages) if message[ROLE] == ASSISTANT)
            if answer:
                yield messages, answer, self.data.place(split, row[LINE])

    def readers(self, tokenizer: PreTrainedTokenizerBase) -> Sequence[PreTrainedTokenizerBase]:
        """What models read a conversation by: the student's tokenizer, and a teacher's where that is another."""
        return (tokenizer,)

    def _template_of(self, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
        return ChatTemplate(tokenizer, date=self.settings.date)

    # ---- a teacher's answers ----

    def sources_of(self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Sources:
        reader = self.writes_by(recipe, tokenizer)
        template, rows = self._template_of(reader), before_answers(self.data, "train")
        places = [self.data.place("train", line) for line in rows[LINE][:]]
        prompts = list(map(messages_of, rows.remove_columns(ANSWER)))
        texts = [template.text(each, place, prompt=True) for each, place in zip(prompts, places, strict=True)]
        ends = {reader.eos_token_id, template.end(prompts[0], places[0])} - {None}
        return Sources(texts, reader, rendered=True, ends=tuple(sorted(ends)))

    def writes_by(self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """The tokenizer of a teacher with its own chat template, where it has one; else, and of a teacher that was
        trained on the data as the student reads them, the student's."""
        if recipe.teacher is None or recipe.teacher.fine_tune is not None:
            return tokenizer
        own = models.load_teachers_tokenizer(recipe, replace(self, template=None))
        return own if own.chat_template else tokenizer

    def retargeted(self, make: Callable[[Dataset, str], Dataset]) -> Chat:
        rows = make(before_answers(self.data, "train"), ANSWER)
        data = replace(self.data, splits=DatasetDict({**self.splits, "train": rows}))
        return replace(self, data=data, left_out={})

    # ---- reading ----

    def tokenizer_settings(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """The end of a text stands for padding where there is none, as neither mask nor labels count it."""
        padding = {"pad_token": tokenizer.eos_token} if tokenizer.pad_token is None else {}
        return {**padding, **({} if self.template is None else {"chat_template": self.template})}

    def read(
        self, tokenizer: PreTrainedTokenizerBase, limits: Limits, splits: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """See `hf_distill.data.chat_tokens.tokenize_conversations`, and `hf_distill.data.documents.packed`."""
        check_length(tokenizer, limits)
        if self.settings.packing and POSITIONS not in limits.input_names:
            raise IncompatiblePair(
                "the models take no position_ids, by which the conversations of packed rows are kept apart "
                "(data.chat.packing); do not pack."
            )
        template = self._template_of(tokenizer)
        found = {}
        for name in self.splits if splits is None else splits:
            rows = tokenize_conversations(self.data, name, template, limits.max_length)
            self.left_out[name] = len(self.splits[name]) - len(rows)
            found[name] = packed(rows, limits.max_length) if self.settings.packing and name == "train" else rows
        return found

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        return PaddedRows(int(tokenizer.pad_token_id))


def load(data: Data, settings: Settings, recipe: Recipe, *, predict: bool) -> Chat:
    """The conversations of a recipe. Raises: `DataError`, as `load_workload`."""
    name = data_name(data)
    if predict:
        raise DataError(f"{name}: answers are not written by a run but for samples; leave --do_predict out.")
    columns, read_by = settings.columns, next(readers_of_answers(recipe.to_dict()), "")
    tables = tables_with(data, lambda split: _columns(columns, split, read_by))
    found = conversations(tables, columns, read_by)
    splits, template = with_cuts(dict(found.splits), data), _template(settings)
    own = {} if template is None else {"chat template": hashlib.sha256(template.encode()).hexdigest()}
    found = with_answers(replace(found, splits=at_most(splits, recipe), sources={**found.sources, **own}))
    return Chat(name, found, settings, template)


def _columns(columns: ChatColumns, split: str, read_by: str) -> tuple[list[str], list[str]]:
    """The columns that a split must have, and those that it may have: completions of training rows where nothing reads
    them, and conversations beside prompts, whose want is told with what they are for."""
    own = columns.in_split(split)
    may_want = own.completion is not None if split == TRAIN else columns.prompt is not None and own.prompt is None
    optional = [] if read_by or not may_want else [own.completion or str(own.messages)]
    return [name for name in own.names if name not in optional], optional


def known_lengths(tokenizer: PreTrainedTokenizerBase, limits: Limits) -> list[int]:
    """The most tokens that the tokenizer and each model take."""
    return [limit for limit in (tokenizer.model_max_length, *limits.positions) if limit is not None]


def check_length(tokenizer: PreTrainedTokenizerBase, limits: Limits) -> None:
    """Refuses a context that is longer than what tokenizer or models take. Errors: DataError."""
    longest = min(known_lengths(tokenizer, limits))
    if limits.max_length > longest:
        raise DataError(
            f"max_length is {limits.max_length}, and of the tokenizer and the models one takes {longest} tokens at "
            "most; lower max_length (--max_seq_length)."
        )


def _template(settings: Settings) -> str | None:
    """The text of the file with a chat template. Errors: DataError where it cannot be read."""
    if settings.template is None:
        return None
    path = Path(settings.template).expanduser()
    try:
        if path.stat().st_size > LARGEST_TEMPLATE:
            raise DataError(
                f"{path}: has {path.stat().st_size:,} bytes, and a chat template {LARGEST_TEMPLATE:,} at most; name a "
                "file that holds the text of the template alone, as chat_template.jinja does (data.chat.template)."
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the chat template (data.chat.template) cannot be read: {error}.") from error
