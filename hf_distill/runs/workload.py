"""What a run must know of its task, and nothing else in this room knows: the interface of workloads."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.evaluation.evidence import Evidence, difference
from hf_distill.evaluation.language_models import Prompt
from hf_distill.evaluation.metrics import less_is_better
from hf_distill.hub.record import DataFacts
from hf_distill.recipe import Recipe
from hf_distill.runs.labels import Columns, in_model_order

logger = logging.getLogger(__name__)

Collator = Callable[[list[dict[str, Any]]], Mapping[str, Any]]
Interval = tuple[float, float]
Rows: TypeAlias = "Dataset | IterableDataset"


class Limits(NamedTuple):
    """What the models of a run can read: tokens of a row at most, the longest position table of each model (None for
    no table), the names of all the inputs that they take, and the samples of a sound at least."""

    max_length: int
    positions: Sequence[int | None]
    input_names: frozenset[str]
    shortest: int = 1

    def longest(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Tokens of a row at most, with what the tokenizer allows."""
        known = [limit for limit in (tokenizer.model_max_length, *self.positions) if limit is not None]
        longest: int = min([self.max_length, *known])
        if longest < self.max_length:
            logger.info("texts are cut to %d tokens, the most that tokenizer and models take", longest)
        return longest


class Workload(ABC):
    """The rows of a recipe, how models are fitted to them, and how their answers are judged.

    A run asks in this order. `sources` says whether the folder belongs to these data. `samples` are texts on which two
    tokenizers must agree. Models are loaded as `auto_class`, a new head with the settings of `head`, and `fit` checks
    a model and says in which column it keeps each class of the task. `read` makes rows of token ids; `train` may be an
    `IterableDataset` of unknown length, the splits that are evaluated are finite. A column `length` lets rows be
    ordered by it. `collator` makes batches, labels too where the data hold none, as a masked language model's.

    A model answers a split in one pass. `reduce`, if there is one, shrinks the outputs of a batch on the device before
    they are kept (a vocabulary's logits would not fit). `answers` makes of all outputs what is kept of a split, in the
    order and in the classes of the data, and `score` the metrics of these, by plain names; the loss of the task is
    measured by the trainer. What `answers` returns, only the workload itself looks into. The rest has defaults for
    what is not defined: no agreement, no calibration, no interval, no texts to time. What some workloads alone can do
    is in `hf_distill.runs.abilities`.

    `name` is the data's, in the table, the card and the names of prediction files. `metrics` are those of the report,
    the first of which is the one reported; `score` must have them for every evaluated split. `sources` maps splits to
    the SHA-256 of what they were read from, `sizes` to their rows, where that is known before they are read.
    """

    auto_class: ClassVar[str]
    name: str
    metrics: tuple[str, ...]
    rows_are: ClassVar[str] = "rows"
    """What is drawn anew for an interval."""
    judged_by_objectives: ClassVar[bool] = False
    """Whether models have nothing to answer with, so that only the value of a training's objectives tells of it."""
    control_trains: ClassVar[bool] = True
    """Whether the control is trained, on the labels alone; else it is the student at its start."""
    in_words: ClassVar[bool] = False
    """Whether models are evaluated by the words that they prefer, whose logits never exist in full
    (`Distillation.answer_in_words`); `reduce` is not asked then, and how far a model is from its teacher is known."""
    reduce: Callable[[Any, Any], Tensor] | None = None
    """Outputs and labels of a batch to a tensor `[rows, ...]`: the Trainer's `preprocess_logits_for_metrics`."""

    # ---- the data ----

    @property
    @abstractmethod
    def sources(self) -> Mapping[str, str]: ...

    @property
    @abstractmethod
    def sizes(self) -> Mapping[str, int]: ...

    @property
    def commits(self) -> Mapping[str, str]:
        """The commits that are read of data sets on the Hub, by the keys of the recipe that name a branch or none."""
        return {}

    @property
    @abstractmethod
    def evaluated_splits(self) -> tuple[str, ...]:
        """Splits that are scored, the one that training looks at first: `validation…`, and `test…` with labels."""

    @property
    def reported_split(self) -> str:
        """The split of the table: a test with labels, which nothing was chosen on, else validation."""
        tests = [name for name in self.evaluated_splits if name.startswith("test")]
        return (*tests, *self.evaluated_splits)[0]

    @abstractmethod
    def facts(self, recipe: Recipe) -> DataFacts:
        """What the record tells of the data."""

    # ---- the models ----

    @abstractmethod
    def samples(self) -> Iterable[str]:
        """Some texts of the data."""

    def head(self) -> dict[str, Any]:
        """Settings of a model configuration that give a new head the task's labels."""
        return {}

    def fit(self, model: PreTrainedModel, role: str) -> Columns:
        """Checks that the model was made for the task, and returns where each class stands; empty without classes.

        Raises: `IncompatiblePair` that names the role, what the model has, and what the task has.
        """
        return ()

    def check_reading(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, role: str) -> None:
        """Checks that a model reads and answers in what the tokenizer, and what goes with it, makes of rows.

        Raises: `IncompatiblePair`, as `fit`.
        """
        return None

    def ends(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """Tokens that end what a model writes here, beside those of its generation config and of its tokenizer."""
        return ()

    # ---- reading ----

    def tokenizer_settings(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """With which settings a tokenizer must be loaded again to read the data as they are; none: it reads them."""
        return {}

    @abstractmethod
    def read(
        self, tokenizer: PreTrainedTokenizerBase, limits: Limits, splits: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """These splits, by default all, as `Rows` of token ids and, where they are labelled, labels. A tokenizer of
        the caller's own is given, whose settings may be changed.

        Raises: `DataError`.
        """

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator: ...

    def saved_with(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """What is saved beside a student, so that it can be read for: the tokenizer, or a processor with more."""
        return tokenizer

    @property
    def teachers_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """What the teacher reads by, where that is not the student's."""
        return None

    def as_read_by(self, role: str, rows: Any) -> Any:
        """The rows in the columns that a model of that role is evaluated on."""
        return rows

    def counted(self) -> Mapping[str, float]:
        """What was counted when the training rows were read, for the results of the training."""
        return {}

    def in_model_order(self, rows: Any, columns: Columns) -> Any:
        """The rows with class ids as a model counts them."""
        return in_model_order(rows, columns)

    # ---- judging ----

    @abstractmethod
    def answers(self, split: str, rows: Dataset, order: np.ndarray, found: EvalPrediction, columns: Columns) -> Any:
        """What is kept of a model's outputs `found` on `rows`, which are the split's at `order` (`rows[i]` is row
        `order[i]` of what `read` gave)."""

    @abstractmethod
    def score(self, split: str, answers: Any) -> dict[str, float]:
        """The metrics of a split's answers; none where it is not labelled."""

    def agreement(self, split: str, ours: Any, teachers: Any) -> float | None:
        """The share of rows on which two models answer the same."""
        return None

    def accuracy_among(self, split: str, answers: Any, classes: Sequence[int]) -> float | None:
        """The accuracy on the rows, or tokens, of some classes, between these alone; None where there are none of
        them."""
        return None

    def calibration_error(self, split: str, answers: Any) -> float | None:
        """How far confidence is from being right."""
        return None

    def interval(self, split: str, answers: Any) -> Interval | None:
        """The 95 % interval of the reported metric, where it is made of rows (`evidence`)."""
        evidence = self.evidence(split, answers)
        if evidence is None:
            return None
        found = evidence.interval()
        return found.low, found.high

    def lead(self, split: str, student: Any, control: Any) -> str:
        """A sentence on whether the student's lead over the control is more than chance; empty for none."""
        ours, theirs = self.evidence(split, student), self.evidence(split, control)
        if ours is None or theirs is None:
            return ""
        metric, found = self.metrics[0], difference([(ours, theirs)])
        told = f"{metric} {found.value:+.3f}{' (less is better)' if less_is_better(metric) else ''}"
        return (
            f"Student against control: {told}, 95 % [{found.low:+.3f}, {found.high:+.3f}] (bootstrap over "
            f"{self.rows_are})."
        )

    def evidence(self, split: str, answers: Any) -> Evidence | None:
        """What the reported metric is made of, row by row."""
        return None

    def remarks(self, split: str, answers: Mapping[str, Any]) -> Sequence[str]:
        """Sentences below the table on the answers to a split, by `teacher`, `student` and `control`."""
        return ()

    def prompts(self, tokenizer: PreTrainedTokenizerBase, limits: Limits) -> Sequence[Prompt]:
        """What the models are to answer in the report; nothing for those that do not write."""
        return ()

    def texts(self) -> Sequence[str] | Sequence[tuple[str, str]]:
        """Texts, or pairs of them, on which the time of a sentence is measured, and layers are compared."""
        return []
