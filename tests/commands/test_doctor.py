"""`hf-distill doctor`: what fits, all of what does not, and a recipe to start from; without weights and data."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertForQuestionAnswering

from hf_distill.commands import doctor, outputs
from hf_distill.commands.doctor import main
from hf_distill.commands.main import main as hf_distill
from hf_distill.errors import DataError
from hf_distill.inspection import cost, diagnosis
from hf_distill.inspection.cost import Expected, StepCost, TooLittleMemory
from hf_distill.recipe import Recipe
from hf_distill.runs.stages import StageTrainer
from tests import chats, tiny_runs

OTHER_WORDS = (*tiny_runs.WORDS[:-1], "x", "y")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`teacher`, four layers and no weights; `other`, of other words and labels; `qa`; `base`, without a head."""
    home = tmp_path_factory.mktemp("doctor")
    (tiny_runs.save_teacher(home / "teacher", layers=4) / "model.safetensors").unlink()
    config = tiny_runs.config(("no", "maybe", "yes"), hidden=24)
    config.vocab_size = len(OTHER_WORDS)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(home / "other")
    tiny_runs.tokenizer(OTHER_WORDS).save_pretrained(home / "other")
    BertForQuestionAnswering(tiny_runs.config(("a", "b"))).save_pretrained(home / "qa")
    tiny_runs.tokenizer().save_pretrained(home / "qa")
    tiny_runs.save_base(home / "base")
    return home


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """The status, and what was printed, in one line."""
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert max(len(line) for line in [*out.splitlines(), ""] if not line.startswith("Wrote")) <= 100
    assert not err or err.count("\n") == 1, err
    return status, " ".join((out + err).split())


def recipe_of(place: Path, teacher: Path, stages: str) -> Path:
    """A recipe of SST-2 for two of the teacher's layers; `stages` as YAML."""
    text = f"schema: 1\ntask: sst2\nteacher: {{model: {teacher}}}\nstudent: {{from_layers: {{layers: 2}}}}\n{stages}"
    place.write_text(text, encoding="utf-8")
    return place


