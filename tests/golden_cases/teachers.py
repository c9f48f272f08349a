"""Golden cases of several teachers, and of those that follow the student."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from hf_distill import losses, objectives
from hf_distill.activations import Activations, EnsembleActivations
from hf_distill.member_logits import Combining, normalised, routed, rule_weights, together
from hf_distill.objectives import Pair
from hf_distill.objectives.pair import align_names
from hf_distill.objectives.relation.voted_triplets import vote
from hf_distill.tasks import TASKS
from hf_distill.teachers import MovingAverage
from tests.golden_cases.base import Setup, bound
from tests.shapes import shape

Values = dict[str, Any]


def in_rows(weights: Tensor | None, logits: Tensor) -> Tensor:
    """`[members, rows]` or `[members, 1]`."""
    if weights is None:
        return torch.ones(len(logits), 1, dtype=logits.dtype)
    return weights if weights.dim() == 2 else weights.unsqueeze(1)


def ensemble_targets(settings: Values, inputs: Values) -> Tensor:
    logits, temperature = inputs["teacher_logits"].double(), settings["temperature"]
    z = together(logits, in_rows(inputs["weights"], logits), temperature, settings["combine"])
    return (z / temperature).softmax(-1)


def classifiers(student: Tensor, teacher: Tensor | None, labels: Tensor | None, *terms: Any) -> Setup:
    pair = Pair.from_shapes(
        shape(num_logits=student.shape[-1]), shape(num_logits=student.shape[-1]), TASKS["single_label"]
    )
    ids = torch.zeros(len(student), 1, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": ids + 1, **({} if labels is None else {"labels": labels})}
    return Setup(bound(pair, *terms), pair, Activations(logits=student), Activations(logits=teacher), batch)


def multi_teacher(settings: Values, inputs: Values) -> Values:
    """The weights are those of every row, so the targets are made here; objectives do the rest."""
    student, logits = inputs["student_logits"].double(), inputs["teacher_logits"].double()
    temperature, alpha = settings["temperature"], settings["alpha"]
    weights = in_rows(inputs["weights"], logits)
    soft = (1.0, "soft_targets", {"temperature": temperature})
    if settings["combine"] == "losses":
        rows = [losses.forward_kl(student / temperature, each / temperature) for each in logits]
        kd = temperature**2 * (normalised(weights) * torch.stack(rows)).sum(0).mean()
    else:
        kd = classifiers(student, together(logits, weights, temperature, settings["combine"]), None, soft).loss()
    ce = classifiers(student, None, inputs["labels"], (1.0, "labels", {})).loss()
    return {"ce": ce, "kd": kd, "total": (1.0 - alpha) * ce + alpha * kd}


def confidence(settings: Values, inputs: Values) -> Tensor:
    return rule_weights(settings["rule"], inputs["teacher_logits"].double(), "softmax", inputs["labels"])


def routing(settings: Values, inputs: Values) -> Tensor:
    logits = inputs["teacher_logits"].double()
    return routed(settings["rule"], logits, "softmax", inputs.get("labels"), inputs.get("domain"))


def align(settings: Values, inputs: Values) -> Values:
    columns = align_names(inputs["student_names"], inputs["teacher_names"])
    common = [i for i, column in enumerate(columns) if column >= 0]
    logits = inputs["teacher_logits"][:, [columns[i] for i in common]]
    assert settings["missing"] == "common" or len(common) == len(columns)
    return {"columns": list(columns), "common": common, "logits": logits}


def voted(settings: Values, inputs: Values) -> Values:
    """One text a token."""
    student = inputs["student_feats"].double()
    teachers = [torch.as_tensor(each).double() for each in inputs["teacher_feats"]]
    ours = shape(1, student.shape[-1], heads=1)
    pairs = {
        f"t{i}": Pair.from_shapes(ours, shape(1, each.shape[-1], heads=1), TASKS["single_label"])
        for i, each in enumerate(teachers)
    }
    weights = inputs.get("weights")
    settings |= {} if weights is None else {"weights": weights.tolist()}
    objective = objectives.make("voted_triplets", settings)
    objective.bind(Pair.together(pairs, Combining(len(pairs))))
    mask = torch.ones(len(student), 1, dtype=torch.long)
    shown = {
        name: Activations(mask=mask, hidden={1: each.unsqueeze(1)}) for name, each in zip(pairs, teachers, strict=True)
    }
    loss = objective(
        Activations(mask=mask, hidden={1: student.unsqueeze(1)}), EnsembleActivations(shown), {"attention_mask": mask}
    )
    anchors, first, second = objective._triplets(student)
    vectors = [losses.unit(each) if settings["normalize"] else each for each in teachers]
    votes = vote(vectors, objective.weights, anchors, first, second)
    triplets = [
        [a, j, k] if v > 0 else [a, k, j]
        for a, j, k, v in zip(*(each.flatten().tolist() for each in (anchors, first, second, votes)), strict=True)
        if v
    ]
    return {"triplets": triplets, "loss": loss}


def moving_average(settings: Values, inputs: Values) -> Tensor:
    teacher = MovingAverage(decay=settings["decay"], warmup=settings["warmup"])
    mean = inputs["init"].clone()
    for step, student in enumerate(inputs["params_seq"]):
        mean.lerp_(student, 1.0 - teacher.decay_after(step))
    return mean


def consistency(settings: Values, inputs: Values) -> Tensor:
    kind = {"mse": "probability_mse", "kl": "forward_kl"}[settings["kind"]]
    term = (1.0, "soft_targets", {"kind": kind, "temperature": 1.0})
    return classifiers(inputs["student_logits"].double(), inputs["teacher_logits"].double(), None, term).loss()


def lora_merge(settings: Values, inputs: Values) -> Tensor:
    """By the library that does it."""
    plain = nn.Sequential(nn.Linear(4, 3, bias=False, dtype=torch.float64))
    adapted = get_peft_model(plain, LoraConfig(r=settings["r"], lora_alpha=settings["alpha"], target_modules=["0"]))
    layer = adapted.base_model.model[0]
    with torch.no_grad():
        layer.base_layer.weight.copy_(inputs["W"])
        layer.lora_A["default"].to(torch.float64).weight.copy_(inputs["A"])
        layer.lora_B["default"].to(torch.float64).weight.copy_(inputs["B"])
    merged: Tensor = adapted.merge_and_unload()[0].weight
    return merged


VALUES = {
    "ensemble_targets": ensemble_targets,
    "multi_teacher_kd": multi_teacher,
    "confidence_weights": confidence,
    "teacher_routing": routing,
    "align_labels": align,
    "voted_triplets": voted,
    "ema": moving_average,
    "mean_teacher_consistency": consistency,
    "lora_merge": lora_merge,
}
