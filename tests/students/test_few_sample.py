"""Students that are corrected on a few sentences: what is fitted, to what, and when it is left alone."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from hf_distill import students
from hf_distill.errors import DistillationError, IncompatiblePair, RecipeError
from hf_distill.recipe import Recipe
from hf_distill.runs import models
from hf_distill.runs.workloads import load_workload
from hf_distill.students.few_sample import MAKER, Recovered
from tests import tiny, tiny_models, tiny_runs


def sentences(
    number: int = 60, seed: int = 3, extra: int = 0, size: int = 10, **lengths: int
) -> list[dict[str, Tensor]]:
    """Batches of sentences without labels."""
    names = ("input_ids", "attention_mask")
    rows = [{name: row[name] for name in names} for row in tiny.rows("masked_lm", number, seed, **lengths)]
    return [tiny.Pad(extra)(rows[first : first + size]) for first in range(0, number, size)]


def doubled(layers: int = 2) -> PreTrainedModel:
    """A classifier whose neurons come in pairs of equals, each with an output of its own."""
    teacher = tiny_models.tiny("bert", "AutoModelForSequenceClassification", layers)
    with torch.no_grad():
        for layer in teacher.bert.encoder.layer:
            half = layer.intermediate.dense.weight.shape[0] // 2
            layer.intermediate.dense.weight[half:] = layer.intermediate.dense.weight[:half]
            layer.intermediate.dense.bias[half:] = layer.intermediate.dense.bias[:half]
    return teacher


def halved(teacher: PreTrainedModel) -> PreTrainedModel:
    """The teacher with one neuron of each pair."""
    config = copy.deepcopy(teacher.config)
    config.intermediate_size //= 2
    student = type(teacher)(config).eval()
    state = teacher.state_dict()
    for name in [name for name in state if ".intermediate." in name or name.endswith(".output.dense.weight")]:
        if ".attention." not in name:
            half = config.intermediate_size
            state[name] = state[name][:half] if ".intermediate." in name else state[name][:, :half]
    student.load_state_dict(state)
    return student


def shown(
    model: PreTrainedModel, path: str, batches: list[dict[str, Tensor]], what: str, runs: int = 1, run: int = 1
) -> np.ndarray:
    """The input or output of a module at the real tokens of all batches, in one of its runs in each pass."""
    found: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(
        lambda module, args, output: found.append(args[0] if what == "input" else output)
    )
    real = []
    with torch.no_grad():
        for batch in batches:
            model(**batch)
            real.append(batch["attention_mask"].bool())
    handle.remove()
    chosen = zip(found[run - 1 :: runs], real, strict=True)
    return torch.cat([states[mask] for states, mask in chosen]).double().numpy()


def fitted_tokens(batches: list[dict[str, Tensor]]) -> np.ndarray:
    """Which of the real tokens belong to sentences that are fitted: all but every fifth."""
    numbers = [number for batch in batches for number in range(len(batch["attention_mask"]))]
    size = len(batches[0]["attention_mask"])
    found = []
    for place, batch in enumerate(batches):
        for row, mask in enumerate(batch["attention_mask"]):
            found += [(place * size + row) % 5 != 4] * int(mask.sum())
    assert len(numbers)
    return np.array(found)


def ridge_regression(x: np.ndarray, t: np.ndarray, start: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """W and b by least squares with rows that draw W to its start, solved by QR and not by normal equations."""
    width = x.shape[1]
    weight = ridge * float(np.square(x).sum(axis=0).mean())
    drawn = np.sqrt(weight) * np.eye(width)
    rows = np.vstack([np.hstack([x, np.ones((len(x), 1))]), np.hstack([drawn, np.zeros((width, 1))])])
    solution, *_ = np.linalg.lstsq(rows, np.vstack([t, drawn @ start]), rcond=None)
    return solution[:-1].T, solution[-1]


# ---- what is fitted ----


def test_neurons_that_others_can_stand_for_are_made_good() -> None:
    teacher = doubled()
    student, batches = halved(teacher), sentences(200)
    before = student(**batches[0]).logits
    found = students.recover(student, teacher, batches, ridge=0.0)
    assert [each.fit for each in found] == ["full", "full"]
    assert all(each.kept and each.held_out[1] < 1e-8 < each.held_out[0] for each in found)
    wanted = teacher(**batches[0]).logits
    assert float((before - wanted).detach().abs().max()) > 0.1
    torch.testing.assert_close(student(**batches[0]).logits, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("fit", ["full", "block"])
def test_one_projection_against_another_way_to_solve_it(fit: Any) -> None:
    """Target `sublayer`: the teacher's output of the projection."""
    teacher = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 1)
    student, batches, path = halved(teacher), sentences(), "bert.encoder.layer.0.output.dense"
    module = student.get_submodule(path)
    weight, bias = (tensor.detach().double().numpy() for tensor in (module.weight, module.bias))
    fits = fitted_tokens(batches)
    x = shown(student, path, batches, "input" if fit == "full" else "output")[fits]
    t = shown(teacher, path, batches, "output")[fits]
    start = weight.T if fit == "full" else np.eye(len(weight))
    matrix, offset = ridge_regression(x, t, start, 0.05)
    found = students.recover(student, teacher, batches, target="sublayer", fit=fit, ridge=0.05)
    assert [(each.name, each.fit, each.kept) for each in found] == [("layer 1 output.dense", fit, True)]
    expected = (matrix, offset) if fit == "full" else (matrix @ weight, matrix @ bias + offset)
    np.testing.assert_allclose(module.weight.detach().numpy(), expected[0], atol=1e-5)
    np.testing.assert_allclose(module.bias.detach().numpy(), expected[1], atol=1e-5)
    errors = [np.square(y - t).mean() for y in (x @ start + (bias if fit == "full" else 0), x @ matrix.T + offset)]
    np.testing.assert_allclose(found[0].fitted, errors, rtol=1e-6)


