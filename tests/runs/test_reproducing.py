"""Records that are run again: bitwise the same student, or what is missing or different."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import torch

from hf_distill import from_record
from hf_distill.commands import glue
from hf_distill.errors import DataError, HubError, RecipeError
from hf_distill.evaluation.latency import Latency
from hf_distill.hub.record import Origin, Record
from hf_distill.hub.source import record_from
from hf_distill.recipe import Recipe
from hf_distill.recipe.sections.base import Section
from hf_distill.runs import measuring, results, run
from hf_distill.runs.origins import SCRATCH, origins_of, places, value_at
from hf_distill.runs.reproducing import recipe_again
from tests import chats, tiny_runs
from tests.hub.conftest import make_record

QUICK = {"per_device_train_batch_size": 8, "max_steps": 2, "use_cpu": True, "disable_tqdm": True}
SOFT = [{"soft_targets": {}}, {"labels": {}}]
COMMIT = "c" * 40


@pytest.fixture(autouse=True, scope="module")
def _no_pictures_and_no_clock() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "measure_latency", lambda *args, **kwargs: Latency(1.0, 0.9, 1.1, 100.0, 1, "cpu", 4))
        patch.setattr(results, "write_report", lambda *args: [])
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    tiny_runs.save_teacher(folder / "teacher")
    tiny_runs.write_sst2(folder / "sst2")
    return folder


@pytest.fixture(scope="module")
def first(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose teacher and data lie in `home`."""
    folder = tmp_path_factory.mktemp("first") / "run"
    recipe = {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(home / "sst2"),
        "max_length": 16,
        "teacher": {"model": str(home / "teacher")},
        "student": {"from_layers": {"layers": 1}},
        "stages": [{"name": "distil", "objectives": SOFT, "arguments": QUICK}],
    }
    run(recipe, folder)
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def changed_record(first: Path, target: Path, **changes: Any) -> Path:
    """The record of `first` with other fields, alone in a folder."""
    target.mkdir()
    found = json.loads((first / "distillation.json").read_text())
    (target / "distillation.json").write_text(json.dumps({**found, **changes}))
    return target


def test_a_record_knows_its_teacher_its_student_and_its_data_by_their_sums(first: Path, home: Path) -> None:
    record = Record.read(first)
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    assert record.origins == {"teacher.model": Origin(files={name: sha256(home / "teacher" / name) for name in names})}
    assert record.student.files == {name: sha256(first / name) for name in ("config.json", "model.safetensors")}
    assert record.data.sources["train"].sha256 == sha256(home / "sst2" / "train.jsonl")
    assert record.data.sources["train"].name == "train.jsonl"
    assert (record.hardware.threads, record.hardware.processes) == (torch.get_num_threads(), 1)
    assert record.recipe is not None
    assert record.recipe["teacher"]["model"] == "teacher", "a path is cut to its name"


