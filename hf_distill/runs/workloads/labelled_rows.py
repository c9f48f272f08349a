"""What workloads have in common whose rows are labelled, and fit into memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar, Protocol

from datasets import DatasetDict
from transformers import PreTrainedTokenizerBase

from hf_distill.hub.record import DataFacts
from hf_distill.recipe import Recipe
from hf_distill.runs.abilities import Predicting, Showing
from hf_distill.runs.origins import REVISION
from hf_distill.runs.workloads.splits import data_facts, hub_facts


def padding_on_the_right(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy for collators of rows in which answers are positions, which padding on the left would move."""
    found = copy.deepcopy(tokenizer)
    found.padding_side = "right"
    return found


class Checked(Protocol):
    """Rows that were read from files or the Hub and checked; `sources` maps each split to the SHA-256 of what it was
    read from, and `commit` is that of a data set of the Hub."""

    @property
    def splits(self) -> DatasetDict: ...

    @property
    def sources(self) -> Mapping[str, str]: ...

    @property
    def commit(self) -> str | None: ...


class LabelledRows(Showing):
    """Splits `train`, `validation…` and `test…`, whose rows have the column `label_column`, but for tests whose labels
    are not known; with None there are none of these. `data` are the rows that are used."""

    label_column: ClassVar[str | None] = None
    data: Checked

    @property
    def splits(self) -> DatasetDict:
        return self.data.splits

    @property
    def sources(self) -> Mapping[str, str]:
        return self.data.sources

    @property
    def commits(self) -> Mapping[str, str]:
        return {} if self.data.commit is None else {REVISION: self.data.commit}

    @property
    def sizes(self) -> Mapping[str, int]:
        return {name: len(split) for name, split in self.splits.items()}

    @property
    def tests(self) -> tuple[str, ...]:
        """The splits that are tests, with labels or without."""
        return tuple(name for name in self.splits if name.startswith("test"))

    @property
    def evaluated_splits(self) -> tuple[str, ...]:
        """Validation, and tests with labels."""
        validation = [name for name in self.splits if name.startswith("validation")]
        return (*validation, *(name for name in self.tests if self.is_labelled(name)))

    def is_labelled(self, split: str) -> bool:
        """Whether the rows of a split have labels."""
        return self.label_column is None or self.label_column in self.splits[split].column_names

    def facts(self, recipe: Recipe) -> DataFacts:
        return data_facts(recipe, self.name, self.splits, self.sources, self._hub_facts(recipe))

    def _hub_facts(self, recipe: Recipe) -> dict[str, str | None]:
        return hub_facts(recipe, self.data.commit)


class PredictedRows(LabelledRows, Predicting):
    """Labelled rows whose tests are predicted."""

    @property
    def test_splits(self) -> tuple[str, ...]:
        return self.tests
