"""Raw text that student and teacher read by tokenizers of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_distill.data.aligned_rows import AlignedPadding, AlignmentCounts, align_texts
from hf_distill.data.masking import Padding
from hf_distill.hub.record import DataFacts
from hf_distill.recipe import Recipe, UnlabelledText
from hf_distill.run import models
from hf_distill.run.workload import Collator, Limits
from hf_distill.run.workloads.pretraining import NextWords, checked

OF_TEACHER = {"teacher_input_ids": "input_ids", "teacher_labels": "labels"}
"""Columns of a row as the teacher, evaluated, reads them."""


class AlignedWords(NextWords):
    """Next words of documents in the tokens of both models; a long document goes on in further rows. Each model is
    evaluated in its own tokens, so that perplexities are those of other units, and no agreement is told.
    """

    metrics = ("perplexity", "accuracy")
    counts: Mapping[str, AlignmentCounts] = {}
    """What became of the documents of each split, once they are read."""

    @cached_property
    def teachers_tokenizer(self) -> PreTrainedTokenizerBase:
        return models.load_teachers_tokenizer(self.recipe, self)

    def read(
        self, tokenizer: PreTrainedTokenizerBase, limits: Limits, splits: Sequence[str] | None = None
    ) -> dict[str, Any]:
        given, found, counts = {"train": self.train, "validation": self.validation}, {}, {}
        for split, sources in given.items():
            if splits is None or split in splits:
                documents = chain.from_iterable(source.documents() for source in sources)
                longest = limits.longest(tokenizer)
                rows, counts[split] = align_texts(documents, tokenizer, self.teachers_tokenizer, longest, long="split")
                most = getattr(self.recipe.max_samples, split)
                found[split] = rows if most is None else rows.select(range(min(most, len(rows))))
        self.counts = {**self.counts, **counts}
        self._sizes = {**self._sizes, **{split: len(rows) for split, rows in found.items()}}
        return found

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        if tokenizer is self.teachers_tokenizer:
            return Padding(int(tokenizer.pad_token_id))
        return AlignedPadding(tokenizer, self.teachers_tokenizer)

    def as_read_by(self, role: str, rows: Any) -> Any:
        return rows.select_columns([*OF_TEACHER]).rename_columns(OF_TEACHER) if role == "teacher" else rows

    def facts(self, recipe: Recipe) -> DataFacts:
        alignment = {split: counts.to_dict() for split, counts in self.counts.items()}
        return super().facts(recipe).model_copy(update={"alignment": alignment})

    def counted(self) -> dict[str, float]:
        return {f"alignment_{name}": float(value) for name, value in self.counts["train"].to_dict().items()}

    def remarks(self, split: str, answers: Mapping[str, Any]) -> list[str]:
        units = "Teacher and student are each scored in the tokens of their own, so that their figures do not compare."
        return [*(f"Aligned, {name}: {counts}." for name, counts in self.counts.items()), units]

    def agreement(self, split: str, ours: Any, teachers: Any) -> None:
        return None

    def asked(self, split: str) -> None:
        return None


def load(text: UnlabelledText, recipe: Recipe, *, predict: bool) -> AlignedWords:
    """The text of a recipe. Raises: `DataError`, as `load_workload`."""
    found = AlignedWords(recipe, text)
    checked(found, predict=predict)
    return found
