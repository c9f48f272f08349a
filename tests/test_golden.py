"""Losses and gradients against stored values that were computed outside this package, in float64 and in float32."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_distill import objectives
from hf_distill.activations import Activations
from hf_distill.anatomy import Shape, StackShape
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.layer_map import LayerMap
from hf_distill.objectives import HiddenCosine, HiddenMSE, Pair, SoftTargets, Terms
from hf_distill.tasks import IGNORED, TASKS
from tests.shapes import shape

GOLDEN = Path(__file__).parent / "golden"
FILES = {name: json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8")) for name in ("response", "families")}
TOLERANCE = FILES["response"]["about"]["tolerance"]
CASES = {case["id"]: case for file in FILES.values() for case in file["cases"]}
LAYER_MAPS = [case for case in CASES.values() if case["method"] == "layer_map"]
LOSSES = [case for case in CASES.values() if case["method"] not in ("layer_map", "mlm_sampling_weights")]
REFUSALS = {(refusal["method"], refusal["situation"]) for file in FILES.values() for refusal in file["refusals"]}


@dataclass
class Setup:
    """A case in the package's words. `leaves` are the tensors whose gradients are stored, by their golden names."""

    terms: Terms
    pair: Pair
    student: Activations
    teacher: Activations
    batch: dict[str, Tensor]
    leaves: dict[str, Tensor] = field(default_factory=dict)
    divide: bool = True

    def loss(self) -> Tensor:
        total = torch.zeros(())
        for term in self.terms:
            value = term.objective(self.student, self.teacher, self.batch)
            count = term.objective.count(self.batch, self.pair.task)
            total = total + term.weight * (value / max(int(count), 1) if self.divide else value)
        return total


class Inputs:
    """A case's inputs as tensors; those with a stored gradient are leaves."""

    def __init__(self, case: dict[str, Any], dtype: torch.dtype) -> None:
        self.wanted = case["expected"]["grad"]
        self.leaves: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = {}
        for name, value in case["inputs"].items():
            whole = name in ("labels", "mask", "attention_mask", "nsp_labels")
            tensor = torch.tensor(value, dtype=torch.long if whole else dtype)
            if name in self.wanted:
                self.leaves[name] = tensor.requires_grad_()
            self.values[name] = tensor

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def get(self, name: str) -> Tensor | None:
        return self.values.get(name)


def bound(pair: Pair, *weighted: tuple[float, str, dict[str, Any]]) -> Terms:
    terms = Terms.of([weight * objectives.make(name, settings) for weight, name, settings in weighted])
    for term in terms:
        term.objective.bind(pair)
    return terms


def logits_case(inputs: Inputs, task: str, batch: dict[str, Tensor], weighted: list[Any], **alignment: Any) -> Setup:
    """A case over `logits` alone."""
    student = inputs.get("student_logits")
    student = student if student is not None else inputs.get("logits")
    student = student if student is not None else inputs["student"]
    teacher = inputs.get("teacher_logits")
    teacher = teacher if teacher is not None else inputs.get("teacher")
    pair = Pair.from_shapes(
        shape(num_logits=student.shape[-1]),
        shape(num_logits=student.shape[-1] if teacher is None else teacher.shape[-1]),
        TASKS[task],
        **alignment,
    )
    ids = torch.zeros(student.shape[:2] if student.dim() == 3 else (len(student), 1), dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **batch}
    mask = batch["attention_mask"]
    shown = Activations(mask=mask, logits=teacher)
    return Setup(bound(pair, *weighted), pair, Activations(mask=mask, logits=student), shown, batch, inputs.leaves)


def labels_of(mask: Tensor) -> Tensor:
    return torch.where(mask.bool(), 0, IGNORED)


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
    "soft_targets": soft_targets,
    "soft_targets_multilabel": multilabel,
    "soft_targets_regression": regression,
    "soft_targets_qa": question_answering,
    "soft_targets_mlm": language_model("masked_lm"),
    "soft_targets_causal": language_model("causal_lm"),
    "soft_targets_seq2seq": language_model("seq2seq_lm"),
    "hard_ce": hard_labels,
    "combined": combined,
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


