"""Recipes whose teachers are several, an earlier stage's student, or the average of the student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_distill.errors import IncompatiblePair, RecipeError
from hf_distill.hub.record import Record
from hf_distill.recipe import Recipe
from hf_distill.runs import cache_teacher, run
from hf_distill.runs.stages import StageTrainer
from hf_distill.teachers import Cached, Ensemble, Frozen, MovingAverage, Teacher
from tests import tiny_runs

ARGUMENTS = {
    "max_steps": 2, "per_device_train_batch_size": 8, "optim": "sgd", "learning_rate": 0.3, "use_cpu": True,
    "disable_tqdm": True, "save_strategy": "no", "eval_strategy": "no",
}  # fmt: skip
SOFT = [{"labels": {}, "weight": 0.5}, {"soft_targets": {"temperature": 2.0}, "weight": 0.5}]
LABELS = [{"labels": {}}]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers, of which one counts its labels backwards, a base, and rows."""
    folder = tmp_path_factory.mktemp("home")
    tiny_runs.save_teacher(folder / "teacher", layers=3, dropout=0.0)
    tiny_runs.save_teacher(folder / "other", ("positive", "negative"), seed=5, layers=2, hidden=24, dropout=0.0)
    tiny_runs.save_base(folder / "base", layers=2, dropout=0.0)
    tiny_runs.write_sst2(folder / "sst2", train=24)
    return folder


