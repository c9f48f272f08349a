"""Publishing to a Hub on the loopback interface, from a process of its own, and loading from it in another."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled
from transformers import BertForSequenceClassification

from hf_distill.errors import HubError
from hf_distill.hub.client_errors import WAITS, as_hub_error
from hf_distill.hub.publish import prepare_repository, publish
from hf_distill.runs import Publication

from .server import READER, WRITER, Fault, Hub

MODEL_FILES = {
    "README.md",
    "config.json",
    "distillation.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}

EARLIER = dict.fromkeys(
    (
        "README.md",
        "distillation.json",
        "distillation.safetensors",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
        "added_tokens.json",
        "special_tokens_map.json",
        "generation_config.json",
        "preprocessor_config.json",
        "vocab.txt",
        "bpe.codes",
    ),
    b"of another student",
)
"""What a repository may still hold of an earlier student."""

OWN = ("README.md", "chat_template.jinja", "generation_config.json", "preprocessor_config.json", "dict.txt")
"""What may stand in a repository before any student is sent there."""

LOADER = """
import hashlib, json, os, re, sys
sys.modules["hf_distill"] = None
from pathlib import Path
import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained("me/student")
with torch.no_grad():
    logits = model(input_ids=torch.tensor([[2, 3, 4, 5]])).logits.tolist()
folder = Path(snapshot_download("me/student"))
sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
snippet = re.search(r"```python\\n(.*?)\\n```", (folder / "README.md").read_text(), re.DOTALL)[1]
shown = []
exec(snippet, {"print": shown.append})
print(json.dumps({"logits": logits, "sums": sums, "shown": shown}))
"""


@dataclass
class World:
    """The server after all cases, and what each case gave."""

    hub: Hub
    folder: Path
    cases: dict[str, dict[str, Any]]
    output: str

    def done(self, name: str) -> dict[str, Any]:
        assert "done" in self.cases[name], self.cases[name]
        return self.cases[name]["done"]

    def error(self, name: str) -> str:
        assert "error" in self.cases[name], self.cases[name]
        return self.cases[name]["error"]


def environment(hub: Hub, home: Path) -> dict[str, str]:
    """A user without any cache, whose Hub is `hub`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "PYTEST"))}
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


def faults() -> list[Fault]:
    """One kind of trouble for each repository that is named after it."""
    commit = "/api/models/me/{}/commit/"
    return [
        Fault("GET", "/api/whoami-v2", status=503),
        Fault("POST", commit.format("flaky"), status=503, times=2),
        Fault("POST", commit.format("lost"), cut="after"),
        Fault("POST", commit.format("dropped"), cut="before"),
        Fault("POST", commit.format("lost-pull"), cut="after"),
        Fault("POST", commit.format("down"), status=503, times=99),
        Fault("POST", commit.format("forbidden"), status=403),
        Fault("POST", commit.format("stale"), status=412),
        Fault("POST", commit.format("limited"), status=429, headers={"Retry-After": "7"}),
        Fault("POST", commit.format("patient"), status=429, headers={"Retry-After": "86400"}),
        Fault("POST", commit.format("corrupt"), corrupt=True),
        Fault("GET", "/api/models/me/info$", status=500),
    ]


