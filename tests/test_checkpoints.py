"""Checkpoints: whole or not at all, of this run or refused, and who goes when there are too many."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerState

from hf_distill import (
    BrokenCheckpoint,
    DataError,
    DistillationError,
    DistillationTrainer,
    HiddenMSE,
    Labels,
    SoftTargets,
)
from hf_distill import checkpoints as checkpoints_of
from hf_distill.checkpoints.manifest import MANIFEST, Manifest
from hf_distill.training.identity import rows_digest, run_of, teacher_digest
from tests import tiny

KINDS = (
    "config.json",
    "distillation.safetensors",
    "model.safetensors",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
    "training_arguments.json",
)


def made(folder: Path, steps: int = 6, given: dict[str, Any] | None = None, **arguments: Any) -> DistillationTrainer:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "save_strategy": "steps",
        "save_steps": 2,
        "optim": "adamw_torch_fused",
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 4,
        **arguments,
    }
    return DistillationTrainer(
        **{
            "model": tiny.model("single_label", layers=1, seed=1, dropout=0.1),
            "teacher": tiny.model("single_label", layers=2, hidden=48, seed=2),
            "objectives": SoftTargets() + Labels() + HiddenMSE(layer_map="final"),
            "args": tiny.arguments(**settings),
            "train_dataset": tiny.rows("single_label", 16),
            "eval_dataset": tiny.rows("single_label", 4, seed=9),
            "data_collator": tiny.Pad(),
            **(given or {}),
        }
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> DistillationTrainer:
    """A run of six steps with three checkpoints."""
    trainer = made(tmp_path_factory.mktemp("whole"))
    trainer.train()
    return trainer


@pytest.fixture
def home(whole: DistillationTrainer, tmp_path: Path) -> Path:
    """A copy of its folder, to be damaged."""
    return Path(shutil.copytree(whole.args.output_dir, tmp_path / "home"))


def names(home: Path) -> list[str]:
    return sorted(path.name for path in home.iterdir())


# ---- what is written ----


def test_a_manifest_says_what_is_there(whole: DistillationTrainer) -> None:
    home = Path(whole.args.output_dir)
    assert names(home) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"], "nothing of the writing is left"
    for step in (2, 4, 6):
        folder = home / f"checkpoint-{step}"
        told = json.loads((folder / MANIFEST).read_text())
        assert told["step"] == step
        assert sorted(told["files"]) == sorted(KINDS), "no training_args.bin"
        for name, content in told["files"].items():
            data = (folder / name).read_bytes()
            assert content == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    run = told["run"]
    assert (run["world_size"], run["arguments"]["learning_rate"]) == (1, 1e-3)
    assert run["objectives"]["hidden_mse"]["settings"]["layer_map"] == "final"


def test_files_in_folders_are_in_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "global_step4").mkdir()
    (tmp_path / "global_step4" / "state.bin").write_bytes(b"abc")
    (tmp_path / "empty").touch()
    Manifest.of(tmp_path, 4, {}).sealed(tmp_path).write(tmp_path)
    found = Manifest.read(tmp_path)
    assert found is not None
    assert {name: content.size for name, content in found.files.items()} == {"empty": 0, "global_step4/state.bin": 3}
    assert found.fault(tmp_path) is None
    (tmp_path / "global_step4" / "state.bin").write_bytes(b"abd")
    assert found.fault(tmp_path) == "global_step4/state.bin has another SHA-256 than when it was written"
    assert found.fault(tmp_path, thoroughly=False) is None


# ---- damage ----


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, link])
def test_damage_to_any_file_is_seen_and_named(home: Path, damage: Callable[[Path], None]) -> None:
    trainer = made(home)
    for name in KINDS:
        broken = home / "checkpoint-6"
        kept = shutil.copytree(broken, home / "kept")
        damage(broken / name)
        assert checkpoints_of.last_whole(home) == home / "checkpoint-4", name
        with pytest.raises(BrokenCheckpoint, match=rf"checkpoint-6 is not whole \({name} "):
            trainer.train(resume_from_checkpoint=str(broken))
        shutil.rmtree(broken)
        kept.rename(broken)


def test_the_newest_whole_one_is_gone_on_with_bit_by_bit(
    home: Path, whole: DistillationTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    flip(home / "checkpoint-6" / "optimizer.pt")
    cut(home / "checkpoint-4" / "model.safetensors")
    again = made(home)
    again.train(resume_from_checkpoint=True)
    assert tiny.distance(again.distillation, whole.distillation) == 0.0
    told = [record.message for record in caplog.records if "hf_distill.checkpoints" in record.name]
    assert "checkpoint-6 is not whole (optimizer.pt has another SHA-256 than when it was written)" in told[0]
    assert "checkpoint-4 is not whole (model.safetensors has " in told[1]
    assert told[2] == f"going on from {home / 'checkpoint-2'}"
    assert checkpoints_of.last_whole(home) == home / "checkpoint-6", "it was written anew"


def test_where_none_is_whole_each_is_told(home: Path) -> None:
    for step in (2, 4, 6):
        (home / f"checkpoint-{step}" / "rng_state.pth").unlink()
    with pytest.raises(BrokenCheckpoint, match=r"checkpoint-6: rng_state\.pth is missing; checkpoint-4: .*-2: rng"):
        made(home).train(resume_from_checkpoint=True)


def test_checkpoints_of_other_trainers_are_gone_on_with_by_name(
    home: Path, whole: DistillationTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a manifest what must be there is asked for, and the rest is not known."""
    (home / "checkpoint-6" / MANIFEST).unlink()
    (home / "checkpoint-4" / MANIFEST).unlink()
    (home / "checkpoint-6" / "scheduler.pt").unlink()
    again = made(home)
    again.train(resume_from_checkpoint=True)
    assert tiny.distance(again.distillation, whole.distillation) == 0.0
    assert "checkpoint-4 has no manifest" in caplog.text


