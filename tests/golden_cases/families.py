"""Golden cases of DistilBERT, MiniLM, MobileBERT, TinyBERT and patient distillation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.anatomy import Shape, StackShape
from hf_distill.objectives import Pair
from hf_distill.tasks import TASKS
from tests.golden_cases.base import Inputs, Setup, bound, logits_case
from tests.shapes import shape


def hidden(name: str) -> Any:
    def build(settings: dict[str, Any], inputs: Inputs) -> Setup:
        sides, mask = (inputs["student"], inputs["teacher"]), inputs["attention_mask"]
        first = 1 if len(sides[0]) == 1 else 0  # a lone state is the output of a lone block
        depths = [len(side) - 1 + first for side in sides]
        shapes = [shape(depth, side.shape[-1]) for depth, side in zip(depths, sides, strict=True)]
        pair = Pair.from_shapes(*shapes, TASKS["masked_lm"])
        projection = inputs.get("projection")
        if projection is not None:
            settings["projection"] = "shared"
        terms = bound(pair, (1.0, name, settings))
        shown = [Activations(mask=mask, hidden={first + i: state for i, state in enumerate(side)}) for side in sides]
        batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
        setup = Setup(terms, pair, shown[0], shown[1], batch, inputs.leaves)
        if projection is not None:
            give_projection(setup, inputs)
        return setup

    return build


def triple(task: str, hard: str) -> Any:
    """Soft targets, labels and the last hidden state: DistilBERT's and DistilGPT2's loss."""

    def build(settings: dict[str, Any], inputs: Inputs) -> Setup:
        soft = {name: settings[name] for name in ("temperature", "tokens") if name in settings}
        weighted = [
            (settings["alpha_ce"], "soft_targets", soft),
            (settings[hard], "labels", {}),
            (settings["alpha_cos"], "hidden_cosine", {}),
        ]
        batch = {name: inputs[name] for name in ("labels", "attention_mask")}
        setup = logits_case(inputs, task, batch, weighted)
        for side, name in ((setup.student, "student_hidden"), (setup.teacher, "teacher_hidden")):
            side.mask = inputs["attention_mask"]
            side.tensors["hidden"] = {2: inputs[name]}
        return setup

    return build


def attention(name: str) -> Any:
    """One block whose scores are given."""

    def build(settings: dict[str, Any], inputs: Inputs) -> Setup:
        names = {"kl": "forward_kl", "code": "keys"}
        settings = {setting: names.get(value, value) for setting, value in settings.items()}
        mask = inputs["attention_mask"]
        pair = Pair.from_shapes(shape(1), shape(1), TASKS["masked_lm"])
        shown = [Activations(mask=mask, scores={1: inputs[f"{side}_scores"]}) for side in ("student", "teacher")]
        batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
        return Setup(bound(pair, (1.0, name, settings)), pair, shown[0], shown[1], batch, inputs.leaves)

    return build


def feature_maps(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """The outputs of blocks; pairs of blocks are counted from 0 in the file."""
    if "layer_map" in settings:
        settings["layer_map"] = [[student + 1, teacher + 1] for student, teacher in settings["layer_map"]]
    sides, mask = (inputs["student"], inputs["teacher"]), inputs["attention_mask"]
    pair = Pair.from_shapes(*(shape(len(side), side.shape[-1]) for side in sides), TASKS["masked_lm"])
    shown = [Activations(mask=mask, hidden=dict(enumerate(side, start=1))) for side in sides]
    batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    terms = bound(pair, (1.0, "feature_map_transfer", settings))
    return Setup(terms, pair, shown[0], shown[1], batch, inputs.leaves)


def patient(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """Sentence vectors of all blocks but the last: texts of one token."""
    sides = (inputs["student"], inputs["teacher"])
    settings["reduction"] = {"paper": "example_mean", "code": "element_mean"}[settings.pop("form")]
    blocks, examples, width = sides[0].shape
    mask = torch.ones(examples, 1, dtype=torch.long)
    pair = Pair.from_shapes(shape(blocks + 1, width), shape(blocks + 1, width), TASKS["single_label"])
    shown = [Activations(mask=mask, hidden=dict(enumerate(side.unsqueeze(2), start=1))) for side in sides]
    batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    return Setup(bound(pair, (1.0, "pkd", settings)), pair, shown[0], shown[1], batch, inputs.leaves)


def pretraining(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """Words and sentence pairs: the second part of the loss counts examples, so it is a term of its own."""
    batch = {"labels": inputs["labels"], "next_sentence_label": inputs["nsp_labels"]}
    weighted = [(1.0, "pretraining_distillation", settings), (1.0, "next_sentence", {})]
    setup = logits_case(inputs, "masked_lm", batch, weighted)
    setup.student.tensors["next_sentence_logits"] = inputs["nsp_logits"]
    return setup


def tinybert_prediction(settings: dict[str, Any], inputs: Inputs) -> Setup:
    reduction = {"paper": "token_mean", "code": "element_mean"}[settings.pop("form")]
    settings |= {"kind": "cross_entropy", "scale": "none", "reduction": reduction}
    return logits_case(inputs, "single_label", {}, [(1.0, "soft_targets", settings)])


def tinybert_layers(settings: dict[str, Any], inputs: Inputs) -> Setup:
    """Embeddings, hidden states and scores of all blocks, with the one projection of the reference code."""
    masking = {"valid_pairs": "valid_pairs", "code": "keys"}[settings["masking"]]
    mask = inputs["attention_mask"]
    sides = [(inputs[f"{side}_hidden"], inputs[f"{side}_scores"]) for side in ("student", "teacher")]
    shapes = [shape(len(scores), states.shape[-1]) for states, scores in sides]
    pair = Pair.from_shapes(*shapes, TASKS["masked_lm"])
    hidden_settings = {"layer_map": "uniform", "projection": "shared", "layer_reduction": "sum"}
    terms = bound(pair, (1.0, "hidden_mse", hidden_settings), (1.0, "attention_mse", {"masking": masking}))
    shown = [
        Activations(mask=mask, hidden=dict(enumerate(states)), scores=dict(enumerate(scores, start=1)))
        for states, scores in sides
    ]
    batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    setup = Setup(terms, pair, shown[0], shown[1], batch, inputs.leaves)
    give_projection(setup, inputs)
    return setup


def give_projection(setup: Setup, inputs: Inputs) -> None:
    """Put the case's projection into the first term, whose weight takes the gradient."""
    linear = setup.terms[0].objective.projections[0].to(inputs["projection"].dtype)
    with torch.no_grad():
        linear.weight.copy_(inputs["projection"].detach().T)
        linear.bias.copy_(inputs["bias"])
    setup.leaves["projection"] = linear.weight