def test_the_stream_is_fitted_where_layers_are_missing() -> None:
    teacher = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 4)
    student, batches, path = students.from_layers(teacher, layers=[2, 4]), sentences(), "bert.encoder.layer.0.output"
    module = student.get_submodule(f"{path}.dense")
    weight, bias = (tensor.detach().double().numpy() for tensor in (module.weight, module.bias))
    fits = fitted_tokens(batches)
    output = shown(student, f"{path}.dense", batches, "output")[fits]
    sums = [
        shown(model, f"bert.encoder.layer.{layer}.output.LayerNorm", batches, "input")[fits]
        for model, layer in ((student, 0), (teacher, 1))
    ]
    target = sums[1] - (sums[0] - output)
    matrix, offset = ridge_regression(output, target, np.eye(len(weight)), 0.1)
    found = students.recover(student, teacher, batches, layers=[2, 4])
    assert [each.name for each in found] == ["layer 1 output.dense", "layer 2 output.dense"]
    assert {each.fit for each in found} == {"block"}
    np.testing.assert_allclose(module.weight.detach().numpy(), matrix @ weight, atol=1e-5)
    np.testing.assert_allclose(module.bias.detach().numpy(), matrix @ bias + offset, atol=1e-5)


@pytest.mark.parametrize("layer", [2, 3])
def test_a_shared_block_is_read_in_the_run_of_its_layer(layer: int) -> None:
    teacher = tiny_models.tiny("albert", "AutoModelForSequenceClassification", 4)
    student, batches = students.from_layers(teacher, layers=[layer]), sentences()
    block = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    module = student.get_submodule(f"{block}.ffn_output")
    weight, bias = (tensor.detach().double().numpy() for tensor in (module.weight, module.bias))
    fits = fitted_tokens(batches)
    output = shown(student, f"{block}.ffn_output", batches, "output")[fits]
    ours = shown(student, f"{block}.full_layer_layer_norm", batches, "input")[fits]
    theirs = shown(teacher, f"{block}.full_layer_layer_norm", batches, "input", runs=4, run=layer)[fits]
    matrix, offset = ridge_regression(output, theirs - (ours - output), np.eye(len(weight)), 0.1)
    found = students.recover(student, teacher, batches, layers=[layer])
    assert [each.name for each in found] == ["layer 1 ffn_output"]
    assert found[0].kept
    np.testing.assert_allclose(module.weight.detach().numpy(), matrix @ weight, atol=1e-5)
    np.testing.assert_allclose(module.bias.detach().numpy(), matrix @ bias + offset, atol=1e-5)


