"""`compare` from the command line to the table; trials run in this process, but for those of `tests/slow`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from hf_distill.commands import comparing, glue, trials
from hf_distill.commands import main as commands
from hf_distill.commands.compare import main
from hf_distill.commands.comparing import Files, Trial, planned, start_of
from hf_distill.commands.flags import Flags
from hf_distill.evaluation.compare import Log, Run
from hf_distill.recipe import Recipe
from hf_distill.runs import trial
from tests import tiny_runs

OWN = {"teacher_name_or_path": "T", "student_layers": 2, "seeds": [5, 6], "task_name": "sst2", "dataset_dir": "D"}
ARGUMENTS = {"num_train_epochs": 2.0, "per_device_train_batch_size": 16, "output_dir": "O"}
START = Path("O", "start")


def plan(*recipes: str, **own: Any) -> dict[tuple[str, int], Trial | Run]:
    flags = Flags({**OWN, "recipes": list(recipes), **own}, ARGUMENTS)
    return {(each.name, each.seed): each for each in planned(glue.SCRIPT, flags, START, Files())}


def recipe_of(found: Trial | Run) -> Any:
    assert isinstance(found, Trial), found
    return found.recipe


# ---- the plan ----


def test_control_and_reference_are_always_there_and_the_teacher_is_scored_once() -> None:
    found = plan("review/pkt")
    assert list(found) == [
        ("teacher", 5), ("labels", 5), ("soft_targets", 5), ("pkt", 5), ("labels", 6), ("soft_targets", 6), ("pkt", 6),
    ]  # fmt: skip
    teacher = found["teacher", 5]
    assert isinstance(teacher, Trial)
    assert not teacher.train
    assert teacher.recipe["student"]["model"] == "T"
    assert "teacher" not in teacher.recipe


def test_every_recipe_takes_the_same_teacher_data_and_batches_and_keeps_the_rest() -> None:
    found = recipe_of(plan("review/pkt")["pkt", 6])
    assert found["teacher"]["model"] == "T"
    assert "fine_tune" not in found["teacher"]
    assert found["student"]["from_layers"]["layers"] == 2
    assert (found["task"], found["dataset_dir"], found["seed"], found["control"]) == ("sst2", "D", 6, False)
    (stage,) = found["stages"]
    assert stage["arguments"]["num_train_epochs"] == 2.0
    assert stage["arguments"]["per_device_train_batch_size"] == 16
    assert stage["arguments"]["learning_rate"] == 5e-5
    assert stage["arguments"]["save_strategy"] == "no"
    assert {next(iter(term)) for term in stage["objectives"]} == {"labels", "pkt"}


def test_a_stage_that_would_end_with_its_best_checkpoint_ends_with_its_last_step() -> None:
    """None is kept."""
    found = plan("review/annealing")
    first, _ = recipe_of(found["annealing", 6])["stages"]
    assert first["arguments"]["load_best_model_at_end"] is False
    assert first["arguments"]["save_strategy"] == "no"


def test_a_model_that_is_named_becomes_the_common_start_and_seeds_keep_their_distance() -> None:
    found = recipe_of(plan("review/born_again")["born_again", 6])
    assert "teacher" not in found
    assert found["student"]["model"] == str(START)
    assert [stage["arguments"].get("seed") for stage in found["stages"]] == [None, 7, 8]
    peers = recipe_of(plan("review/deep_mutual_learning")["deep_mutual_learning", 5])
    assert peers["teacher"].keys() == {"peers", "trust_remote_code"}
    averaged = recipe_of(plan("review/mean_teacher")["mean_teacher", 5])
    assert averaged["teacher"]["moving_average"]["decay"] == 0.999
    assert averaged["student"]["model"] == str(START)


def test_several_teachers_are_given_or_the_recipe_is_refused() -> None:
    found = plan("review/multi_teacher")
    refused = found["multi_teacher", 5]
    assert isinstance(refused, Run)
    assert "2 teachers (base, large), and 1 given" in refused.message
    assert ("multi_teacher", 6) not in found
    members = recipe_of(plan("review/multi_teacher", further_teachers=["U"])["multi_teacher", 5])["teacher"][
        "ensemble"
    ]
    assert [member["model"] for member in members["members"].values()] == ["T", "U"]


def test_what_a_trial_is_follows_from_its_recipe() -> None:
    one, other = plan("review/pkt"), plan("review/pkt", student_layers=3)
    assert one["pkt", 5].key == plan("review/pkt")["pkt", 5].key
    assert one["pkt", 5].key != other["pkt", 5].key


def test_a_start_is_told_apart_by_layers_pick_and_the_teacher(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(name.replace("b", "a"))

    def start(teacher: str, layers: int | list[int] = 2, **own: Any) -> str:
        path = start_of(
            Path("O"), {"teacher_name_or_path": str(tmp_path / teacher), "student_layers": layers, **own}, Files()
        )
        assert path.parent == Path("O")
        return path.name

    found = [
        start("a"),
        start("a", 3),
        start("a", [1, 3]),
        start("a", student_pick="last"),
        start("c"),
        start("on/hub"),
    ]
    assert len(set(found)) == len(found)
    assert found[0].startswith("start-2-spread-")
    assert found[2].startswith("start-1-3-")
    assert [start("a"), start("a", student_pick="spread"), start("b")] == found[:1] * 3


def test_what_a_trial_is_follows_from_the_files_that_it_reads(home: Path, tmp_path: Path) -> None:
    for name in ("teacher", "sst2"):
        shutil.copytree(home / name, tmp_path / name)
    places = {"teacher_name_or_path": str(tmp_path / "teacher"), "dataset_dir": str(tmp_path / "sst2")}

    def key() -> object:
        found = plan("review/born_again", "review/pkt", **places)
        return {name: each.key for (name, seed), each in found.items() if seed == 5}

    keys = [key()]
    (tmp_path / "sst2" / "runs.jsonl").write_text("what a comparison in this folder writes")
    assert [key()] == keys
    for file in ("teacher/model.safetensors", "teacher/tokenizer.json", "sst2/train.jsonl", "sst2/validation.jsonl"):
        with (tmp_path / file).open("ab") as opened:
            opened.write(b" ")
        keys.append(key())
    assert len({json.dumps(each) for each in keys}) == 5
    of_teacher = {name for name in keys[0] if keys[0][name] != keys[1][name]}
    assert of_teacher == {"teacher", "labels", "soft_targets", "pkt"}
    assert all(keys[2][name] != keys[3][name] for name in keys[0])


# ---- runs ----


Do = Callable[..., int]


@pytest.fixture
def scored_at_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trials are told of without a training; the names of the folders of those that were asked for."""
    asked: list[str] = []

    def run(command: Sequence[str], **settings: Any) -> SimpleNamespace:
        asked.append(Path(command[3]).name)
        told = {"outcome": "scored", "metric": "accuracy", "value": 1.0, "kind": "mean", "rows": [[1.0]], "steps": 1}
        (Path(command[3]) / trial.TOLD).write_text(json.dumps(told))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(trials.subprocess, "run", run)
    return asked


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Trials run here; the folders of those that did."""
    folders: list[Path] = []

    def here(command: Sequence[str], **settings: Any) -> SimpleNamespace:
        assert command[1:3] == ["-m", "hf_distill.runs.trial"]
        folders.append(Path(command[3]))
        return SimpleNamespace(returncode=trial.main([command[3]]))

    monkeypatch.setattr(trials.subprocess, "run", here)
    return folders


@pytest.fixture
def do(home: Path, tmp_path: Path) -> Do:
    def command(*words: str, recipes: Sequence[str] = ("review/pkt",), seeds: Sequence[str] = ("0",)) -> int:
        fast = ["--use_cpu", "--num_train_epochs", "1", "--per_device_train_batch_size", "8", "--student_layers", "1"]
        data = [
            "--task_name",
            "sst2",
            "--dataset_dir",
            str(home / "sst2"),
            "--teacher_name_or_path",
            str(home / "teacher"),
        ]
        where = ["--output_dir", str(tmp_path / "out")]
        return main(["glue", "--recipes", *recipes, "--seeds", *seeds, *data, *fast, *where, *words])

    return command


def test_a_second_call_runs_nothing_and_other_settings_run_anew(
    do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its trials are told of without a training; the slow test below trains them."""
    asked: list[str] = []

    def run(command: Sequence[str], **settings: Any) -> SimpleNamespace:
        name = Path(command[3]).name
        asked.append(name)
        told: dict[str, Any] = {"outcome": "scored", "metric": "accuracy", "value": 1.0, "kind": "mean", "steps": 1}
        if name.startswith("bounded"):
            told = {"outcome": "refused", "message": "no scores here"}
        (Path(command[3]) / trial.TOLD).write_text(json.dumps({"rows": [[1.0]], **told}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(trials.subprocess, "run", run)
    recipes, seeds = ("review/pkt", "review/bounded_regression"), ("0", "1")
    assert do(recipes=recipes, seeds=seeds) == 0
    assert "Not run:\n\n- `bounded_regression`: no scores here" in capsys.readouterr().out
    assert len(asked) == 1 + 3 * 2 + 1  # what was refused with one seed is not tried with the other
    asked.clear()
    assert do(recipes=recipes, seeds=seeds) == 0
    assert do("--report", recipes=recipes, seeds=seeds) == 0
    assert asked == []
    assert do("--max_train_samples", "8") == 0
    assert asked == ["teacher-0", "labels-0", "soft_targets-0", "pkt-0"]


def test_another_depth_is_another_start(do: Do, tmp_path: Path, scored_at_once: list[str]) -> None:
    recipes = ("review/born_again",)
    assert do(recipes=recipes) == 0
    assert do("--student_layers", "2", recipes=recipes) == 0
    assert scored_at_once == ["teacher-0", *2 * ["labels-0", "soft_targets-0", "born_again-0"]]
    starts = sorted((tmp_path / "out").glob("start-*"))
    assert [json.loads((start / "config.json").read_text())["num_hidden_layers"] for start in starts] == [1, 2]
    scored_at_once.clear()
    assert do(recipes=recipes) == 0
    assert scored_at_once == []


def test_another_teacher_of_the_same_name_is_another_comparison(
    do: Do, home: Path, tmp_path: Path, scored_at_once: list[str]
) -> None:
    teacher, recipes = tmp_path / "teacher", ("review/born_again",)
    shutil.copytree(home / "teacher", teacher)
    for _ in range(2):
        assert do("--teacher_name_or_path", str(teacher), recipes=recipes) == 0
    assert len(scored_at_once) == 4
    tiny_runs.save_teacher(teacher, seed=7)
    assert do("--teacher_name_or_path", str(teacher), recipes=recipes) == 0
    assert scored_at_once[4:] == scored_at_once[:4]
    weights = {path.read_bytes() for path in (tmp_path / "out").glob("start-*/model.safetensors")}
    assert len(weights) == 2


def test_what_was_left_half_done_with_other_data_is_not_taken(
    do: Do, home: Path, tmp_path: Path, scored_at_once: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "sst2"
    shutil.copytree(home / "sst2", data)
    with monkeypatch.context() as broken:
        broken.setattr(Log, "add", lambda log, run: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            do("--dataset_dir", str(data))
    assert scored_at_once == ["teacher-0"]
    tiny_runs.write_sst2(data, train=8)
    assert do("--dataset_dir", str(data)) == 0
    assert scored_at_once == ["teacher-0", "teacher-0", "labels-0", "soft_targets-0", "pkt-0"]


def test_a_file_that_cannot_be_read_ends_with_a_message(
    do: Do, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
        raise PermissionError(13, "Permission denied", str(folder / "config.json"))

    monkeypatch.setattr(comparing, "sha256_of_files", refused)
    assert do() == 2
    assert "config.json: Permission denied." in capsys.readouterr().err


@pytest.mark.slow
def test_recipes_are_compared_and_a_second_call_runs_nothing(
    do: Do, tmp_path: Path, in_this_process: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipes, seeds = ("review/pkt", "review/bounded_regression"), ("0", "1")
    assert do(recipes=recipes, seeds=seeds) == 0
    table = capsys.readouterr().out
    assert "Not run:\n\n- `bounded_regression`: " in table
    assert len(in_this_process) == 1 + 3 * 2 + 1  # what was refused with one seed is not tried with the other
    runs = Log(tmp_path / "out" / "runs.jsonl").read()
    pkt = next(run for run in runs.values() if run.name == "pkt")
    assert (pkt.metric, pkt.kind, len(pkt.rows), pkt.steps) == ("accuracy", "mean", 10, 3)
    assert pkt.value == pytest.approx(sum(row[0] for row in pkt.rows) / 10)
    assert pkt.cpu_seconds is not None
    assert 0 < pkt.cpu_seconds < 60
    assert [path for path in (tmp_path / "out" / "trials").iterdir() if not path.name.startswith(".")] == []
    plain = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [row["name"] for row in plain["rows"]][:3] == ["teacher", "labels", "soft_targets"]
    assert {tuple(row["seeds"]) for row in plain["rows"] if row["steps"]} == {(0, 1)}

    in_this_process.clear()
    assert do(recipes=recipes, seeds=seeds) == 0
    assert do("--report", recipes=recipes, seeds=seeds) == 0
    assert in_this_process == []
    assert do("--max_train_samples", "8") == 0
    assert [folder.name for folder in in_this_process] == ["teacher-0", "labels-0", "soft_targets-0", "pkt-0"]


def test_a_process_that_fails_is_told_and_runs_again_when_asked(
    do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = True

    def run(command: Sequence[str], *, stdout: Any, **settings: Any) -> SimpleNamespace:
        if "pkt" in command[3] and fails:
            stdout.write("Traceback …\nMemoryError: too much\n\n")
            stdout.flush()
            return SimpleNamespace(returncode=-9)
        told = {"outcome": "scored", "metric": "accuracy", "value": 1.0, "kind": "mean", "rows": [[1.0]], "steps": 1}
        (Path(command[3]) / trial.TOLD).write_text(json.dumps(told))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(trials.subprocess, "run", run)
    assert do() == 1
    log = tmp_path / "out" / "trials" / "pkt-0" / "log.txt"
    assert f"MemoryError: too much (status -9; {log})" in capsys.readouterr().out
    assert log.is_file()
    fails = False
    assert do() == 1
    assert do("--retry") == 0
    assert not log.exists()


def test_a_trial_that_was_asked_to_stop_ends_the_comparison_and_goes_on_with_the_next_call(
    do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stops = True

    def run(command: Sequence[str], **settings: Any) -> SimpleNamespace:
        if "pkt" in command[3] and stops:
            (Path(command[3]) / "run").mkdir()
            return SimpleNamespace(returncode=75)
        told = {"outcome": "scored", "metric": "accuracy", "value": 1.0, "kind": "mean", "rows": [[1.0]], "steps": 1}
        (Path(command[3]) / trial.TOLD).write_text(json.dumps(told))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(trials.subprocess, "run", run)
    with pytest.raises(SystemExit) as stopped:
        do()
    assert stopped.value.code == 75
    assert "pkt, seed 0: its process was asked to stop; run again to go on." in caplog.text
    assert "another process" not in caplog.text
    assert (tmp_path / "out" / "trials" / "pkt-0" / "run").is_dir(), "what it saved"
    stops = False
    assert do() == 0
    assert "pkt" in {run.name for run in Log(tmp_path / "out" / "runs.jsonl").read().values()}


def test_the_peak_is_not_that_of_a_process_that_only_scores(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the one that trained was killed before it was scored."""
    stage = {"name": "labels", "objectives": [{"labels": {}}], "arguments": {"use_cpu": True, "max_steps": 1}}
    recipe = {
        "schema": 1, "task": "sst2", "dataset_dir": str(home / "sst2"), "student": {"model": str(home / "teacher")},
        "max_length": 16, "stages": [stage],
    }  # fmt: skip
    monkeypatch.setattr(trial, "most_held", lambda: 7)
    asked = {"recipe": recipe, "train": True}
    assert [trial.told(asked, tmp_path / "run")["peak_bytes"] for _ in range(2)] == [7, None]
    assert trial.told({**asked, "train": False}, tmp_path / "none")["peak_bytes"] == 7


@pytest.mark.parametrize(
    "lock",
    [
        pytest.param(".pkt-0.lock", id="by a comparison", marks=pytest.mark.slow),
        pytest.param(f"pkt-0/{trial.LOCK}", id="by a trial left behind"),
    ],
)
def test_what_another_process_is_at_work_on_is_passed_over(
    do: Do, tmp_path: Path, in_this_process: list[Path], caplog: pytest.LogCaptureFixture, lock: str
) -> None:
    folder = tmp_path / "out" / "trials" / "pkt-0"
    folder.mkdir(parents=True)
    with FileLock(folder.parent / lock):
        assert do() == 0
    assert "pkt, seed 0: another process is at work on it" in caplog.text
    assert "pkt" not in {run.name for run in Log(tmp_path / "out" / "runs.jsonl").read().values()}
    assert do() == 0
    assert in_this_process[-1] == folder


def test_a_trial_that_finished_when_nobody_waited_is_taken(
    do: Do, tmp_path: Path, in_this_process: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Log.add

    def broken_off(log: Log, run: Run) -> None:
        if run.name == "pkt":
            raise KeyboardInterrupt
        finish(log, run)

    monkeypatch.setattr(trials, "rmtree", lambda path: None)
    monkeypatch.setattr(Log, "add", broken_off)
    with pytest.raises(KeyboardInterrupt):
        do()
    monkeypatch.undo()
    monkeypatch.setattr(trials.subprocess, "run", lambda *words, **settings: pytest.fail("nothing is left to run"))
    assert do() == 0


def test_teacher_and_start_are_read_once(do: Do, scored_at_once: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def sums(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
        read.append(folder)
        return {"config.json": "1"}

    monkeypatch.setattr(comparing, "sha256_of_files", sums)
    assert do() == 0
    assert len(read) == len(set(read)) > 1


def test_a_trial_does_not_start_in_a_folder_that_is_taken(tmp_path: Path) -> None:
    with FileLock(tmp_path / trial.LOCK):
        assert trial.main([str(tmp_path)]) == trial.TAKEN


# ---- words ----


@pytest.mark.parametrize(("words", "message"), [
    (["glu"], "did you mean 'glue'"),
    (["mlm"], "is no kind of data"),
    (["glue", "--teacher_name_or_path", "T", "--output_dir", "O"], "needs --recipes"),
    (["glue", "--recipes", "review/pkt", "--output_dir", "O"], "needs --teacher_name_or_path"),
    (["glue", "--recipes", "review/pkt", "--teacher_name_or_path", "T"], "needs --output_dir"),
    (["glue", "--recipes", "review/pkt", "--control"], "unknown argument '--control'"),
    (["glue", "--recipes", "review/pkt", "--seed", "1"], "does not take --seed"),
    (["glue", "--recipes", "review/pkx", "--teacher_name_or_path", "T", "--output_dir", "O"], "review/pkt"),
    (["glue", "--recipes", "review/pkt", "a/pkt.yaml", "--teacher_name_or_path", "T", "--output_dir", "O"],
     r"'pkt' is the name of several recipes (review/pkt, a/pkt.yaml)"),
    (["glue", "--recipes", "teacher.yaml", "--teacher_name_or_path", "T", "--output_dir", "O"],
     "stands for the teacher"),
    (["glue", "--recipes", "review/pkt", "--teacher_name_or_path", "T", "--output_dir", "O", "--report"], "--report"),
])  # fmt: skip
def test_mistakes_end_with_a_message(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_help_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["compare"]) == 0
    assert "comparison.md" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["glue", "--help"])
    help_ = capsys.readouterr().out
    assert "compare glue" in help_
    assert "--further_teachers" in help_
    assert "--temperature" not in help_


# ---- what a score is made of ----


def test_other_tasks_bring_their_evidence(home: Path, tmp_path: Path) -> None:
    rows = [{"sentence1": "a good film", "sentence2": "a film", "label": float(i % 5), "idx": i} for i in range(8)]
    for split in ("train", "validation"):
        tiny_runs.write_jsonl(tmp_path / "stsb" / f"{split}.jsonl", rows)
    recipe = {
        "schema": 1, "task": "stsb", "dataset_dir": str(tmp_path / "stsb"), "student": {"model": str(home / "score")},
        "stages": [{"name": "labels", "objectives": [{"labels": {}}], "arguments": {"use_cpu": True}}],
    }  # fmt: skip
    told = trial.told({"recipe": recipe, "train": False}, tmp_path / "run")
    assert told["outcome"] == "scored"
    assert told["kind"] == told["metric"]
    assert [row[1] for row in told["rows"]] == [float(i % 5) for i in range(8)]
    assert told["steps"] == 0
    assert told["cpu_seconds"] is None


def test_a_model_that_cannot_be_read_is_no_refusal(tmp_path: Path) -> None:
    """It may be there the next time, and other seeds are tried."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    recipe = Recipe.load("comparisons/labels").override({"teacher.model": str(tmp_path / "broken")}).to_dict()
    tiny_runs.write_sst2(tmp_path / "sst2")
    told = trial.told({"recipe": {**recipe, "dataset_dir": str(tmp_path / "sst2")}, "train": True}, tmp_path / "run")
    assert told["outcome"] == "failed"
    assert "cannot be loaded" in told["message"]


def test_a_refusal_is_told(tmp_path: Path) -> None:
    told = trial.told({"recipe": {"schema": 2}, "train": True}, tmp_path)
    assert told["outcome"] == "refused"
    assert "schema" in told["message"]
