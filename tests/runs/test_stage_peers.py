"""Recipes whose student trains with peers, or with a teacher's states flowing into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_distill.errors import DistillationError, RecipeError
from hf_distill.recipe import Recipe
from hf_distill.runs import run
from hf_distill.runs.stages import StageTrainer
from hf_distill.teachers import Peers
from tests import tiny_runs

ARGUMENTS = {
    "max_steps": 2, "per_device_train_batch_size": 8, "optim": "sgd", "learning_rate": 0.3, "use_cpu": True,
    "disable_tqdm": True, "save_strategy": "no", "eval_strategy": "no",
}  # fmt: skip
MUTUAL = [{"labels": {}}, {"deep_mutual_learning": {}}]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base without a head, a teacher, and rows."""
    folder = tmp_path_factory.mktemp("home")
    tiny_runs.save_base(folder / "base", layers=2, dropout=0.0)
    tiny_runs.save_teacher(folder / "teacher", layers=3, dropout=0.0)
    tiny_runs.write_sst2(folder / "sst2", train=24)
    return folder


def recipe(home: Path, *stages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made = {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(home / "sst2"),
        "max_length": 16,
        "teacher": {"peers": {"count": 2}},
        "student": {"model": str(home / "base")},
        "stages": list(stages),
    }
    return made | changes


def stage(name: str, objectives: list[dict[str, Any]] = MUTUAL, **more: Any) -> dict[str, Any]:
    return {"name": name, "objectives": objectives, "arguments": ARGUMENTS, **more}


def state(peers: Peers) -> dict[str, torch.Tensor]:
    return {f"peers/weights.{name}": tensor.detach().clone() for name, tensor in peers.learned().items()}


def test_peers_are_made_as_the_student_and_go_on_in_the_next_stage(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []
    train = StageTrainer.train

    def spy(trainer: StageTrainer, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(trainer.teacher, Peers)
        seen.append((trainer.model.state_dict(), state(trainer.teacher)))
        seen[-1] = ({name: tensor.clone() for name, tensor in seen[-1][0].items()}, seen[-1][1])
        return train(trainer, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "train", spy)
    result = run(recipe(home, stage("first"), stage("second")), tmp_path / "out")
    assert {summary.role for summary in result.runs} == {"student"}
    (student, peers), (_, again) = seen
    body, head = "bert.encoder.layer.0.output.dense.weight", "classifier.weight"
    for name in ("peer_1", "peer_2"):
        assert torch.equal(peers[f"peers/weights.{name}/{body.replace('.', '/')}"], student[body])
        assert not torch.allclose(peers[f"peers/weights.{name}/{head.replace('.', '/')}"], student[head])
    left = load_file(tmp_path / "out" / "stages" / "01-first" / "distillation.safetensors")
    assert left.keys() == again.keys()
    for name, tensor in again.items():
        assert torch.equal(tensor, left[name])
    assert any(not torch.equal(tensor, peers[name]) for name, tensor in again.items())
    kept = load_file(tmp_path / "out" / "model.safetensors")
    assert not any("peer" in name for name in kept)
    assert kept.keys() == student.keys()


def test_states_flow_for_a_stage_and_the_next_is_the_students_own(home: Path, tmp_path: Path) -> None:
    flow = [{"labels": {}}, {"knowledge_flow": {}, "weight": {"linear": {"from": 0.0, "to": 10.0}}}]
    made = recipe(
        home,
        stage("flow", flow),
        stage("alone", [{"labels": {}}]),
        teacher={"model": str(home / "teacher")},
        student={"from_layers": {"layers": 2}},
    )
    run(made, tmp_path / "out", evaluate=False)
    assert not any("transform" in name for name in load_file(tmp_path / "out" / "model.safetensors"))
    assert (tmp_path / "out" / "stages" / "01-flow" / "distillation.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"teacher": {"peers": {"count": 0}}}, {}, r"teacher\.peers\.count: must be greater than or equal to 1"),
        ({"teacher": {"peers": {"number": 2}}}, {}, r"teacher\.peers\.number: unknown key"),
        ({"teacher": {"peers": {}, "cache": {}}}, {}, r"teacher\.cache: does not go with peers"),
        ({"teacher": {"peers": {}, "model": "x"}}, {}, r"teacher: give exactly one of model, package, ensemble"),
        ({"student": {"from_layers": {"layers": 1}}}, {}, r"student\.from_layers: takes the layers of a teacher"),
        ({}, {"train": [{"layers": [1]}]}, r"stages\[0\]\.train: is about the student, and its peers"),
        ({}, {"quantize_uniform": {}}, r"stages\[0\]\.quantize_uniform: is about the student, and its peers"),
        ({}, {"objectives": [*MUTUAL, {"hidden_mse": {}, "on": "peer_3"}]}, r"one of the teachers peer_1, peer_2"),
    ],
)
def test_mistakes(home: Path, changes: dict[str, Any], more: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(recipe(home, stage("only") | more, **changes))


def test_a_peer_may_be_named(home: Path) -> None:
    Recipe.from_dict(recipe(home, stage("only", [*MUTUAL, {"hidden_mse": {}, "on": "peer_2"}])))


def test_peers_without_a_term_between_them_and_terms_without_peers(home: Path, tmp_path: Path) -> None:
    with pytest.raises(DistillationError, match="there is 1 peer beside the student"):
        run(recipe(home, stage("only", [{"okddip": {}}]), teacher={"peers": {"count": 1}}), tmp_path / "out")
    with pytest.raises(DistillationError, match="between models that train together"):
        run(recipe(home, stage("only"), teacher={"model": str(home / "teacher")}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
