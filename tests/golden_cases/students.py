"""Golden cases of students on a grid, recovered from few sentences, or cut, and of the likeness of layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_distill.evaluation.similarity import linear_cka, svcca
from hf_distill.students.few_sample import Sums, merged_projection
from hf_distill.students.grids import (
    assign_points,
    at_points,
    compression_ratio,
    encode,
    encode_at_points,
    init_points,
    quantize,
    rows,
)
from hf_distill.students.prune import top

Settings, Given = dict[str, Any], dict[str, Any]


def uniform(settings: Settings, inputs: Given) -> dict[str, Tensor]:
    values, (bits, size) = inputs["values"].double(), (settings["bits"], settings["bucket_size"])
    noise = inputs["u"].view_as(rows(values, size)) if settings["rounding"] == "stochastic" else None
    coded = encode(values, bits, size, noise)
    return {"values": quantize(values, bits, size, noise=noise), **coded._asdict()}


def uniform_backward(settings: Settings, inputs: Given) -> Tensor:
    values = inputs["values"].requires_grad_()
    quantize(values, settings["bits"], settings["bucket_size"], style=settings["style"]).backward(inputs["grad"])
    return values.grad


def learned_points(settings: Settings, inputs: Given) -> dict[str, Tensor]:
    values, points = inputs["values"].double(), inputs["points"].double().requires_grad_()
    found = at_points(values, points, settings["bucket_size"])
    found.backward(inputs["grad"].double())
    coded = encode_at_points(values, points.detach(), settings["bucket_size"])
    return {
        "values": found,
        "index": coded.codes,
        "alpha": coded.alpha,
        "beta": coded.beta,
        "grad_points": points.grad,
    }


def first_points(settings: Settings, inputs: Given) -> Tensor:
    return init_points(inputs["values"], settings["n_points"], settings["bucket_size"])


def shares(settings: Settings, inputs: Given) -> Tensor:
    return torch.tensor(assign_points(inputs["grad_norms"].tolist(), inputs["points"].tolist()))


def fitted(inputs: Tensor, targets: Tensor, start: Tensor, ridge: float, bias: bool) -> Tensor:
    """The solution with a last row for the bias, of zeros where there is none."""
    sums = Sums(inputs.shape[1], targets.shape[1], bias)
    sums.add(inputs, targets)
    nothing = start.new_zeros(1, start.shape[1])
    solution = sums.solve(torch.cat([start, nothing]) if bias else start, ridge)
    return solution if bias else torch.cat([solution, nothing])


def block(settings: Settings, inputs: Given) -> dict[str, Tensor]:
    outputs, targets, weight, offset = (inputs[name].double() for name in ("S", "T", "W", "b"))
    identity = torch.eye(outputs.shape[1], dtype=torch.float64)
    solution = fitted(outputs, targets, identity, settings["ridge"], settings["bias"])
    merged = merged_projection(weight, offset, solution, "block")
    return {"A": solution[:-1].T, "c": solution[-1], "W_merged": merged[0], "b_merged": merged[1]}


def full(settings: Settings, inputs: Given) -> dict[str, Tensor]:
    start = inputs["W0"].double().T
    solution = fitted(inputs["X"].double(), inputs["T"].double(), start, settings["ridge"], True)
    return dict(zip(("W", "b"), merged_projection(start.T, start[0], solution, "full"), strict=True))


def sequence(settings: Settings, inputs: Given) -> dict[str, Any]:
    """Layers with a ReLU between, the student's corrected one after the other."""
    shown = {side: inputs["x"].double() for side in ("student", "teacher")}
    found: dict[str, Any] = {"layers": [], "error_before": [], "error_after": []}
    for ours, theirs, keep in zip(inputs["student"], inputs["teacher"], inputs["keep"], strict=True):
        weights = [[torch.tensor(layer[name], dtype=torch.float64) for name in ("W", "b")] for layer in (ours, theirs)]
        (weight, offset), (their_weight, their_offset) = weights
        target = shown["teacher"] @ their_weight.T + their_offset
        output = shown["student"] @ weight.T + offset
        sums = Sums(output.shape[1], output.shape[1], True)
        sums.add(output, target[:, list(keep)])
        start = torch.eye(output.shape[1] + 1, output.shape[1], dtype=torch.float64)
        solution = sums.solve(start, settings["ridge"])
        merged = merged_projection(weight, offset, solution, "block")
        found["layers"].append(dict(zip(("W", "b"), merged, strict=True)))
        found["error_before"].append(sums.error(start))
        found["error_after"].append(sums.error(solution))
        shown = {"student": (shown["student"] @ merged[0].T + merged[1]).relu(), "teacher": target.relu()}
    return found


VALUES = {
    "quantize_uniform": uniform,
    "quantize_uniform_backward": uniform_backward,
    "quantize_points": learned_points,
    "init_points": first_points,
    "assign_points": shares,
    "compression_ratio": lambda settings, inputs: compression_ratio(**settings),
    "fskd_solve": block,
    "fskd_full": full,
    "fskd_sequence": sequence,
    "linear_cka": lambda settings, inputs: linear_cka(inputs["X"], inputs["Y"]),
    "svcca": lambda settings, inputs: svcca(inputs["X"], inputs["Y"], **settings),
    "keep_top": lambda settings, inputs: top(inputs["scores"], settings["k"]),
}
