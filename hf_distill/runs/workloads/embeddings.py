"""Vectors of sentences: plain texts, translations, or queries with passages to learn from, pairs to be judged by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.data.files import Table, commit_of, sums
from hf_distill.data.sentences import (
    BESIDE,
    MARGIN,
    TEXT,
    Padded,
    Pairs,
    SentenceRows,
    checked,
    distinct,
    tokenize_texts,
)
from hf_distill.errors import DataError
from hf_distill.evaluation.evidence import Evidence
from hf_distill.evaluation.metrics import METRICS
from hf_distill.evaluation.parting import Answered, Asked
from hf_distill.evaluation.retrieval import NAMES, comparable, retrieval, top_one
from hf_distill.recipe import Data, Recipe
from hf_distill.recipe.sections.data import Embeddings as Settings
from hf_distill.runs.labels import Columns
from hf_distill.runs.sentence_encoders import Encoders
from hf_distill.runs.workload import Collator, Limits
from hf_distill.runs.workloads.labelled_rows import LabelledRows
from hf_distill.runs.workloads.splits import at_most, cut_splits, data_name, tables_with, with_cuts
from hf_distill.sentences import COSINE
from hf_distill.tasks import Embeddings as Task

SAMPLE = 50

OF_SCORES = ("spearmanr", "pearson")


@dataclass(frozen=True)
class SentenceVectors(LabelledRows):
    """The answers of a split are the vectors `[texts, width]` of the texts of its pairs, each once, so that the
    product of two is their similarity; see `Encoders` for which that is.

    With gold scores the similarities of the pairs are compared with them; without, the second text of each pair is
    searched by the first among the second texts of all pairs. The control is the student at its start, not trained:
    there are no labels to train one on.
    """

    auto_class = Task.auto_class
    control_trains: ClassVar[bool] = False

    name: str
    data: SentenceRows
    settings: Settings
    encoders: Encoders
    metrics: tuple[str, ...] = OF_SCORES

    # ---- the data ----

    def pairs(self, split: str) -> Pairs:
        """The pairs of an evaluated split."""
        return Pairs.of(self.splits[split], self.settings.judged_columns, self.settings.score_column)

    # ---- the models ----

    def samples(self) -> Iterator[str]:
        for column in self.settings.text_columns:
            yield from self.splits["train"][:SAMPLE][column]

    def fit(self, model: PreTrainedModel, role: str) -> Columns:
        """Says how the model's vectors are made, where it does not itself; see `Encoders`."""
        self.encoders.fit(model, role)
        return ()

    @property
    def similarity(self) -> str:
        """How vectors are compared."""
        return self.encoders.similarity or COSINE

    # ---- reading ----

    def read(
        self, tokenizer: PreTrainedTokenizerBase, limits: Limits, splits: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Training rows as their kind has them, with the texts beside them that an objective reads; of the other
        splits every text once. See `hf_distill.data.sentences.tokenize_texts`."""
        longest = self.encoders.max_length = limits.longest(tokenizer)
        return {
            split: tokenize_texts(
                self._read_texts(split, limits),
                tokenizer,
                max_length=longest,
                numbers=self._margins() if split == "train" and MARGIN in limits.input_names else {},
                desc=f"Tokenising {split}",
            )
            for split in (self.splits if splits is None else splits)
        }

    def _read_texts(self, split: str, limits: Limits) -> dict[str, Sequence[str]]:
        if split != "train":
            return {TEXT: self.pairs(split).texts}
        kind, columns, rows = self.settings.rows, self.settings.text_columns, self.splits["train"]
        wanted = {name for names in BESIDE.values() for name in names if f"{name}_input_ids" in limits.input_names}
        lacking = sorted(wanted - set(BESIDE[kind]))
        if lacking:
            needed = next(each for each, names in BESIDE.items() if lacking[0] in names)
            raise DataError(
                f"{self.name}: an objective reads the text {lacking[0]!r} beside each row, and the rows are {kind}. "
                f"Set data.embeddings.rows to {needed}, and text_columns to its columns."
            )
        if kind == "sentences":
            return {TEXT: distinct(rows, columns)}
        named = dict(zip((TEXT, *BESIDE[kind]), columns, strict=True))
        return {name: rows[column][:] for name, column in named.items() if name == TEXT or name in wanted}

    def _margins(self) -> dict[str, Sequence[float]]:
        column = self.settings.margin_column
        if column is None:
            raise DataError(
                f"{self.name}: an objective reads the teacher's margins (margins: column), and no column has them. "
                "Name it as data.embeddings.margin_column, or let the teacher give them (margins: teacher)."
            )
        return {MARGIN: self.splits["train"][column][:]}

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        return Padded(tokenizer)

    # ---- judging ----

    def answers(
        self, split: str, rows: Dataset, order: np.ndarray, found: EvalPrediction, columns: Columns
    ) -> np.ndarray:
        outputs = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
        vectors = np.empty_like(outputs)
        vectors[order] = outputs
        return comparable(vectors, self.similarity)

    def score(self, split: str, answers: np.ndarray) -> dict[str, float]:
        values = self._values(split, answers)
        if self.settings.score_column is None:
            return dict(zip(NAMES, map(float, values.mean(axis=0)), strict=True))
        return {name: METRICS[name](values[:, 0], values[:, 1]) for name in OF_SCORES}

    def _values(self, split: str, answers: np.ndarray) -> np.ndarray:
        """The similarity and the gold score of each pair, or what `retrieval` says of each query."""
        pairs = self.pairs(split)
        if pairs.scores is not None:
            found = (answers[pairs.first] * answers[pairs.second]).sum(axis=1)
            return np.stack([found.astype(np.float64), pairs.scores], axis=1)
        queries, corpus, relevant = _searched(pairs)
        return retrieval(answers[queries], answers[corpus], relevant, similarity=self.similarity)

    def agreement(self, split: str, ours: np.ndarray, teachers: np.ndarray) -> float:
        """Of scores the correlation of both models' similarities; of searches the share with the same first text."""
        pairs = self.pairs(split)
        if pairs.scores is not None:
            mine, theirs = (self._values(split, each)[:, 0] for each in (ours, teachers))
            return METRICS["spearmanr"](mine, theirs)
        queries, corpus, _ = _searched(pairs)
        mine, theirs = (top_one(v[queries], v[corpus], similarity=self.similarity) for v in (ours, teachers))
        return float((mine == theirs).mean())

    def evidence(self, split: str, answers: np.ndarray) -> Evidence:
        values = self._values(split, answers)
        if self.settings.score_column is None:
            return Evidence("mean", values[:, :1])
        return Evidence(self.metrics[0], values)

    def asked(self, split: str) -> Asked | None:
        """The pairs with their gold scores; searches are not shown."""
        pairs = self.pairs(split)
        if pairs.scores is None:
            return None
        scores = pairs.scores

        def text(pair: int) -> str:
            return f"{pairs.texts[pairs.first[pair]]} | {pairs.texts[pairs.second[pair]]}"

        return Asked("pairs", "scores", scores, text=text, truth_in_words=lambda pair: f"{scores[pair]:.2f}")

    def answered(self, split: str, answers: np.ndarray) -> Answered:
        """The similarities."""
        found = self._values(split, answers)[:, 0]
        return Answered(found, in_words=lambda pair: f"{found[pair]:.3f}")

    def texts(self) -> list[str]:
        """The texts of the reported split."""
        return self.pairs(self.reported_split).texts


def _searched(pairs: Pairs) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """The numbers of the queries and of the texts that are searched, and for each query the places of those that
    belong to it."""
    queries, corpus = (list(dict.fromkeys(each.tolist())) for each in (pairs.first, pairs.second))
    place = {text: i for i, text in enumerate(corpus)}
    relevant: dict[int, dict[int, None]] = {query: {} for query in queries}
    for query, text in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
        relevant[query][place[text]] = None
    return np.asarray(queries), np.asarray(corpus), [list(relevant[query]) for query in queries]


def _trained_on(table: Table, pairs: Sequence[str], cut: Sequence[str]) -> Table:
    """The training rows with the columns of `pairs` where the splits `cut` are taken from them, else without.

    Raises: `DataError` where they lack one.
    """
    missing = [column for column in pairs if column not in table.columns]
    if cut and missing:
        raise DataError(
            f"{table.path}: no column {missing[0]!r}, and {cut[0]} is cut from these rows; name the columns of the "
            f"pairs and of their score, or give {cut[0]} rows of their own."
        )
    for column in () if cut else (column for column in pairs if column in table.columns):
        table = table.without(column)
    return table


def load(data: Data, settings: Settings, recipe: Recipe, *, predict: bool) -> SentenceVectors:
    """The sentences of a recipe. Raises: `DataError`, as `load_workload`."""
    name = data_name(data)
    if predict:
        raise DataError(f"{name}: a sentence encoder predicts no labels; leave --do_predict out.")
    judged = [*settings.judged_columns, *([settings.score_column] if settings.score_column else [])]
    learned = [*settings.text_columns, *([settings.margin_column] if settings.margin_column else [])]
    pairs = [column for column in dict.fromkeys(judged) if column not in learned]
    tables = tables_with(data, lambda split: (learned, pairs) if split == "train" else (judged, []))
    tables["train"] = _trained_on(tables["train"], pairs, cut_splits(data, tables))
    texts = (*settings.text_columns, *settings.judged_columns)
    splits = {
        split: checked(
            table,
            [column for column in texts if column in table.columns],
            settings.score_column,
            settings.margin_column,
        )
        for split, table in tables.items()
    }
    found = SentenceVectors(
        name,
        SentenceRows(at_most(with_cuts(splits, data), recipe), sums(tables), commit_of(tables)),
        settings,
        Encoders.of(recipe, settings),
    )
    return found if settings.score_column is not None else replace(found, metrics=NAMES)
