"""Raw text, and conversations, that student and teacher read by tokenizers of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import chain
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_distill.data.aligned_messages import align_messages
from hf_distill.data.aligned_rows import AlignedPadding, AlignmentCounts, align_texts, nothing_aligned
from hf_distill.data.chat import ANSWER, LINE, PROMPT, messages_of
from hf_distill.data.masking import Padding
from hf_distill.data.packing import around
from hf_distill.evaluation.language_models import Prompt
from hf_distill.hub.record import DataFacts
from hf_distill.recipe import Data, Recipe, UnlabelledText
from hf_distill.recipe.sections.data import Chat as Settings
from hf_distill.runs import models
from hf_distill.runs.workload import Collator, Limits, Workload
from hf_distill.runs.workloads import chat
from hf_distill.runs.workloads.pretraining import NextWords, checked

OF_TEACHER = {"teacher_input_ids": "input_ids", "teacher_labels": "labels"}
"""Columns of a row as the teacher, evaluated, reads them."""


class AcrossTokenizers(Workload):
    """Rows in the tokens of both models. Each model is evaluated in its own tokens, so that perplexities are those of
    other units, and no agreement is told.
    """

    recipe: Recipe

    @cached_property
    def counts(self) -> dict[str, AlignmentCounts]:
        """What became of the texts of each split, once they are read."""
        return {}

    @cached_property
    def teachers_tokenizer(self) -> PreTrainedTokenizerBase:
        return models.load_teachers_tokenizer(self.recipe, self._as_the_teacher_reads)

    @property
    def _as_the_teacher_reads(self) -> Workload:
        """What says with which settings the teacher's tokenizer is loaded."""
        return self

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        if tokenizer is self.teachers_tokenizer:
            return Padding(int(tokenizer.pad_token_id))
        return AlignedPadding(tokenizer, self.teachers_tokenizer)

    def as_read_by(self, role: str, rows: Any) -> Any:
        return rows.select_columns([*OF_TEACHER]).rename_columns(OF_TEACHER) if role == "teacher" else rows

    def facts(self, recipe: Recipe) -> DataFacts:
        alignment = {split: counts.to_dict() for split, counts in self.counts.items()}
        return super().facts(recipe).model_copy(update={"alignment": alignment})  # type: ignore[safe-super]

    def counted(self) -> dict[str, float]:
        return {f"alignment_{name}": float(value) for name, value in self.counts["train"].to_dict().items()}

    def remarks(self, split: str, answers: Mapping[str, Any]) -> list[str]:
        units = "Teacher and student are each scored in the tokens of their own, so that their figures do not compare."
        return [*(f"Aligned, {name}: {counts}." for name, counts in self.counts.items()), units]

    def agreement(self, split: str, ours: Any, teachers: Any) -> None:
        return None

    def asked(self, split: str) -> None:
        return None


class AlignedWords(AcrossTokenizers, NextWords):
    """Next words of documents in the tokens of both models; a long document goes on in further rows."""

    metrics = ("perplexity", "accuracy")

    def read(
        self, tokenizer: PreTrainedTokenizerBase, limits: Limits, splits: Sequence[str] | None = None
    ) -> dict[str, Any]:
        self._agree()
        given, found = {"train": self.train, "validation": self.validation}, {}
        for split, sources in given.items():
            if splits is None or split in splits:
                documents = chain.from_iterable(source.documents() for source in sources)
                longest = limits.longest(tokenizer)
                aligned = align_texts(documents, tokenizer, self.teachers_tokenizer, longest, long="split")
                rows, self.counts[split] = aligned
                most = getattr(self.recipe.max_samples, split)
                found[split] = rows if most is None else rows.select(range(min(most, len(rows))))
        self._sizes = {**self._sizes, **{split: len(rows) for split, rows in found.items()}}
        return found

    def prompts(self, tokenizer: PreTrainedTokenizerBase, limits: Limits) -> list[Prompt]:
        own, found = self.teachers_tokenizer, []
        prefix, _ = around(own)
        for prompt in super().prompts(tokenizer, limits):
            ids = own(prompt.text, add_special_tokens=False, verbose=False)["input_ids"]
            if ids:
                found.append(prompt._replace(teachers_ids=[*prefix, *ids]))
        return found


@dataclass(frozen=True, kw_only=True)
class AlignedChat(AcrossTokenizers, chat.Chat):
    """Conversations that each model reads in its own chat template; what the assistant says is learned, and
    evaluated, on both sides."""

    recipe: Recipe
    counts: dict[str, AlignmentCounts] = field(default_factory=dict)
    """What became of the conversations of each split, once they are read: also of those that a teacher answered."""

    @property
    def _as_the_teacher_reads(self) -> Workload:
        """The chat template of the recipe is the student's."""
        return replace(self, template=None)

    def readers(self, tokenizer: PreTrainedTokenizerBase) -> Sequence[PreTrainedTokenizerBase]:
        return (tokenizer, self.teachers_tokenizer)

    def writes_by(self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        return self.teachers_tokenizer

    def read(
        self, tokenizer: PreTrainedTokenizerBase, limits: Limits, splits: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """See `hf_distill.data.aligned_messages.align_messages`. A prompt alone has nothing to align until the teacher
        has answered it."""
        for each in self.readers(tokenizer):
            chat.check_length(each, limits)
        return {split: self._aligned(split, tokenizer, limits) for split in (splits or self.splits)}

    def _aligned(self, split: str, tokenizer: PreTrainedTokenizerBase, limits: Limits) -> Any:
        rows = self.splits[split]
        if PROMPT in rows.column_names:
            rows = rows.select([i for i, is_prompt in enumerate(rows[PROMPT][:]) if not is_prompt])
        lines = rows[LINE][:]
        if not lines:
            found, self.counts[split] = nothing_aligned()
            return found
        found, self.counts[split] = align_messages(
            map(messages_of, rows),
            tokenizer,
            self.teachers_tokenizer,
            limits.max_length,
            place=lambda number: self.data.place(split, lines[number - 1]),
            last=ANSWER in rows.column_names,
            date=self.settings.date,
        )
        return found


def load(text: UnlabelledText, recipe: Recipe, *, predict: bool) -> AlignedWords:
    """The text of a recipe. Raises: `DataError`, as `load_workload`."""
    found = AlignedWords(recipe, text)
    checked(found, predict=predict)
    return found


def load_chat(data: Data, settings: Settings, recipe: Recipe, *, predict: bool) -> AlignedChat:
    """The conversations of a recipe. Raises: `DataError`, as `load_workload`."""
    found = chat.load(data, settings, recipe, predict=predict)
    return AlignedChat(**{each.name: getattr(found, each.name) for each in fields(found)}, recipe=recipe)
