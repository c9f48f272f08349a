"""Golden cases of relations between the texts of a batch."""

from __future__ import annotations

from typing import Any

import torch

from hf_distill.activations import Activations
from hf_distill.losses import unit
from hf_distill.objectives import Pair
from hf_distill.objectives.row_memory import updated
from hf_distill.tasks import TASKS
from tests.golden_cases.base import Inputs, Setup, bound
from tests.shapes import shape

WORDS = {"tau": "temperature", "tau_s": "student_temperature", "tau_t": "teacher_temperature"}


def related(name: str, sides: tuple[str, str] = ("s", "t"), **further: Any) -> Any:
    """Vectors of texts, which are texts of one token, or the states of all their tokens."""

    def build(settings: dict[str, Any], inputs: Inputs) -> Setup:
        settings = further | {WORDS.get(word, word): value for word, value in settings.items()}
        inputs.leaves.setdefault(sides[0], inputs[sides[0]].requires_grad_())  # which must be finite, stored or not
        states = [inputs[side] if inputs[side].dim() == 3 else inputs[side].unsqueeze(1) for side in sides]
        mask = inputs.get("mask")
        if mask is None:
            mask = torch.ones(states[0].shape[:2], dtype=torch.long)
        elif name == "similarity_preserving":
            settings["flatten"] = True
        pair = Pair.from_shapes(*(shape(2, state.shape[-1]) for state in states), TASKS["single_label"])
        shown = [Activations(mask=mask, hidden={2: state}) for state in states]
        batch = {"attention_mask": mask}
        return Setup(bound(pair, (1.0, name, settings)), pair, shown[0], shown[1], batch, inputs.leaves)

    return build


def contrast(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """The vectors are given behind the learned maps, which are the identity here."""
    width = inputs["zs"].shape[-1]
    setup = related("crd", ("zs", "zt"), dimension=width)(settings, inputs)
    be_identity(setup.terms[0].objective)
    return setup


def remembered(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """The memories, the normalizers and the negatives are given, too."""
    mask = torch.ones(len(inputs["zs"]), 1, dtype=torch.long)
    states, width = [inputs[side].unsqueeze(1) for side in ("zs", "zt")], inputs["zs"].shape[-1]
    pair = Pair.from_shapes(shape(2, width), shape(2, width), TASKS["single_label"])
    given = {"temperature": settings["tau"], "dimension": width, "negatives": inputs["negatives"].shape[1]}
    terms = bound(pair, (1.0, "crd_memory", given))
    objective = terms[0].objective
    objective.see_rows(len(inputs["mem_s"]), None)
    objective.to(inputs["zs"].dtype)
    with torch.no_grad():
        objective.student_memory.copy_(inputs["mem_s"])
        objective.teacher_memory.copy_(inputs["mem_t"])
        objective.normalizers.copy_(torch.tensor([settings["z_s"], settings["z_t"]]))
    be_identity(objective)
    objective.draws.forward = lambda *_: inputs["negatives"]
    shown = [Activations(mask=mask, hidden={2: state}) for state in states]
    batch = {"attention_mask": mask, "row_index": inputs["index"]}
    return Setup(terms, pair, shown[0], shown[1], batch, inputs.leaves)


def be_identity(objective: Any) -> None:
    with torch.no_grad():
        for linear in (*objective.student_maps, *objective.teacher_maps):
            linear.weight.copy_(torch.eye(len(linear.weight)))
            linear.bias.zero_()


def after_a_batch(settings: dict[str, Any], inputs: dict[str, Any]) -> Any:
    """The whole memory, of which some rows were updated."""
    index, memory = inputs["index"], inputs["memory"]
    return memory.index_copy(0, index, updated(memory, index, unit(inputs["z"]), settings["momentum"]))


BUILDERS = {
    **{
        name: related(name)
        for name in (
            "pkt",
            "rkd_distance",
            "rkd_angle",
            "correlation_congruence",
            "similarity_preserving",
            "similarity_distribution",
            "cka",
        )
    },
    "darkrank_hard": related("darkrank_hard", normalize=False),
    "darkrank_soft": related("darkrank_soft", normalize=False),
    "crd": contrast,
    "crd_memory": remembered,
}
VALUES = {"crd_memory_update": after_a_batch}