def recipe(home: Path, *stages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made = {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(home / "sst2"),
        "max_length": 16,
        "teacher": {"model": str(home / "teacher")},
        "student": {"from_layers": {"layers": 1}},
        "stages": list(stages),
    }
    return {key: value for key, value in (made | changes).items() if value is not None}


def stage(name: str, objectives: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"name": name, "objectives": objectives, "arguments": ARGUMENTS, **more}


def both(home: Path) -> dict[str, Any]:
    return {"members": {name: {"model": str(home / name)} for name in ("teacher", "other")}}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class Seen:
    """The students and teachers that trainings start with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.students: list[dict[str, torch.Tensor]] = []
        self.teachers: list[Teacher | None] = []
        train = StageTrainer.train

        def training(trainer: StageTrainer, *args: Any, **kwargs: Any) -> Any:
            state = trainer.model.state_dict()
            self.students.append(
                {name: tensor.clone() for name, tensor in state.items() if "position_ids" not in name}
            )
            self.teachers.append(trainer.teacher)
            return train(trainer, *args, **kwargs)

        monkeypatch.setattr(StageTrainer, "train", training)


# ---- chains ----


def test_an_assistant_between_teacher_and_student(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen(monkeypatch)
    made = recipe(
        home,
        stage("assistant", SOFT, student={"from_layers": {"layers": 2}}),
        stage("distil", SOFT, student="fresh", teacher="previous"),
        control=True,
    )
    run(made, tmp_path / "out", evaluate=False)
    first, second, _ = seen.teachers
    assert isinstance(first, Frozen)
    assert isinstance(second, Frozen)
    assert [teacher.anatomy.shape.stack().num_hidden_layers for teacher in (first, second)] == [3, 2]
    held = weights(tmp_path / "out" / "stages" / "01-assistant")
    assert all(torch.equal(tensor, held[name]) for name, tensor in second.model.state_dict().items() if name in held)
    assert equal(seen.students[1], seen.students[2]), "the control starts as the student does"
    assert not equal(seen.students[0], seen.students[1])
    assert Record.read(tmp_path / "out").student.num_hidden_layers == 1
    assert "hardly a gap for an assistant to bridge" in caplog.text


def test_generations_start_alike_and_learn_from_each_other(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen(monkeypatch)
    made = recipe(
        home,
        stage("first", LABELS),
        stage("second", SOFT, student="fresh", teacher="previous"),
        stage("third", SOFT, student="fresh", teacher="first") | {"arguments": {**ARGUMENTS, "seed": 5}},
        teacher=None,
        student={"model": str(home / "base")},
    )
    run(made, tmp_path / "out")
    assert equal(seen.students[0], seen.students[1])
    assert equal(seen.students[0], seen.students[2])
    assert seen.teachers[0] is None
    for teacher in seen.teachers[1:]:
        assert isinstance(teacher, Frozen)
        held = weights(tmp_path / "out" / "stages" / "01-first")
        assert all(
            torch.equal(tensor, held[name]) for name, tensor in teacher.model.state_dict().items() if name in held
        )
    assert Record.read(tmp_path / "out").teacher is None
    told = [line for line in caplog.messages if "repeats the seed" in line]
    assert len(told) == 1
    assert told[0].startswith("stage 'second': it repeats the seed and the order of the rows of stage 'first'")


def test_a_broken_chain_goes_on(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(
        home,
        stage("first", [*SOFT, {"hidden_mse": {"layer_map": "final"}}], student={"from_layers": {"layers": 2}}),
        stage("second", SOFT, student="fresh", teacher="first"),
        stage("third", SOFT),
    )
    run(made, tmp_path / "whole", evaluate=False)
    train, calls = StageTrainer.train, []

    def broken(trainer: StageTrainer, *args: Any, **kwargs: Any) -> Any:
        calls.append(trainer)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(trainer, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(StageTrainer, "train", broken)
        with pytest.raises(KeyboardInterrupt):
            run(made, tmp_path / "parts", evaluate=False)
    run(made, tmp_path / "parts", evaluate=False)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_what_is_learned_for_one_student_is_not_handed_to_a_fresh_one(home: Path, tmp_path: Path) -> None:
    """The projections of both stages differ in shape, and have one name."""
    term = {"hidden_mse": {"layer_map": "final", "projection": "shared"}, "name": "hint"}
    narrow = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12, "num_hidden_layers": 1}
    made = recipe(
        home,
        stage("first", [term], student={"from_shape": narrow}),
        stage("second", [term], student={"from_shape": {**narrow, "hidden_size": 12}}),
    )
    run(made, tmp_path / "out", evaluate=False)
    stages = [tmp_path / "out" / "stages" / name for name in ("01-first", "02-second")]
    first, second = (load_file(folder / "distillation.safetensors") for folder in stages)
    assert [next(iter(each.values())).shape[-1] for each in (first, second)] in ([8, 12], [16, 16])


# ---- several teachers ----


def test_several_teachers_and_a_term_on_one_of_them(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch)
    terms = [*SOFT, {"hidden_mse": {"layer_map": "final"}, "on": "other", "weight": 0.1}, {"voted_triplets": {}}]
    made = recipe(home, stage("distil", terms), teacher={"ensemble": both(home) | {"weights": "label_ce"}})
    result = run(made, tmp_path / "out")
    teacher = seen.teachers[0]
    assert isinstance(teacher, Ensemble)
    assert (list(teacher.members), teacher.combining.weights) == (["teacher", "other"], "label_ce")
    assert any("Teacher: 'teacher', the first of 2 (teacher, other)" in note for note in result.notes)
    record = Record.read(tmp_path / "out")
    assert record.teacher is not None
    assert [each.num_hidden_layers for each in (record.teacher, *record.other_teachers)] == [3, 2]
    assert [each.on for each in record.objectives] == ["", "", "other", ""]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "distilled from a `BertForSequenceClassification` that is not on the Hub and a" in card
    assert Recipe.from_yaml(Recipe.from_dict(made).to_yaml()) == Recipe.from_dict(made)


def test_each_of_several_teachers_has_a_cache_of_its_own(home: Path, tmp_path: Path) -> None:
    terms = [*SOFT, {"hidden_mse": {"layer_map": "final"}, "on": "other"}]
    ensemble = both(home)
    run(recipe(home, stage("distil", terms), teacher={"ensemble": ensemble}), tmp_path / "plain", evaluate=False)
    cache = {"folder": str(tmp_path / "cache"), "codec": "float32"}
    made = recipe(home, stage("distil", terms), teacher={"ensemble": ensemble, "cache": cache})
    cache_teacher(made, tmp_path / "cached")
    held = {name: Cached(tmp_path / "cache" / name) for name in ("teacher", "other")}
    signals = {name: {each.name for each in cached.facts.signals} for name, cached in held.items()}
    assert signals == {"teacher": {"logits"}, "other": {"logits", "hidden[2]"}}
    run(made, tmp_path / "cached", evaluate=False)
    plain, cached = weights(tmp_path / "plain"), weights(tmp_path / "cached")
    for name, tensor in plain.items():
        torch.testing.assert_close(cached[name], tensor, rtol=0, atol=2e-6)
    assert Record.read(tmp_path / "cached").teacher_cache is not None


def test_teachers_of_another_vocabulary_are_refused(home: Path, tmp_path: Path) -> None:
    tiny_runs.save_teacher(tmp_path / "strange", layers=2)
    tiny_runs.tokenizer((*tiny_runs.SPECIAL, *reversed(tiny_runs.WORDS[5:]))).save_pretrained(tmp_path / "strange")
    members = both(home)["members"] | {"strange": {"model": str(tmp_path / "strange")}}
    made = recipe(home, stage("distil", SOFT), teacher={"ensemble": {"members": members}})
    with pytest.raises(IncompatiblePair, match="the tokenizers differ"):
        run(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- the student's own average ----


def test_a_mean_teacher(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    terms = [{"labels": {}}, {"soft_targets": {"kind": "probability_mse", "temperature": 1.0}, "weight": 10.0}]
    teacher, student = {"moving_average": {"decay": 0.9}}, {"model": str(home / "base")}
    made = recipe(home, stage("distil", terms), teacher=teacher, student=student)
    result = run(made, tmp_path / "out")
    assert isinstance(seen.teachers[0], MovingAverage)
    assert seen.teachers[0].decay == 0.9
    assert {summary.role for summary in result.runs} == {"student"}
    assert not (tmp_path / "out" / "teacher.safetensors").exists()
    assert (tmp_path / "out" / "stages" / "01-distil" / "teacher.safetensors").is_file()


# ---- what a recipe may not say ----


CHAINS = [
    ([{"teacher": "previous"}], r"stages\[0\]\.teacher: is the student of an earlier stage, and this is the first"),
    ([{}, {"teacher": "s3"}, {}], r"stages\[1\]\.teacher: is the student of an earlier stage \(s1\) or previous"),
    ([{"name": "previous"}], r"stages\[0\]\.name: 'previous' means the stage before"),
    ([{"student": "frsh"}], r"stages\[0\]\.student: must be fresh, or a student such as"),
    ([{"student": {}}], r"stages\[0\]\.student: give exactly one of model, from_layers"),
    ([{"student": {"from_layer": {"layers": 1}}}], r"student\.from_layer: unknown key; did you mean 'from_layers'"),
    ([{"student": {"from_layers": {}}}], r"stages\[0\]\.student\.from_layers\.layers: is missing"),
    ([{"student": {"model": "a/b", "trust_remote_code": True}}], r"student\.trust_remote_code: runs code"),
    ([{}, {"progressive": {"layers": 1}, "student": "fresh"}], r"stages\[1\]\.student: does not go with progressive"),
    ([{"objectives": [{"labels": {}, "on": "x"}]}], r"objectives\[0\]\.on: names one of several teachers"),
]  # fmt: skip


@pytest.mark.parametrize(("stages", "message"), CHAINS)
def test_mistakes_in_a_chain(home: Path, stages: list[dict[str, Any]], message: str) -> None:
    made = [stage(f"s{i}", LABELS) | given for i, given in enumerate(stages, start=1)]
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(recipe(home, *made))


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"ensemble": {"members": {}}}, r"teacher\.ensemble\.members: must have at least 1 entry"),
        ({"ensemble": {"members": {"a": {}}}}, r"members\.a: give exactly one of model and package; found neither"),
        ({"ensemble": {"members": {"a": {"model": "x", "revison": "y"}}}}, r"members\.a\.revison: unknown key"),
        ({"ensemble": {"members": {"a": {"model": "x", "trust_remote_code": True}}}}, r"a\.trust_remote_code: runs"),
        ({"ensemble": {"weights": [1.0]}}, r"ensemble\.weights: are 1 for 2 teachers"),
        ({"ensemble": {"weights": [0.0, 0.0]}}, r"ensemble\.weights: are all 0"),
        ({"ensemble": {"weights": "labels"}}, r"ensemble\.weights: must be a list of numbers, or one of label_ce"),
        ({"ensemble": {"weights": "entropy", "routing": "gold"}}, r"ensemble\.routing: gives each row to one"),
        ({"ensemble": {"combine": "mean"}}, r"ensemble\.combine: must be 'prob', 'logit' or 'losses'"),
        ({"ensemble": {}, "fine_tune": {}}, r"teacher\.fine_tune: trains one teacher on the labels"),
        ({"ensemble": {}, "model": "x"}, r"teacher: give exactly one of model, package, ensemble, moving_average, p"),
        ({"moving_average": {"decay": 1.0}}, r"moving_average\.decay: must be less than 1"),
        ({"moving_average": {}, "cache": {}}, r"teacher\.cache: does not go with moving_average"),
        ({"moving_average": {}}, r"student\.from_layers: takes the layers of a teacher, and the recipe's is made of"),
    ],
)
def test_mistakes_in_a_teacher(home: Path, teacher: dict[str, Any], message: str) -> None:
    if "ensemble" in teacher:
        teacher = teacher | {"ensemble": both(home) | teacher["ensemble"]}
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(recipe(home, stage("distil", SOFT), teacher=teacher))


def test_a_term_on_a_teacher_that_is_not_there(home: Path) -> None:
    made = recipe(home, stage("distil", [{"soft_targets": {}, "on": "third"}]), teacher={"ensemble": both(home)})
    with pytest.raises(
        RecipeError, match=r"objectives\[0\]\.on: names one of the teachers teacher, other; given 'third'"
    ):
        Recipe.from_dict(made)