def told(**changes: Any) -> str:
    plain = {"version": 1, "step": 6, "run": {}, "files": {"config.json": {"size": 836}}}
    return json.dumps({**plain, **changes})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting"),
        ("[]", "list"),
        ("[" * 100_000, "recursion|Recursion"),
        ("\xff", "utf-8"),
        (" " * (16 * 2**20 + 1), "are the most"),
        (told(version=2), "version is 2"),
        (told(step=-1), "-1 is no number"),
        (told(step="6"), "'6' is no number"),
        (told(run=3), "int"),
        (told(files=[]), "items"),
        (told(files={"../config.json": {"size": 1}}), "'../config.json' is no name of a file inside"),
        (told(files={"/etc/passwd": {"size": 1}}), "no name of a file inside"),
        (told(files={"a/../../b": {"size": 1}}), "no name of a file inside"),
        (told(files={"": {"size": 1}}), "no name of a file inside"),
        (told(files={"a": {"size": True}}), "True is no number"),
        (told(files={"a": {"size": 1, "sha256": "0"}}), "'0' is no SHA-256"),
        (told(files={"a": None}), "NoneType"),
    ],
)
def test_a_manifest_is_not_trusted(text: str, reason: str, home: Path) -> None:
    (home / "checkpoint-6" / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(BrokenCheckpoint, match=rf"manifest\.json cannot be read: .*({reason})"):
        Manifest.read(home / "checkpoint-6")
    assert checkpoints_of.last_whole(home) == home / "checkpoint-4"


# ---- killed while it was written ----


def test_what_was_not_renamed_does_not_count(
    tmp_path: Path, whole: DistillationTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = checkpoints_of.put_in_place

    def doomed(part: Path, step: int, run: Any) -> Path:
        if step == 4:
            raise KeyboardInterrupt
        return place(part, step, run)

    monkeypatch.setattr(checkpoints_of, "put_in_place", doomed)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path).train()
    monkeypatch.undo()
    assert names(tmp_path) == [".checkpoint-4.part", "checkpoint-2"]
    assert checkpoints_of.last_whole(tmp_path) == tmp_path / "checkpoint-2"
    again = made(tmp_path)
    again.train(resume_from_checkpoint=True)
    assert tiny.distance(again.distillation, whole.distillation) == 0.0
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def test_one_without_its_sums_counts(home: Path) -> None:
    """It was killed between its renaming and the last of its sums: all files are there."""
    manifest = Manifest.read(home / "checkpoint-6")
    assert manifest is not None
    Manifest.of(home / "checkpoint-6", 6, manifest.run).write(home / "checkpoint-6")
    assert "sha256" not in (home / "checkpoint-6" / MANIFEST).read_text()
    assert checkpoints_of.last_whole(home) == home / "checkpoint-6"
    cut(home / "checkpoint-6" / "optimizer.pt")
    assert checkpoints_of.last_whole(home) == home / "checkpoint-4", "sizes are known"
    checkpoints_of.seal(home / "checkpoint-4")
    shutil.rmtree(home / "checkpoint-4")
    checkpoints_of.seal(home / "checkpoint-4")  # whoever took it away


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_one_without_its_sums_is_opened(name: str, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A power cut may leave zeros of the right number: without a sum no one else would see them."""
    newest = home / "checkpoint-6"
    manifest = Manifest.read(newest)
    assert manifest is not None
    Manifest.of(newest, 6, manifest.run).write(newest)
    (newest / name).write_bytes(bytes((newest / name).stat().st_size))
    assert checkpoints_of.last_whole(home) == home / "checkpoint-4"
    assert f"checkpoint-6 is not whole ({name} cannot be read" in caplog.text


def test_what_cannot_be_looked_at_is_passed_over(home: Path) -> None:
    told = json.loads((home / "checkpoint-6" / MANIFEST).read_text())
    told["files"]["a" * 300] = {"size": 1}  # which no file system takes
    (home / "checkpoint-6" / MANIFEST).write_text(json.dumps(told))
    (home / "checkpoint-4" / MANIFEST).unlink()
    (home / "checkpoint-4" / "trainer_state.json").write_text("[" * 100_000)
    assert checkpoints_of.last_whole(home) == home / "checkpoint-2"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("[enforce fail at inline_container.cc]")]
)
def test_a_full_disk_is_told_and_leaves_what_was_there(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = made(tmp_path)
    save = torch.save

    def full(state: Any, path: Any, *args: Any) -> None:
        if trainer.state.global_step == 4 and str(path).endswith("optimizer.pt"):
            Path(path).write_bytes(b"half")
            raise error
        save(state, path, *args)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(BrokenCheckpoint, match=r"checkpoint-4 could not be written to .* bytes are free.*(No sp|enf)"):
        trainer.train()
    assert names(tmp_path) == ["checkpoint-2"]


def test_a_worker_that_dies_during_a_save_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch raises from a signal's handler, wherever the main thread is."""
    trainer = made(tmp_path)
    save = torch.save

    def interrupted(state: Any, path: Any, *args: Any) -> None:
        if trainer.state.global_step == 4 and str(path).endswith("optimizer.pt"):
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        save(state, path, *args)

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(DataError, match=r"^DataLoader worker \(pid 7\) is killed by signal: Killed\. What"):
        trainer.train()
    assert names(tmp_path) == ["checkpoint-2"]


def test_a_model_is_made_again_after_a_trial_that_left_none(tmp_path: Path) -> None:
    """A search for hyper-parameters gives the memory of a trial's model back before the next trial."""
    trainer = made(tmp_path, 2, {"model": None, "model_init": lambda: tiny.model("single_label", layers=1, seed=1)})
    trainer.train()
    first = Manifest.read(tmp_path / "checkpoint-2")
    trainer.model = trainer.model_wrapped = None
    trainer.train()
    again = Manifest.read(tmp_path / "checkpoint-2")
    assert first is not None
    assert again is not None
    assert again.run == first.run


# ---- which run it is of ----

CHANGED: dict[str, Callable[[], dict[str, Any]]] = {
    "data": lambda: {"train_dataset": tiny.rows("single_label", 16, seed=5)},
    "teacher": lambda: {"teacher": tiny.model("single_label", layers=2, hidden=48, seed=3)},
    "objectives": lambda: {"objectives": SoftTargets(temperature=4.0) + Labels() + HiddenMSE(layer_map="final")},
}


@pytest.mark.parametrize("what", list(CHANGED))
def test_another_run_is_refused_unless_told(what: str, home: Path) -> None:
    shutil.rmtree(home / "checkpoint-6")
    with pytest.raises(BrokenCheckpoint, match=rf"checkpoint-4 is of another run: {what}.*resume_despite=\('{what}',"):
        made(home, 4, CHANGED[what]()).train(resume_from_checkpoint=True)
    trainer = made(home, 4, {**CHANGED[what](), "resume_despite": [what]})
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4


def test_other_arguments_are_told_with_both_values(home: Path) -> None:
    with pytest.raises(BrokenCheckpoint, match=r"arguments\.learning_rate: 0\.01, was 0\.001\. Train as before"):
        made(home, learning_rate=1e-2).train(resume_from_checkpoint=True)
    with pytest.raises(BrokenCheckpoint, match=r"arguments\.gradient_accumulation_steps: 2, was 1"):
        made(home, gradient_accumulation_steps=2).train(resume_from_checkpoint=True)
    run = run_of(made(home, gradient_accumulation_steps=2, ignore_data_skip=True))
    checkpoints_of.check_same_run(home / "checkpoint-6", run)
    with pytest.raises(BrokenCheckpoint, match=r"world_size: 2, was 1.*resume_despite=\('world_size',\)"):
        checkpoints_of.check_same_run(home / "checkpoint-6", {**run, "world_size": 2})
    checkpoints_of.check_same_run(home / "checkpoint-6", {**run, "world_size": 2}, {"world_size"})


@pytest.mark.parametrize("names", ["data", ["seed"], ("data", "date")])
def test_only_what_is_known_may_differ(names: Any, tmp_path: Path) -> None:
    with pytest.raises(DistillationError, match="give some of data, teacher, base"):
        made(tmp_path, given={"resume_despite": names})


def test_one_bit_makes_another_teacher() -> None:
    from hf_distill.teachers import Ensemble, Frozen, MovingAverage

    model = tiny.model("single_label", seed=2)
    before = teacher_digest(Frozen(model))
    weight = next(iter(model.parameters()))
    held = weight.view(torch.int32)
    held[3, 1] ^= 1
    assert teacher_digest(Frozen(model)) != before
    held[3, 1] ^= 1
    assert teacher_digest(Frozen(model)) == before
    assert teacher_digest(Ensemble({"a": Frozen(model)})) != before
    assert teacher_digest(MovingAverage()) == teacher_digest(MovingAverage())


def test_a_cache_in_another_codec_is_another_teacher(tmp_path: Path) -> None:
    digests = []
    for number, codec in enumerate(("float32", "float32", "int8")):
        trainer = DistillationTrainer(
            model=tiny.model("single_label", seed=4),
            teacher=tiny.model("single_label", layers=3, seed=3),
            objectives=HiddenMSE(layer_map="final"),
            args=tiny.arguments(),
            train_dataset=tiny.rows("single_label", 8),
            data_collator=tiny.Pad(),
        )
        trainer.cache_teacher(tmp_path / str(number), codec=codec)
        digests.append(run_of(trainer)["teacher"])
    assert digests[0] == digests[1] != digests[2]


def test_rows_are_told_by_some_of_them() -> None:
    rows = tiny.rows("single_label", 200)
    digest = rows_digest(rows)
    assert digest == rows_digest(list(rows))
    assert digest != rows_digest(rows[:-1])
    assert digest != rows_digest([*rows[:-1], {**rows[-1], "labels": rows[-1]["labels"] + 1}])
    assert rows_digest([{"x": torch.ones(2)}]) != rows_digest([{"x": torch.zeros(2)}])
    assert rows_digest([]) is not None
    assert rows_digest(None) is rows_digest(iter(rows)) is None


def test_rows_that_are_made_at_random_do_not_make_another_run() -> None:
    class Noisy(list):  # type: ignore[type-arg]
        def __getitem__(self, row: Any) -> Any:
            return {"input_ids": torch.rand(3)}

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert rows_digest(Noisy([1, 2])) == rows_digest(Noisy([1, 2])) != rows_digest(Noisy([1]))
    assert torch.equal(torch.rand(3), expected), "training draws what it would have drawn"


# ---- who goes ----


def test_the_last_whole_one_is_never_rotated_away(home: Path, whole: DistillationTrainer) -> None:
    """A torn one that is newer would be the one to stay, and counts for none."""
    (home / "checkpoint-6" / "optimizer.pt").unlink()
    again = made(home, 5, save_steps=5, save_total_limit=1)
    again.train(resume_from_checkpoint=True)
    assert names(home) == ["checkpoint-5", "checkpoint-6"]
    assert checkpoints_of.last_whole(home) == home / "checkpoint-5"


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (None, None, [2, 4, 5, 6, 8]),
        (0, None, [2, 4, 5, 6, 8]),
        (1, None, [6, 8]),
        (1, 2, [2, 6, 8]),
        (2, 4, [4, 6, 8]),
        (2, None, [4, 6, 8]),
        (3, None, [2, 4, 6, 8]),
        (9, None, [2, 4, 6, 8]),
    ],
)
def test_what_is_left(limit: int | None, best: int | None, left: list[int], home: Path) -> None:
    """5 and 8 are torn; 6 was just written."""
    for step in (5, 8):
        (home / f"checkpoint-{step}").mkdir()
    named = None if best is None else str(home / f"checkpoint-{best}")
    checkpoints_of.rotate(home, limit, home / "checkpoint-6", named)
    assert sorted(int(name.removeprefix("checkpoint-")) for name in names(home)) == left


