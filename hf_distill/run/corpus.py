"""The texts and labels of a recipe: which rows, which splits, which metrics."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from hf_distill.data import glue
from hf_distill.data.glue import GlueTask
from hf_distill.data.selection import deduplicate, split, truncate
from hf_distill.data.text import TextData, load_files, load_packaged
from hf_distill.data.tokenization import tokenize
from hf_distill.errors import DataError
from hf_distill.recipe import Data, Recipe
from hf_distill.tasks import IGNORED

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """The splits of a task as text, its name (that of the GLUE task, the file or the package), and its metrics, the
    first of which is reported."""

    name: str
    text: TextData
    metrics: tuple[str, ...]
    task: GlueTask | None = None

    @property
    def validation_splits(self) -> tuple[str, ...]:
        """`validation`, or the two of MNLI."""
        return tuple(name for name in self.text.splits if name.startswith("validation"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Splits that are predicted; of some the labels are secret."""
        return tuple(name for name in self.text.splits if name.startswith("test"))

    @property
    def evaluated_splits(self) -> tuple[str, ...]:
        """Splits that are scored: validation, and tests with labels."""
        tests = [name for name in self.test_splits if "label" in self.text.splits[name].column_names]
        return (*self.validation_splits, *tests)

    @property
    def reported_split(self) -> str:
        """The split of the table: a test with labels, which nothing was chosen on, else validation."""
        tests = [name for name in self.evaluated_splits if name.startswith("test")]
        return (*tests, *self.validation_splits)[0]

    def texts(self, name: str) -> list[str] | list[tuple[str, str]]:
        """The texts of a split, or its pairs of texts."""
        columns = [list(self.text.splits[name][column]) for column in self.text.text_columns]
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))

    def fingerprint(self) -> str:
        """SHA-256 over the rows that are used."""
        digest = hashlib.sha256()
        for name, dataset in self.text.splits.items():
            digest.update(name.encode() + b"\n")
            for batch in dataset.iter(batch_size=1000):
                for row in zip(*batch.values(), strict=True):
                    digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()

    def tokenized(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        position_limits: Sequence[int | None],
        input_names: frozenset[str],
    ) -> dict[str, Dataset]:
        """The splits as token ids, see `hf_distill.data.tokenization.tokenize`."""
        known = [limit for limit in (tokenizer.model_max_length, *position_limits) if limit is not None]
        longest = min([max_length, *known])
        if longest < max_length:
            logger.info("texts are cut to %d tokens, the most that tokenizer and models take", longest)
        return {
            name: tokenize(
                dataset,
                tokenizer,
                self.text.text_columns,
                max_length=longest,
                position_limits=position_limits,
                input_names=input_names,
            )
            for name, dataset in self.text.splits.items()
        }


def load_corpus(recipe: Recipe, *, train: bool = True, predict: bool = False) -> Corpus:
    """The corpus of a recipe, deduplicated, split and cut as it says.

    `train` and `predict` say whether the training rows and the tests must be there; own training rows always must, as
    they say which labels there are.

    Raises: `DataError` naming file, row and column of what is missing or wrong.
    """
    if recipe.data is not None:
        name, text = _own_data(recipe.data)
        if predict and "test" not in text.splits:
            raise DataError(f"{name}: there is no test split to predict; give a test file, or data.split.test.")
        corpus = Corpus(name, text, ("pearson", "spearmanr") if text.is_regression else ("accuracy",))
    else:
        task = glue.task(str(recipe.task))
        needed = [*(["train"] if train else []), *task.validation_splits, *(task.test_splits if predict else ())]
        corpus = Corpus(task.name, task.load(recipe.dataset_dir, needed=needed), task.metrics, task)
    return replace(corpus, text=replace(corpus.text, splits=_cut(corpus.text.splits, recipe)))


def load_diagnostics(recipe: Recipe, dataset_dir: str | Path | None) -> Corpus:
    """The texts of AX, which a student of MNLI predicts."""
    task = glue.task("ax")
    text = task.load(dataset_dir, needed=["test"])
    rows = truncate(text.splits["test"], recipe.max_samples.test).select_columns(list(text.text_columns))
    splits = DatasetDict({"test": rows})
    return Corpus(task.name, replace(text, splits=splits), task.metrics, task)


def _own_data(data: Data) -> tuple[str, TextData]:
    if data.files is not None:
        given = {name: path for name, path in data.files.model_dump().items() if path is not None}
        name = Path(given["train"]).name
        text = load_files(given, data.text_columns, data.label_column, data.label_names, data.where or None)
    elif data.package is not None:
        source = data.package
        name = source.name
        text = load_packaged(
            source.name,
            source.file,
            source.sha256,
            data.text_columns,
            data.label_column,
            data.label_names,
            data.where or None,
        )
    else:
        raise DataError("the recipe's data names neither files nor a package.")
    _check_labels(name, data.label_column, text)
    splits = dict(text.splits)
    if data.deduplicate:
        splits = {split: deduplicate(rows, text.text_columns) for split, rows in splits.items()}
    return name, replace(text, splits=DatasetDict(_with_cuts(splits, data)))


def _check_labels(name: str, column: str, text: TextData) -> None:
    if str(IGNORED) in text.label_names:
        raise DataError(
            f"{name}: column {column!r} holds {IGNORED}, which marks rows without a label; leave those rows out."
        )
    if not text.is_regression and len(text.label_names) < 2:
        raise DataError(
            f"{name}: column {column!r} holds one label only, {text.label_names[0]!r}; there is nothing to learn. Is "
            "it the right column?"
        )


def _with_cuts(splits: dict[str, Dataset], data: Data) -> dict[str, Dataset]:
    """The splits, with those cut from train that the files do not bring."""
    cut = data.split
    if cut is not None:
        shares = {name: getattr(cut, name) for name in ("validation", "test") if name not in splits}
        if any(shares.values()):
            parts = split(splits["train"], shares.get("validation", 0.0), shares.get("test", 0.0), cut.seed)
            splits = {**splits, **parts}
    if "validation" not in splits:
        raise DataError("the data has no validation split; give a validation file, or data.split.validation.")
    return splits


def _cut(splits: DatasetDict, recipe: Recipe) -> DatasetDict:
    most = {
        "train": recipe.max_samples.train,
        "validation": recipe.max_samples.validation,
        "test": recipe.max_samples.test,
    }
    return DatasetDict({name: truncate(rows, most[name.partition("_")[0]]) for name, rows in splits.items()})