def test_only_what_follows_a_gap_is_corrected() -> None:
    teacher = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 4)
    student = students.from_layers(teacher, layers=[1, 2, 4])
    before = copy.deepcopy(student.state_dict())
    found = students.recover(student, teacher, sentences(), layers=[1, 2, 4])
    assert [each.name for each in found] == ["layer 3 output.dense"]
    changed = [name for name, tensor in student.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == [f"bert.encoder.layer.2.output.dense.{part}" for part in ("weight", "bias")]


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "mpnet", "gpt2", "llama", "qwen3"])
def test_every_family_comes_closer(family: str) -> None:
    teacher = tiny_models.tiny(family, "AutoModelForSequenceClassification", 2)
    batches = sentences()
    student = students.from_shape(teacher, intermediate_size=24, initialisation="importance", calibration=batches)
    found = students.recover(student, teacher, batches)
    assert len(found) == 2
    assert all(each.fit == "full" and each.fitted[1] < each.fitted[0] for each in found)
    untouched = students.from_shape(teacher, intermediate_size=24, initialisation="importance", calibration=batches)
    distances = [0.0, 0.0]
    for batch in sentences(20, seed=8):
        with torch.no_grad():
            wanted = teacher(**batch).logits
            for place, model in enumerate((untouched, student)):
                distances[place] += float((model(**batch).logits - wanted).square().sum())
    assert distances[1] < distances[0]


def test_attention_that_lost_heads_is_corrected() -> None:
    teacher, batches = tiny_models.tiny("llama", "AutoModelForSequenceClassification", 1), sentences()
    config = copy.deepcopy(teacher.config)
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 2, 1, 8
    student = type(teacher)(config).eval()
    mine = student.state_dict()
    student.load_state_dict({n: t[tuple(slice(s) for s in mine[n].shape)] for n, t in teacher.state_dict().items()})
    found = students.recover(student, teacher, batches)
    assert [each.name for each in found] == ["layer 1 self_attn.o_proj"]
    assert found[0].fitted[1] < found[0].fitted[0]


def test_padding_and_batches_change_nothing() -> None:
    teacher = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 3)
    made = []
    for batches in (sentences(), sentences(extra=7), sentences(size=4)):
        student = students.from_layers(teacher, layers=[1, 3])
        students.recover(student, teacher, batches, layers=[1, 3])
        made.append(student)
    for other in made[1:]:
        assert tiny.distance(made[0], other) < 1e-5


def test_modes_and_the_teacher_stay_as_they_are() -> None:
    teacher = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 3)
    student = students.from_layers(teacher, layers=[1, 3]).train()
    before, kept = copy.deepcopy(teacher.state_dict()), student.state_dict()
    students.recover(student, teacher, sentences(), layers=[1, 3])
    assert student.training
    assert not teacher.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())
    assert kept.keys() == student.state_dict().keys()


# ---- when it is left alone ----


def test_a_projection_whose_error_would_grow_is_left_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """A neuron that was cut spoke up for the word of the first four sentences, and never in the fifth."""
    teacher = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 1)
    batches, inner = sentences(5), teacher.bert.encoder.layer[0].intermediate.dense
    batches[0]["input_ids"][:4] = 7
    fits = fitted_tokens(batches)
    states = torch.from_numpy(shown(teacher, "bert.encoder.layer.0.intermediate.dense", batches, "input")).float()
    first, last = (states[torch.from_numpy(rows)].mean(dim=0) for rows in (fits, ~fits))
    with torch.no_grad():
        inner.weight[24:], inner.bias[24:] = 0.0, -10.0
        inner.weight[24] = 20 * (first - last) / (first - last).square().sum()
        inner.bias[24] = -inner.weight[24] @ (first + last) / 2
    student = halved(teacher)
    before = copy.deepcopy(student.state_dict())
    with caplog.at_level(logging.WARNING):
        found = students.recover(student, teacher, batches, ridge=1e-9)
    assert [each.kept for each in found] == [False]
    assert found[0].held_out[1] > found[0].held_out[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert "left as it was: layer 1 output.dense" in caplog.text
    assert "tokens with a ridge of 1e-09: such a fit was measured to be worse" in caplog.text
    assert "left as it was" in str(found[0])


def test_enough_tokens_or_a_ridge_need_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    teacher = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 2)
    students.recover(students.from_layers(teacher, layers=[2]), teacher, sentences(5), layers=[2], ridge=0.01)
    students.recover(students.from_layers(teacher, layers=[2]), teacher, sentences(60), layers=[2], ridge=1e-9)
    assert "measured to be worse" not in caplog.text


