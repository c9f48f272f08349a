"""How many parameters a stage trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hf_distill.inspection.binding import BoundStage
from hf_distill.inspection.layout import amount


@dataclass(frozen=True)
class Trained:
    """Parameters of a stage: of the student all, those that train, those that the stage freezes and those that no term
    reaches; and what objectives and peers learn beside it. `points`: the weights stay, and the points of their grids
    alone train.
    """

    student: int
    trained: int
    frozen: int
    unreached: int
    beside: int
    points: bool = False

    @classmethod
    def of(cls, found: BoundStage) -> Trained:
        """The numbers of a stage that is bound. Shared parameters count once."""
        assert found.distillation is not None
        numbers = {id(parameter): parameter.numel() for parameter in found.student.parameters()}
        everything = sum(numbers.values())
        free = sum(numbers[id(parameter)] for parameter in found.student.parameters() if parameter.requires_grad)
        lost = sum(numbers.get(id(parameter), 0) for parameter in found.distillation.unreached())
        beside = sum(parameter.numel() for parameter in found.distillation.beside.parameters())
        points = found.stage.quantize_points is not None
        return cls(everything, free - lost, everything - free, lost, beside, points)

    def told(self) -> Iterator[tuple[str, str]]:
        """In words, by what they are."""
        ours = f"{amount(self.trained)} of the student's {amount(self.student)} parameters"
        beside = f", and {amount(self.beside)} that are learned beside it" if self.beside else ""
        yield "trained", ("the points of the student's grids" if self.points else ours) + beside
        frozen = [f"{amount(self.frozen)} by the stage"] if self.frozen else []
        frozen += [f"{amount(self.unreached)} that no term reaches"] if self.unreached else []
        if frozen and not self.points:
            yield "frozen", ", ".join(frozen)
