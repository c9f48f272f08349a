"""`distill_mlm` on tiny models: from raw text to a student, broken off and gone on with, with and without a head."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from hf_distill.commands.flags import make_parser, parse
from hf_distill.commands.mlm import SCRIPT, main
from hf_distill.commands.overrides import recipe_of
from hf_distill.data.masking import Masking
from hf_distill.data.packing import Layout
from hf_distill.data.pretraining import PackedRows
from hf_distill.data.streams import TextFiles
from hf_distill.data.token_store import stored
from hf_distill.hub.record import Record
from hf_distill.recipe import Recipe
from hf_distill.runs.stages import StageTrainer
from hf_distill.tasks import IGNORED
from tests import tiny_runs


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`teacher` (masked words), `base` (no head), `train.txt` (300 lines), `dev.txt` (60 other lines)."""
    folder = tmp_path_factory.mktemp("text")
    tiny_runs.save_masked_lm(folder / "teacher")
    tiny_runs.save_base(folder / "base")
    tiny_runs.write_text(folder / "train.txt", 300)
    tiny_runs.write_text(folder / "dev.txt", 60, start=500)
    return folder


def flags(text: Path, out: Path, *more: str, steps: int = 6) -> list[str]:
    return [
        "--train_file", str(text / "train.txt"), "--teacher_name_or_path", str(text / "teacher"),
        "--student_layers", "1", "--output_dir", str(out), "--cache_dir", str(text / "cache"),
        "--max_seq_length", "16", "--per_device_train_batch_size", "8", "--max_steps", str(steps), "--use_cpu",
        "--disable_tqdm", "true", *more,
    ]  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def kept_rows(text: Path, number: int) -> PackedRows:
    """The rows that a run holds out of train.txt, masked as they are evaluated."""
    tokenizer = AutoTokenizer.from_pretrained(text / "teacher")
    store = stored(TextFiles((text / "train.txt",)), tokenizer, Layout.of(tokenizer, 16), text / "cache")
    masking = Masking(tokenizer, seed=42, evaluation=True)
    return PackedRows([store], masking).held_out(number, masking)[1]


# ---- a whole run ----


