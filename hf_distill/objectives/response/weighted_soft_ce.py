"""Soft targets whose classes weigh differently."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.losses import expectation
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.objectives.soft_rows import SoftRows, number_of_classes

logger = logging.getLogger(__name__)

BACKGROUND = 1.5
AUTO = "auto"


@register("weighted_soft_ce")
class WeightedSoftCE(SoftRows):
    """Class-weighted soft cross-entropy (Chen, Choi, Yu, Han & Chandraker, 2017, NeurIPS, no arXiv id).

    L = -sum_c w_c p_c log q_c, with p = softmax(teacher / T), q = softmax(student / T), and a weight for every class
    of the student, in its order. Without `class_weights` they are the paper's: 1.5 for the first class, the background
    there (in texts the tag O), and 1 for the others (unconfirmed); it warns of a first class with another name. With
    `class_weights="auto"` they follow from the n_c labels that class c has among the training rows, w_c in proportion
    to 1 / n_c with a mean of 1 over the classes (not the paper's), and each class must have one. The paper adds it to
    the labels' loss as mu hard + (1 - mu) soft.

    It is no divergence: unless all weights are equal, it is smallest at a q in proportion to w p and not at q = p.
    `scale="tau2"` multiplies by T^2, so that gradients keep their size over temperatures; the paper has neither T nor
    that factor.

    Reads: logits of both.  Counts: tokens or examples.
    Errors: `IncompatiblePair` for another number of weights than classes, for tasks without a single class a row, and
    for tokens that the task does not have; `DistillationError` for a setting out of range; with `auto`, `DataError`
    for a class without a training label.
    """

    citation = """@inproceedings{chen2017learning,
  title = {Learning Efficient Object Detection Models with Knowledge Distillation},
  author = {Chen, Guobin and Choi, Wongun and Yu, Xiang and Han, Tony and Chandraker, Manmohan},
  booktitle = {NeurIPS},
  year = {2017},
  url = {https://papers.nips.cc/paper/6676-learning-efficient-object-detection-models-with-knowledge-distillation}
}"""

    _weights: Tensor | None

    def __init__(
        self,
        *,
        class_weights: Sequence[float] | str | None = None,
        temperature: float = 1.0,
        scale: str = "none",
        tokens: str | None = None,
    ) -> None:
        super().__init__(tokens=tokens)
        check_number(self.name, "temperature", temperature, 0.0, 1e4, open_low=True)
        check_choice(self.name, "scale", scale, ("none", "tau2"))
        self.weighs_classes = class_weights == AUTO
        self.class_weights = _checked(self.name, class_weights)
        self.temperature, self.scale = temperature, scale
        self.register_buffer("_weights", None, persistent=False)

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        classes = number_of_classes(self.name, pair)
        if self.class_weights is None and "".join(pair.classes[:1]).lower() not in ("o", "background"):
            logger.warning(
                "weighted_soft_ce: without class_weights the first class weighs %g and the others 1, as that is the "
                "background in the paper; here it is %s. Give class_weights, all 1 where no class is the background.",
                BACKGROUND,
                repr(pair.classes[0]) if pair.classes else "one without a name",
            )
        if isinstance(self.class_weights, str):
            return  # see_classes
        weights = self.class_weights or [BACKGROUND, *[1.0] * (classes - 1)]
        if len(weights) != classes:
            raise IncompatiblePair(
                f"{self.name}: class_weights has {len(weights)} numbers, and the task {classes} classes; give one for "
                "each, in the order of the student's labels."
            )
        self._weights = torch.tensor(weights, dtype=torch.float32)

    def see_classes(self, counts: Sequence[int]) -> None:
        for place, count in enumerate(counts):
            if not count:
                named = repr(self.pair.classes[place]) if self.pair.classes else "one without a name"
                raise DataError(
                    f"{self.name}: class_weights is 'auto', and class {place} ({named}) has no label in the training "
                    "rows, so that there is no weight for it. Write class_weights down."
                )
        rarity = 1.0 / torch.tensor(counts, dtype=torch.float64)
        self._weights = (rarity / rarity.mean()).float()

    @property
    def softens_at(self) -> float:
        return self.temperature

    @property
    def reaches_zero(self) -> bool:
        return False

    def rows(self, student_logits: Tensor, teacher_rows: Tensor | None, labels: Tensor | None) -> Tensor:
        if teacher_rows is None:
            raise DistillationError(f"objective {self.name!r} got no teacher logits.")
        if self._weights is None:
            raise DistillationError(
                f"{self.name}: class_weights is 'auto', and no training rows were counted; give the trainer a "
                "train_dataset, or write class_weights down."
            )
        p = functional.softmax(teacher_rows / self.temperature, -1)
        log_q = functional.log_softmax(student_logits / self.temperature, -1)
        value = -expectation(self._weights.to(log_q.dtype) * p, log_q)
        return value * self.temperature**2 if self.scale == "tau2" else value


def _checked(objective: str, weights: Sequence[float] | str | None) -> list[float] | str | None:
    if weights is None or weights == AUTO:
        return AUTO if weights else None
    listed = isinstance(weights, Sequence) and not isinstance(weights, str)
    numbers: list[Any] = list(weights) if listed else []
    if not numbers:
        raise DistillationError(
            f"{objective}: class_weights is {weights!r}; give a list with a number for each class, or 'auto'."
        )
    for weight in numbers:
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise DistillationError(f"{objective}: {weight!r} in class_weights is no finite number of 0 or more.")
    if not any(numbers):
        raise DistillationError(f"{objective}: all class_weights are 0; nothing would be learned.")
    return numbers
