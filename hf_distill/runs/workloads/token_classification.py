"""A tag for each token: named entities and the like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from transformers import (
    DataCollatorForTokenClassification,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_distill.data.token_classification import TaggedTokens, joins_tokens, tagged_tokens, tokenize_words
from hf_distill.errors import NonFiniteLoss
from hf_distill.evaluation import fidelity
from hf_distill.evaluation.entities import EntityMetric, counts, summed
from hf_distill.evaluation.evidence import Evidence
from hf_distill.evaluation.parting import Answered, Asked
from hf_distill.recipe import Data, Recipe
from hf_distill.recipe.sections.data import TokenClassification as Settings
from hf_distill.runs.labels import Columns, align_labels, ids_in, in_task_order, label_settings
from hf_distill.runs.workload import Collator, Limits
from hf_distill.runs.workloads.labelled_rows import PredictedRows, padding_on_the_right
from hf_distill.runs.workloads.splits import at_most, data_name, need_test, tables_of, with_cuts
from hf_distill.tasks import IGNORED
from hf_distill.tasks import TokenClassification as Task

SAMPLE = 50
OUTSIDE = "O"
"""The tag of a token that the model did not see."""

AROUND = 12
"""Tokens that are shown on either side of one, in the report."""

METRICS = ("f1", "precision", "recall", "accuracy")


class Tagged(NamedTuple):
    """The answers of a split: logits `[tokens, tags]` of the tokens of all sentences, one after the other, in the
    task's order of tags, and which tokens the model saw, boolean `[tokens]`."""

    logits: np.ndarray
    seen: np.ndarray


