"""What some workloads can do beside what every one must: each ability is asked for by `isinstance` where a run needs
it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_distill.evaluation.parting import Answered, Asked
from hf_distill.recipe import Recipe
from hf_distill.runs.workload import Workload


class Augmentable(Workload):
    """Labelled texts, of which recipes may ask that the training rows be augmented."""

    @abstractmethod
    def augmented(self, make: Callable[[Dataset, Sequence[str]], Dataset]) -> Workload:
        """The same data with other training rows: what `make` makes of them and of the names of their columns of
        text."""


class Sources(NamedTuple):
    """What a teacher that writes reads of each training row, and by which tokenizer; `rendered` where a chat template
    wrote the texts. `ends` are tokens that end what is written, beside those of the teacher's generation config."""

    texts: Sequence[str]
    tokenizer: PreTrainedTokenizerBase
    rendered: bool = False
    ends: tuple[int, ...] = ()


class Retargetable(Workload):
    """Texts made of texts, for which recipes may ask that the teacher write others to learn. What a teacher hears in
    sounds is added to the rows that were read, and needs no ability."""

    @abstractmethod
    def sources_of(self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Sources:
        """What the recipe's teacher reads of each training row; `tokenizer` is the student's.

        Raises: `DataError` for a row that nothing can be written for.
        """

    @abstractmethod
    def retargeted(self, make: Callable[[Dataset, str], Dataset]) -> Workload:
        """The same data with other texts to learn: the training rows that `make` makes of these, and of the name of
        their column of targets."""


class Generating(Workload):
    """Its models may also be judged by texts that they generate."""

    @property
    @abstractmethod
    def generation(self) -> Mapping[str, Any] | None:
        """What `generate` is called with; None where nobody asked for texts."""

    @abstractmethod
    def with_texts(self, split: str, answers: Any, texts: Sequence[str]) -> Any:
        """The answers with what the model generated for each row of a split."""


class Showing(Workload):
    """What was asked and answered is shown in the report."""

    @abstractmethod
    def asked(self, split: str) -> Asked | None:
        """What the models were asked; None where there is nothing to show, as without labels."""

    @abstractmethod
    def answered(self, split: str, answers: Any) -> Answered:
        """What a model answered to that."""


class Predicting(Workload):
    """Tests are predicted, as files that others can score."""

    @property
    @abstractmethod
    def test_splits(self) -> tuple[str, ...]:
        """Splits that are predicted; of some the labels are secret."""

    @abstractmethod
    def predictions(self, split: str, answers: Any) -> tuple[str, str]:
        """The name of the file of predictions of a test split, and its text."""

    def companions(self, recipe: Recipe) -> Iterable[Predicting]:
        """Further data that are predicted with the tests, by the same student."""
        return ()