def test_a_student_of_raw_text_and_what_is_told_of_it(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(flags(text, out, "--control", "--held_out", "11")) == 0
    found = read(out / "eval_results.json")
    models = {
        "": AutoModelForMaskedLM.from_pretrained(out),
        "teacher_": AutoModelForMaskedLM.from_pretrained(text / "teacher"),
    }
    preferred: dict[str, list[int]] = {}
    rows = kept_rows(text, 11)
    assert found["eval_samples"] == len(rows) == 11
    for prefix, model in models.items():
        losses, right, preferred[prefix] = [], [], []
        for i in range(len(rows)):  # a row at a time: nothing is padded
            ids, labels = (torch.from_numpy(rows[i][name]) for name in ("input_ids", "labels"))
            with torch.no_grad():
                logits = model.eval()(input_ids=ids[None]).logits[0].double()
            for place in (labels != IGNORED).nonzero().flatten().tolist():
                losses.append(-functional.log_softmax(logits[place], -1)[labels[place]].item())
                preferred[prefix].append(int(logits[place].argmax()))
                right.append(preferred[prefix][-1] == labels[place])
        assert found[f"{prefix}eval_loss"] == pytest.approx(np.mean(losses), abs=1e-6)
        assert found[f"{prefix}eval_perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-6)
        assert found[f"{prefix}eval_accuracy"] == pytest.approx(np.mean(right))
    same = np.mean(np.array(preferred[""]) == np.array(preferred["teacher_"]))
    assert found["eval_agreement"] == pytest.approx(same)
    assert found["control_eval_perplexity"] > 1

    record = Record.read(out)
    assert record.task == "masked_lm"
    assert record.data.sizes["validation"] == 11
    assert record.data.sources["train"].sha256 == TextFiles((text / "train.txt",)).identity()
    assert [objective.name for objective in record.objectives] == ["soft_targets", "labels", "hidden_cosine"]
    history = read(out / "trainer_state.json")["log_history"]
    assert all(entry["tokens_per_second"] > 0 for entry in history if "loss" in entry)


def test_more_ways_to_read_and_to_hide(text: Path, tmp_path: Path) -> None:
    """A mixture with weights, JSON lines, rare words first; then whole words, a document a row."""
    lines = [{"body": tiny_runs.sentence(i)[0]} for i in range(700, 760)]
    tiny_runs.write_jsonl(tmp_path / "more.jsonl", lines)
    recipe = {
        "schema": 1,
        "data": {
            "text": {
                "train": [
                    {"files": [str(text / "train.txt")], "weight": 1.0},
                    {"files": [str(tmp_path / "more.jsonl")], "column": "body", "weight": 2.0},
                ],
                "validation": [{"files": [str(text / "dev.txt")], "unit": "paragraph"}],
                "masking": {"smoothing": 0.7},
                "cache_dir": str(tmp_path / "cache"),
            }
        },
        "max_length": 16,
        "teacher": {"model": str(text / "teacher")},
        "student": {"from_layers": {"layers": 1}},
        "stages": [{"name": "distil", "objectives": [{"soft_targets": {"tokens": "masked"}}]}],
    }
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump(recipe))
    common = ["--recipe", str(tmp_path / "mixed.yaml"), "--use_cpu", "--disable_tqdm", "true", "--max_steps", "3"]
    assert main([*common, "--output_dir", str(tmp_path / "one")]) == 0
    sizes = Record.read(tmp_path / "one").data.sizes
    assert sizes.keys() == {"train", "validation"}
    words = ["--train_file", str(text / "train.txt"), "--packing", "none", "--validation_file", str(text / "dev.txt")]
    words += ["--max_train_documents", "200", "--mlm_probability", "0.3", "--text_unit", "line"]
    assert main([*common, *words, "--output_dir", str(tmp_path / "two")]) == 0
    told = Record.read(tmp_path / "two").data
    assert told.sizes == {"train": 200, "validation": 60}
    assert read(tmp_path / "two" / "stages" / "run.json")["recipe"]["data"]["text"]["masking"] == {
        "probability": 0.3,
        "masked": 0.8,
        "random": 0.1,
        "smoothing": 0.7,
        "whole_word": False,
    }


def told(*words: str) -> dict[str, Any]:
    """The sources that a command line makes."""
    flags_of = make_parser(SCRIPT.name, SCRIPT.description, SCRIPT.flags)
    recipe, _ = recipe_of(parse(words, flags_of), SCRIPT)
    found: dict[str, Any] = recipe.to_dict()["data"]["text"]
    return found


def test_files_are_read_as_the_recipe_reads_its_own() -> None:
    shipped = ("--recipe", "pretraining/minilm_v2_6x384", "--train_file", "mine.txt")
    assert told(*shipped)["train"] == [{"files": ["mine.txt"], "unit": "paragraph", "column": "text"}]
    otherwise = ("--text_unit", "line", "--text_column", "body")
    assert told(*shipped, *otherwise)["train"] == [{"files": ["mine.txt"], "unit": "line", "column": "body"}]
    assert told(*shipped, "--validation_file", "dev.txt")["validation"][0]["unit"] == "paragraph"
    plain = ("--train_file", "mine.txt", "--teacher_name_or_path", "t", "--student_layers", "1")
    assert told(*plain)["train"][0]["unit"] == "line"


def test_validation_is_read_as_the_recipe_reads_its_own_or_as_the_training(tmp_path: Path) -> None:
    recipe = Recipe.load("pretraining/minilm_v2_6x384").to_dict()
    text = recipe["data"]["text"]
    text["train"] = [{"files": ["a.jsonl"], "column": "body"}, {"files": ["b.jsonl"], "column": "body"}]
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(recipe))
    flagged = ("--recipe", str(tmp_path / "a.yaml"), "--validation_file", "dev.jsonl")
    assert told(*flagged)["validation"][0]["column"] == "body"
    assert told("--recipe", str(tmp_path / "a.yaml"), "--dataset_name", "me/text")["train"][0]["column"] == "body"
    text["validation"] = [{"files": ["dev.jsonl"], "column": "other"}]
    text["train"][1]["column"] = "text"
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(recipe))
    assert told(*flagged, "--train_file", "mine.jsonl")["validation"][0]["column"] == "other"
    assert told(*flagged, "--train_file", "mine.jsonl")["train"][0]["column"] == "text"


