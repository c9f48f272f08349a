"""Golden cases of models that train together, and of states that flow into the student."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_distill import losses, objectives
from hf_distill.activations import Activations, EnsembleActivations
from hf_distill.member_logits import Combining
from hf_distill.objectives import Objective, Pair
from hf_distill.passes import ALONE
from hf_distill.tasks import TASKS
from hf_distill.teachers.peers import mutual
from tests.shapes import shape

Values = dict[str, Any]


def among(names: list[str], classes: int, width: int = 4) -> Pair:
    """The pair of a student with peers like it."""
    one = shape(1, width, classes, heads=1)
    pair = Pair.from_shapes(one, one, TASKS["single_label"])
    return Pair.together(dict.fromkeys(names, pair), Combining(len(names), "losses"))


def made(name: str, settings: Values, pair: Pair) -> Objective:
    objective = objectives.make(name, settings)
    objective.bind(pair)
    return objective.double()


def batch_of(labels: Tensor) -> dict[str, Tensor]:
    ids = torch.zeros(len(labels), 1, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": ids + 1, "labels": labels}


def deep_mutual_learning(settings: Values, inputs: Values) -> Values:
    """Losses of one model at a time, and the sum over all by the package's own loop."""
    weight = settings.pop("weight")
    logits = inputs["logits"].double().requires_grad_()
    shown = [Activations(logits=each) for each in logits]
    names = [f"peer_{i}" for i in range(1, len(shown))]
    pair, batch = among(names, logits.shape[-1]), batch_of(inputs["labels"])
    hard, soft = made("labels", {}, pair), made("deep_mutual_learning", settings, pair)
    number = len(batch["labels"])
    single = []
    for k, student in enumerate(shown):
        others = EnsembleActivations(dict(zip(names, shown[:k] + shown[k + 1 :], strict=True)))
        single.append((hard(student, others, batch) + weight * soft(student, others, batch)) / number)
    peers = EnsembleActivations(dict(zip(names, shown[1:], strict=True)))
    total = sum(w * mutual(each, shown[0], peers, batch) for w, each in ((1.0, hard), (weight, soft))) / number
    (gradient,) = torch.autograd.grad(total, logits)
    return {"losses": torch.stack(single), "total": total, "grads": gradient}


def okddip(settings: Values, inputs: Values) -> Values:
    """One text a token. Stored gradients are of the two matrices."""
    alpha, ramp = settings.pop("alpha"), settings.pop("ramp")
    logits, leader, features = (inputs[name].double() for name in ("peer_logits", "leader_logits", "feats"))
    names = [f"peer_{i}" for i in range(1, len(logits) + 1)]
    pair, batch = among(names, logits.shape[-1], features.shape[-1]), batch_of(inputs["labels"])
    objective = made("okddip", {**settings, "projection_size": len(inputs["WL"])}, pair)
    with torch.no_grad():
        objective.leading.weight.copy_(inputs["WL"])
        objective.following.weight.copy_(inputs["WE"])
    mask = batch["attention_mask"]
    shown = zip(logits, features, strict=True)
    peers = {
        name: Activations(mask=mask, logits=z, final=h.unsqueeze(1)) for name, (z, h) in zip(names, shown, strict=True)
    }
    student, number = Activations(mask=mask, logits=leader), len(leader)
    log_weights = objective.attention(features)
    targets = [objective.target(logits, each) / objective.temperature for each in log_weights]
    levels = objective.first_level(logits, log_weights) / number, objective.second_level(logits, leader) / number
    ce = mutual(made("labels", {}, pair), student, EnsembleActivations(peers), batch) / number
    total = ce + alpha * ramp * objective(student, EnsembleActivations(peers), batch) / number
    gradients = torch.autograd.grad(total, [objective.leading.weight, objective.following.weight])
    return {
        "attention": log_weights.exp().movedim(-1, 0),
        "targets": torch.stack(targets).softmax(-1),
        "ce": ce,
        "level1": levels[0],
        "level2": levels[1],
        "total": total,
        "grad_WL": gradients[0],
        "grad_WE": gradients[1],
    }


def peer_diversity(settings: Values, inputs: Values) -> Tensor:
    return losses.diversity(inputs["peer_logits"].double()).mean()


def flowing(widths: list[int], width: int, layers: int, classes: int, kl: float) -> Objective:
    """Bound to a student with teachers of these widths, each layer with one of each."""
    ours = shape(layers, width, classes, heads=1)
    pairs = {
        f"t{i}": Pair.from_shapes(ours, shape(layers, each, classes, heads=1), TASKS["single_label"])
        for i, each in enumerate(widths)
    }
    return made("knowledge_flow", {"kl": kl}, Pair.together(pairs, Combining(len(pairs))))


def knowledge_flow_mix(settings: Values, inputs: Values) -> Values:
    states = inputs["student_h"].double()
    teachers = [torch.as_tensor(each, dtype=torch.float64) for each in inputs["teacher_hs"]]
    objective = flowing([each.shape[-1] for each in teachers], states.shape[-1], 1, 3, 0.0)
    with torch.no_grad():
        objective.weights[0].copy_(inputs["w"])
        for transform, matrix in zip(objective.transforms[0], inputs["Qs"], strict=True):
            transform.weight.copy_(torch.as_tensor(matrix))
    shown = {f"t{i}": Activations(hidden={1: each.unsqueeze(1)}) for i, each in enumerate(teachers)}
    mixed = objective.feed("", 1, states.unsqueeze(1), EnsembleActivations(shown)).squeeze(1)
    return {"p": objective.weights[0].softmax(0), "mixed": mixed}


def knowledge_flow_loss(settings: Values, inputs: Values) -> Values:
    ws, kl = inputs["ws"].double(), settings["lam_kl"] / settings["lam_dep"]
    objective = flowing([4] * (ws.shape[-1] - 1), 4, len(ws), 3, kl)
    with torch.no_grad():
        for weight, given in zip(objective.weights, ws, strict=True):
            weight.copy_(given)
    now, before = (inputs.get(name, torch.zeros(2, 3)).double() for name in ("logits_now", "logits_before"))
    student = Activations(logits=before)
    student.passes = {ALONE: Activations(logits=now)}
    batch = batch_of(torch.zeros(len(now), dtype=torch.long))
    value = objective(student, None, batch) / len(now)
    dependency = -objective.student_shares().log().sum()
    return {
        "dependency": dependency,
        "kl": (value - dependency) / kl if kl else torch.zeros(()),
        "total": inputs["task_loss"] + settings["lam_dep"] * value,
        "student_share": objective.student_shares(),
    }


VALUES = {
    "deep_mutual_learning": deep_mutual_learning,
    "okddip": okddip,
    "peer_diversity": peer_diversity,
    "knowledge_flow_mix": knowledge_flow_mix,
    "knowledge_flow_loss": knowledge_flow_loss,
}
