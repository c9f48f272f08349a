"""Golden cases of objectives over answers beside soft targets and labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.objectives import Annealing, Labels, Objective, Pair, SoftTargets
from hf_distill.objectives.response.annealing import phi
from hf_distill.objectives.response.dkpp import permuted
from hf_distill.tasks import TASKS
from tests.golden_cases.base import Inputs, Setup, bound, labels_of, logits_case
from tests.shapes import shape


def answered(name: str, **renamed: str) -> Any:
    """Logits of examples, or of tokens where they have positions; `renamed`: the package's words for settings."""

    def build(settings: dict[str, Any], inputs: Inputs) -> Setup:
        settings = {renamed.get(word, word): value for word, value in settings.items()}
        mask, labels = inputs.get("mask"), inputs.get("labels")
        batch = {} if labels is None else {"labels": labels}
        if mask is not None:
            batch["labels"] = labels_of(mask)
        task = "token_classification" if inputs["student_logits"].dim() == 3 else "single_label"
        return logits_case(inputs, task, batch, [(1.0, name, settings)])

    return build


def standardized(settings: dict[str, Any], inputs: Inputs) -> Setup:
    settings["deviation"] = ("population", "sample")[settings.pop("ddof")]
    return logits_case(inputs, "single_label", {}, [(1.0, "standardized_kl", settings)])


def bounded(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """Scores without an axis of outputs."""
    pair = Pair.from_shapes(shape(num_logits=1), shape(num_logits=1), TASKS["regression"])
    student, teacher = (Activations(logits=inputs[side].unsqueeze(-1)) for side in ("student", "teacher"))
    batch = {"labels": inputs["targets"]}
    return Setup(bound(pair, (1.0, "bounded_regression", settings)), pair, student, teacher, batch, inputs.leaves)


def tokenwise(settings: dict[str, Any], inputs: Inputs) -> Setup:
    settings["temperature"] = settings.pop("tau")
    mask, classes = inputs["mask"], inputs["zs"].shape[-1]
    pair = Pair.from_shapes(shape(num_logits=classes), shape(num_logits=classes), TASKS["token_classification"])
    student, teacher = (Activations(mask=mask, logits=inputs[name]) for name in ("zs", "zt"))
    batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    return Setup(bound(pair, (1.0, "tokenwise_kd", settings)), pair, student, teacher, batch, inputs.leaves)


def mean(objective: Objective, inputs: dict[str, Tensor]) -> Tensor:
    """An objective's value over what it counts, for logits of examples."""
    classes = inputs["teacher_logits"].shape[-1]
    pair = Pair.from_shapes(shape(num_logits=classes), shape(num_logits=classes), TASKS["single_label"])
    objective.bind(pair)
    batch = {"input_ids": torch.zeros(len(inputs["teacher_logits"]), 1, dtype=torch.long)}
    if "labels" in inputs:
        batch["labels"] = inputs["labels"]
    student, teacher = (Activations(logits=inputs[f"{side}_logits"]) for side in ("student", "teacher"))
    return objective(student, teacher, batch) / objective.count(batch, pair.task)


def permuted_law(settings: dict[str, Any], inputs: dict[str, Tensor]) -> Tensor:
    return permuted(inputs["teacher_logits"], inputs["permutations"]).softmax(-1)


def annealed_share(settings: dict[str, Any], inputs: dict[str, Tensor]) -> list[float]:
    epochs = settings["epochs"]
    return [phi(seen / epochs, settings["tau_max"]) for seen in inputs["epochs_seen"].tolist()]


def annealed(settings: dict[str, Any], inputs: dict[str, Tensor]) -> Tensor:
    """A share of 0.4 is that of the second of five blocks."""
    objective = Annealing(max_temperature=5)
    objective.progress = 0.3
    assert phi(objective.progress, 5) == settings["phi"]
    return mean(objective, inputs)


def assistant(settings: dict[str, Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    reduction = {"batchmean": "token_mean", "mean": "element_mean"}[settings["reduction"]]
    hard = mean(Labels(), inputs)
    soft = mean(SoftTargets(temperature=settings["temperature"], reduction=reduction), inputs)
    return {"ce": hard, "kd": soft, "total": (1.0 - settings["lam"]) * hard + settings["lam"] * soft}


def logits_and_labels(settings: dict[str, Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    hard, soft = mean(Labels(), inputs), mean(SoftTargets(kind="logit_l1"), inputs)
    return {"ce": hard, "l1": soft, "total": hard + soft}


BUILDERS = {
    "dkd": answered("dkd"),
    "dist": answered("dist"),
    "standardized_kl": standardized,
    "bounded_regression": bounded,
    "weighted_soft_ce": answered("weighted_soft_ce"),
    "tf_kd_reg": answered("tf_kd_reg", a="correct_probability"),
    "ban_cwtm": answered("ban_cwtm"),
    "tokenwise_kd": tokenwise,
}
VALUES = {
    "born_again_dkpp": permuted_law,
    "annealing_phi": annealed_share,
    "annealing_loss": annealed,
    "teacher_assistant_kd": assistant,
    "slu_finetune": logits_and_labels,
}