def projections(inputs: Inputs) -> list[dict[str, Tensor]]:
    """Queries, keys and values of student and teacher `[batch, length, width]`; heads come apart in some cases."""

    def whole(tensor: Tensor) -> Tensor:
        return tensor if tensor.dim() == 3 else tensor.transpose(1, 2).flatten(2)

    words = ("queries", "keys", "values")
    return [{word: whole(inputs[f"{word[0]}_{side}"]) for word in words} for side in ("student", "teacher")]


def related(name: str, settings: dict[str, Any], inputs: Inputs, heads: list[tuple[int, int]]) -> Setup:
    """One block of each model, whose `heads` are numbers of query heads and of key heads."""
    mask, sides = inputs["attention_mask"], projections(inputs)
    shapes = []
    for (queries, keys), side in zip(heads, sides, strict=True):
        size = side["keys"].shape[-1] // keys
        shapes.append(Shape("made_up", {"": StackShape(1, queries * size, queries, keys, size, False)}, 5, 30, None))
    pair = Pair.from_shapes(*shapes, TASKS["masked_lm"])
    shown = [Activations(mask=mask, **{word: {1: tensor} for word, tensor in side.items()}) for side in sides]
    batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    segments = inputs.get("segments")
    if segments is not None:
        positions = [[row[:i].count(each) for i, each in enumerate(row)] for row in segments.tolist()]
        batch["position_ids"] = torch.tensor(positions)
    return Setup(bound(pair, (1.0, name, settings)), pair, shown[0], shown[1], batch, inputs.leaves)


def minilm(settings: dict[str, Any], inputs: Inputs) -> Setup:
    heads = inputs["q_student"].shape[1]
    return related("minilm", settings, inputs, [(heads, heads), (heads, heads)])


def minilm_v2(settings: dict[str, Any], inputs: Inputs) -> Setup:
    weights = dict(zip(("qq", "kk", "vv"), settings.pop("weights"), strict=True))
    settings["relations"] = {name: weight for name, weight in weights.items() if weight}
    heads = [(inputs[f"q_{side}"].shape[-1] // inputs[f"k_{side}"].shape[-1], 1) for side in ("student", "teacher")]
    setup = related("minilm_v2", settings, inputs, heads)
    for name in weights.keys() - settings["relations"].keys():  # not read
        leaf = setup.leaves[f"{name[0]}_student"]
        leaf.grad = torch.zeros_like(leaf)
    return setup


BUILDERS = {
    "hidden_cosine": hidden("hidden_cosine"),
    "hidden_mse": hidden("hidden_mse"),
    "distilbert": triple("masked_lm", "alpha_mlm"),
    "distilgpt2": triple("causal_lm", "alpha_clm"),
    "minilm": minilm,
    "minilm_v2": minilm_v2,
    "attention_kl": attention("attention_kl"),
    "attention_mse": attention("attention_mse"),
    "feature_map_transfer": feature_maps,
    "pkd": patient,
    "pretraining_distillation": pretraining,
    "tinybert_prediction": tinybert_prediction,
    "tinybert_layers": tinybert_layers,
}