# ---- what is refused ----


def test_too_few_tokens_without_a_ridge_are_refused() -> None:
    teacher = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 2)
    student, few = students.from_layers(teacher, layers=[2]), sentences(5, longest=7)
    with pytest.raises(IncompatiblePair, match=r"tokens do not determine 33 unknowns .*more sentences, or a ridge"):
        students.recover(student, teacher, few, layers=[2], ridge=0.0)


def test_fewer_than_five_sentences_are_refused() -> None:
    teacher = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 2)
    with pytest.raises(IncompatiblePair, match="fewer than 5 sentences"):
        students.recover(students.from_layers(teacher, layers=[2]), teacher, sentences(4), layers=[2])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (None, r"the student has 2 layers, the teacher 4; give layers"),
        ([2], r"layers are \[2\]; they must be 2 of the teacher's layers 1 to 4"),
        ([4, 2], "increasing order"),
        ([2, 5], "1 to 4"),
        ([0, 2], "1 to 4"),
    ],
)
def test_layers_that_are_not_the_students_are_refused(layers: Any, message: str) -> None:
    teacher = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 4)
    with pytest.raises(IncompatiblePair, match=message):
        students.recover(students.from_layers(teacher, layers=[2, 4]), teacher, sentences(), layers=layers)


def test_pairs_that_cannot_be_compared_are_refused() -> None:
    teacher = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 2)
    narrow = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 2, hidden_size=16)
    with pytest.raises(IncompatiblePair, match="the student is 16 wide, the teacher 32"):
        students.recover(narrow, teacher, sentences())
    with pytest.raises(IncompatiblePair, match="the student is 'roberta', the teacher 'bert'"):
        students.recover(tiny_models.tiny("roberta", "AutoModelForSequenceClassification", 2), teacher, sentences())
    for first in (1, 2):
        student = students.from_layers(teacher, layers=first, pick="first")
        with pytest.raises(IncompatiblePair, match=f"first {first} of its teacher's 2 layers, .*nothing to recover"):
            students.recover(student, teacher, sentences(), layers=[1, 2][:first])


def test_projections_into_which_nothing_can_be_merged_are_refused() -> None:
    teacher = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 2)
    adapted = get_peft_model(students.from_layers(teacher, layers=[2]), LoraConfig(target_modules=["output.dense"]))
    with pytest.raises(IncompatiblePair, match=r"layer 1 output\.dense is a Linear, into which no correction"):
        students.recover(adapted, teacher, sentences(), layers=[2])
    on_grid = students.quantize_uniform(students.from_layers(teacher, layers=[2]))
    with pytest.raises(IncompatiblePair, match="is a ParametrizedLinear, into which no correction can be merged"):
        students.recover(on_grid, teacher, sentences(), layers=[2])
    albert = tiny_models.tiny("albert", "AutoModelForSequenceClassification", 4)
    with pytest.raises(IncompatiblePair, match=r"layer 2 ffn_output is tied"):
        students.recover(students.from_layers(albert, layers=[1, 3]), albert, sentences(), layers=[1, 3])
    student = students.from_layers(tiny_models.tiny("bert", "AutoModelForSequenceClassification", 4), layers=[2, 4])
    layers = student.bert.encoder.layer
    layers[1].output.dense.weight = layers[0].output.dense.weight
    four = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 4)
    with pytest.raises(IncompatiblePair, match=r"layer 1 output\.dense is tied \(.*layer\.0.*layer\.1"):
        students.recover(student, four, sentences(), layers=[2, 4])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "streams"}, r"target is 'streams' \(did you mean 'stream'"),
        ({"fit": "all"}, "fit is 'all'"),
        ({"ridge": -1.0}, "ridge is -1.0"),
        ({"ridge": float("nan")}, "ridge is nan"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    teacher = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 2)
    with pytest.raises(DistillationError, match=f"{MAKER}: {message}"):
        students.recover(students.from_layers(teacher, layers=[2]), teacher, sentences(), layers=[2], **settings)


