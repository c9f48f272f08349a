"""Golden cases of weights, of conflicts between gradients, and of the game against a discriminator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.evaluation.conflicts import gradient_cosines, pcgrad
from hf_distill.objectives import Pair, Terms
from hf_distill.objectives.discriminator import discriminator_loss, gradient_penalty, student_loss
from hf_distill.objectives.weights import Schedule, learned_weight, uncertain
from hf_distill.tasks import TASKS
from tests.golden_cases.base import Inputs, Setup
from tests.shapes import shape


@dataclass
class Game(Setup):
    """A case over scores or states, without any models."""

    value: Callable[[], Tensor] = lambda: torch.zeros(())

    def loss(self) -> Tensor:
        return self.value()


def game(inputs: Inputs, value: Callable[[], Tensor]) -> Game:
    pair = Pair.from_shapes(shape(), shape(), TASKS["single_label"])
    return Game(Terms([]), pair, Activations(), Activations(), {}, inputs.leaves, value=value)


def holistic(settings: dict[str, Any], inputs: Inputs) -> Game:
    if settings["role"] == "generator":
        return game(inputs, lambda: student_loss(settings["kind"], inputs["fake"]).mean())
    return game(inputs, lambda: discriminator_loss(settings["kind"], inputs["real"], inputs["fake"]).mean())


def penalty(settings: dict[str, Any], inputs: Inputs) -> Game:
    """The discriminator is the mean over the text of a . x + x . q x / 2."""
    mask = inputs["mask"].bool()

    def score(states: Tensor) -> Tensor:
        of_token = states @ inputs["a"] + 0.5 * torch.einsum("bni,ij,bnj->bn", states, inputs["q"], states)
        return torch.where(mask, of_token, 0.0).sum(1) / mask.sum(1)

    def value() -> Tensor:
        return gradient_penalty(score, inputs["real"], inputs["fake"], mask, inputs["alpha"]).mean()

    return game(inputs, value)


def teacher_weight(settings: dict[str, Any], inputs: dict[str, Any]) -> list[float]:
    total, alpha = settings.pop("total"), settings.pop("alpha")
    kind, floor = settings.pop("kind"), settings.pop("floor", 0.0)
    made = {
        "constant": lambda: Schedule.linear(alpha, alpha),
        "early_stop": lambda: Schedule.early_stop(alpha, final=floor, **settings),
        "linear": lambda: Schedule.linear(alpha, floor, **settings),
        "cosine": lambda: Schedule.cosine(alpha, floor, **settings),
        "warmup": lambda: Schedule.warmup(alpha, **settings),
    }[kind]()
    return [made.at(step / total) for step in inputs["steps"].tolist()]


def ramp_up(settings: dict[str, Any], inputs: dict[str, Any]) -> list[float]:
    return [Schedule.ramp_up().at(t / settings["length"]) for t in inputs["t"].tolist()]


def uncertainty_weighting(settings: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    log_variances = inputs["s"].clone().requires_grad_()
    total = uncertain(inputs["losses"], log_variances).sum()
    (gradient,) = torch.autograd.grad(total, log_variances)
    return {"total": total, "weights": learned_weight(log_variances), "grad_s": gradient}


def gradient_conflicts(settings: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    projected = pcgrad(inputs["grads"])
    return {"cosine": gradient_cosines(inputs["grads"]), "projected": projected, "sum": projected.sum(0)}


BUILDERS = {"holistic_kd": holistic, "holistic_kd_gradient_penalty": penalty}
VALUES = {
    "teacher_weight": teacher_weight,
    "ramp_up": ramp_up,
    "uncertainty_weighting": uncertainty_weighting,
    "gradient_conflicts": gradient_conflicts,
}
