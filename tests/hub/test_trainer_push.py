"""`trainer.push_to_hub()` against a Hub on the loopback interface."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load

from hf_distill.hub.record import Record

from .server import WRITER, Hub
from .test_publish import environment


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("trained")
    with Hub() as hub:
        given = {**environment(hub, root / "home"), "HF_TOKEN": WRITER, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.hub.push_trained", str(root / "run"), "me/trained"]
        done = subprocess.run(command, env=given, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr
        yield hub, root / "run", json.loads(done.stdout.strip().splitlines()[-1])


def test_student_tokenizer_card_and_record_are_published_and_no_pickle(pushed) -> None:
    hub, folder, answer = pushed
    files = hub.repositories["me/trained"].files
    assert set(files) - {".gitattributes"} == {
        "README.md",
        "config.json",
        "distillation.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert set(answer["first"]["files"]) == set(files) - {".gitattributes"}
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert (folder / "distillation.safetensors").exists(), "what the objectives learned stays at home"
    keys = load(files["model.safetensors"])
    assert not [key for key in keys if "teacher" in key or "projection" in key]


def test_the_published_record_tells_the_run(pushed, tmp_path: Path) -> None:
    hub, _, _ = pushed
    files = hub.repositories["me/trained"].files
    (tmp_path / "distillation.json").write_bytes(files["distillation.json"])
    record = Record.read(tmp_path)
    assert [(term.name, term.weight) for term in record.objectives] == [
        ("soft_targets", 1.0),
        ("labels", 1.0),
        ("hidden_mse", 1.0),
    ]
    assert record.layer_maps == {"hidden_mse": [(0, 0), (1, 2), (2, 4)]}
    assert record.teacher is not None
    assert (record.teacher.num_hidden_layers, record.student.num_hidden_layers) == (4, 2)
    assert (record.steps, record.task) == (4, "single_label")
    assert set(record.metrics) == {"eval_loss"}
    card = files["README.md"].decode()
    assert "license: apache-2.0" in card
    assert "soft_targets" in card
    assert "arXiv" in card


def test_a_second_push_has_nothing_to_do_and_the_repository_is_private(pushed) -> None:
    hub, _, answer = pushed
    assert answer["first"]["changed"]
    assert not answer["second"]["changed"]
    assert hub.repositories["me/trained"].private
    titles = hub.repositories["me/trained"].commits
    assert [title for title in titles if title.startswith("Training in progress")]
    assert "End of training" in titles


def test_what_the_objectives_learned_is_published_when_asked_for(pushed) -> None:
    hub, folder, _ = pushed
    name, repository = "distillation.safetensors", hub.repositories["me/trained"]
    assert repository.branches["state"][-1].files[name] == (folder / name).read_bytes()
    assert name not in repository.files


def test_tokens_and_background_pushes_are_refused(pushed) -> None:
    _, folder, answer = pushed
    assert "HF_TOKEN alone" in answer["errors"][0]
    assert "blocking" in answer["errors"][1]
    secret = WRITER.encode()
    assert not [path for path in folder.rglob("*") if path.is_file() and secret in path.read_bytes()]