# ---- going on ----


class BrokenOff(Exception):
    """Stands for a kill."""


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., Any] = StageTrainer.training_step
    calls = iter(range(steps))

    def training_step(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is None:
            raise BrokenOff
        return original(*args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", training_step)


@pytest.mark.parametrize("kind", ["stored", "streamed"])
def test_a_run_that_is_gone_on_with_is_bitwise_the_uninterrupted_one(
    kind: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off in the second epoch, and in the third; a stream, which two workers read, once. The student has
    dropout.
    """
    more = ["--save_steps", "3", "--eval_strategy", "no", "--gradient_accumulation_steps", "2"]
    steps, broken_off = 18, (2 * 10 + 1, 2 * 7)  # in micro-batches: at steps 11 and 16
    if kind == "streamed":
        more += ["--streaming", "--validation_file", str(text / "dev.txt"), "--dataloader_num_workers", "2"]
        more += ["--shuffle_buffer", "20"]
        steps, broken_off = 8, (2 * 4 + 1,)
    assert main(flags(text, tmp_path / "whole", *more, "--do_train", steps=steps)) == 0
    for calls in broken_off:
        with monkeypatch.context() as patch:
            stop_after(calls, patch)
            with pytest.raises(BrokenOff):
                main(flags(text, tmp_path / "parts", *more, "--do_train", steps=steps))
    last = 15 if kind == "stored" else 3
    assert (tmp_path / "parts" / "stages" / "01-distil" / f"checkpoint-{last}").is_dir()
    assert main(flags(text, tmp_path / "parts", *more, "--do_train", steps=steps)) == 0
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


# ---- without a head ----


def test_an_encoder_is_judged_by_its_objectives(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {
        "schema": 1,
        "data": {"text": {"train": [{"files": [str(text / "train.txt")]}], "task": "encoder", "held_out": 11}},
        "max_length": 16,
        "teacher": {"model": str(text / "base")},
        "student": {"from_layers": {"layers": 1}},
        "stages": [
            {"name": "first", "objectives": [{"minilm_v2": {"relation_heads": 2}}]},
            {
                "name": "second",
                "objectives": [
                    {"hidden_mse": {"layer_map": "final"}, "weight": 3.0},
                    {"hidden_cosine": {"layer_map": "final"}},
                ],
            },
        ],
    }
    (tmp_path / "encoder.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "out"
    words = ["--recipe", str(tmp_path / "encoder.yaml"), "--cache_dir", str(text / "cache"), "--output_dir", str(out)]
    words += ["--use_cpu", "--max_steps", "3", "--per_device_eval_batch_size", "4", "--disable_tqdm", "true"]
    assert main(words) == 0
    value = read(out / "eval_results.json")["eval_loss"]
    assert f"on the validation rows: {value:.6g}" in capsys.readouterr().out

    student, teacher = (AutoModel.from_pretrained(path).eval() for path in (out, text / "base"))
    rows = kept_rows(text, 11)
    squares, cosines = [], []
    for number in range(len(rows)):
        _, store, row = rows.place(number)
        ids = torch.from_numpy(rows.stores[store].row(row))[None]
        with torch.no_grad():
            ours, theirs = (model(input_ids=ids).last_hidden_state[0].double() for model in (student, teacher))
        squares += [((a - b) ** 2).mean().item() for a, b in zip(ours, theirs, strict=True)]
        cosines += [
            1 - torch.dot(a, b).item() / (a.norm() * b.norm()).item() for a, b in zip(ours, theirs, strict=True)
        ]
    assert value == pytest.approx(3.0 * np.mean(squares) + np.mean(cosines), abs=3e-7)
    record = Record.read(out)
    assert (record.task, record.metrics["eval_loss"]) == ("encoder", value)
    assert "eval_loss" not in read(out / "train_results.json")
    (reported,) = read(out / "stages" / "results.json")["runs"]
    assert (reported["role"], reported["metrics"]) == ("student", {"loss": value})
    assert len(read(out / "report" / "data.json")["likeness"]["cka"]) == 2

    assert main([*words, "--do_eval"]) == 2
    assert "has nothing to evaluate by itself" in capsys.readouterr().err
    assert main(words) == 0
    assert f"on the validation rows: {value:.6g}" in capsys.readouterr().out


def test_an_encoder_takes_no_objective_that_reads_logits(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = flags(text, tmp_path / "out", "--encoder")
    words[words.index(str(text / "teacher"))] = str(text / "base")
    assert main(words) == 2
    assert "'soft_targets' reads logits, and the student (bert) is a model without a head" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- what goes wrong ----


def written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def other_tokenizer(text: Path, folder: Path) -> list[str]:
    AutoModelForMaskedLM.from_pretrained(text / "teacher").save_pretrained(folder / "student")
    words = [*tiny_runs.WORDS[:-2], tiny_runs.WORDS[-1], tiny_runs.WORDS[-2]]
    tiny_runs.tokenizer(words).save_pretrained(folder / "student")
    return ["--student_name_or_path", str(folder / "student")]


def without(words: list[str], *names: str) -> list[str]:
    """The command line without some flags of one value each."""
    kept = []
    skip = False
    for word in words:
        if word in names or skip:
            skip = word in names
        else:
            kept.append(word)
    return kept


Case = Callable[[Path, Path], list[str]]

CASES: dict[str, tuple[Case, str]] = {
    "empty": (lambda text, folder: ["--train_file", written(folder / "a.txt", b"")], "a.txt: holds no text"),
    "not utf-8": (
        lambda text, folder: ["--train_file", written(folder / "a.txt", b"good\nfil\xff\n")],
        "a.txt, line 2: not UTF-8",
    ),
    "missing": (lambda text, folder: ["--train_file", str(folder / "none.txt")], "no such file"),
    "format": (lambda text, folder: ["--train_file", str(folder / "a.csv")], "unknown format '.csv'"),
    "column": (
        lambda text, folder: ["--train_file", written(folder / "a.jsonl", b'{"txt": "good"}\n')],
        "line 1: no column 'text'; did you mean 'txt'",
    ),
    "tokenizer": (lambda text, folder: [*other_tokenizer(text, folder)], "tokenizers differ"),
    "two sources": (lambda text, folder: ["--dataset_name", "some/corpus"], "both given"),
    "a stream without validation": (lambda text, folder: ["--streaming"], "no rows of a stream can be held out"),
    "a test": (lambda text, folder: ["--do_train", "--do_predict"], "no test to predict"),
    "both kinds of masks": (
        lambda text, folder: ["--whole_word", "--mlm_smoothing", "0.7"],
        "choose one of them",
    ),
    "nothing masked": (lambda text, folder: ["--mlm_probability", "0"], "--mlm_probability"),
    "rows too short": (lambda text, folder: ["--max_seq_length", "3"], "max_length 3 leaves no room"),
    "an encoder's control": (lambda text, folder: ["--encoder", "--control"], "needs labels"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_message_and_nothing_written(
    name: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, message = CASES[name]
    given = case(text, tmp_path)
    words = flags(text, tmp_path / "out")
    if "--student_name_or_path" in given:
        words = without(words, "--student_layers")
    assert main([*words, *given]) == 2
    told = capsys.readouterr().err
    assert message in told[told.index("error: ") :]
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_a_stream_needs_a_number_of_steps(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = without(flags(text, tmp_path / "out", "--streaming"), "--max_steps")
    assert main([*words, "--validation_file", str(text / "dev.txt")]) == 2
    assert "needs max_steps" in capsys.readouterr().err


OWN = ["--recipe", "pretraining/distilgpt2", "--train_file", "a.txt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text_column", "body", "--recipe", "glue/sst2"], "--text_column goes with --train_file or --dataset_name"),
        (["--packing", "none", "--recipe", "glue/sst2"], "--packing goes with .* a recipe of raw text"),
        (["--held_out", "0"], "is no number of 1 or more"),
        ([], "there are no data"),
        ([*OWN, "--dataset_split", "all"], "--dataset_split goes with --dataset_name, .*leave it out"),
        ([*OWN, "--dataset_config_name", "en"], "--dataset_config_name goes with --dataset_name"),
        ([*OWN, "--dataset_revision", "v1"], "--dataset_revision goes with --dataset_name"),
    ],
)
def test_flags_that_go_with_text(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert re.search(message, capsys.readouterr().err)
