"""Golden cases of objectives over further passes: partners, distorted copies, noise, gradients of the input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill import losses, objectives
from hf_distill.activations import Activations
from hf_distill.objectives import Pair
from hf_distill.objectives.input_gradients import InputGradients
from hf_distill.passes import FOUND, Noisy, Partner
from hf_distill.tasks import TASKS
from tests.golden_cases.base import Inputs, Setup, bound
from tests.shapes import shape


def showing(mask: Tensor, passes: dict[Any, dict[str, Any]], **tensors: Any) -> Activations:
    """Activations of a main pass, of which `tensors` are shown, and of further passes."""
    made = Activations(mask=mask, **tensors)
    made.passes = {source: Activations(mask=mask, **shown) for source, shown in passes.items()}
    return made


def sentence_pair(classes: int, teacher: bool = True) -> Pair:
    one = shape(num_logits=classes)
    return Pair.from_shapes(one, one if teacher else None, TASKS["single_label"])


def batch_of(mask: Tensor, **columns: Tensor) -> dict[str, Tensor]:
    return {"input_ids": torch.zeros_like(mask), "attention_mask": mask, **columns}


def class_wise(settings: dict[str, Any], inputs: Inputs) -> Setup:
    logits, labels = inputs["student_logits"], inputs["labels"]
    pair = sentence_pair(logits.shape[-1], teacher=False)
    weight = settings.pop("weight")
    terms = bound(pair, (1.0, "labels", {}), (weight, "cs_kd", settings))
    mask = torch.ones(len(labels), 1, dtype=torch.long)
    student = showing(mask, {Partner(): {"logits": inputs["partner_logits"]}}, logits=logits)
    batch = batch_of(mask, labels=labels, **{FOUND: torch.ones(len(labels), dtype=torch.bool)})
    return Setup(terms, pair, student, Activations(), batch, inputs.leaves)


def distorted(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """Features are the states of texts of one token."""
    labels = inputs["labels"]
    pair = sentence_pair(inputs["logits_a"].shape[-1], teacher=False)
    terms = bound(pair, (1.0, "ddgsd", settings))
    mask = torch.ones(len(labels), 1, dtype=torch.long)
    copies = [
        {"logits": inputs[f"logits_{each}"], "final": inputs[f"features_{each}"].unsqueeze(1)} for each in ("a", "b")
    ]
    student = showing(mask, dict(zip(terms[0].objective.sources, copies, strict=True)))
    return Setup(terms, pair, student, Activations(), batch_of(mask, labels=labels), inputs.leaves)


def answers(inputs: Inputs, embeddings: Tensor, side: str) -> Tensor:
    """The logits of a small model: tanh of a linear map at each token, their mean over the text, a linear map."""
    mask = inputs["mask"].unsqueeze(-1)
    w, c, u = (inputs[name + side] for name in ("w", "c", "u"))
    states = torch.tanh(torch.where(mask.bool(), embeddings, 0.0) @ w.T + c)
    return (states * mask).sum(1) / mask.sum(1) @ u.T


def gradients(name: str) -> Any:
    """Gradients of the input that are given, or those of the small models."""

    def build(settings: dict[str, Any], inputs: Inputs) -> Setup:
        mask = inputs["mask"]
        given = inputs.get("js") is not None
        pair = sentence_pair(2 if given else inputs["u"].shape[0])
        terms = bound(pair, (1.0, name, settings))
        objective = terms[0].objective
        labels = inputs.get("y")
        labels = torch.zeros(len(mask), dtype=torch.long) if labels is None else labels
        ours, theirs = (inputs["js"], inputs["jt"]) if given else of_models(objective, inputs, labels)
        sides = [showing(mask, {objective.source: {"input_gradient": each}}) for each in (ours, theirs)]
        return Setup(terms, pair, sides[0], sides[1], batch_of(mask, labels=labels), inputs.leaves)

    return build


def of_models(objective: InputGradients, inputs: Inputs, labels: Tensor) -> tuple[Tensor, Tensor]:
    embeddings = inputs["e"].detach().requires_grad_()
    ours, theirs = (answers(inputs, embeddings, side) for side in ("", "t"))
    if objective.scalar == "cross_entropy":
        values = [functional.cross_entropy(logits, labels, reduction="sum") for logits in (ours, theirs)]
    else:
        classes = theirs.argmax(-1, keepdim=True)
        values = [logits.gather(-1, classes).sum() for logits in (ours, theirs)]
    found = [torch.autograd.grad(value, embeddings, create_graph=True)[0] for value in values]
    return found[0], found[1].detach()


def noise(settings: dict[str, Any], inputs: Inputs) -> Setup:
    mask, draws = inputs["mask"], inputs["noise"]
    pair = sentence_pair(inputs["u"].shape[0])
    terms = bound(pair, (1.0, "jacobian_matching_noise", {**settings, "draws": len(draws)}))
    sides = [
        showing(
            mask,
            {
                Noisy(number=i): {"logits": answers(inputs, inputs["e"] + drawn, side)}
                for i, drawn in enumerate(draws, start=1)
            },
        )
        for side in ("", "t")
    ]
    return Setup(terms, pair, sides[0], sides[1], batch_of(mask), inputs.leaves)


def noise_identity(settings: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Tensor]:
    """The loss of two linear maps over draws along the axes, and the two parts that it is the sum of."""
    x, sigma = inputs["x"], float(inputs["sigma"])
    maps = [inputs["a_student"], inputs["a_teacher"]]
    draws = inputs["noise"]
    objective = objectives.make("jacobian_matching_noise", {"draws": len(draws), "sigma": sigma})
    objective.bind(sentence_pair(len(maps[0])))
    mask = torch.ones(1, 1, dtype=torch.long)
    ours, theirs = (
        showing(
            mask, {Noisy(number=i, sigma=sigma): {"logits": ((x + r) @ a.T)[None]} for i, r in enumerate(draws, 1)}
        )
        for a in maps
    )
    plain = losses.logit_sse(x @ maps[0].T, x @ maps[1].T)
    penalty = sigma**2 * (maps[0] - maps[1]).square().sum()
    return {"mean": objective(ours, theirs, batch_of(mask)), "plain": plain, "penalty": penalty}


BUILDERS = {
    "cs_kd": class_wise,
    "ddgsd": distorted,
    "gradient_attention_transfer": gradients("gradient_attention_transfer"),
    "jacobian_matching": gradients("jacobian_matching"),
    "jacobian_matching_noise": noise,
}
VALUES = {"noise_identity": noise_identity}
