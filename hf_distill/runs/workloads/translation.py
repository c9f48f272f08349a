"""Texts made of texts: translation, and what else a model with an encoder and a decoder writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase

from hf_distill.data.translation import SOURCE, TARGET, PairedTexts, paired_texts, tokenize_pairs
from hf_distill.errors import DataError
from hf_distill.evaluation.written_texts import METRICS, check_installed, text_metrics
from hf_distill.objectives.hypotheses import PLACE, SCORES
from hf_distill.recipe import Data, Recipe
from hf_distill.recipe.sections.data import Translation as Settings
from hf_distill.runs.abilities import Generating, Retargetable, Sources
from hf_distill.runs.workload import Collator, Limits
from hf_distill.runs.workloads.labelled_rows import PredictedRows, padding_on_the_right
from hf_distill.runs.workloads.splits import at_most, data_name, need_test, tables_of, with_cuts
from hf_distill.runs.workloads.words import WordAnswers, Words
from hf_distill.tasks import Seq2SeqLM

SAMPLE = 50


@dataclass(frozen=True)
class Written(Words):
    """Predicted words, and the texts that the model generated, in the order of the rows."""

    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Translation(WordAnswers, PredictedRows, Generating, Retargetable):
    """A model is judged by the words of the targets, each predicted behind the right ones before it, and where the
    settings say so by the texts that it generates as well. Every split has targets.
    """

    auto_class = Seq2SeqLM.auto_class

    name: str
    data: PairedTexts
    settings: Settings
    metrics: tuple[str, ...] = WordAnswers.metrics

    # ---- the data ----

    @property
    def test_splits(self) -> tuple[str, ...]:
        return () if self.settings.generate is None else self.tests

    def sources_of(self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Sources:
        return Sources([self.settings.prefix + text for text in self.splits["train"][SOURCE][:]], tokenizer)

    def retargeted(self, make: Callable[[Dataset, str], Dataset]) -> Translation:
        splits = DatasetDict({**self.splits, "train": make(self.splits["train"], TARGET)})
        return replace(self, data=replace(self.data, splits=splits))

    # ---- the models ----

    def samples(self) -> Iterator[str]:
        for column in (SOURCE, TARGET):
            yield from self.splits["train"][:SAMPLE][column]

    # ---- reading ----

    def read(
        self, tokenizer: PreTrainedTokenizerBase, limits: Limits, splits: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """See `hf_distill.data.translation.tokenize_pairs`."""
        longest = limits.longest(tokenizer)
        return {
            name: tokenize_pairs(
                self.splits[name],
                tokenizer,
                prefix=self.settings.prefix,
                max_length=longest,
                max_target_length=min(longest, self.settings.max_target_length),
                kept=(PLACE, SCORES),
            )
            for name in (self.splits if splits is None else splits)
        }

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        collator: Collator = DataCollatorForSeq2Seq(padding_on_the_right(tokenizer))
        return collator

    # ---- judging ----

    @property
    def generation(self) -> Mapping[str, Any] | None:
        asked = self.settings.generate
        if asked is None:
            return None
        return {"num_beams": asked.beams, "max_new_tokens": asked.max_new_tokens or self.settings.max_target_length}

    def with_texts(self, split: str, answers: Words, texts: Sequence[str]) -> Written:
        return Written(**vars(answers), texts=texts)

    def score(self, split: str, answers: Words) -> dict[str, float]:
        """Of generated texts how near they are to the whole targets, of which nothing is cut."""
        of_words = super().score(split, answers)
        if not isinstance(answers, Written):
            return of_words
        return {**text_metrics(answers.texts, self.splits[split][TARGET][:]), **of_words}

    # ---- predictions ----

    def predictions(self, split: str, answers: Written) -> tuple[str, str]:
        """The generated text of a row in each line."""
        lines = [" ".join(text.split()) for text in answers.texts]
        return f"predict_results_{split}.txt", "\n".join(lines) + "\n"


def load(data: Data, settings: Settings, recipe: Recipe, *, predict: bool) -> Translation:
    """The pairs of texts of a recipe. Raises: `DataError`, as `load_workload`."""
    name = data_name(data)
    if predict and settings.generate is None:
        raise DataError(
            f"{name}: what is predicted are generated texts, and none are asked for; give --predict_with_generate "
            "(data.translation.generate in a recipe), or leave --do_predict out."
        )
    tables = tables_of(data, (settings.source_column, settings.target_column), labels=())
    found = paired_texts(tables, settings.source_column, settings.target_column)
    splits = with_cuts(dict(found.splits), data)
    need_test(splits, name, predict)
    metrics = WordAnswers.metrics
    if settings.generate is not None:
        check_installed()
        metrics = (*METRICS, *metrics)
    return Translation(name, replace(found, splits=at_most(splits, recipe)), settings, metrics)