def test_folders_of_other_names_are_let_alone(home: Path) -> None:
    for name in ("checkpoint-best", "checkpoint-²", "checkpoint-"):
        (home / name).mkdir()
    assert checkpoints_of.last_whole(home) == home / "checkpoint-6"
    checkpoints_of.rotate(home, 1, home / "checkpoint-6", None)
    assert names(home) == sorted(["checkpoint-", "checkpoint-6", "checkpoint-best", "checkpoint-²"])


def test_those_of_the_model_alone_are_rotated_as_others(tmp_path: Path) -> None:
    made(tmp_path, save_steps=1, save_only_model=True, save_total_limit=3).train()
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-5", "checkpoint-6"]


# ---- the best one ----

BEST = {
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": True,  # the first one is the best
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_total_limit": 2,
}


def test_the_best_one_is_found_where_the_run_was_moved(tmp_path: Path) -> None:
    first = made(tmp_path / "old", **BEST)
    first.train()
    best = first.state.best_model_checkpoint
    assert best == str(tmp_path / "old" / "checkpoint-2")
    assert names(tmp_path / "old") == ["checkpoint-2", "checkpoint-6"]
    for step in (2, 6):
        state = TrainerState.load_from_json(str(tmp_path / "old" / f"checkpoint-{step}" / "trainer_state.json"))
        assert state.best_model_checkpoint == best
    (tmp_path / "old").rename(tmp_path / "new")
    again = made(tmp_path / "new", **BEST)
    again.train(resume_from_checkpoint=True)
    assert tiny.distance(again.distillation, first.distillation) == 0.0
    flip(tmp_path / "new" / "checkpoint-2" / "model.safetensors")
    with pytest.raises(BrokenCheckpoint, match=r"checkpoint-2 is not whole: model\.safetensors has another SHA-256"):
        made(tmp_path / "new", **BEST).train(resume_from_checkpoint=True)
    shutil.rmtree(tmp_path / "new" / "checkpoint-2")
    with pytest.raises(BrokenCheckpoint, match=r"checkpoint-2 is missing; it is the best checkpoint so far"):
        made(tmp_path / "new", **BEST).train(resume_from_checkpoint=True)


def test_a_best_step_that_was_not_saved_is_no_checkpoint_that_is_missing(tmp_path: Path) -> None:
    """The best evaluation is that of the first step, and every second step is saved."""

    def trained(resumed: bool) -> DistillationTrainer:
        scores = iter([9.0, 1.0, 1.0, 1.0][2 if resumed else 0 :])
        given = {"compute_metrics": lambda _: {"score": next(scores)}}
        best = {**BEST, "metric_for_best_model": "score", "eval_steps": 1, "save_total_limit": None}
        trainer = made(tmp_path, 4, given, **best)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2") if resumed else None)
        return trainer

    whole = trained(resumed=False)
    assert (whole.state.best_global_step, whole.state.best_model_checkpoint) == (1, None)
    assert tiny.distance(trained(resumed=True).distillation, whole.distillation) == 0.0
