"""What a record says of the bound terms of a loss."""

from __future__ import annotations

from hf_distill.distillation import Distillation
from hf_distill.hub.record import ObjectiveFacts
from hf_distill.layer_map import LayerMap


def objective_facts(distillation: Distillation, prefix: str = "") -> list[ObjectiveFacts]:
    """Name, weight, settings and citation of every term; `prefix` tells the terms of several stages apart."""
    named = zip(distillation.objectives, distillation.terms(), distillation.weights.given.values(), strict=True)
    return [
        ObjectiveFacts(
            name=f"{prefix}{name}",
            objective=objective.name,
            weight=weight if isinstance(weight, float) else str(weight),
            settings=objective.settings(),
            on=objective.pair.member,
            citation=objective.citation,
        )
        for name, objective, weight in named
    ]


def layer_maps(distillation: Distillation, prefix: str = "") -> dict[str, list[tuple[int, int]]]:
    """The layer pairs of the terms that have any."""
    found = {name: getattr(objective, "layers", None) for name, objective in distillation.objectives.items()}
    return {f"{prefix}{name}": list(pairs) for name, pairs in found.items() if isinstance(pairs, LayerMap) and pairs}
