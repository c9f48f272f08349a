"""What an objective is."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from hf_distill.activations import Activations, Needs
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives.batching import ClassPairs
from hf_distill.objectives.equations import documented_equation
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.terms import Weighable
from hf_distill.parameter_groups import ParameterGroup
from hf_distill.tasks import Batch, Task


class Loss(NamedTuple):
    """What a two-sided objective returns: `main` trains the student, `auxiliary` what opposes or helps it, such as a
    discriminator on detached inputs. Both are sums over what the objective counts; the auxiliary part is added to the
    total with weight one, whatever the weight of the term.
    """

    main: Tensor
    auxiliary: Tensor


ROW_INDEX = "row_index"
"""The column of a batch that says which training rows its examples are, counted from 0."""


class Rises(NamedTuple):
    """What an objective wants to know of the student before it trains: how much the task's loss would rise without a
    feature of some hidden layers, measured in one of two ways (`ablation`, `gradient`) on the first batches.
    """

    layers: tuple[int, ...]
    stack: str
    how: str
    batches: int


class Objective(Weighable):
    """One loss term.

    A subclass takes keyword settings and keeps each under its own name, declares in `needs()` what it reads, says in
    `count()` what its sum is divided by, and returns from `forward()` the loss summed over what it counts. It never
    calls a model. What it learns are its own parameters, made in `bind()`.
    """

    citation: ClassVar[str] = ""

    # What it compares, and what it trains.
    needs_teacher: bool = True
    takes_members: ClassVar[bool] = False
    """Whether it learns from several teachers together; others name the one that they are on."""
    same_embeddings: bool = False
    """Whether it compares or moves both models in the space of their token embeddings, which must then be one."""
    trains_student: ClassVar[bool] = True
    """Whether its gradient is meant for the student; False where it only learns parts that a later stage uses."""
    two_sided: ClassVar[bool] = False
    """Whether `forward` returns a `Loss`, whose auxiliary part trains what the objective learns by its own loss."""

    takes_two_vocabularies: ClassVar[bool] = False
    """Whether it compares models that read the same text in tokens of their own (`Pair.across`)."""

    # What it asks of batches.
    relates_batch: ClassVar[bool] = False
    """Whether it relates the examples of a batch to each other, so that micro-batches do not add up to the whole."""
    smallest_batch: int = 1
    """Examples without which it has no gradient; a shorter batch counts nothing."""
    advised_batch: int = 1
    """Examples of a batch below which it says little."""
    gather: bool = False
    """Whether it relates the examples of all processes, so that these make one batch."""
    batching: ClassVar[ClassPairs | None] = None
    """What it asks of the composition of training batches."""
    reads_rows: ClassVar[bool] = False
    """Whether it keeps something of each training row (`see_rows`), whose number is the batch's column `row_index`."""
    weighs_classes: bool = False
    """Whether it weighs classes by how many training labels each has (`see_classes`)."""

    # Between models that train together (`teachers.Peers`).
    among_peers: ClassVar[bool] = False
    """Whether it is between such models, and no other teacher will do."""
    trains_peers: ClassVar[bool] = False
    """Whether it trains the student and its peers at once, all of which it is shown with their gradients."""

    # How it acts on the student's pass.
    feeds: ClassVar[bool] = False
    """Whether it changes what layers of the student give in the main pass while it trains (`fed_layers`, `feed`)."""
    traceable: ClassVar[bool] = True
    """Whether `torch.compile` can trace it; False where it forms its gradient itself (`autograd.Function`)."""
    reads_divisor: ClassVar[bool] = False
    """Whether it wants to know, before each call, what its sum will be divided by (`divisor`)."""
    divisor: Tensor | float = 1.0
    counts_labels: ClassVar[bool] = False
    """Whether a part of its sum is to be a mean over fewer units than the rest (`count_labels`, `label_divisor`)."""
    label_divisor: Tensor | float = 1.0
    """The sum of `count_labels` where `divisor` is that of `count`; set before each call."""

    # Over the course of a training, and from stage to stage.
    progress: float = 1.0
    """The share of the training steps that are over, for what changes on the way; set before each step."""
    smallest_steps: int = 1
    """Steps of a training below which a part of what it does on the way would be left out."""
    takes: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names in its state: what it takes of a term of its name that learned other things, too, in an
    earlier stage. Empty where both must have learned the same."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance: nn.Parameter | None
        self.register_parameter("log_variance", None)  # that of a learned weight of its term, if it has one
        self._pair: Pair | None = None
        self._remarks: dict[str, Tensor | bool] = {}
        self._said: set[str] = set()
        self.noted: dict[str, Tensor] = {}

    def settings(self) -> dict[str, Any]:
        """The keyword settings, as they would be written in a recipe."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @property
    def equation(self) -> str:
        """Its value in one line of plain text, `L = …`: what its documentation writes, or the form that its settings
        choose."""
        return documented_equation(type(self))

    @property
    def pair(self) -> Pair:
        """What the objective is bound to."""
        if self._pair is None:
            raise DistillationError(f"objective {self.name!r} is used before bind(pair).")
        return self._pair

    def bind(self, pair: Pair) -> None:
        """Take the pair to work on, check that it fits, and make what is learned.

        Raises: `IncompatiblePair` naming both sides and the remedy.
        """
        if self.needs_teacher and pair.teacher is None:
            raise IncompatiblePair(
                f"objective {self.name!r} compares with a teacher and there is none; pass teacher=…."
            )
        if self.needs_teacher and pair.across is not None and not self.takes_two_vocabularies:
            raise IncompatiblePair(
                f"objective {self.name!r} compares the models token by token, and the teacher reads by its own "
                "tokenizer, so that their tokens do not answer to each other; take uld or gold, or a teacher of the "
                "student's tokenizer."
            )
        if self.needs_teacher and pair.members is not None and not self.takes_members:
            first = next(iter(pair.members))
            raise IncompatiblePair(
                f"objective {self.name!r} reads what one model shows, and there are the teachers "
                f"{', '.join(pair.members)}, whose states have nothing in common. Put the term on one of them: "
                f"{type(self).__name__}(…).on({first!r}), in a recipe `on: {first}`."
            )
        self._pair = pair

    @property
    def joins_documents(self) -> str:
        """What it does with the documents of a packed row as if they were one text, to be said of it; empty where its
        value is that of the documents in rows of their own, but for how a mean over texts weighs them. Asked after
        `bind`."""
        return ""

    def remark(self, happened: Tensor | bool, text: str) -> None:
        """Have `text` said in the log, once, if `happened` is true of any batch of the training.

        It is looked at when the trainer logs (`remarks`), so that no step waits for the device.
        """
        if self.training:
            self._put_down(happened, text)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _put_down(self, happened: Tensor | bool, text: str) -> None:
        if text not in self._said:
            before = self._remarks.get(text, False)
            self._remarks[text] = happened.detach() | before if isinstance(happened, Tensor) else happened or before

    def remarks(self) -> list[str]:
        """What has happened since it was last asked, each text once in a training; waits for the device."""
        found = [text for text, happened in self._remarks.items() if bool(happened)]
        self._said.update(found)
        self._remarks.clear()
        return found

    @property
    def logs(self) -> tuple[str, ...]:
        """Names of numbers that are logged beside its value, as `<term>/<name>` (`note`); asked after `bind`."""
        return ()

    def note(self, name: str, value: Tensor) -> None:
        """Puts down one of `logs`, as a sum over what it counts, of the batch at hand."""
        self.noted[name] = value.detach()

    def conclude(self) -> list[str]:
        """What is to be said when the training is over; waits for the device."""
        return []

    @property
    def for_every_peer(self) -> bool:
        """Whether it trains each of several models that train together (`teachers.Peers`), and not the student
        alone; asked after `bind`."""
        return False

    @property
    def fed_layers(self) -> frozenset[tuple[str, int]]:
        """The stack and the number of each layer of the student whose output it changes; asked after `bind`."""
        return frozenset()

    def feed(self, stack: str, layer: int, states: Tensor, teacher: Activations) -> Tensor:
        """What takes the place of the output `[batch, length, width]` of a layer of the student."""
        raise NotImplementedError

    @property
    def columns(self) -> frozenset[str]:
        """Columns of the batch that it reads beside labels and masks, which a model need not take."""
        return frozenset()

    @property
    def blanks(self) -> Mapping[str, int]:
        """Columns of the batch with symbols that it aligns with frames, and the blank that is none of these; asked
        after `bind`."""
        return {}

    def see_rows(self, number: int, labels: Sequence[int] | None) -> None:
        """How many training rows there are, and their labels if they have one class each; told after `bind` to an
        objective that `reads_rows`.

        Raises: `DataError` where it cannot work with these rows.
        """
        raise NotImplementedError

    def see_classes(self, counts: Sequence[int]) -> None:
        """How many training labels each of the student's classes has; told after `bind` to an objective that
        `weighs_classes`.

        Raises: `DataError` where it cannot work with these numbers.
        """
        raise NotImplementedError

    def needs(self) -> Needs:
        """The signals read from the student and from the teacher; asked after `bind`."""
        raise NotImplementedError

    @property
    def asks_vectors(self) -> int:
        """The teacher's sentence vectors of how many training texts it is shown once, before the first step
        (`take_vectors`); 0 for none."""
        return 0

    def take_vectors(self, vectors: Tensor) -> None:
        """Takes what `asks_vectors` asked for, `[texts, width]`, or as many texts as there are.

        Raises: `DataError` where these are too few.
        """
        raise NotImplementedError

    @property
    def asks(self) -> Rises | None:
        """What is measured of the student once, before the first step, and handed to `take_rises`."""
        return None

    def take_rises(self, rises: Tensor) -> None:
        """Takes what `asks` asked for, `[layers, width]`."""
        raise NotImplementedError

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        """How many units of the batch the sum runs over; known before the forward pass."""
        raise NotImplementedError

    def count_labels(self, batch: Batch, task: Task) -> Tensor | int:
        """How many labels of the batch the part runs over that `counts_labels` tells of; known when `count` is."""
        raise NotImplementedError

    @property
    def reaches_zero(self) -> bool:
        """Whether its smallest value is 0, as that of a distance or a divergence is."""
        return self.needs_teacher

    def parameter_groups(self) -> list[ParameterGroup]:
        """Those of its parameters that train at rates of their own; the others train as the student does."""
        return []

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor | Loss:
        """The loss, summed over the units that `count` counts, in at least float32; with `two_sided` both losses."""
        raise NotImplementedError