def close(found: Tensor, expected: Any, tolerance: float) -> None:
    """|found - expected| <= tolerance * max(1, largest |expected|), the rule in the files' heads."""
    wanted = torch.tensor(expected, dtype=torch.float64)
    assert found.shape == wanted.shape
    worst = float((found.detach().double() - wanted).abs().max())
    assert worst <= tolerance * max(1.0, float(wanted.abs().max())), worst


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case["id"])
def test_loss_and_gradients(case: dict[str, Any], precision: str) -> None:
    inputs = Inputs(case, getattr(torch, precision))
    setup = BUILDERS[case["method"]](dict(case["settings"]), inputs)
    loss = setup.loss()
    loss.backward()
    tolerance = TOLERANCE[precision]
    close(loss, case["expected"]["loss"], tolerance["loss"])
    for name, gradient in case["expected"]["grad"].items():
        found = setup.leaves[name].grad
        assert found is not None, name
        found = found.T if name == "projection" else found
        close(found, gradient, tolerance["grad"])


@pytest.mark.parametrize("case", LAYER_MAPS, ids=lambda case: case["id"])
def test_layer_map(case: dict[str, Any]) -> None:
    settings = case["settings"]
    found = LayerMap.resolve(settings["kind"], settings["n_student"], settings["n_teacher"])
    assert [list(pair) for pair in found] == case["expected"]["values"]


def test_every_case_is_run() -> None:
    assert {case["method"] for case in LOSSES} == set(BUILDERS)
    assert FILES["families"]["about"]["tolerance"] == TOLERANCE
    assert len(CASES) == sum(len(file["cases"]) for file in FILES.values()) == 77


# ---- refusals ----


def test_every_refusal_is_tested() -> None:
    assert {
        ("soft_targets", "student and teacher class counts differ and neither vocab nor label_map is set"),
        ("soft_targets", "temperature <= 0"),
        ("soft_targets", "single-output regression head (C = 1)"),
        ("jsd", "beta = 0 or 1"),
        ("hidden_cosine", "widths differ and no projection"),
        ("hidden_mse", "widths differ and no projection"),
        ("minilm", "student heads != teacher heads"),
        ("minilm_v2", "a q, k or v width not divisible by relation_heads"),
        ("minilm_v2", "different tokenisation or sequence length on the two sides"),
        ("minilm_v2", "sequence of one real token"),
        ("attention_mse", "head counts differ"),
        ("attention_mse", "attention probabilities passed instead of scores"),
        ("attention_kl", "probabilities taken after dropout"),
        ("attention_kl", "sdpa or flash attention"),
        ("tinybert_layers", "teacher layers not a multiple of student layers"),
        ("feature_map_transfer", "hidden widths differ"),
        ("feature_map_transfer", "a teacher of another depth"),
        ("pkd", "teacher or student without a [CLS]-like first token (causal models)"),
    } == REFUSALS


def test_refuses_other_class_counts() -> None:
    pair = Pair.from_shapes(shape(num_logits=3), shape(num_logits=4), TASKS["single_label"])
    objective = SoftTargets()
    objective.bind(pair)
    batch = {"input_ids": torch.zeros(2, 1, dtype=torch.long)}
    with pytest.raises(IncompatiblePair, match=r"\(2, 3\) \(student\) and \(2, 4\) \(teacher\)"):
        objective(Activations(logits=torch.zeros(2, 3)), Activations(logits=torch.zeros(2, 4)), batch)


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan"), float("inf"), True, "2"])
def test_refuses_a_temperature_that_is_no_positive_number(temperature: Any) -> None:
    with pytest.raises(DistillationError, match=r"temperature is .*; it must be a number above 0"):
        SoftTargets(temperature=temperature)


def test_refuses_the_softmax_of_one_logit() -> None:
    with pytest.raises(IncompatiblePair, match="problem_type='regression'"):
        SoftTargets().bind(Pair.from_shapes(shape(num_logits=1), shape(num_logits=1), TASKS["single_label"]))


@pytest.mark.parametrize("beta", [0, 1, 0.0, 1.0])
def test_accepts_the_ends_of_beta(beta: float) -> None:
    assert SoftTargets(kind="jsd", beta=beta).beta == beta


@pytest.mark.parametrize(
    "objective", [HiddenCosine(layer_map="final"), HiddenMSE(projection="none")], ids=lambda o: o.name
)
def test_refuses_other_widths_without_a_projection(objective: Any) -> None:
    pair = Pair.from_shapes(shape(width=4), shape(width=6), TASKS["single_label"])
    with pytest.raises(IncompatiblePair, match=r"4 wide, the teacher's 6; set projection="):
        objective.bind(pair)


def test_refuses_relation_heads_that_do_not_divide() -> None:
    pair = Pair.from_shapes(shape(width=4), shape(width=6), TASKS["masked_lm"])
    with pytest.raises(IncompatiblePair, match=r"relation_heads is 4, .*teacher query width 6.*; it may be 1, 2\."):
        objectives.make("minilm_v2", {"relation_heads": 4}).bind(pair)


