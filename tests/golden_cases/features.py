"""Golden cases of objectives over hidden states, token by token or feature by feature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill.activations import Activations
from hf_distill.anatomy import Shape, StackShape
from hf_distill.objectives import Pair
from hf_distill.objectives.feature.delta import unit_weights
from hf_distill.objectives.feature.fine_grained_imitation import chosen_tokens
from hf_distill.tasks import TASKS
from tests.golden_cases.base import Inputs, Setup, bound
from tests.shapes import shape


def states(
    name: str, settings: dict[str, Any], inputs: Inputs, mask: Tensor, task: str = "masked_lm", **columns: Tensor
) -> Setup:
    """One block of each model; what the objective learns is in the inputs' dtype."""
    student, teacher = inputs["s"], inputs["t"]
    sizes = {"num_logits": len(inputs["ws"])} if "ws" in inputs.values else {}
    pair = Pair.from_shapes(shape(1, student.shape[-1], **sizes), shape(1, teacher.shape[-1], **sizes), TASKS[task])
    terms = bound(pair, (1.0, name, {"layer_map": [[1, 1]], **settings}))
    terms[0].objective.to(student.dtype)
    shown = [Activations(mask=mask, hidden={1: state}) for state in (student, teacher)]
    batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask, **columns}
    return Setup(terms, pair, shown[0], shown[1], batch, inputs.leaves)


def plain(name: str) -> Callable[..., Setup]:
    def build(settings: dict[str, Any], inputs: Inputs) -> Setup:
        return states(name, settings, inputs, inputs["mask"])

    return build


def give(module: nn.Module, **values: Tensor) -> None:
    """Puts tensors in the place of a module's parameters, so that gradients reach them."""
    for name, value in values.items():
        if name in module._buffers:
            module.register_buffer(name, value)
        else:
            delattr(module, name)
            setattr(module, name, value)


def regressed(name: str) -> Callable[..., Setup]:
    def build(settings: dict[str, Any], inputs: Inputs) -> Setup:
        setup = states(name, settings, inputs, inputs["mask"])
        give_regressor(setup.terms[0].objective, inputs)
        return setup

    return build


def give_regressor(objective: Any, inputs: Inputs, weight: str = "w", bias: str = "bias") -> None:
    if weight in inputs.values:
        give(objective.projections[0], weight=inputs[weight], bias=inputs[bias])


def preregression(settings: dict[str, Any], inputs: Inputs) -> Setup:
    settings["temperature"] = settings.pop("tau")
    setup = states("knowledge_preregression", settings, inputs, inputs["mask"], "single_label")
    objective = setup.terms[0].objective
    if settings["form"] == "channel":
        give_regressor(objective, inputs, "ws", "bs")
        return setup
    give(objective.student_heads[0], weight=inputs["ws"], bias=inputs["bs"])
    give(objective.teacher_heads[0], weight=inputs["wt"], bias=inputs["bt"])
    return setup


def delta(settings: dict[str, Any], inputs: Inputs) -> Setup:
    setup = states("delta", settings, inputs, inputs["mask"])
    give(setup.terms[0].objective, feature_weights=inputs["weights"].unsqueeze(0))
    setup.divide = settings["form"] == "paper"  # the code adds the texts of a batch up
    return setup


