"""Golden cases of soft targets and labels, in every task."""

from __future__ import annotations

from typing import Any

import torch

from hf_distill.activations import Activations
from hf_distill.objectives import Pair
from hf_distill.tasks import TASKS
from tests.golden_cases.base import Inputs, Setup, bound, labels_of, logits_case
from tests.shapes import shape


def soft_targets(settings: dict[str, Any], inputs: Inputs) -> Setup:
    alignment = {}
    if "vocab" in settings:
        alignment["vocabulary"] = settings.pop("vocab")
    if "label_map" in settings:
        alignment["teacher_columns"] = tuple(settings.pop("label_map"))
    summed = settings.get("reduction") == "sum"
    if summed:
        settings["reduction"] = "token_mean"
    mask = inputs.get("mask")
    task, batch = ("single_label", {}) if mask is None else ("token_classification", {"labels": labels_of(mask)})
    setup = logits_case(inputs, task, batch, [(1.0, "soft_targets", settings)], **alignment)
    setup.divide = not summed
    return setup


def multilabel(settings: dict[str, Any], inputs: Inputs) -> Setup:
    settings["kind"] = {"kl": "forward_kl", "bce": "cross_entropy"}[settings["kind"]]
    mask = inputs.get("mask")
    batch = {} if mask is None else {"labels": labels_of(mask).double()}
    return logits_case(inputs, "multi_label", batch, [(1.0, "soft_targets", settings)])


def regression(settings: dict[str, Any], inputs: Inputs) -> Setup:
    return logits_case(inputs, "regression", {}, [(1.0, "soft_targets", settings)])


def question_answering(settings: dict[str, Any], inputs: Inputs) -> Setup:
    settings["tokens"] = settings.pop("positions")
    mask = inputs["mask"]
    pair = Pair.from_shapes(shape(num_logits=2), shape(num_logits=2), TASKS["question_answering"])
    sides = [
        Activations(mask=mask, start_logits=inputs[f"start_{side}"], end_logits=inputs[f"end_{side}"])
        for side in ("student", "teacher")
    ]
    batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    return Setup(bound(pair, (1.0, "soft_targets", settings)), pair, sides[0], sides[1], batch, inputs.leaves)


def language_model(task: str) -> Any:
    def build(settings: dict[str, Any], inputs: Inputs) -> Setup:
        batch = {name: inputs[name] for name in ("labels", "attention_mask") if inputs.get(name) is not None}
        return logits_case(inputs, task, batch, [(1.0, "soft_targets", settings)])

    return build


def hard_labels(settings: dict[str, Any], inputs: Inputs) -> Setup:
    return logits_case(inputs, "token_classification", {"labels": inputs["labels"]}, [(1.0, "labels", settings)])


def combined(settings: dict[str, Any], inputs: Inputs) -> Setup:
    alpha = settings["alpha"]
    weighted = [
        (alpha, "soft_targets", {"temperature": settings["temperature"]}),
        (1.0 - alpha, "labels", {"label_smoothing": settings["label_smoothing"]}),
    ]
    return logits_case(inputs, "token_classification", {"labels": inputs["labels"]}, weighted)


BUILDERS = {
    "soft_targets": soft_targets,
    "soft_targets_multilabel": multilabel,
    "soft_targets_regression": regression,
    "soft_targets_qa": question_answering,
    "soft_targets_mlm": language_model("masked_lm"),
    "soft_targets_causal": language_model("causal_lm"),
    "soft_targets_seq2seq": language_model("seq2seq_lm"),
    "hard_ce": hard_labels,
    "combined": combined,
}