def test_a_record_that_is_run_again_gives_bitwise_the_same_student(
    first: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    assert glue.main(["--reproduce", str(first), "--data_dir", str(home), "--output_dir", str(again)]) == 0
    assert "Reproduced: the weights are bitwise those of the record." in capsys.readouterr().out
    assert (again / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    before, now = Record.read(first), Record.read(again)
    assert now.command[-6:] == ["--reproduce", "run", "--data_dir", home.name, "--output_dir", "again"]
    same = ("student", "teacher", "origins", "objectives", "layer_maps", "data", "seeds", "steps", "metrics", "recipe")
    assert {name: getattr(now, name) for name in same} == {name: getattr(before, name) for name in same}
    result = from_record(first, again, data_dir=home)
    assert result.notes[-1].startswith("Reproduced"), "a finished one is only compared"


def test_a_training_on_raw_text_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    home = tmp_path / "home"
    tiny_runs.save_masked_lm(home / "teacher")
    text = tiny_runs.write_text(home / "text.txt", 40)
    recipe = {
        "schema": 1,
        "data": {"text": {"train": [{"files": [str(text)]}], "held_out": 4, "cache_dir": str(tmp_path / "tokens")}},
        "max_length": 16,
        "teacher": {"model": str(home / "teacher")},
        "student": {"from_layers": {"layers": 1}},
        "stages": [{"name": "distil", "objectives": SOFT, "arguments": {**QUICK, "max_steps": 1}}],
    }
    run(recipe, tmp_path / "first", evaluate=False)
    again = from_record(tmp_path / "first", tmp_path / "again", data_dir=home, evaluate=False)
    assert again.notes[-1] == "Reproduced: the weights are bitwise those of the record."
    text.write_text(text.read_text() + "a film\n")
    with pytest.raises(DataError, match=r"data\.text\.train\.0\.files\.0: .*text\.txt has changed"):
        from_record(tmp_path / "first", tmp_path / "third", data_dir=home)


def test_other_weights_are_told(first: Path, home: Path, tmp_path: Path) -> None:
    student = json.loads((first / "distillation.json").read_text())["student"]
    other = {**student, "files": {"model.safetensors": "0" * 64}}
    source = changed_record(first, tmp_path / "source", student=other)
    found = from_record(source, tmp_path / "again", data_dir=home / "sst2", teacher=str(home / "teacher"))
    assert found.notes[-1] == "Not reproduced bit by bit: model.safetensors differs from the record's."


def test_what_is_not_here_is_asked_for_at_once(first: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        from_record(first, tmp_path / "again")
    lines = str(raised.value).splitlines()[1:]
    assert [line.split(";")[0] for line in lines] == [
        "- teacher.model: the model 'teacher'",
        "- dataset_dir: the folder 'sst2'",
    ]
    assert "--teacher_name_or_path PATH, or --data_dir" in lines[0]
    assert not (tmp_path / "again").exists()


def test_a_record_does_not_lead_out_of_the_folder_of_data(first: Path, home: Path, tmp_path: Path) -> None:
    recipe = json.loads((first / "distillation.json").read_text())["recipe"]
    recipe["dataset_dir"] = "here/../../sst2"
    inside = tmp_path / "one" / "two"
    (inside / "here").mkdir(parents=True)
    shutil.copytree(home / "sst2", tmp_path / "one" / "sst2")
    record = Record.read(changed_record(first, tmp_path / "source", recipe=recipe))
    again = recipe_again(record, "it", {"teacher.model": str(home / "teacher")}, inside, False)
    assert again.dataset_dir == str(inside)


def test_a_teacher_that_changed_is_refused(first: Path, home: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(home / "teacher", tmp_path / "teacher")
    config = moved / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(DataError) as raised:
        from_record(first, tmp_path / "again", data_dir=home, teacher=str(moved))
    assert f"{config} has changed: its SHA-256 is {sha256(config)}" in str(raised.value)
    assert sha256(home / "teacher" / "config.json") in str(raised.value)


def test_data_that_changed_are_refused(first: Path, home: Path, tmp_path: Path) -> None:
    data = shutil.copytree(home / "sst2", tmp_path / "sst2")
    rows = (data / "validation.jsonl").read_text().splitlines(keepends=True)
    (data / "validation.jsonl").write_text("".join(rows[:-1]))
    with pytest.raises(DataError) as raised:
        from_record(first, tmp_path / "again", data_dir=data, teacher=str(home / "teacher"))
    assert "data of validation" in str(raised.value)
    assert "data of train" not in str(raised.value)
    assert "the rows" in str(raised.value)
    assert not (tmp_path / "again").exists()


def test_other_versions_and_machines_are_warned_of(
    first: Path, home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = json.loads((first / "distillation.json").read_text())
    source = changed_record(
        first,
        tmp_path / "source",
        versions={**found["versions"], "torch": "2.0.0"},
        hardware={**found["hardware"], "processes": 4},
        training_arguments={**found["training_arguments"], "mixed_precision": "bf16"},
        data={**found["data"], "fingerprint": "0"},  # stops it before the training
    )
    with caplog.at_level(logging.WARNING), pytest.raises(DataError, match="the rows: SHA-256"):
        from_record(source, tmp_path / "again", data_dir=home)
    [message] = [entry.message for entry in caplog.records if "bitwise" in entry.message]
    assert f"torch 2.0.0, here {torch.__version__}" in message
    assert "processes 4, here 1" in message
    assert "mixed precision bf16, here no" in message
    assert "python" not in message


def test_a_record_of_a_trainer_cannot_be_run(first: Path, tmp_path: Path) -> None:
    source = changed_record(first, tmp_path / "source", recipe=None)
    with pytest.raises(RecipeError, match="the record has no recipe; a DistillationTrainer"):
        from_record(source, tmp_path / "again")


def test_a_record_of_a_newer_schema_says_to_upgrade(first: Path, tmp_path: Path) -> None:
    source = changed_record(first, tmp_path / "source", schema_version=7, invention=1)
    with pytest.raises(HubError, match=r"schema_version is 7, and hf_distill .* reads records up to 1; upgrade"):
        from_record(source, tmp_path / "again")


def test_code_of_a_stranger_is_run_only_where_that_is_allowed(first: Path, home: Path, tmp_path: Path) -> None:
    recipe = json.loads((first / "distillation.json").read_text())["recipe"]
    recipe["teacher"] |= {"model": "someone/teacher", "revision": COMMIT, "trust_remote_code": True}
    source = changed_record(first, tmp_path / "source", recipe=recipe, origins={})
    record = Record.read(source)
    with pytest.raises(RecipeError, match="--trust_remote_code"):
        from_record(source, tmp_path / "again", data_dir=home)
    assert recipe_again(record, "it", {}, home, True).teacher.trust_remote_code


def test_trackers_of_a_record_are_not_told(home: Path) -> None:
    told = {"report_to": "trackio", "run_name": "theirs", "trackio_space_id": "someone/space"}
    recipe = {
        "schema": 1,
        "task": "sst2",
        "teacher": {"model": "someone/teacher", "fine_tune": {"arguments": {**told, "max_steps": 3}}},
        "student": {"model": "someone/student"},
        "stages": [{"name": "distil", "objectives": SOFT, "arguments": {**told, "max_steps": 2}}],
    }
    again = recipe_again(make_record(recipe=recipe), "it", {}, home, False).to_dict()
    assert again["stages"][0]["arguments"] == {"max_steps": 2}
    assert again["teacher"]["fine_tune"]["arguments"] == {"max_steps": 3}


def test_what_came_from_the_hub_is_taken_at_the_commit_of_then(home: Path) -> None:
    recipe = {
        "schema": 1,
        "task": "sst2",
        "teacher": {"model": "someone/teacher", "cache": {"folder": "scratch"}},
        "student": {"model": "someone/student", "revision": "main"},
        "stages": [{"name": "distil", "objectives": SOFT}],
    }
    origins = {key: Origin(id=f"someone/{key}", revision=COMMIT) for key in ("teacher", "student")}
    record = make_record(recipe=recipe, origins={f"{key}.model": origin for key, origin in origins.items()})
    again = recipe_again(record, "it", {}, None, False)
    assert (again.teacher.revision, again.student.revision) == (COMMIT, COMMIT)
    assert again.teacher.cache.folder is None, "a folder that a run fills is its own"
    moved = recipe_again(record, "it", {"student.model": str(home / "teacher")}, None, False)
    assert (moved.student.model, moved.student.revision) == (str(home / "teacher"), None)
    with pytest.raises(RecipeError, match=r"teacher\.model is given"):
        recipe_again(
            record.model_copy(update={"recipe": {**recipe, "teacher": None, "stages": LABELS}}),
            "it",
            {"teacher.model": "x"},
            None,
            False,
        )


def test_each_text_of_the_hub_is_read_at_the_commit_of_then(tmp_path: Path) -> None:
    """Of several sources none was. What else a record names a commit for stays as the recipe has it."""
    (tmp_path / "a.txt").write_text("A text.\n", encoding="utf-8")
    corpus = {"hub": {"id": "some/corpus"}}
    recipe = {
        "schema": 1,
        "data": {"text": {"train": [{"files": ["a.txt"]}, corpus], "validation": [corpus]}},
        "student": {"model": "someone/student"},
        "stages": LABELS,
    }
    keys = [f"data.text.{split}.hub.revision" for split in ("train.0", "train.1", "validation.0")]
    commits = {**dict.fromkeys(keys, COMMIT), "student.revision": COMMIT}
    made = make_record(recipe=recipe)
    record = made.model_copy(update={"data": made.data.model_copy(update={"commits": commits})})
    text = recipe_again(record, "it", {}, tmp_path, False).to_dict()
    assert value_at(text, keys[1]) == value_at(text, keys[2]) == COMMIT
    assert (value_at(text, keys[0]), value_at(text, "student.revision")) == (None, None)


LABELS = [{"name": "distil", "objectives": [{"labels": {}}]}]


def test_every_name_of_a_recipe_is_found() -> None:
    recipe = {
        "schema": 1,
        "data": {"text": {"train": [{"files": ["a.txt", "b.txt"]}, {"hub": {"id": "x/y"}}], "validation": [
            {"files": ["c.txt"]}
        ], "masking": {"counts": "counts.json", "smoothing": 0.7}}},
        "teacher": {"ensemble": {"members": {"one": {"model": "first"}, "two": {"model": "second"}}}},
        "student": {"model": "start"},
        "stages": [{"name": "distil", "objectives": SOFT}, {
            "name": "anew", "objectives": SOFT, "student": {"model": "other"}
        }],
    }  # fmt: skip
    found = list(places(Recipe.from_dict(recipe).to_dict()))
    assert [(place.key, place.kind, place.name) for place in found] == [
        ("teacher.ensemble.members.one.model", "model", "first"),
        ("teacher.ensemble.members.two.model", "model", "second"),
        ("student.model", "model", "start"),
        ("stages.1.student.model", "model", "other"),
        ("data.text.train.0.files.0", "file", "a.txt"),
        ("data.text.train.0.files.1", "file", "b.txt"),
        ("data.text.validation.0.files.0", "file", "c.txt"),
        ("data.text.masking.counts", "file", "counts.json"),
    ]


TEXT = "/home/ada/</s> [/INST] of train"
PATHS_BESIDE = {"teacher.cached.folder"}
"""What may be a path beside what `places` finds and what a run fills."""


def filled(kind: Any) -> Any:
    """A plain value of a kind of a recipe with every key, whose texts are all `TEXT`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return filled(inner[0])
    if origin in (Union, UnionType):
        values = [filled(one) for one in inner]
        return next((value for form in (dict, list, str) for value in values if isinstance(value, form)), values[0])
    if origin is list:
        return [filled(inner[0])]
    if origin is dict:
        return {TEXT: filled(inner[1])}
    if isinstance(kind, type) and issubclass(kind, Section):
        return {info.alias or name: filled(info.annotation) for name, info in kind.model_fields.items()}
    return TEXT if kind in (str, Any) else None


def texts(value: Any, key: str = "") -> dict[str, str]:
    """The texts of plain values, by their dotted keys."""
    if isinstance(value, str):
        return {key: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {place: text for name, item in items for place, text in texts(item, f"{key}.{name}".strip(".")).items()}


def test_all_that_may_be_a_path_is_cut_in_a_record_and_no_other_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: TEXT)
    recipe = filled(Recipe)
    some = {"data.chat.system", "data.translation.prefix", f"data.where.{TEXT}", "data.label_names.0"}
    assert some < texts(recipe).keys()
    make_record(recipe=recipe).write(tmp_path)
    recorded = texts(Record.read(tmp_path).recipe)
    assert recorded.keys() == texts(recipe).keys()
    assert {text for text in recorded.values() if text.startswith("/home")} == {TEXT}
    changed = {key for key, text in recorded.items() if text != TEXT}
    assert changed == {place.key for place in places(recipe)} | set(SCRATCH) | PATHS_BESIDE


def test_a_system_prompt_with_markup_is_trained_on_again(tmp_path: Path) -> None:
    """It was recorded as another one, on which another student was trained without a word."""
    told = "Reason in <think></think>, then <answer></answer>."
    chats.save(chats.write(tmp_path) / "teacher")
    recipe = chats.recipe(tmp_path, chat={"system": told})
    make_record(recipe=Recipe.from_dict(recipe).to_dict()).write(tmp_path)
    again = recipe_again(Record.read(tmp_path), "it", {}, tmp_path, False)
    assert again.data is not None
    assert again.data.chat is not None
    assert again.data.chat.system == told


@pytest.mark.parametrize("name", ["other.json", "distillation.json.bak"])
def test_a_file_of_another_name_is_not_its_neighbour(first: Path, tmp_path: Path, name: str) -> None:
    source = changed_record(first, tmp_path / "source")
    (source / name).write_text((source / "distillation.json").read_text())
    with pytest.raises(HubError, match=rf"{name} is a file, and a record is one named distillation\.json; give"):
        record_from(source / name)
    assert record_from(source / "distillation.json") == record_from(source) == Record.read(first)


READ_WITH_A_MODEL = (
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "additional_chat_templates/tool.jinja",
    "config_sentence_transformers.json",
    "generation_config.json",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
)


@pytest.mark.parametrize("name", READ_WITH_A_MODEL)
def test_a_teacher_that_reads_in_another_way_is_refused(home: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(home / "teacher", tmp_path / "teacher")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    recipe = Recipe.from_dict(
        {
            "schema": 1,
            "task": "sst2",
            "teacher": {"model": str(folder)},
            "student": {"from_layers": {"layers": 1}},
            "stages": [{"name": "distil", "objectives": SOFT}],
        }
    )
    make_record(recipe=recipe.to_dict(), origins=origins_of(recipe)).write(tmp_path)
    record = Record.read(tmp_path)
    assert recipe_again(record, "it", {}, tmp_path, False).teacher.model == str(folder)
    (folder / name).write_text("{} ")
    with pytest.raises(DataError, match=rf"teacher\.model: .*{name} has changed"):
        recipe_again(record, "it", {}, tmp_path, False)


def test_a_chat_template_is_known_by_its_sum(tmp_path: Path) -> None:
    """Both the one of a recipe's own, and that of a model, which lies beside its tokenizer."""
    chats.save(chats.write(tmp_path) / "teacher")
    (tmp_path / "own.jinja").write_text(chats.MARKED, encoding="utf-8")
    recipe = Recipe.from_dict(chats.recipe(tmp_path, chat={"template": str(tmp_path / "own.jinja")}))
    found = origins_of(recipe)
    assert found["data.chat.template"].files == {"own.jinja": sha256(tmp_path / "own.jinja")}
    lying = tmp_path / "teacher" / "chat_template.jinja"
    assert found["teacher.model"].files["chat_template.jinja"] == sha256(lying)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--reproduce", "FOLDER", "--learning_rate", "1"], "--learning_rate changes what the record tells"),
        (["--reproduce", "FOLDER", "--student_layers", "2"], "--student_layers changes"),
        (["--data_dir", "x"], "--data_dir goes with a record"),
        (["--reproduce", "FOLDER", "--output_dir", "FOLDER"], "is the folder of the record itself"),
        (["--reproduce", "a/b/c/d"], "'a/b/c/d' is no folder"),
    ],
)
def test_a_command_line_that_goes_against_its_record_is_refused(
    first: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert glue.main([str(first) if flag == "FOLDER" else flag for flag in flags]) == 2
    assert words in capsys.readouterr().err