def imitation(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """Tokens are selected by labels: 1 where they are, else 0."""
    mask = torch.ones_like(inputs["select"])
    labels = {"labels": inputs["select"]}
    settings |= {"select": "label"}
    setup = states("fine_grained_imitation", settings, inputs, mask, "token_classification", **labels)
    give_regressor(setup.terms[0].objective, inputs)
    return setup


def dual_masking(settings: dict[str, Any], inputs: Inputs) -> Setup:
    weights = torch.tensor([settings.pop("w_tok"), settings.pop("w_chan")], dtype=inputs["s"].dtype)
    setup = states("dmkd", settings, inputs, inputs["mask"])
    objective: Any = setup.terms[0].objective
    kept = inputs["keep_tokens"].bool(), inputs["keep_channels"].bool()
    objective.kept = lambda target, mask: kept
    rebuild = objective.reconstructions[0]
    give(rebuild, fusion=weights.log())
    for generator, name in ((rebuild.tokens, "g_tok"), (rebuild.features, "g_chan")):
        tensors = [torch.tensor(each, dtype=weights.dtype) for each in inputs.lists[name]]
        first, first_bias, second, second_bias = tensors
        give(generator.first, weight=first, bias=first_bias)
        give(generator.second, weight=second, bias=second_bias)
    return setup


def variational(settings: dict[str, Any], inputs: Inputs) -> Setup:
    setup = states("vid", settings | {"mean": "linear"}, inputs, inputs["mask"])
    (law,) = setup.terms[0].objective.laws
    give(law, raw_variance=inputs["raw"])
    give(law.means[0], weight=inputs["w"], bias=inputs["bias"])
    return setup


def boundaries(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """The states of the feed-forward parts."""
    mask, sides = inputs["mask"], [inputs["s"], inputs["t"]]
    stacks = [StackShape(1, 4, 2, 2, 2, False, feedforward_size=side.shape[-1]) for side in sides]
    pair = Pair.from_shapes(*(Shape("made_up", {"": stack}, 5, 30, None) for stack in stacks), TASKS["masked_lm"])
    terms = bound(pair, (1.0, "activation_boundary", settings))
    give(terms[0].objective.connectors[0], weight=inputs["w"], bias=inputs["bias"])
    shown = [Activations(mask=mask, feedforward={1: side}) for side in sides]
    batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    return Setup(terms, pair, shown[0], shown[1], batch, inputs.leaves)


def factors(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """The factors themselves are given."""
    inputs.values |= {"s": inputs["fs"], "t": inputs["ft"]}
    setup = states("factor_transfer", settings, inputs, inputs["mask"])
    objective: Any = setup.terms[0].objective
    objective.paraphrasers[0].forward = objective.translators[0].forward = lambda state: state
    return setup


def layered(name: str, settings: dict[str, Any], inputs: Inputs, mask: Tensor) -> Setup:
    """The outputs of all blocks, `[blocks, batch, length, width]`."""
    sides = [inputs["student"], inputs["teacher"]]
    pair = Pair.from_shapes(*(shape(len(side), side.shape[-1]) for side in sides), TASKS["masked_lm"])
    shown = [Activations(mask=mask, hidden=dict(enumerate(side, start=1))) for side in sides]
    batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    terms = bound(pair, (1.0, name, settings))
    terms[0].objective.to(sides[0].dtype)
    return Setup(terms, pair, shown[0], shown[1], batch, inputs.leaves)


def ted(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """Pairs of blocks are counted from 0 in the file, and the teacher has a filter for every block."""
    pairs = [[student + 1, teacher + 1] for student, teacher in settings["layer_map"]]
    width = inputs["student_filters"].shape[-1]
    setup = layered("ted", {"layer_map": pairs, "width": width}, inputs, inputs["attention_mask"])
    objective = setup.terms[0].objective
    for i, (student, teacher) in enumerate(pairs):
        give(objective.student_filters[i], weight=inputs["student_filters"][student - 1].T)
        give(objective.teacher_filters[i], weight=inputs["teacher_filters"][teacher - 1].T)
    return setup


def combination(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """One block of the student and a group that is the whole teacher."""
    inputs.values["student"] = inputs["student"].unsqueeze(0)
    setup = layered("layer_combination", settings, inputs, inputs["attention_mask"])
    give(setup.terms[0].objective.combinations[0], weight=inputs["weight"].T, bias=inputs["bias"])
    return setup


def projected_layers(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """Sentence vectors: texts of one token."""
    for side in ("student", "teacher"):
        inputs.values[side] = inputs[side].unsqueeze(2)
    mask = torch.ones(inputs["student"].shape[1:3], dtype=torch.long)
    return layered("attention_layer_map", settings, inputs, mask)


def weights_of_units(settings: dict[str, Any], inputs: dict[str, Any]) -> Tensor:
    return unit_weights(inputs["ablated"] - inputs["base"], settings["form"])


def selected_tokens(settings: dict[str, Any], inputs: dict[str, Any]) -> Tensor:
    return chosen_tokens(inputs["score"], inputs["mask"], settings["psi"]).long()


BUILDERS = {
    "fitnets_hint": regressed("fitnets_hint"),
    "knowledge_preregression": preregression,
    "attention_transfer": plain("attention_transfer"),
    "delta": delta,
    "fine_grained_imitation": imitation,
    "dmkd": dual_masking,
    "vid": variational,
    "nst": plain("nst"),
    "factor_transfer": factors,
    "activation_boundary": boundaries,
    "ted": ted,
    "layer_combination": combination,
    "attention_layer_map": projected_layers,
}
VALUES = {"delta_weights": weights_of_units, "token_selection": selected_tokens}