def cases(student: Path, root: Path) -> dict[str, dict[str, Any]]:
    """What the publisher is asked for, in this order."""

    def case(repo_id: str, folder: Path = student, token: str = WRITER, **arguments: Any) -> dict[str, Any]:
        return {"repo_id": repo_id, "folder": str(folder), "token": token, "arguments": arguments}

    changed = shutil.copytree(student, root / "changed", symlinks=True)
    card = changed / "README.md"
    card.write_text(card.read_text() + "\nMore.\n")
    bare = shutil.copytree(student, root / "bare", symlinks=True)
    for name in ("README.md", "distillation.json"):
        (bare / name).unlink()
    unread = shutil.copytree(bare, root / "unread", symlinks=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (unread / name).unlink()
    faulty = ("flaky", "lost", "dropped", "down", "forbidden", "stale", "limited", "patient", "corrupt", "info")
    return {
        "first": case("student"),
        "again": case("me/student"),
        "public": case("me/open"),
        "allowed": case("me/open", private=False),
        "branch": case("me/student", changed, revision="v2", commit_message="Second"),
        "branch again": case("me/student", changed, revision="v2"),
        "pull": case("me/student", changed, create_pr=True, commit_message="A proposal"),
        "pull again": case("me/student", changed, create_pr=True, commit_message="A proposal"),
        "pull unchanged": case("me/student", create_pr=True),
        "lost pull": case("me/lost-pull", create_pr=True),
        "stale weights": case("me/sharded"),
        "save": case("me/trained-before", bare),
        "save beside a card": case("me/described", bare),
        "weights alone": case("me/read", unread),
        "state": case("me/state", include_objective_state=True),
        **{name: case(f"me/{name}") for name in faulty},
        "bad token": case("me/nobody", token="hf_" + "x" * 34),
        "no token": case("me/nobody", token=""),
        "reader": case("me/nobody", token=READER),
        "foreign": case("you/model"),
    }


@pytest.fixture(scope="module")
def world(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Everything that is published, in one other process."""
    root = tmp_path_factory.mktemp("publish")
    with Hub() as hub:
        hub.faults = faults()
        hub.create("me/open", private=False)
        old = {"model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}", "notes.md": b"kept"}
        hub.create("me/sharded", private=True, files=old | {"quantized.safetensors": b"codes of another"})
        hub.create("me/trained-before", private=True, files=EARLIER | {"notes.md": b"kept"})
        hub.create("me/described", private=True, files=dict.fromkeys(OWN, b"what it will be"))
        hub.create("me/read", private=True, files=EARLIER | {"tokenizer.json": b"{}"})
        ran = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("publisher.py"))],
            input=json.dumps(cases(student_folder, root)),
            env=environment(hub, root / "home"),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        yield World(hub, student_folder, json.loads(ran.stdout), ran.stdout + ran.stderr)


def sums(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in MODEL_FILES}


def test_first_publication_sends_the_listed_files_and_nothing_else(world: World) -> None:
    done = world.done("first")
    repository = world.hub.repositories["me/student"]
    assert repository.private
    assert set(repository.files) == MODEL_FILES | {".gitattributes"}
    assert done == {
        "url": f"{world.hub.url}/me/student",
        "commit": repository.branches["main"][-1].oid,
        "files": sums(world.folder),
        "changed": True,
    }
    assert {name: hashlib.sha256(repository.files[name]).hexdigest() for name in MODEL_FILES} == sums(world.folder)


def test_who_the_user_is_is_asked_once_and_again_after_a_failure(world: World) -> None:
    assert world.cases["first"]["waits"] == [1.0]
    # Once for each token (writer, reader, a wrong one), and once more for the failure.
    assert world.hub.log.count(("GET", "/api/whoami-v2")) == 4


def test_the_same_files_are_not_sent_twice(world: World) -> None:
    again = world.done("again")
    assert again["changed"] is False
    assert again["commit"] == world.done("first")["commit"]
    assert world.hub.repositories["me/student"].commits == ["Publish a distilled student"]


def test_a_published_student_loads_without_the_toolkit(world: World, tmp_path: Path) -> None:
    env = environment(world.hub, tmp_path / "home") | {"HF_TOKEN": WRITER}
    ran = subprocess.run(
        [sys.executable, "-I", "-c", LOADER],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    loaded = json.loads(ran.stdout)
    model = BertForSequenceClassification.from_pretrained(world.folder)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[2, 3, 4, 5]])).logits
    assert loaded["logits"] == logits.tolist()
    assert {name: loaded["sums"][name] for name in MODEL_FILES} == sums(world.folder)
    [[answer]] = loaded["shown"]
    assert answer["label"] == f"LABEL_{int(logits.argmax())}"
    assert answer["score"] == pytest.approx(float(logits.softmax(-1).max()), abs=1e-6)
    assert WRITER not in ran.stdout + ran.stderr


def test_a_public_repository_is_refused_when_private_was_asked_for(world: World) -> None:
    error = world.error("public")
    assert "me/open exists and is public" in error
    for words in ("private=False", "`hf-distill publish --public`", "`--hub_private_repo false`"):
        assert words in error
    assert world.cases["public"]["waits"] == []


def test_a_public_repository_is_taken_when_public_was_asked_for(world: World) -> None:
    assert world.done("allowed")["changed"] is True
    assert len(world.hub.repositories["me/open"].commits) == 1


def test_a_branch_is_made_and_filled_and_the_main_one_left_alone(world: World) -> None:
    done, repository = world.done("branch"), world.hub.repositories["me/student"]
    assert done["url"] == f"{world.hub.url}/me/student/tree/v2"
    assert done["commit"] == repository.branches["v2"][-1].oid
    assert repository.branches["v2"][-1].message == "Second"
    assert repository.branches["v2"][-1].files["README.md"].endswith(b"\nMore.\n")
    assert not repository.files["README.md"].endswith(b"\nMore.\n")
    assert world.done("branch again")["changed"] is False
    assert len(repository.branches["v2"]) == 3


def test_a_pull_request_is_opened_once(world: World) -> None:
    pull, again, repository = world.done("pull"), world.done("pull again"), world.hub.repositories["me/student"]
    assert pull["url"] == again["url"] == f"{world.hub.url}/me/student/discussions/1"
    assert pull["changed"] is True
    assert again["changed"] is False
    assert again["commit"] == pull["commit"] == repository.branches["refs/pr/1"][-1].oid
    assert "refs/pr/2" not in repository.branches
    assert len(repository.commits) == 1


def test_a_pull_request_without_changes_is_not_opened(world: World) -> None:
    unchanged = world.done("pull unchanged")
    assert unchanged["changed"] is False
    assert unchanged["url"] == f"{world.hub.url}/me/student"


def test_a_lost_answer_does_not_open_a_second_pull_request(world: World) -> None:
    assert world.done("lost pull")["changed"] is True
    assert set(world.hub.repositories["me/lost-pull"].branches) == {"main", "refs/pr/1"}


def test_weights_of_an_earlier_student_are_removed_and_other_files_kept(world: World) -> None:
    assert world.done("stale weights")["changed"] is True
    assert set(world.hub.repositories["me/sharded"].files) == MODEL_FILES | {".gitattributes", "notes.md"}


def test_whatever_else_is_an_earlier_students_is_removed_with_its_card_and_record(world: World) -> None:
    assert world.done("save")["changed"] is True
    of_a_save = MODEL_FILES - {"README.md", "distillation.json"}
    kept = {".gitattributes", "notes.md", "preprocessor_config.json"}  # a student of texts has no processor
    assert set(world.hub.repositories["me/trained-before"].files) == of_a_save | kept


def test_what_stands_without_a_record_is_left_alone(world: World) -> None:
    assert world.done("save beside a card")["changed"] is True
    files = world.hub.repositories["me/described"].files
    assert {name: files.get(name) for name in OWN} == dict.fromkeys(OWN, b"what it will be")


def test_a_student_without_a_tokenizer_leaves_the_one_that_is_there(world: World) -> None:
    """Beside an earlier record, whose card, generation settings and learned state go."""
    assert world.done("weights alone")["changed"] is True
    of_the_earlier = {"README.md", "distillation.json", "distillation.safetensors", "generation_config.json"}
    expected = set(EARLIER) - of_the_earlier | {"tokenizer.json", ".gitattributes", "config.json", "model.safetensors"}
    assert set(world.hub.repositories["me/read"].files) == expected


def test_the_state_of_the_objectives_goes_only_when_asked_for(world: World) -> None:
    assert "distillation.safetensors" in world.done("state")["files"]
    assert "distillation.safetensors" in world.hub.repositories["me/state"].files


@pytest.mark.parametrize(
    ("name", "waits"),
    [
        ("flaky", [1.0, 2.0]),
        ("dropped", [1.0]),
        ("lost", []),
        ("limited", [7.0]),
        ("patient", [300.0]),
        ("info", [1.0]),
    ],
)
def test_a_failure_that_passes_ends_with_exactly_one_commit(world: World, name: str, waits: list[float]) -> None:
    assert world.done(name)["changed"] is True
    assert world.done(name)["files"] == sums(world.folder)
    assert world.cases[name]["waits"] == waits
    assert len(world.hub.repositories[f"me/{name}"].commits) == 1


def test_a_failure_that_stays_is_reported_after_the_last_attempt(world: World) -> None:
    error = world.error("down")
    assert "me/down: the Hub answered 503" in error
    assert "tried 6 times" in error
    assert world.cases["down"]["waits"] == list(WAITS)
    assert world.hub.repositories["me/down"].commits == []
    assert sum("/commit/" in path for _, path in world.hub.requests("me/down")) == 6


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("forbidden", ["me/forbidden", "403", "write access"]),
        ("stale", ["me/stale", "412", "Somebody else"]),
        ("foreign", ["you/model", "403", "name space"]),
        ("bad token", ["me/nobody", "401", "hf auth login"]),
        ("no token", ["me/nobody", "hf auth login", "HF_TOKEN"]),
        ("reader", ["me/nobody", "can only read"]),
    ],
)
def test_a_final_failure_is_not_tried_again(world: World, name: str, words: list[str]) -> None:
    error = world.error(name)
    assert [word for word in words if word not in error] == []
    assert world.cases[name]["waits"] == []


def test_without_permission_no_repository_is_touched(world: World) -> None:
    assert world.hub.requests("me/nobody") == []
    assert "me/nobody" not in world.hub.repositories


def test_what_the_hub_holds_is_compared_with_what_was_sent(world: World) -> None:
    error = world.error("corrupt")
    assert "does not hold what was sent" in error
    assert "README.md" in error


def test_the_token_is_in_no_file_and_no_message(world: World) -> None:
    assert WRITER not in world.output
    published = [
        content
        for repository in world.hub.repositories.values()
        for commits in repository.branches.values()
        for commit in commits
        for content in commit.files.values()
    ]
    local = [path.read_bytes() for path in world.folder.rglob("*") if path.is_file()]
    assert len(published) > 50
    assert not any(WRITER.encode() in content for content in published + local)


@pytest.mark.parametrize(
    ("repo_id", "arguments", "words"),
    [
        ("a/b/c", {}, "'a/b/c' is not the name of a repository"),
        ("me/x", {"create_pr": True, "revision": "v2"}, "main branch"),
        ("me/x", {"revision": "0" * 40}, "is a commit"),
    ],
)
def test_arguments_are_checked_first(tmp_path: Path, repo_id: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(HubError, match=words):
        publish(tmp_path, repo_id, **arguments)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"repo_id": "me/x", "revision": "0" * 40}, "is a commit, which cannot be added to; give a branch"),
        ({"repo_id": "my run"}, "'my run' is not the name of a repository"),
        ({"repo_id": "me/x", "language": "Deutsch"}, "language: 'Deutsch' is not a language tag"),
        ({"repo_id": "me/x", "license": "my own"}, "license: 'my own' is not an identifier"),
    ],
)
def test_what_would_fail_after_training_fails_before_it(where: dict[str, Any], words: str) -> None:
    """Before the Hub, or even the token, is looked at."""
    with pytest.raises(HubError, match=words):
        Publication(**where).check()
    if where.keys() <= {"repo_id", "revision"}:
        with pytest.raises(HubError, match=words):
            prepare_repository(**where)


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (OfflineModeIsEnabled("offline"), "unset HF_HUB_OFFLINE"),
        (LocalTokenNotFoundError("none"), "hf auth login"),
        (ConnectionError("Network error: xet"), "connection to the Hub failed"),
        (ValueError("Invalid metadata in README.md.\n- bad"), "Invalid metadata in README.md. - bad"),
    ],
)
def test_errors_of_the_client_name_repository_and_remedy(cause: Exception, words: str) -> None:
    with pytest.raises(HubError, match=words) as raised, as_hub_error("me/x"):
        raise cause
    assert str(raised.value).startswith("me/x: ")
    assert raised.value.__cause__ is cause
