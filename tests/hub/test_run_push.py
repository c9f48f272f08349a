"""What is published of a run: while it trains, when it is over, and later from its folder."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers.trainer_utils import HubStrategy

from hf_distill import DistillationTrainer, HubError, Labels, writing
from hf_distill.commands import glue, publish
from hf_distill.commands import main as hf_distill_command
from hf_distill.evaluation.latency import Latency
from hf_distill.hub.card import Card
from hf_distill.hub.folder import LocalFile
from hf_distill.hub.record import Record
from hf_distill.hub.saves import publish_save
from hf_distill.runs import measuring, publish_run, publishing, results
from tests import tiny, tiny_runs

from .conftest import make_record, tiny_tokenizer
from .server import WRITER, Fault, Hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own, for large files

STUDENT = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
PICKLES = (".bin", ".pt", ".pth", ".pkl")


def titles(hub: Hub, repo_id: str) -> list[str]:
    return hub.repositories[repo_id].commits


def everything(hub: Hub, repo_id: str) -> dict[str, bytes]:
    """Every file of every commit."""
    branches = hub.repositories[repo_id].branches.values()
    return {path: content for branch in branches for commit in branch for path, content in commit.files.items()}


def trained(folder: Path, strategy: str, **changes: Any) -> DistillationTrainer:
    """A trainer after four steps with a save every two."""
    arguments = {"push_to_hub": True, "hub_model_id": f"me/{strategy}", "save_strategy": "steps", "save_steps": 2}
    trainer = DistillationTrainer(
        model=tiny.model("single_label", layers=1, hidden=16),
        teacher=None,
        objectives=1.0 * Labels(),
        args=tiny.arguments(output_dir=str(folder), hub_strategy=strategy, max_steps=4, **{**arguments, **changes}),
        train_dataset=tiny.rows("single_label"),
        data_collator=tiny.Pad(),
    )
    trainer.processing_class = tiny_tokenizer()
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("strategy", "saves", "folders"),
    [
        ("end", 0, set()),
        ("every_save", 2, set()),
        ("checkpoint", 2, set()),
        ("all_checkpoints", 4, {"checkpoint-2/", "checkpoint-4/"}),
    ],
)
def test_every_strategy_publishes_weights_alone(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, strategy: str, saves: int, folders: set[str]
) -> None:
    hub.faults = []
    with caplog.at_level(logging.WARNING):
        trainer = trained(tmp_path, strategy)
    assert len(titles(hub, f"me/{strategy}")) == saves
    assert ("are pickles, and stay here" in caplog.text) == (strategy in ("checkpoint", "all_checkpoints"))
    trainer.push_to_hub()
    found = everything(hub, f"me/{strategy}")
    top = STUDENT | {"README.md", "distillation.json", ".gitattributes"}
    assert set(found) == top | {f"{folder}{name}" for folder in folders for name in STUDENT}
    assert not [name for name in found if name.endswith(PICKLES)]
    weights = hub.repositories[f"me/{strategy}"].files["model.safetensors"]
    assert weights == (tmp_path / "model.safetensors").read_bytes()
    record = json.loads(found["distillation.json"])
    assert record["training_arguments"]["max_steps"] == 4, "arguments travel as JSON"
    assert "hub_token" not in record["training_arguments"]


def test_a_save_that_cannot_be_read_is_told_and_training_goes_on(
    student_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = shutil.copytree(student_folder, tmp_path / "checkpoint-8", symlinks=True)

    def unreadable(path: Path) -> LocalFile:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(LocalFile, "of", unreadable)
    publish_save(checkpoint, "me/saved", private=True, revision=None, strategy=HubStrategy.EVERY_SAVE)
    assert "the save of step 8 was not published, and training goes on: Cannot read" in caplog.text


def test_a_trainer_whose_folder_is_no_name_says_how_to_give_one(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"my run.* cannot be the name of a repository; set hub_model_id"):
        trained(tmp_path / "my run", "end", hub_model_id=None)
    with pytest.raises(HubError, match="is a commit, which cannot be added to"):
        trained(tmp_path / "run", "end", hub_revision="0" * 40)


def test_a_save_that_is_not_published_is_told_and_training_goes_on(
    hub: Hub, student_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = shutil.copytree(student_folder, tmp_path / "checkpoint-8", symlinks=True)
    hub.faults = [Fault("POST", "/me/saved/commit/", status=503)]
    where: dict[str, Any] = {"private": True, "revision": None, "strategy": HubStrategy.EVERY_SAVE}
    with caplog.at_level(logging.WARNING):
        publish_save(checkpoint, "me/saved", **where)
    assert "the save of step 8 was not published, and training goes on: me/saved: the Hub answered 503" in caplog.text
    assert titles(hub, "me/saved") == []
    publish_save(checkpoint, "me/saved", **{**where, "strategy": HubStrategy.ALL_CHECKPOINTS}, stage="01-distil")
    assert titles(hub, "me/saved") == ["Training in progress, stage 01-distil, step 8"] * 2
    assert "01-distil-checkpoint-8/model.safetensors" in hub.repositories["me/saved"].files


def test_a_run_publishes_the_saves_of_its_student_and_is_published_again_by_the_command(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    latency = Latency(1.0, 0.9, 1.1, 100.0, 1, "cpu", 4)
    monkeypatch.setattr(measuring, "measure_latency", lambda *args, **kwargs: latency)
    monkeypatch.setattr(results, "write_report", lambda *args: [])
    hub.faults = []
    tiny_runs.save_base(tmp_path / "base")
    tiny_runs.write_sst2(tmp_path / "sst2")
    recipe = {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(tmp_path / "sst2"),
        "max_length": 16,
        "teacher": {"model": str(tmp_path / "base"), "fine_tune": {"arguments": {"max_steps": 1, "use_cpu": True}}},
        "student": {"from_layers": {"layers": 1}},
        "stages": [{"name": "distil", "objectives": [{"labels": {}}], "arguments": {"max_steps": 2, "use_cpu": True}}],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    out = tmp_path / "out"
    flags = ["--recipe", str(tmp_path / "recipe.yaml"), "--output_dir", str(out), "--push_to_hub"]
    flags += ["--hub_model_id", "me/run", "--hub_strategy", "every_save", "--save_strategy", "steps"]
    flags += ["--language", "de", "--license", "mit", "--tags", "reviews,films"]
    assert glue.main([*flags, "--save_steps", "1"]) == 0
    assert f"published at {hub.url}/me/run" in capsys.readouterr().out
    saves = [f"Training in progress, stage 01-distil, step {step}" for step in (1, 2)]
    assert titles(hub, "me/run") == [*saves, "Publish a distilled student"], "neither teacher nor control"
    stated = {"language": ["de"], "license": "mit", "tags": ["reviews", "films"]}
    card = Card.from_record(Record.read(out), repo_id="me/run", **stated)
    assert hub.repositories["me/run"].files["README.md"].decode() == str(card)
    assert "model='me/run'" in str(card)

    assert publish.main([str(out), "--repo_id", "me/run"]) == 0
    assert "Nothing to send; everything is there already" in capsys.readouterr().out
    assert publish.main([str(out), "--repo_id", "other", "--public", "--commit_message", "Mine"]) == 0
    other = hub.repositories["me/other"]
    assert (other.private, other.commits) == (False, ["Mine"])
    assert "distillation.safetensors" not in other.files
    assert "model='me/other'" in other.files["README.md"].decode(), "the card names each repository, in full"
    written = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    assert not [content for content in [*written, *everything(hub, "me/run").values()] if WRITER.encode() in content]


def test_the_card_names_the_repository_unless_it_was_changed_by_hand(
    hub: Hub, student_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.faults = []
    folder = shutil.copytree(student_folder, tmp_path / "student", symlinks=True)
    record = Record.read(folder)
    Card.from_record(record).write(folder)
    publish_run(folder, "me/named")
    assert hub.repositories["me/named"].files["README.md"].decode() == str(
        Card.from_record(record, repo_id="me/named")
    )
    publish_run(folder, "elsewhere")
    assert hub.repositories["me/elsewhere"].files["README.md"].decode() == str(
        Card.from_record(record, repo_id="me/elsewhere")
    )
    encoder = Card.from_record(make_record(task="embeddings"), repo_id="me/encoder")
    assert "SentenceTransformer('me/encoder')" in str(encoder)
    assert publishing._is_as_written(str(encoder), make_record(task="embeddings"))
    assert "was changed" not in caplog.text
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nMine.\n")
    publish_run(folder, "me/changed", create_pr=True)
    [pull] = [commits for name, commits in hub.repositories["me/changed"].branches.items() if name == "refs/pr/1"]
    assert pull[-1].files["README.md"].endswith(b"\nMine.\n")
    assert "was changed since the run wrote it" in caplog.text
    (folder / "README.md").unlink()
    publish_run(folder, "me/changed", revision="dev", include_objective_state=True)
    files = hub.repositories["me/changed"].branches["dev"][-1].files
    assert "me/changed" in files["README.md"].decode()
    assert "distillation.safetensors" in files


def test_a_card_with_a_language_a_licence_and_tags_is_as_written(
    hub: Hub, student_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As `trainer.create_model_card(language=..., license=..., tags=...)` writes it; it keeps them."""
    hub.faults = []
    folder = shutil.copytree(student_folder, tmp_path / "student", symlinks=True)
    record = Record.read(folder)
    Card.from_record(record, language=["de", "nds"], license="mit", tags=["reviews"]).write(folder)
    publish_run(folder, "me/stated")
    published = hub.repositories["me/stated"].files["README.md"].decode()
    stated = {"license": "mit", "tags": ["reviews"]}
    assert published == str(Card.from_record(record, repo_id="me/stated", language=["de", "nds"], **stated))
    publish_run(folder, "me/stated", language="fr", license="apache-2.0", tags="films")
    again = {"language": "fr", "license": "apache-2.0", "tags": "films"}
    published = hub.repositories["me/stated"].files["README.md"].decode()
    assert published == str(Card.from_record(record, repo_id="me/stated", **again))
    assert "was changed" not in caplog.text