@dataclass(frozen=True)
class TokenClassification(PredictedRows):
    """A token is answered by its first word piece; one that was cut off counts as `O`."""

    auto_class = Task.auto_class
    label_column = "tags"

    name: str
    data: TaggedTokens
    settings: Settings
    metrics: tuple[str, ...] = METRICS
    rows_are = "sentences"

    # ---- the models ----

    def samples(self) -> Iterator[str]:
        for tokens in self.splits["train"][:SAMPLE]["tokens"]:
            yield " ".join(tokens)

    def head(self) -> dict[str, Any]:
        return label_settings(self.data.tag_names)

    def fit(self, model: PreTrainedModel, role: str) -> Columns:
        return align_labels(model, role, self.data.tag_names)

    # ---- reading ----

    def tokenizer_settings(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        return {"add_prefix_space": True} if joins_tokens(tokenizer) else {}

    def read(
        self, tokenizer: PreTrainedTokenizerBase, limits: Limits, splits: Sequence[str] | None = None
    ) -> dict[str, Dataset]:
        """See `hf_distill.data.token_classification.tokenize_words`."""
        return {
            name: tokenize_words(
                self.splits[name],
                tokenizer,
                self.data.tag_names,
                max_length=limits.longest(tokenizer),
                label_all_tokens=self.settings.label_all_tokens,
                input_names=limits.input_names,
            )
            for name in (self.splits if splits is None else splits)
        }

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        collator: Collator = DataCollatorForTokenClassification(padding_on_the_right(tokenizer))
        return collator

    def in_model_order(self, rows: Dataset, columns: Columns) -> Dataset:
        if columns == tuple(range(len(columns))) or "labels" not in rows.column_names:
            return rows
        column_of = {IGNORED: IGNORED, **dict(enumerate(ids_in(columns)))}
        return rows.map(
            lambda batch: {"labels": [[column_of[tag] for tag in tags] for tags in batch["labels"]]}, batched=True
        )

    # ---- judging ----

    def answers(self, split: str, rows: Dataset, order: np.ndarray, found: EvalPrediction, columns: Columns) -> Tagged:
        outputs = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
        sentences: list[np.ndarray] = [np.empty(0)] * len(rows)
        seen: list[np.ndarray] = [np.empty(0)] * len(rows)
        for row, (place, starts) in enumerate(zip(order, rows["word_starts"][:], strict=True)):
            positions = np.asarray(starts)
            sentences[place], seen[place] = outputs[row, positions], positions >= 0
        logits, is_seen = np.concatenate(sentences), np.concatenate(seen)
        broken = int(np.isnan(logits[is_seen]).any(axis=1).sum())
        if broken:
            raise NonFiniteLoss(f"answers: the predictions of {broken} of {len(logits)} tokens are NaN.")
        return Tagged(in_task_order(logits, columns), is_seen)

    def _tags(self, split: str, answers: Tagged) -> list[list[str]]:
        """The predicted tags of each sentence."""
        names = self.data.tag_names
        best = answers.logits.argmax(axis=1)
        tags = iter([names[tag] if seen else OUTSIDE for tag, seen in zip(best, answers.seen, strict=True)])
        return [[next(tags) for _ in tokens] for tokens in self.splits[split]["tokens"][:]]

    def _golden(self, split: str) -> list[list[str]]:
        names = self.data.tag_names
        return [[names[tag] for tag in tags] for tags in self.splits[split]["tags"][:]]

    def score(self, split: str, answers: Tagged) -> dict[str, float]:
        if not self.is_labelled(split):
            return {}
        found = EntityMetric().compute(predictions=self._tags(split, answers), references=self._golden(split))
        return {name: found[f"overall_{name}"] for name in METRICS}

    def agreement(self, split: str, ours: Tagged, teachers: Tagged) -> float:
        """The share of tokens with the same tag, of those that both models saw."""
        both = ours.seen & teachers.seen
        return fidelity.agreement(ours.logits[both], teachers.logits[both])

    def accuracy_among(self, split: str, answers: Tagged, classes: Sequence[int]) -> float | None:
        """On the tokens of these tags that the model saw."""
        labels, chosen = self._labels(split), np.asarray(classes)
        tokens = np.isin(labels, chosen) & answers.seen
        if not tokens.any():
            return None
        return float((chosen[answers.logits[tokens][:, chosen].argmax(axis=1)] == labels[tokens]).mean())

    def calibration_error(self, split: str, answers: Tagged) -> float:
        """Over the tokens that the model saw."""
        return fidelity.expected_calibration_error(answers.logits[answers.seen], self._labels(split)[answers.seen])

    def _labels(self, split: str) -> np.ndarray:
        """The tags of all tokens, `[tokens]`."""
        return np.concatenate([np.asarray(tags) for tags in self.splits[split]["tags"][:]])

    def _counts(self, split: str, answers: Tagged) -> np.ndarray:
        """Entities that are right, were found and are there, `[sentences, 3]`."""
        pairs = zip(self._tags(split, answers), self._golden(split), strict=True)
        return np.asarray([summed(list(counts(ours, theirs).values())) for ours, theirs in pairs])

    def evidence(self, split: str, answers: Tagged) -> Evidence:
        """The entities of each sentence that are right, were found, and are there."""
        return Evidence("entities", self._counts(split, answers).astype(np.float64))

    def asked(self, split: str) -> Asked | None:
        """The tokens, each in its sentence and between brackets."""
        if not self.is_labelled(split):
            return None
        rows, names, truth = self.splits[split], self.data.tag_names, self._labels(split)
        ends = np.cumsum([len(tokens) for tokens in rows["tokens"][:]])

        def text(item: int) -> str:
            row = int(np.searchsorted(ends, item, side="right"))
            tokens = list(rows[row]["tokens"])
            place = item - int(ends[row]) + len(tokens)
            before, after = tokens[max(place - AROUND, 0) : place], tokens[place + 1 : place + 1 + AROUND]
            return " ".join([*before, f"[{tokens[place]}]", *after])

        return Asked("tokens", "classes", truth, tuple(names), text, lambda item: names[truth[item]])

    def answered(self, split: str, answers: Tagged) -> Answered:
        """A token that the model did not see is answered by no class, right where it is `O`, and never sure."""
        names, truth, seen = self.data.tag_names, self._labels(split), answers.seen
        said = np.where(seen, answers.logits.argmax(axis=1), -1)
        outside = np.asarray([name == OUTSIDE for name in names])
        right = np.where(seen, said == truth, outside[truth])
        sure = np.full(len(seen), np.nan)
        sure[seen] = fidelity.confidence(answers.logits[seen]) if seen.any() else np.nan
        return Answered(said, right, sure, lambda item: names[said[item]] if seen[item] else f"{OUTSIDE} (cut off)")

    def texts(self) -> list[str]:
        """The sentences of the reported split."""
        return [" ".join(tokens) for tokens in self.splits[self.reported_split]["tokens"][:]]

    # ---- predictions ----

    def predictions(self, split: str, answers: Tagged) -> tuple[str, str]:
        """The tags of a sentence in each line, apart by blanks."""
        lines = [" ".join(tags) for tags in self._tags(split, answers)]
        return f"predict_results_{split}.txt", "\n".join(lines) + "\n"


def load(data: Data, settings: Settings, recipe: Recipe, *, predict: bool) -> TokenClassification:
    """The sentences of a recipe. Raises: `DataError`, as `load_workload`."""
    name = data_name(data)
    tables = tables_of(data, (settings.tokens_column,), labels=(settings.tags_column,))
    found = tagged_tokens(tables, settings.tokens_column, settings.tags_column, settings.tag_names)
    splits = with_cuts(dict(found.splits), data)
    need_test(splits, name, predict)
    return TokenClassification(name, replace(found, splits=at_most(splits, recipe)), settings)