def test_batches_that_are_none_are_refused() -> None:
    teacher = tiny_models.tiny("bert", "AutoModelForSequenceClassification", 2)
    student = students.from_layers(teacher, layers=[2])
    with pytest.raises(IncompatiblePair, match="few_sample: a batch of calibration is 'input_ids'"):
        students.recover(student, teacher, sentences()[0], layers=[2])  # type: ignore[arg-type]


# ---- from a recipe ----


def recipe(folder: Path, student: dict[str, Any]) -> Recipe:
    return Recipe.from_dict(
        {
            "schema": 1,
            "task": "sst2",
            "dataset_dir": str(folder / "data"),
            "teacher": {"model": str(folder / "teacher")},
            "student": student,
            "max_length": 16,
            "stages": [{"name": "distil", "objectives": [{"labels": {}}]}],
        },
        "test",
    )


@pytest.mark.parametrize(
    "maker",
    [
        {"from_layers": {"layers": 2, "pick": "last"}},
        {"from_shape": {"intermediate_size": 8, "initialisation": "importance", "calibration_rows": 8}},
    ],
)
def test_a_recipe_makes_a_corrected_student(maker: dict[str, Any], tmp_path: Path) -> None:
    tiny_runs.save_teacher(tmp_path / "teacher", layers=4, dropout=0.0)
    tiny_runs.write_sst2(tmp_path / "data", train=30)
    made = []
    for few_sample in (None, {"sentences": 20, "ridge": 0.1}, {"sentences": 20, "ridge": 0.1}):
        asked = recipe(tmp_path, {**maker, **({} if few_sample is None else {"few_sample": few_sample})})
        workload = load_workload(asked)
        teacher = models.load_teacher(asked, workload)
        made.append(models.make_student(asked, workload, teacher, tiny_runs.tokenizer()))
    assert tiny.distance(made[0], made[1]) > 1e-4
    assert tiny.distance(made[1], made[2]) == 0.0


def test_a_student_of_several_steps_is_corrected_by_the_layers_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 12 layers 9 are kept, [1, 3, 4, 5, 7, 8, 9, 11, 12], and of these [2, 3, 5, 6, 8, 9]."""
    tiny_runs.save_teacher(tmp_path / "teacher", layers=12, dropout=0.0)
    tiny_runs.write_sst2(tmp_path / "data", train=30)
    shape = {"num_hidden_layers": 6, "steps": 2, "initialisation": "importance", "calibration_rows": 8}
    asked = recipe(tmp_path, {"from_shape": shape, "few_sample": {"sentences": 20}})
    given: list[Any] = []
    monkeypatch.setattr(students, "recover", lambda *models, layers, **settings: given.append(layers))
    workload = load_workload(asked)
    models.make_student(asked, workload, models.load_teacher(asked, workload), tiny_runs.tokenizer())
    assert given == [[3, 4, 7, 8, 11, 12]]


@pytest.mark.parametrize(
    "student", [{"model": "some/model"}, {"distilbert": {}}, {"from_shape": {"num_hidden_layers": 2}}]
)
def test_a_student_that_is_not_cut_has_nothing_to_recover(student: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"student\.few_sample.*goes with from_layers, or from_shape"):
        recipe(tmp_path, {**student, "few_sample": {}})


def test_what_became_of_a_block_is_told() -> None:
    told = str(Recovered("layer 1 output.dense", "full", (2.0, 0.5), (2.5, 1.0), True))
    assert told == "layer 1 output.dense (full): error 2 -> 0.5, held out 2.5 -> 1"