def test_what_is_asked_for_and_missing_in_a_card_of_ones_own_is_refused(
    hub: Hub, student_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(student_folder, tmp_path / "student", symlinks=True)
    for own in ("# No metadata\n", "---\nlicense: [mit]\ntags: {a: b}\nlanguage: no\n---\n# Mine\n"):
        (folder / "README.md").write_text(own)
        with pytest.raises(HubError, match=r"README\.md was changed by hand.* language, tags\. .*write them there"):
            publish_run(folder, "me/x", language="de", tags=["mine"])
        assert (folder / "README.md").read_text() == own
    hub.faults = []
    own = "---\nlanguage: [de, en]\nlicense: mit\ntags: mine\n---\n# Mine\n"
    (folder / "README.md").write_text(own)
    publish_run(folder, "me/own", language="de", license="mit", tags=["mine"])
    assert hub.repositories["me/own"].files["README.md"].decode() == own


def test_a_card_that_would_be_the_same_is_not_written(
    hub: Hub, student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults = []
    folder = shutil.copytree(student_folder, tmp_path / "student", symlinks=True)

    def read_only(*args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(writing, "write_whole", read_only)
    assert publish_run(folder, "me/student").changed
    with pytest.raises(HubError, match=r"Cannot write .*README\.md: Permission denied\. Make .* writable"):
        publish_run(folder, "me/elsewhere")


def test_the_command_states_language_licence_and_tags(hub: Hub, student_folder: Path, tmp_path: Path) -> None:
    hub.faults = []
    folder = shutil.copytree(student_folder, tmp_path / "student", symlinks=True)
    flags = ["--language", "de,en", "--license", "mit", "--tags", "reviews,films"]
    assert publish.main([str(folder), "--repo_id", "me/flags", *flags]) == 0
    stated = {"language": ["de", "en"], "license": "mit", "tags": ["reviews", "films"]}
    expected = Card.from_record(Record.read(folder), repo_id="me/flags", **stated)
    assert hub.repositories["me/flags"].files["README.md"].decode() == str(expected)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--repo_id", "my run"], "is not the name of a repository"),
        (["--repo_id", "me/x", "--revision", "0" * 40], "is a commit"),
        (["--repo_id", "me/x", "--language", "Deutsch"], "is not a language tag"),
        (["--repo_id", "you/x"], "you/x: the Hub answered 403"),
    ],
)
def test_where_to_is_looked_at_before_other_forms_are_made(
    hub: Hub,
    student_folder: Path,
    flags: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.faults = []
    made: list[object] = []
    monkeypatch.setattr(publish, "export_run", lambda folder, forms: made.append(forms) or {})
    assert publish.main([str(student_folder), *flags, "--onnx"]) == 2
    assert words in capsys.readouterr().err
    assert made == []


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([], "is not the folder of a finished run: it has no distillation.json"),
        (["config.json", "model.safetensors"], "is not the folder of a finished run"),
        (["stages/run.json"], "the run is not finished; start it again"),
        (["checkpoint-5/model.safetensors"], "holds checkpoints and no record of a finished student"),
    ],
)
def test_what_is_no_finished_run_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], found: list[str], words: str
) -> None:
    for name in found:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert publish.main([str(tmp_path), "--repo_id", "me/x"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_folder_that_is_not_there_and_weights_of_another_student_are_refused(
    student_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(HubError, match="is not a folder; give the output_dir"):
        publish_run(tmp_path / "nothing", "me/x")
    folder = shutil.copytree(student_folder, tmp_path / "student", symlinks=True)
    student = make_record().student.model_copy(update={"files": {"model.safetensors": "0" * 64}})
    make_record(student=student).write(folder)
    with pytest.raises(HubError, match=r"tells of another student: its model\.safetensors has the SHA-256 000"):
        publish_run(folder, "me/x")


@pytest.mark.parametrize("name", ["publish", "glue"])
@pytest.mark.parametrize(
    "flags",
    [
        ["--token", WRITER],
        [f"--token={WRITER}"],
        ["--hub_token", WRITER],
        [f"--hf_token={WRITER}"],
        ["--hf-token", WRITER],
        [f"--tokn={WRITER}"],
        [f"--hub_tokn={WRITER}"],
        ["--task_name", WRITER],
        ["--revision", "--hub_tokn", WRITER],
        [WRITER],
    ],
)
def test_a_token_on_the_command_line_is_refused_and_not_repeated(
    student_folder: Path, capsys: pytest.CaptureFixture[str], name: str, flags: list[str]
) -> None:
    command = {"publish": publish.main, "glue": glue.main}[name]
    given = [str(student_folder), "--repo_id", "me/x"] if name == "publish" else []
    assert command([*given, *flags]) == 2
    said = capsys.readouterr()
    assert WRITER not in said.out + said.err
    assert "mean --hub_token" not in said.err, "which would be refused"
    if flags[0].endswith("token") or "token=" in flags[0]:
        assert "HF_TOKEN" in said.err


def test_a_token_is_not_repeated_as_the_name_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert hf_distill_command.main([WRITER]) == 2
    assert WRITER not in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["language", "license", "tags"])
def test_what_is_stated_in_a_card_goes_with_its_publication(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert glue.main([f"--{flag}", "mit"]) == 2
    said = capsys.readouterr().err
    assert f"--{flag} is for the card of a student that is published" in said
    assert "--push_to_hub" in said


def test_an_unknown_strategy_names_the_ones_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert glue.main(["--push_to_hub", "--hub_model_id", "me/x", "--hub_strategy", "every_sav"]) == 2
    assert "every_save" in capsys.readouterr().err
