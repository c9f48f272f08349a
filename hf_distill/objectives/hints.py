"""What objectives over regressed hidden states share: the regressor, and the sums of the paper and of the code."""

from __future__ import annotations

from torch import Tensor, nn

from hf_distill.errors import IncompatiblePair
from hf_distill.objectives.hidden_states import HiddenStates, Projection, Window
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.settings import check_choice
from hf_distill.tasks import Batch, Task

REGRESSORS = ("linear", "conv1d", "none")
FORMS = ("paper", "code")


class Hints(HiddenStates):
    """A loss at every real token between `hidden[i]` of the student, mapped to the teacher's width, and `hidden[j]` of
    the teacher. The values of several pairs of layers are added.

    A subclass writes `errors(student, teacher) -> [batch, length, width]`. `form="paper"` sums them over the tokens
    and features of a text and counts texts, each document of a packed row as one, so that long texts weigh more;
    `form="code"` takes the mean over tokens and features. `regressor`, where the widths differ: `linear`, `conv1d` (a
    token and its two neighbours), or `none`, and then different widths are refused.
    """

    def __init__(self, *, layer_map: Layers | None, regressor: str, form: str, stack: str) -> None:
        check_choice(self.name, "regressor", regressor, REGRESSORS)
        check_choice(self.name, "form", form, FORMS)
        super().__init__(
            layer_map=layer_map,
            projection="none" if regressor == "none" else "per_layer",
            reduction="token_mean",
            layer_reduction="sum",
            stack=stack,
        )
        self.regressor, self.form = regressor, form

    def errors(self, student: Tensor, teacher: Tensor) -> Tensor:
        """One value a feature, `[batch, length, width]` twice to the same; padding holds zeros and does not count."""
        raise NotImplementedError

    def make_projection(self, student_width: int, teacher_width: int) -> nn.Module:
        return (Window if self.regressor == "conv1d" else Projection)(student_width, teacher_width)

    def refuse_widths(self, student: int, teacher: int) -> None:
        raise IncompatiblePair(
            f"{self.name}: the student's hidden states are {student} wide, the teacher's {teacher}; set "
            "regressor='linear' or 'conv1d'."
        )

    @property
    def joins_documents(self) -> str:
        looks_beside = self.regressor == "conv1d" and len(self.projections) > 0
        return "looks at the tokens beside each (regressor='conv1d')" if looks_beside else ""

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.over_features(self.errors(student, teacher))

    def over_features(self, errors: Tensor) -> Tensor:
        """The sum over the features of a token, or their mean."""
        return errors.sum(-1) if self.form == "paper" else errors.mean(-1)

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return self.texts(batch) if self.form == "paper" else self.mask(batch).sum()
