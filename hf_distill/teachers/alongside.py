"""What trains with the student, and runs inside `Distillation`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn

from hf_distill.activations import Activations, Needs
from hf_distill.objectives.base import Loss, Objective
from hf_distill.parameter_groups import ParameterGroup
from hf_distill.tasks import Batch


class Alongside:
    """The models that train with the student: none, as it stands here, so that each objective is between the student
    and what the teacher shows.

    A teacher whose models train (`Peers`) says all of this anew, and is its own `Teacher.alongside`.
    """

    members: Mapping[str, nn.Module] = MappingProxyType({})
    """The models by name, which become a part of the module that the engine wraps."""

    def needs(self, objective: Objective) -> Needs:
        """What is read for an objective: from the student, and from its teacher or these models."""
        return objective.needs().on(objective.pair.member)

    def show(self, batch: Batch, teacher: Activations | None) -> Activations | None:
        """What the terms compare the student with; `teacher` is what was shown outside of `Distillation`."""
        return teacher

    def ask(
        self, name: str, objective: Objective, student: Activations, teacher: Activations | None, batch: Batch
    ) -> Tensor | Loss:
        """What an objective returns, added up over the models that it trains; `name` is its term's, for errors."""
        view = None if teacher is None else teacher.member(objective.pair.member).read_by(name)
        found: Tensor | Loss = objective(student.read_by(name), view, batch)
        return found

    def unreached(self) -> list[nn.Parameter]:
        """The models' trainable parameters that no term depends on."""
        return []

    def parameter_groups(self) -> list[ParameterGroup]:
        """Those of the models' parameters that train at rates of their own."""
        return []

    def beside(self) -> dict[str, nn.Module]:
        """Modules whose state is saved beside the student, with that of the objectives, under names that no term can
        have."""
        return {}