def test_refuses_relations_over_other_positions() -> None:
    objective = objectives.make("minilm_v2", {"relations": {"vv": 1.0}})
    objective.bind(Pair.from_shapes(shape(), shape(), TASKS["masked_lm"]))
    mask = torch.ones(1, 3, dtype=torch.long)
    student, teacher = (Activations(mask=mask[:, :length], values={2: torch.zeros(1, length, 4)}) for length in (3, 2))
    with pytest.raises(IncompatiblePair, match=r"1 texts of 3 positions, the teacher 1 of 2.*the same tokens"):
        objective(student, teacher, {"input_ids": mask, "attention_mask": mask})


@pytest.mark.parametrize("name", ["minilm", "minilm_v2"])
def test_accepts_a_text_of_one_token(name: str) -> None:
    objective = objectives.make(name, {})
    objective.bind(Pair.from_shapes(shape(), shape(), TASKS["masked_lm"]))
    mask = torch.tensor([[1, 0]])
    fields = ("queries", "keys", "values")
    leaves = {field: torch.randn(1, 2, 4, requires_grad=True) for field in fields}
    teacher = Activations(mask=mask, **{field: {2: torch.randn(1, 2, 4)} for field in fields})
    student = Activations(mask=mask, **{field: {2: leaf} for field, leaf in leaves.items()})
    loss = objective(student, teacher, {"input_ids": mask, "attention_mask": mask})
    loss.backward()
    assert loss == 0
    assert not any(leaf.grad.any() for leaf in leaves.values())


def test_refuses_other_heads_for_minilm() -> None:
    pair = Pair.from_shapes(shape(heads=2), shape(heads=4), TASKS["masked_lm"])
    with pytest.raises(IncompatiblePair, match=r"minilm: the student has 2 attention heads .* 4 .*use minilm_v2"):
        objectives.make("minilm", {}).bind(pair)


@pytest.mark.parametrize("name", ["attention_kl", "attention_mse"])
def test_refuses_other_numbers_of_heads(name: str) -> None:
    pair = Pair.from_shapes(shape(heads=2), shape(heads=4), TASKS["masked_lm"])
    with pytest.raises(
        IncompatiblePair, match=rf"{name}: the student has 2 attention heads, the teacher 4.*minilm_v2"
    ):
        objectives.make(name, {}).bind(pair)


@pytest.mark.parametrize("name", ["attention_kl", "attention_mse"])
def test_attention_probabilities_cannot_be_passed(name: str) -> None:
    """Scores are recomputed from queries and keys, whatever attention function runs and whatever it drops."""
    objective = objectives.make(name, {})
    objective.bind(Pair.from_shapes(shape(), shape(), TASKS["masked_lm"]))
    assert {signal.field for signal in objective.needs().student | objective.needs().teacher} == {"scores"}
    with pytest.raises(DistillationError, match="no field 'attentions'"):
        Activations(attentions=(torch.full((1, 2, 3, 3), 1 / 3),))


@pytest.mark.parametrize("name", ["attention_mse", "hidden_mse"])
def test_refuses_a_uniform_map_of_a_depth_that_does_not_divide(name: str) -> None:
    objective = objectives.make(name, {"layer_map": "uniform"})
    with pytest.raises(IncompatiblePair, match=r"5 teacher layers are not a multiple of 2.*'spread'"):
        objective.bind(Pair.from_shapes(shape(2), shape(5), TASKS["masked_lm"]))


def test_refuses_feature_maps_of_other_widths_and_depths() -> None:
    for teacher, words in (
        (shape(2, 6), r"4 wide, the teacher's 6.*hidden_mse"),
        (shape(4), r"2 layers, the teacher 4"),
    ):
        with pytest.raises(IncompatiblePair, match=words):
            objectives.make("feature_map_transfer", {}).bind(Pair.from_shapes(shape(), teacher, TASKS["masked_lm"]))


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_refuses_to_pool_a_causal_model_at_its_first_token(side: str) -> None:
    sides = [shape(causal=side == name) for name in ("student", "teacher")]
    pair = Pair.from_shapes(*sides, TASKS["single_label"])
    with pytest.raises(IncompatiblePair, match=rf"the {side} is causal.*pooling='last_token'"):
        objectives.make("pkd", {}).bind(pair)
    objectives.make("pkd", {"pooling": "last_token"}).bind(pair)
