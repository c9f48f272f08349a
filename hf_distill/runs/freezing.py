"""Which parameters of the student a stage trains, at which rates, and whether its terms reach them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from hf_distill.anatomy import Anatomy
from hf_distill.distillation import Distillation
from hf_distill.errors import DistillationError, RecipeError
from hf_distill.objectives.weights import largest
from hf_distill.reach import layer_parameters, unreached
from hf_distill.recipe import TrainGroup
from hf_distill.students.quantized import plain_name

_SHOWN = 3


def freeze(model: PreTrainedModel, groups: Sequence[TrainGroup], title: str) -> dict[str, float]:
    """Freezes the parameters that no group names, and returns the learning rates' scales of the others.

    Without groups everything trains. A parameter belongs to the first group that names it.

    Raises: `RecipeError` for a pattern that matches nothing, and a layer that does not exist.
    """
    model.requires_grad_(True)
    named = [_named_by(group, model, title) for group in groups]
    scales: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        found = next((group for group, names in zip(groups, named, strict=True) if name in names), None)
        if found is not None:
            scales[plain_name(name)] = found.learning_rate_scale
        parameter.requires_grad_(not groups or found is not None)
    return scales


def _named_by(group: TrainGroup, model: PreTrainedModel, title: str) -> set[str]:
    """The names of the parameters that a group names."""
    if group.layers is not None:
        return {name for layer in group.layers for name in _of_layer(layer, model, title)}
    if group.part is not None:
        return _of_head(model, title)
    pattern, names = str(group.parameters), [name for name, _ in model.named_parameters()]
    found = {name for name in names if re.search(pattern, plain_name(name))}
    if not found:
        raise RecipeError(
            f"{title}: train: no parameter of the student matches {pattern!r}; its names are like "
            f"{names[0]!r} and {names[-1]!r}."
        )
    return found


def _of_head(model: PreTrainedModel, title: str) -> set[str]:
    below = {id(parameter) for parameter in model.base_model.parameters()}
    found = {name for name, parameter in model.named_parameters() if id(parameter) not in below}
    if not found:
        raise RecipeError(
            f"{title}: train: the head of the student ({type(model).__name__}) has no parameters of its own: there is "
            "none, or it multiplies with the embeddings. Name what should train with a pattern, or by layers."
        )
    return found


def _of_layer(layer: int, model: PreTrainedModel, title: str) -> list[str]:
    anatomy = Anatomy.of(model)
    if set(anatomy.shape.stacks) != {""}:
        raise RecipeError(
            f"{title}: train: layers are those of a single stack of blocks that the family table knows, and "
            f"{anatomy.shape.family!r} is no such model; name its parameters with a pattern."
        )
    depth = anatomy.shape.stack().num_hidden_layers
    if layer > depth:
        raise RecipeError(
            f"{title}: train: layer {layer} does not exist; the student's layers are 1 to {depth}, and 0 for the "
            "embeddings."
        )
    return [name for name, _ in layer_parameters(anatomy, layer)]


def at_rest(model: PreTrainedModel, groups: Sequence[TrainGroup]) -> nn.Module | None:
    """The base model, where the groups train nothing of it but what stands on top; None where they do.

    It then runs as it is evaluated, without dropout, so that the head learns from the states that it will read
    (Li & Hoiem, 2017, whose first stage trains a new head alone). Layers that are frozen below or above others that
    train keep their dropout, as in the fine-tuning of layers and in MobileBERT's transfer layer by layer.
    """
    base = model.base_model
    trains = any(parameter.requires_grad for parameter in base.parameters())
    return None if not groups or trains or base is model else base


def check_reached(
    distillation: Distillation, model: PreTrainedModel, groups: Sequence[TrainGroup], title: str
) -> None:
    """Refuses a stage in which a parameter that a group names would get no gradient, or the student none at all.

    Found by one pass over a few tokens; nothing is trained. Terms of weight 0 give no gradient. Without groups, what
    no term reaches stays as it is, as long as that is not everything.

    Raises: `DistillationError` with the parameters and the terms.
    """
    weighted = zip(distillation.objectives, distillation.terms(), distillation.weights.given.values(), strict=True)
    terms = {name: objective for name, objective, weight in weighted if largest(weight) > 0}
    if not terms:
        raise DistillationError(f"{title}: every term has the weight 0, so nothing would be trained.")
    if not any(objective.trains_student for objective in terms.values()):
        if groups:
            raise DistillationError(
                f"{title}: train names parts of the student, and the terms {', '.join(terms)} train none of it, but "
                "parts of their own for a later stage; leave train out."
            )
        return
    if groups:
        signals = {signal for objective in terms.values() for signal in objective.needs().student}
        missed = [name for name, _ in unreached(Anatomy.of(model), signals)]
    else:
        left_out = {id(parameter) for parameter in distillation.unreached()}
        missed = [name for name, parameter in model.named_parameters() if id(parameter) in left_out]
        if len(missed) < sum(parameter.requires_grad for parameter in model.parameters()):
            return
    if missed:
        more = f" and {len(missed) - _SHOWN} more" if len(missed) > _SHOWN else ""
        raise DistillationError(
            f"{title}: train: {', '.join(missed[:_SHOWN])}{more} should train, but no gradient of the terms "
            f"{', '.join(terms)} gets there. Leave the parameters out, or add a term that depends on them."
        )
