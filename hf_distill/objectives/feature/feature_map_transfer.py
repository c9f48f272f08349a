"""Feature maps with the same pattern, mean and variance."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import mean_squared_difference, squared_difference
from hf_distill.objectives.hidden_states import HiddenStates
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_number

EPSILON = 1e-12
"""Added to the variance inside the normalisation, as the authors' TensorFlow 1 code does."""


@register("feature_map_transfer")
class FeatureMapTransfer(HiddenStates):
    """Feature map transfer of MobileBERT (Sun et al., 2020, arXiv:2004.02984), at every real token of every block.

    `form="decomposed"`, the published training loss:
    `normalized_weight` MSE(LN(h_s), LN(h_t)) + `mean_weight` (mean_s - mean_t)^2 + `variance_weight` |var_s - var_t|,
    with mean and population variance over the features of a token and LN = (h - mean) / sqrt(var + 1e-12).
    `form="plain"`, the paper's equation: MSE(h_s, h_t), which knows no weights. The weights 100, 5000 and 5 are those
    of the authors' code and suit the large states of MobileBERT. To see the three parts by themselves in the logs,
    write three terms with two of the weights 0 in each.

    One block is compared with the block of the same number (`layer_map="one_to_one"`), so a teacher of another depth
    is refused unless a map is given. Over several blocks the mean is taken, or the sum (`layer_reduction`). The
    authors' TensorFlow 1 code compares mean and variance with those of all teacher layers at once; here, as in their
    TensorFlow 2 code, with those of the block.

    Reads: hidden[i] of both, [batch, length, width].  Counts: tokens, or examples with `reduction="example_mean"`.
    Errors: `IncompatiblePair` where widths differ (the method has no projection) or the layer map does not fit;
    `DistillationError` for weights that are negative or all 0.
    """

    default_layer_map = "one_to_one"
    citation = """@inproceedings{sun2020mobilebert,
  title = {MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices},
  author = {Sun, Zhiqing and Yu, Hongkun and Song, Xiaodan and Liu, Renjie and Yang, Yiming and Zhou, Denny},
  booktitle = {ACL},
  year = {2020},
  eprint = {2004.02984},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        form: str = "decomposed",
        normalized_weight: float = 100.0,
        mean_weight: float = 5000.0,
        variance_weight: float = 5.0,
        reduction: str = "token_mean",
        layer_reduction: str = "mean",
        stack: str = "",
    ) -> None:
        super().__init__(
            layer_map=layer_map,
            projection="none",
            reduction=reduction,
            layer_reduction=layer_reduction,
            stack=stack,
        )
        check_choice(self.name, "form", form, ("decomposed", "plain"))
        self.form = form
        self.normalized_weight, self.mean_weight = normalized_weight, mean_weight
        self.variance_weight = variance_weight
        for setting in ("normalized_weight", "mean_weight", "variance_weight"):
            check_number(self.name, setting, getattr(self, setting), 0.0, 1e9)
        if not (normalized_weight or mean_weight or variance_weight):
            raise DistillationError(f"{self.name}: all three weights are 0, so nothing would be compared.")

    @property
    def equation(self) -> str:
        if self.form == "plain":
            return "L = MSE(h_s, h_t) at every real token"
        weights = f"{self.normalized_weight:g} MSE(LN(h_s), LN(h_t)) + {self.mean_weight:g} (mean_s - mean_t)^2"
        return f"L = {weights} + {self.variance_weight:g} |var_s - var_t| at every real token"

    def refuse_widths(self, student: int, teacher: int) -> None:
        raise IncompatiblePair(
            f"{self.name}: the student's hidden states are {student} wide, the teacher's {teacher}, and the method "
            "compares them feature by feature; take a teacher whose blocks put out the student's width, or use "
            "hidden_mse, which projects."
        )

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.form == "plain":
            return mean_squared_difference(student, teacher)
        parts = []
        if self.normalized_weight:
            parts.append(self.normalized_weight * mean_squared_difference(_normalized(student), _normalized(teacher)))
        if self.mean_weight:
            parts.append(self.mean_weight * squared_difference(student.mean(-1), teacher.mean(-1)))
        if self.variance_weight:
            parts.append(self.variance_weight * (_variance(student) - _variance(teacher)).abs())
        return sum(parts[1:], parts[0])


def _normalized(state: Tensor) -> Tensor:
    return functional.layer_norm(state, state.shape[-1:], eps=EPSILON)


def _variance(state: Tensor) -> Tensor:
    return state.var(-1, correction=0)
