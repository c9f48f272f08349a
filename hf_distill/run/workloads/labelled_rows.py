"""What workloads have in common whose rows are labelled, and fit into memory."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from datasets import DatasetDict
from transformers import PreTrainedTokenizerBase

from hf_distill.hub.record import DataFacts
from hf_distill.recipe import Recipe
from hf_distill.run.workload import Workload
from hf_distill.run.workloads.splits import data_facts, hub_facts


def padding_on_the_right(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy for collators of rows in which answers are positions, which padding on the left would move."""
    found = copy.deepcopy(tokenizer)
    found.padding_side = "right"
    return found


class LabelledRows(Workload):
    """Splits `train`, `validation…` and `test…`, whose rows have the column `label_column`, but for tests whose labels
    are not known."""

    label_column: ClassVar[str]

    @property
    @abstractmethod
    def splits(self) -> DatasetDict:
        """The rows that are used."""

    @property
    def sizes(self) -> Mapping[str, int]:
        return {name: len(split) for name, split in self.splits.items()}

    @property
    def test_splits(self) -> tuple[str, ...]:
        return tuple(name for name in self.splits if name.startswith("test"))

    @property
    def evaluated_splits(self) -> tuple[str, ...]:
        """Validation, and tests with labels."""
        validation = [name for name in self.splits if name.startswith("validation")]
        return (*validation, *(name for name in self.test_splits if self.is_labelled(name)))

    def is_labelled(self, split: str) -> bool:
        """Whether the rows of a split have labels."""
        return self.label_column in self.splits[split].column_names

    def facts(self, recipe: Recipe) -> DataFacts:
        return data_facts(recipe, self.name, self.splits, self.sources, self._hub_facts(recipe))

    def _hub_facts(self, recipe: Recipe) -> dict[str, str | None]:
        return hub_facts(recipe)
