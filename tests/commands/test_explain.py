"""`hf-distill explain`: what it prints of a recipe, without data and without weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from hf_distill.commands.explain import main
from hf_distill.commands.main import main as hf_distill
from tests import tiny_runs

RECIPE = """
schema: 1
task: sst2
teacher: {{model: {teacher}}}
student: {{from_layers: {{layers: 2}}}}
stages:
  - name: states
    objectives:
      - {{hidden_mse: {{layer_map: uniform}}, weight: {{linear: {{from: 1.0, to: 0.0}}}}}}
      - {{crd: {{dimension: 8}}, weight: 0.5, name: contrast}}
    train: [{{layers: [1]}}]
  - name: task
    objectives: [{{soft_targets: {{}}, weight: 3.0}}, {{labels: {{}}}}]
    arguments: {{num_train_epochs: 3}}
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four layers, of which the configuration alone is there."""
    folder = tiny_runs.save_teacher(tmp_path_factory.mktemp("explain") / "teacher", layers=4)
    (folder / "model.safetensors").rename(folder.parent / "weights.safetensors")
    return folder


def explained(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> str:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    assert main([str(file)]) == 0
    out = capsys.readouterr().out
    assert max(len(line.replace(str(folder), "")) for line in out.splitlines()) <= 100
    return out


def joined(text: str) -> str:
    return " ".join(text.split())


def test_a_recipe_is_explained_stage_by_stage(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = explained(tmp_path, RECIPE.format(teacher=teacher), capsys)
    first, second = (joined(part) for part in out.split("Stage 2 of 2: task"))
    assert "total = w_hidden_mse(x) hidden_mse + 0.5 contrast" in first
    assert "w_hidden_mse(x): linear from 1 to 0" in first
    assert "student with teacher: 0 with 0, 1 with 2, 2 with 4" in first
    assert "reads hidden[0, 1, 2] [batch, length, 16]" in first
    assert "reads hidden[0, 2, 4] [batch, length, 16]" in first
    assert "learns 272 parameters: student_maps.0.weight [8, 16]" in first  # 2 (8 x 16 + 8)
    assert "Tian, Krishnan & Isola (2020)" in first
    assert "total = 3 soft_targets + labels" in second
    assert "reads logits [batch, 2]" in second
    assert "num_train_epochs 3" in second


def test_the_parameters_that_train_are_those_of_the_model(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = AutoModelForSequenceClassification.from_config(tiny_runs.config(("a", "b"), layers=2))
    whole = sum(parameter.numel() for parameter in model.parameters())
    layer = sum(parameter.numel() for parameter in model.bert.encoder.layer[0].parameters())
    out = joined(explained(tmp_path, RECIPE.format(teacher=teacher), capsys))
    said = "{:.3g} k".format
    assert f"trained {said(layer / 1e3)} of the student's {said(whole / 1e3)} parameters, and 272 that are" in out
    assert f"frozen {said((whole - layer) / 1e3)} by the stage" in out
    assert f"trained {said(whole / 1e3)} of the student's {said(whole / 1e3)} parameters steps" in out


def test_a_term_that_does_not_fit_says_so(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = RECIPE.format(teacher=teacher).replace("layer_map: uniform", "layer_map: one_to_one")
    out = joined(explained(tmp_path, text, capsys))
    assert "unfit hidden_mse: layer_map 'one_to_one': the student has 2 layers, the teacher 4" in out
    assert "learns 272 parameters" in out, "what fits beside it is told all the same"


def test_without_a_configuration_the_formula_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = joined(explained(tmp_path, RECIPE.format(teacher=tmp_path / "gone"), capsys))
    assert "models not known, so that shapes and layers are left out: teacher: there is no folder" in out
    assert "total = w_hidden_mse(x) hidden_mse + 0.5 contrast" in out
    assert "KL(p || q)" in out
    assert "reads" not in out


def test_what_cannot_be_read_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hf_distill(["explain", str(tmp_path / "none.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_without_a_recipe_the_shipped_ones_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed == sorted(listed)
    assert {"quickstart", "glue/sst2"} <= set(listed)


def test_an_unknown_recipe_names_a_few_that_are_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["glue/sst"]) == 2
    said = capsys.readouterr().err
    assert "'glue/sst2'" in said
    assert "hf-distill explain` lists all" in said
    assert len(said) < 400
