"""Golden cases of relations inside a text and between layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill.activations import Activations
from hf_distill.evaluation.conflicts import clip_to_task
from hf_distill.objectives import Pair
from hf_distill.objectives.regions import members, moments
from hf_distill.objectives.singular_vectors import leading
from hf_distill.tasks import IGNORED, TASKS
from tests.golden_cases.base import Inputs, Setup, bound
from tests.shapes import shape


def related(
    name: str, settings: dict[str, Any], states: Sequence[Sequence[Tensor]], mask: Tensor, inputs: Inputs
) -> Setup:
    """An objective on layers from 1 on of both models, `[batch, length, width]` each, of widths of their own."""
    depth = len(states[0])
    pair = Pair.from_shapes(*(shape(depth, side[0].shape[-1]) for side in states), TASKS["single_label"])
    settings = {"layer_map": [[i, i] for i in range(1, depth + 1)]} | settings
    shown = [Activations(mask=mask, hidden=dict(enumerate(side, start=1))) for side in states]
    batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    return Setup(bound(pair, (1.0, name, settings)), pair, shown[0], shown[1], batch, inputs.leaves)


def layers(name: str) -> Any:
    def build(settings: dict[str, Any], inputs: Inputs) -> Setup:
        number = sum(each.startswith("s_layers.") for each in inputs.values)
        states = [[inputs[f"{side}_layers.{i}"] for i in range(number)] for side in "st"]
        return related(name, settings, states, inputs["mask"], inputs)

    return build


def tokens(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """The norms of the code's form are those of the states, whose values they have."""
    states = [[inputs[side]] for side in "st"]
    return related("pairwise_kd", settings, states, inputs["mask"], inputs)


def regions(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """The regions are the classes of the tokens, -1 for none."""
    ids = inputs["ids"]
    mask = torch.ones_like(ids)
    batch = {"input_ids": torch.zeros_like(ids), "attention_mask": mask, "labels": ids.masked_fill(ids < 0, IGNORED)}
    sides = [inputs[side] for side in ("s", "t")]
    shapes = [shape(1, side.shape[-1], num_logits=int(ids.max()) + 1) for side in sides]
    pair = Pair.from_shapes(*shapes, TASKS["token_classification"])
    shown = [Activations(mask=mask, hidden={1: side}) for side in sides]
    terms = bound(pair, (1.0, "region_affinity", {"regions": "labels", **settings}))
    return Setup(terms, pair, shown[0], shown[1], batch, inputs.leaves)


def graphs(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """Vectors of texts are texts of one token; the heads are given."""
    mask = torch.ones(len(inputs["t_prev"]), 1, dtype=torch.long)
    states = [[inputs[f"{side}_{place}"].unsqueeze(1) for place in ("prev", "cur")] for side in "st"]
    settings |= {"heads": len(inputs["wk"]), "vector": "mean"}
    setup = related("mhgd", settings, states, mask, inputs)
    heads = setup.terms[0].objective.attention[0]
    heads.keys, heads.queries = inputs["wk"], inputs["wq"]
    return setup


def estimators(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """The same of the teacher alone; what the heads learn takes the gradients."""
    mask = torch.ones(len(inputs["t_prev"]), 1, dtype=torch.long)
    states = [inputs["t_prev"].unsqueeze(1), inputs["t_cur"].unsqueeze(1)]
    settings |= {"heads": len(inputs["wk"]), "vector": "mean"}
    setup = related("mhgd_estimator", settings, [states, states], mask, inputs)
    heads, estimator = setup.terms[0].objective.attention[0], setup.terms[0].objective.estimators[0]
    learned = {
        "wk": (heads, "keys"),
        "wq": (heads, "queries"),
        "w0": (estimator, "inner"),
        "w1": (estimator, "output"),
    }
    for name, (module, parameter) in learned.items():
        setattr(module, parameter, nn.Parameter(inputs[name].detach()))
        setup.leaves[name] = getattr(module, parameter)
    return setup


def singular_vectors(settings: dict[str, Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    found = leading(inputs["a"].unsqueeze(0), inputs["a"].shape[1], "right")
    return {"s": found.values[0], "v": found.vectors[0].T}


def region_moments(settings: dict[str, Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    rows = inputs["rows"].unsqueeze(0)
    found = moments(rows, members(torch.zeros(rows.shape[:2], dtype=torch.long), 1))
    return {"mean": found.mean[0, 0], "variance": found.variance[0, 0], "skewness": found.skewness[0, 0]}


def clipped(settings: dict[str, Any], inputs: dict[str, Tensor]) -> Tensor:
    return clip_to_task(inputs["g_task"], inputs["g_dist"], **settings)


BUILDERS = {
    "fsp": layers("fsp"),
    "svd_kd": layers("svd_kd"),
    "mhgd": graphs,
    "mhgd_estimator": estimators,
    "pairwise_kd": tokens,
    "region_affinity": regions,
}
VALUES = {"clip_to_task": clipped, "svd": singular_vectors, "region_moments": region_moments}