def test_a_pair_that_fits(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--teacher", models / "teacher", "--student_layers", 2, "--task_name", "sst2", "--no_cost")
    status, out = run(capsys, *flags)
    assert status == 0
    assert "labels the same on all sides: negative, positive" in out
    assert "teacher student embed -----> embed 1 2 -----> 1 3 4 -----> 2" in out
    assert "tokenizer teacher 23 entries, the teacher's for both" in out
    assert "trained: 5.17 k of the student's 5.17 k parameters" in out
    assert "not measured: it was left out" in out
    assert "It fits" in out
    fitting, _, others = out.partition("The others, and why not:")
    assert " soft_targets," in fitting
    assert "the student has 2 layers, the teacher 4; it pairs equally deep models" in others
    assert "dist, dkd, standardized_kl" not in others, "each with its own reason"
    assert "okddip it is between models that train together" in others


def test_all_that_does_not_fit_is_told_at_once(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_of(
        tmp_path / "r.yaml",
        models / "teacher",
        """stages:
  - name: one
    objectives: [{hidden_cosine: {layer_map: one_to_one}}, {dkd: {}}]
    arguments: {warmup_steps: -1}
  - name: two
    objectives: [{minilm_v2: {relation_heads: 7}}]
""",
    )
    status, out = run(capsys, "--recipe", tmp_path / "r.yaml")
    assert status == 1
    assert "It does not fit: 4 problems" in out
    assert "1. stage 'one', hidden_cosine: layer_map 'one_to_one'" in out
    assert "2. stage 'one', dkd: the task has 2 classes" in out
    assert "3. stage 'two', minilm_v2: " in out
    assert re.search(r"4\. stage 'one': .*warmup_steps", out), "in transformers' words, others in each release"
    assert "not measured: the recipe does not run as it is" in out


def test_words_and_labels_of_both_sides_are_compared(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--teacher", models / "teacher", "--student", models / "other", "--no_cost")
    status, out = run(capsys, *flags)
    assert status == 1
    assert "vocabulary student 24 entries, teacher 23 (does not fit)" in out
    assert "the tokenizer has 24 entries, and the smaller table of embeddings 23" in out
    assert "the tokenizers differ: 'awful'" in out or "the tokenizers differ: " in out
    assert "not tried, as the models make no pair" in out
    assert "the student's vocabulary has 24 entries, the teacher's 23" in out


@pytest.mark.parametrize("names", [("no", "yes"), ("a", "b", "c")])
def test_a_teacher_of_other_labels(
    models: Path, tmp_path: Path, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_runs.save_teacher(tmp_path / "teacher", labels=names, layers=1)
    flags = ("--teacher", tmp_path / "teacher", "--student", models / "base", "--task_name", "sst2", "--no_cost")
    status, out = run(capsys, *flags)
    assert status == 1
    assert f"labels data: negative, positive; student: negative, positive; teacher: {', '.join(names)}" in out
    assert ("the labels of the teacher are" if len(names) == 2 else "the teacher has 3 labels") in out


def test_a_recipe_to_start_from(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "start.yaml"
    flags = ("--teacher", models / "teacher", "--student_layers", "1,3", "--train_file", "rows.csv")
    columns = ("--text_columns", "first,second", "--label_column", "answer", "--batch_size", "8")
    status, out = run(capsys, *flags, *columns, "--no_cost", "--write", file)
    assert (status, f"train with `--recipe {file}`" in out) == (0, True)
    recipe = Recipe.load(file)
    assert recipe.data is not None
    assert recipe.data.text_columns == ["first", "second"]
    assert recipe.data.label_names == ["negative", "positive"]
    assert recipe.student.from_layers is not None
    assert recipe.student.from_layers.layers == [1, 3]
    assert recipe.stages[0].arguments["per_device_train_batch_size"] == 8
    assert [entry.objective for entry in recipe.stages[0].objectives] == ["soft_targets", "labels"]
    status, out = run(capsys, *flags, "--no_cost", "--write", file)
    assert (status, "is there already" in out) == (2, True)


def test_a_start_on_a_data_set_of_the_hub(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "start.yaml"
    named = ("--dataset_name", "me/moods", "--dataset_config_name", "all", "--dataset_revision", "v1")
    flags = ("--teacher", models / "teacher", "--student_layers", "1", *named, "--no_cost", "--write", file)
    assert run(capsys, *flags)[0] == 0
    data = Recipe.load(file).data
    assert data is not None
    assert data.hub is not None
    assert data.split is not None
    assert (data.hub.id, data.hub.config, data.hub.revision, data.files) == ("me/moods", "all", "v1", None)
    assert (data.text_columns, data.label_column, data.split.validation) == (["text"], "label", 0.1)


@pytest.mark.parametrize(
    ("flags", "kind"),
    [(("--train_file", "a.jsonl"), "chat"), (("--dataset_name", "me/chats"), "chat"),
     (("--dataset_name", "me/texts", "--text_columns", "body"), "text"), (("--train_file", "a.txt"), "text"),
     (("--train_file", "a.jsonl.gz", "--text_columns", "body"), "text")],
)  # fmt: skip
def test_a_causal_teacher_starts_on_conversations_or_on_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], kind: str
) -> None:
    chats.save(tmp_path / "teacher")
    file = tmp_path / "start.yaml"
    given = ("--teacher", tmp_path / "teacher", "--student_layers", "1", *flags, "--no_cost", "--write", file)
    assert run(capsys, *given)[0] == 0
    recipe = Recipe.load(file)
    assert recipe.data is not None
    assert (recipe.data.chat is not None, recipe.data.text is not None) == (kind == "chat", kind == "text")
    if recipe.data.text is not None:
        assert recipe.data.text.train[0].column == ("body" if "--text_columns" in flags else "text")
    else:
        assert recipe.max_length == 256  # what the teacher reads
        assert recipe.data.split is not None
    assert [entry.weight for entry in recipe.stages[0].objectives] == [0.9, 0.1]


def test_the_end_of_a_text_stands_for_padding_of_a_causal_model(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a run; files of Llama 3 were to be changed for nothing."""
    chats.save(tmp_path / "causal")
    shutil.copytree(models / "teacher", tmp_path / "encoder")
    for name, tokenizer in (("causal", chats.tokenizer()), ("encoder", tiny_runs.tokenizer())):
        tokenizer.pad_token = None
        tokenizer.save_pretrained(tmp_path / name)
    flags = ("--student_layers", "1", "--no_cost", "--train_file", "a.jsonl")
    assert run(capsys, "--teacher", tmp_path / "causal", *flags)[0] == 0
    status, out = run(capsys, "--teacher", tmp_path / "encoder", *flags, "--text_columns", "text")
    assert status == 1
    assert "has no padding token" in out


def test_a_recipe_with_other_models(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "changed.yaml"
    flags = ("--recipe", "glue/rte", "--teacher", models / "base", "--student_layers", 1, "--task_name", "mrpc")
    assert run(capsys, *flags, "--fine_tune_teacher", "--no_cost", "--write", file)[0] == 0
    recipe = Recipe.load(file)
    assert (recipe.task, recipe.student.from_layers.layers) == ("mrpc", 1)  # type: ignore[union-attr]
    assert recipe.teacher is not None
    assert recipe.teacher.model == str(models / "base")
    assert recipe.teacher.fine_tune == Recipe.load("glue/rte").teacher.fine_tune  # type: ignore[union-attr]


def test_a_teacher_that_is_named_is_taken_as_trained(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the commands take it, which leave the training of the recipe's teacher out."""
    assert Recipe.load("glue/rte").teacher.fine_tune is not None  # type: ignore[union-attr]
    status, out = run(capsys, "--recipe", "glue/rte", "--teacher", models / "base", "--student_layers", 1, "--no_cost")
    assert status == 2
    assert "the teacher was saved as a BertModel" in out


@pytest.mark.parametrize(("flags", "said"), [
    (("--teacher", "T", "--student", "QA"), "the student was saved as a BertForQuestionAnswering"),
    (("--teacher", "QA", "--student_layers", "1", "--task_name", "sst2"), "the teacher was saved as a BertForQ"),
    (("--teacher", "/gone/away", "--student_layers", "1"), "there is no folder '/gone/away'"),
    (("--teacher", "T", "--student_layers", "9"), "9 layers are asked for, but the teacher has 4"),
    (("--recipe", "glue/sst"), "unknown recipe 'glue/sst'"),
    (("--teacher", "T"), "give --recipe, or --teacher with --student"),
    (("--teacher", "T", "--student", "T", "--student_layers", "1"), "are both given"),
    (("--teacher", "T", "--student", "T", "--student_pick", "last"), "--student_pick goes with --student_layers"),
    (("--recipe", "quickstart", "--student_pick", "last"), "--student_pick goes with --student_layers"),
    (("--teacher", "T", "--student", "T", "--task_name", "rte", "--train_file", "a.csv"), "--train_file are both"),
    (("--recipe", "quickstart", "--train_file", "a.csv"), "--train_file goes with a starting recipe"),
    (("--teacher", "T", "--student_layers", "1", "--fine_tune_teacher"), "goes with --recipe, which says how"),
    (("--recipe", "comparisons/pkd", "--teacher", "T", "--fine_tune_teacher"), "does not say how"),
    (("--teacher", "T", "--student_layers", "1", "--write", "new.yaml"), "--write needs the data"),
    (
        ("--teacher", "T", "--student_layers", "1", "--dataset_name", "me/x", "--train_file", "a.csv"),
        "--dataset_name and --train_file are both given",
    ),
    (("--teacher", "T", "--student_layers", "1", "--dataset_revision", "v1"), "neither --train_file nor --dataset_na"),
    (
        ("--teacher", "T", "--student_layers", "1", "--dataset_name", "me/x", "--test_file", "a.csv"),
        "--test_file goes with --train_file",
    ),
    (("--recipe", "glue/sst2", "--dataset_name", "me/x"), "--dataset_name goes with a starting recipe"),
])  # fmt: skip
def test_what_cannot_be_looked_at_is_one_error(
    models: Path, flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"T": models / "teacher", "QA": models / "qa"}
    assert hf_distill(["doctor", "--no_cost", *(str(places.get(word, word)) for word in flags)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not Path("new.yaml").exists()


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda *given, **more: pytest.fail("it was looked at"))
    flags = ("doctor", "--teacher", models / "teacher", "--student_layers", 1, "--task_name", "sst2", "--write")
    assert hf_distill([*map(str, flags), str(tmp_path / "nowhere" / "start.yaml")]) == 2
    assert f"there is no folder {tmp_path / 'nowhere'}" in capsys.readouterr().err


def test_a_disk_that_refuses_the_recipe_is_told_in_one_line(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "write_whole", full)
    flags = ("--teacher", models / "teacher", "--student_layers", 1, "--task_name", "sst2", "--no_cost")
    status, out = run(capsys, *flags, "--write", tmp_path / "start.yaml")
    assert status == 2
    assert f"--write {tmp_path / 'start.yaml'} cannot be written: No space left on device." in out


def test_a_tokenizer_that_is_missing_is_a_problem(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "teacher").mkdir()
    shutil.copy(models / "teacher" / "config.json", tmp_path / "teacher")
    status, out = run(capsys, "--teacher", tmp_path / "teacher", "--student_layers", 1, "--no_cost")
    assert status == 1
    assert "tokenizer none could be read (does not fit)" in out
    assert "It does not fit: 1 problem " in out


def test_the_cost_is_told(models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    expected = Expected(StepCost(1.25, 0.5, 2.0e9, 3.0e9), batch=32, length=64, measured=8, accumulated=2)
    asked: list[tuple[list[str], dict[str, Any]]] = []

    def costs(recipe: Recipe, stages: list[str], **given: object) -> list[tuple[str, Expected]]:
        asked.append((stages, given))
        return [("distil", expected)]

    monkeypatch.setattr(diagnosis, "expected_costs", costs)
    flags = ("--teacher", models / "teacher", "--student_layers", 1, "--length", 64, "--batch_size", 32)
    status, out = run(capsys, *flags, "--rows", 6400)
    assert status == 0
    ((stages, given),) = asked
    assert (stages, given["batch"], given["length"], len(given["tokenizer"])) == (["distil"], 32, 64, 23)
    said = "2 times 32 rows of 64 tokens: 1.25 CPU seconds, 0.5 seconds, 2 GB held at most, and 3 GB on the"
    assert said in out
    assert "(reckoned from steps of up to 8 rows)" in out
    assert "an epoch of 6400 rows: 100 steps, 0.01 hours" in out


@pytest.mark.parametrize(("rows", "accumulated", "drops", "steps"), [
    (96, 1, False, 3), (100, 1, False, 4), (1, 1, False, 1), (100, 2, False, 2), (160, 2, False, 3),
    (161, 2, False, 3), (1, 4, False, 1), (100, 1, True, 3), (96, 2, True, 2), (159, 2, True, 2), (31, 1, True, 0),
])  # fmt: skip
def test_what_is_left_of_an_epoch_makes_a_step(
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rows: int,
    accumulated: int,
    drops: bool,
    steps: int,
) -> None:
    """As in a training, where the last batch, unless it is left out, and the last batches of a step may be fewer."""
    expected = Expected(StepCost(1.25, 36.0, 2.0e9), 32, 64, measured=8, accumulated=accumulated, drops_last=drops)
    monkeypatch.setattr(diagnosis, "expected_costs", lambda *args, **given: [("distil", expected)])
    status, out = run(capsys, "--teacher", models / "teacher", "--student_layers", 1, "--rows", rows)
    assert status == 0
    assert f"an epoch of {rows} rows: {steps} steps, {steps / 100:.2f} hours" in out


@pytest.mark.parametrize("steps", [False, True])
def test_memory_of_an_accelerator_that_is_not_enough_is_a_problem(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], steps: bool
) -> None:
    """Where `steps`, it is enough for the weights, but not for a step."""
    free = 10**9 if steps else 10**3
    monkeypatch.setattr(diagnosis, "accelerator_memory", lambda: (free, 2 * 10**9))
    monkeypatch.setattr(cost, "accelerator_memory", lambda: (free, 2 * 10**9))

    def exhausted(self: Any, model: Any, inputs: Any, *args: Any, **given: Any) -> None:
        if not steps:
            pytest.fail("it was tried")
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(StageTrainer, "compute_loss", exhausted)
    monkeypatch.chdir(tmp_path)
    flags = ("--teacher", models / "teacher", "--student_layers", 1, "--task_name", "sst2", "--batch_size", 4)
    status, out = run(capsys, *flags, "--length", 16)
    assert status == 1
    if steps:
        assert "1. stage 'distil': steps of 4 rows of 16 tokens do not fit into the 2 GB of the accelerator" in out
        assert "per_device_train_batch_size" in out
        assert "not measured: the recipe does not run as it is" in out
    else:
        assert "averages alone take 0.0 GB, and 0.0 GB of the accelerator's memory are free" in out


TEACHER, STUDENT = 9_090, 5_170
"""Parameters of classifiers of four layers and of two, 1,960 a layer."""

UNMEASURED = "not measured: models are built in float32 and in one place"
PROBLEM = "averages alone take"


@pytest.mark.parametrize(("section", "arguments", "free", "said"), [
    ("", "", 4 * TEACHER + 16 * STUDENT, ""),
    ("", "", 4 * TEACHER + 16 * STUDENT - 1, PROBLEM),
    ("dtype: bfloat16, ", "", 2 * TEACHER + 16 * STUDENT, UNMEASURED),
    ("dtype: bfloat16, ", "", 2 * TEACHER + 16 * STUDENT - 1, PROBLEM),
    ("dtype: bfloat16, ", "", 4 * TEACHER + 16 * STUDENT, ""),
    ("quantization: int8, ", "", TEACHER + 16 * STUDENT, UNMEASURED),
    ("quantization: int8, ", "", TEACHER + 16 * STUDENT - 1, PROBLEM),
    ("device_map: auto, ", "", 1, UNMEASURED),
    ("cache: {}, ", "", 16 * STUDENT, UNMEASURED),
    ("cache: {}, ", "", 16 * STUDENT - 1, PROBLEM),
    ("", "fsdp: full_shard", 1, UNMEASURED),
    ("", "deepspeed: zero.json", 1, UNMEASURED),
    ("", "optim: adafactor", 4 * TEACHER + 4 * STUDENT, ""),
])  # fmt: skip
def test_only_what_a_run_holds_at_once_is_a_problem(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    section: str,
    arguments: str,
    free: int,
    said: str,
) -> None:
    """A weight takes four bytes in float32, two in bfloat16 and one in 8 bits, and 16 where AdamW trains it."""
    (tiny_runs.save_teacher(tmp_path / "student", layers=2) / "model.safetensors").unlink()
    (tmp_path / "r.yaml").write_text(
        f"""
schema: 1
task: sst2
teacher: {{{section}model: {models / "teacher"}}}
student: {{model: {tmp_path / "student"}}}
stages: [{{name: one, objectives: [{{soft_targets: {{}}}}], arguments: {{{arguments}}}}}]
""",
        encoding="utf-8",
    )
    monkeypatch.setattr(diagnosis, "accelerator_memory", lambda: (free, 2 * 10**9))
    monkeypatch.setattr(diagnosis, "_arguments", lambda recipe: iter(()))  # which want what they name installed
    monkeypatch.setattr(diagnosis, "expected_costs", lambda *args, **given: [])
    status, out = run(capsys, "--recipe", tmp_path / "r.yaml")
    assert status == (1 if said == PROBLEM else 0), out
    assert [text for text in (UNMEASURED, PROBLEM) if text in out] == ([said] if said else [])


def test_a_build_that_is_larger_than_the_run_need_not_fit(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(*args: object, **given: object) -> None:
        raise TooLittleMemory("the models of the recipe do not fit into 8 GB.")

    monkeypatch.setattr(diagnosis, "expected_costs", exhausted)
    monkeypatch.setattr(diagnosis, "accelerator_memory", lambda: (10**9, 2 * 10**9))
    flags = ("--teacher", models / "teacher", "--student_layers", 2, "--task_name", "sst2")
    status, out = run(capsys, *flags)
    assert (status, "1. the models of the recipe do not fit" in out) == (1, True)
    status, out = run(capsys, *flags, "--write", tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text(
        (tmp_path / "r.yaml").read_text(encoding="utf-8").replace("teacher:\n", "teacher:\n  dtype: bfloat16\n", 1),
        encoding="utf-8",
    )
    status, out = run(capsys, "--recipe", tmp_path / "r.yaml")
    assert status == 0
    assert "not measured: built in float32 and in one place, the models of the recipe do not fit into 8 GB." in out


def test_memory_of_an_accelerator_does_not_count_for_stages_without_it(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = "stages: [{name: one, objectives: [{soft_targets: {}}], arguments: {use_cpu: true}}]"
    recipe = recipe_of(tmp_path / "r.yaml", models / "teacher", stages)
    monkeypatch.setattr(diagnosis, "accelerator_memory", lambda: (10**3, 2 * 10**9))
    monkeypatch.setattr(diagnosis, "expected_costs", lambda *args, **given: [])
    assert run(capsys, "--recipe", recipe)[0] == 0


def test_what_the_trainer_refuses_is_a_problem(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def costs(*args: object, **given: object) -> None:
        raise DataError("a row is too long.")

    monkeypatch.setattr(diagnosis, "expected_costs", costs)
    status, out = run(capsys, "--teacher", models / "teacher", "--student_layers", 1)
    assert status == 1
    assert "1. a row is too long." in out


def test_models_that_memory_cannot_hold_are_not_tried(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnosis, "free_bytes", lambda: 1000)
    monkeypatch.setattr(diagnosis, "expected_costs", lambda *args, **given: pytest.fail("it was tried"))
    status, out = run(capsys, "--teacher", models / "teacher", "--student_layers", 1)
    assert status == 1
    assert "weights, gradients and the optimizer's averages alone take 0.0 GB" in out


@pytest.mark.parametrize("change", [
    {"hidden_size": "x"}, {"hidden_size": -4}, {"hidden_size": 15}, {"num_hidden_layers": 0}, {"model_type": "none"},
    {"num_attention_heads": 0}, {"id2label": {"0": "a", "5": "b"}}, {"vocab_size": None},
])  # fmt: skip
def test_a_configuration_that_makes_no_model_is_one_error(
    models: Path, tmp_path: Path, change: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((models / "teacher" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    status, out = run(capsys, "--teacher", tmp_path, "--student_layers", 1, "--task_name", "sst2", "--no_cost")
    assert status == 2
    assert f"the teacher '{tmp_path}'" in out
    assert "configuration" in out


def test_help_names_every_flag() -> None:
    text = doctor.parser().format_help()
    for flag in ("--recipe", "--teacher", "--student_layers", "--write", "--no_cost", "--rows", "examples:"):
        assert flag in text
