"""What objectives over input gradients share: the pass, the space in which gradients are compared, and the count."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hf_distill.activations import Activations, Needs, Signal
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import at_least_float32, blank, masked_sum, safe_sqrt, unit
from hf_distill.objectives.base import Objective
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.settings import check_choice
from hf_distill.passes import InputGradient
from hf_distill.tasks import IGNORED, Batch, Task, real_tokens

SENTENCES = ("single_label", "multi_label", "regression")
"""Tasks with one answer a text."""


class InputGradients(Objective):
    """Compares J = d scalar / d token embeddings, `[batch, length, width]`, of student and teacher.

    With `space` `token` an example's vector is the unit vector of the norms |J_k| of its real tokens, a saliency; with
    `shared` all entries of J at real tokens, for which both models must look tokens up in the same table, as a unit
    vector, or as they are (`sized`). The unit vector of a J that is 0 (a saturated example) is 0. A subclass says of
    what number the gradient is (`scalar`), for which tasks, and writes `distance`.
    """

    scalar: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]
    sized: ClassVar[bool] = False

    def __init__(self, *, space: str, target: str) -> None:
        super().__init__()
        check_choice(self.name, "space", space, ("token", "shared"))
        check_choice(self.name, "target", target, ("teacher", "label"))
        self.space, self.target = space, target
        self.same_embeddings = space == "shared"

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        check_sentences(self.name, pair, self.tasks)
        if self.target == "label" and pair.task.name != "single_label":
            raise IncompatiblePair(
                f"{self.name}: target is 'label', and an example of a {pair.task.name} task has no single class; set "
                "target='teacher'."
            )

    @property
    def source(self) -> InputGradient:
        """The pass that is read."""
        return InputGradient(scalar=self.scalar, target=self.target, columns=self.pair.teacher_columns)

    def needs(self) -> Needs:
        signal = Signal("input_gradient", source=self.source)
        return Needs.of([signal], [signal])

    def counted(self, batch: Batch) -> Tensor:
        """Which examples count, `[batch]`: those with text and, where its class is meant, a label."""
        has_text = real_tokens(batch).any(1)
        return has_text & (self.pair.task.labels(batch)[0] != IGNORED) if self.target == "label" else has_text

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return self.counted(batch).sum()

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """One value an example, of vectors `[batch, entries]`."""
        raise NotImplementedError

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        if teacher is None:
            raise DistillationError(f"objective {self.name!r} got no teacher.")
        ours = student.in_pass(self.source).input_gradient
        theirs = teacher.in_pass(self.source).input_gradient.detach()
        if self.space == "shared" and ours.shape != theirs.shape:
            raise IncompatiblePair(
                f"{self.name}: the student's input gradients are {ours.shape[-1]} wide, the teacher's "
                f"{theirs.shape[-1]}, so their coordinates do not correspond; set space='token'."
            )
        real = real_tokens(batch)
        vectors = [self._vectors(blank(at_least_float32(each), real)) for each in (ours, theirs)]
        return masked_sum(self.distance(*vectors), self.counted(batch))

    def _vectors(self, gradient: Tensor) -> Tensor:
        """The vector of each example, `[batch, entries]`."""
        if self.space == "shared":
            entries = gradient.flatten(1)
            return entries if self.sized else unit(entries)
        return unit(safe_sqrt(gradient.square().sum(-1)))


def check_sentences(name: str, pair: Pair, tasks: tuple[str, ...]) -> None:
    """Refuse a task with other answers than one a text, and one of several teachers, whose passes draw for themselves.

    Raises: `IncompatiblePair`.
    """
    if pair.task.name not in tasks:
        raise IncompatiblePair(
            f"{name}: a {pair.task.name} task has no answer that could be differentiated text by text; the method is "
            f"for {', '.join(tasks)}."
        )
    if pair.member:
        raise IncompatiblePair(
            f"{name}: it runs passes that the student has in common with its teacher, and reads the teacher "
            f"{pair.member!r} of several; train with that teacher alone."
        )
