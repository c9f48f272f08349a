"""What the stored refusals ask for: which pairs, settings and batches are refused, warned about or taken."""

from __future__ import annotations

import ast
import json
import logging
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hf_distill import objectives, students
from hf_distill.activations import Activations
from hf_distill.anatomy import Anatomy
from hf_distill.data.exemplars import exemplar_herding
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives import HiddenCosine, HiddenMSE, Pair, SoftTargets
from hf_distill.runs.chains import advise_chains
from hf_distill.tasks import TASKS
from tests import tiny
from tests.refusals import TESTED
from tests.shapes import shape

TESTS = Path(__file__).parent


@cache
def functions_of(path: str) -> frozenset[str]:
    """The functions of a file of tests."""
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("name", TESTED)
def test_every_refusal_is_tested(name: str) -> None:
    """In a test that is there, or a sentence says why its situation cannot come up."""
    stored = json.loads((TESTS / "golden" / f"{name}.json").read_text(encoding="utf-8"))["refusals"]
    assert {(refusal["method"], refusal["situation"]) for refusal in stored} == TESTED[name].keys()
    lost = []
    for tests in TESTED[name].values():
        named = () if isinstance(tests, str) else tests
        assert named or str(tests).endswith(".")
        lost += [each for each in named if each.partition("::")[2] not in functions_of(each.partition("::")[0])]
    assert not lost


def test_every_list_of_refusals_is_read() -> None:
    files = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (TESTS / "golden").glob("*.json")}
    assert {name for name, file in files.items() if "refusals" in file} == set(TESTED)


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


@pytest.mark.parametrize("doubled", ["student", "teacher", "both"])
def test_refuses_labels_of_one_name(doubled: str) -> None:
    sides = []
    for side, seed in (("student", 1), ("teacher", 2)):
        model = tiny.model("single_label", seed=seed)
        last = "b" if doubled in (side, "both") else "c"
        model.config.id2label = {0: "a", 1: "b", 2: last}
        sides.append(Anatomy.of(model))
    with pytest.raises(IncompatiblePair, match="they must be the same names"):
        Pair.of(*sides, TASKS["single_label"])


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((9, 3, 1), []),
        ((9, 3, 4), ["stage 'last': its student has 4 parameters, and that of stage 'first', its teacher, 3"]),
        ((9, 12, 2), ["stage 'last': its assistant has 12 parameters, the teacher 9"]),
        ((5, 3, 2), ["stage 'last': the teacher has 5 parameters, the student 2; there is hardly a gap"]),
    ],
)
def test_warns_of_an_assistant_that_is_no_size_in_between(
    sizes: tuple[int, int, int], words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    teacher, *made = (torch.nn.Linear(size, 1, bias=False) for size in sizes)
    titles, settings = ("stage 'first'", "stage 'last'"), {"starts": object(), "settings": {}, "seed": 0}
    first = SimpleNamespace(title=titles[0], learns_from=None, **settings)
    last = SimpleNamespace(title=titles[1], learns_from=first, **settings)
    jobs: Any = [first, last]
    models: Any = dict(zip(titles, made, strict=True))
    whole: Any = teacher
    with caplog.at_level(logging.WARNING):
        advise_chains(whole, jobs, models)
    assert len(caplog.messages) == len(words)
    assert all(found.startswith(word) for found, word in zip(caplog.messages, words, strict=True))


def test_a_class_smaller_than_asked_for_is_taken_whole() -> None:
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert exemplar_herding(features, 9) == exemplar_herding(features, 5)


def test_a_text_without_tokens_measures_nothing() -> None:
    teacher, texts = tiny.model("single_label", layers=2, seed=2), tiny.Pad()(tiny.rows("single_label", 4))
    del texts["labels"]
    beside = {name: torch.cat([column, torch.zeros_like(column[:1])]) for name, column in texts.items()}
    found = [
        students.from_shape(teacher, intermediate_size=12, initialisation="importance", calibration=[each])
        for each in (texts, beside)
    ]
    assert tiny.distance(*found) == 0.0
