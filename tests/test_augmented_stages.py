"""Stages on augmented rows: made once, before their first stage, kept in the folder of the run, and read again."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from hf_distill.data.augmentation import augment_tinybert
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.runs import augmenting, run
from tests import tiny_runs

TRAIN, PART = 100, 64


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`teacher` (sst2), `masked` (words), `sst2`."""
    folder = tmp_path_factory.mktemp("home")
    tiny_runs.save_teacher(folder / "teacher", dropout=0.0)
    tiny_runs.save_masked_lm(folder / "masked")
    tiny_runs.write_sst2(folder / "sst2", train=TRAIN)
    return folder


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 64 rows, so that the rows make two."""
    monkeypatch.setattr(augmenting, "PART", PART)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every call that augments; the first call of a run tries a single one."""
    numbers: list[int] = []

    def counted(rows: Dataset, *args: Any, **settings: Any) -> Dataset:
        numbers.append(len(rows))
        return augment_tinybert(rows, *args, **settings)

    monkeypatch.setattr(augmenting, "augment_tinybert", counted)
    return numbers


def recipe(home: Path, **changes: Any) -> dict[str, Any]:
    arguments = {
        "num_train_epochs": 1, "per_device_train_batch_size": 16, "optim": "sgd", "learning_rate": 0.1,
        "lr_scheduler_type": "constant", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
    }  # fmt: skip
    return {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(home / "sst2"),
        "max_length": 16,
        "teacher": {"model": str(home / "teacher")},
        "student": {"from_layers": {"layers": 1}},
        "augmentation": {"masked_lm": str(home / "masked"), "samples": 3, "replace": 0.5, "candidates": 4},
        "stages": [
            {
                "name": "layers",
                "rows": "augmented",
                "objectives": [{"hidden_cosine": {"layer_map": "final"}}],
                "arguments": arguments,
            },
            {"name": "prediction", "objectives": [{"labels": {}}], "arguments": arguments},
        ],
        **changes,
    }


def expected(home: Path) -> Dataset:
    """All rows augmented by one call."""
    rows = [
        {"sentence": row["sentence"], "label": row["label"]}
        for row in map(json.loads, (home / "sst2/train.jsonl").read_text().splitlines())
    ]
    model = AutoModelForMaskedLM.from_pretrained(home / "masked")
    tokenizer = AutoTokenizer.from_pretrained(home / "masked")
    settings = {"samples": 3, "probability": 0.5, "candidates": 4, "seed": 42}
    return augment_tinybert(Dataset.from_list(rows), model, tokenizer, ["sentence"], **settings)


def kept(folder: Path) -> list[Path]:
    """The parts in the folder of a run."""
    return sorted(folder.glob("stages/augmented-*/[0-9]*"))


def texts(folder: Path) -> list[str]:
    return list(concatenate_datasets([Dataset.load_from_disk(str(path)) for path in kept(folder)])["sentence"])


def steps(folder: Path, stage: str) -> int:
    return int(json.loads((folder / "stages" / stage / "stage.json").read_text())["steps"])


def test_the_stage_reads_the_rows_and_their_variants_and_the_next_one_the_rows(
    home: Path, tmp_path: Path, made: list[int]
) -> None:
    run(recipe(home), tmp_path / "out", evaluate=False)
    wanted = list(expected(home)["sentence"])
    assert len(wanted) > 2 * TRAIN
    assert texts(tmp_path / "out") == wanted
    assert made == [1, PART, TRAIN - PART]
    assert steps(tmp_path / "out", "01-layers") == math.ceil(len(wanted) / 16)
    assert steps(tmp_path / "out", "02-prediction") == math.ceil(TRAIN / 16)


def test_two_stages_on_augmented_rows_make_them_once(home: Path, tmp_path: Path, made: list[int]) -> None:
    asked = recipe(home)
    asked["stages"][1]["rows"] = "augmented"
    run(asked, tmp_path / "out", evaluate=False)
    assert made == [1, PART, TRAIN - PART]
    assert steps(tmp_path / "out", "02-prediction") == steps(tmp_path / "out", "01-layers")


@pytest.mark.parametrize("rows", ["augmented", "plain"])
def test_the_control_reads_the_rows_of_the_last_stage_and_says_how_long(
    rows: str, home: Path, tmp_path: Path, made: list[int]
) -> None:
    asked = recipe(home, control=True)
    if rows == "augmented":
        asked["stages"][1]["rows"] = rows
    result = run(asked, tmp_path / "out")
    alone = steps(tmp_path / "out", "control")
    assert alone == steps(tmp_path / "out", "02-prediction")
    taught = alone + steps(tmp_path / "out", "01-layers")
    told = f"The control trained as the last stage does, for {alone:,} steps; the student's stages made {taught:,}."
    assert any(note.startswith(told) for note in result.notes)


def test_a_run_that_was_broken_off_goes_on_with_the_next_part(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[int]
) -> None:
    run(recipe(home), tmp_path / "whole", evaluate=False)
    made.clear()
    write = augmenting._write

    def broken(path: Path, rows: Dataset) -> None:
        if path.name == "00001":
            rows.save_to_disk(path.with_name(f".{path.name}.part"))
            raise KeyboardInterrupt
        write(path, rows)

    with monkeypatch.context() as patch:
        patch.setattr(augmenting, "_write", broken)
        with pytest.raises(KeyboardInterrupt):
            run(recipe(home), tmp_path / "out", evaluate=False)
    assert [path.name for path in kept(tmp_path / "out")] == ["00000"]
    assert made == [1, PART, TRAIN - PART]
    made.clear()
    run(recipe(home), tmp_path / "out", evaluate=False)
    assert made == [1, TRAIN - PART]
    assert texts(tmp_path / "out") == texts(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob("*.part"))
    whole, again = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_stage_that_is_left_reads_what_is_there(home: Path, tmp_path: Path, made: list[int]) -> None:
    run(recipe(home), tmp_path / "out", evaluate=False)
    before = load_file(tmp_path / "out/model.safetensors")
    made.clear()
    for stage in ("01-layers", "02-prediction"):
        shutil.rmtree(tmp_path / "out/stages" / stage)
    run(recipe(home), tmp_path / "out", evaluate=False)
    assert made == [1]
    after = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_damaged_part_is_told_and_made_anew_when_it_is_removed(home: Path, tmp_path: Path) -> None:
    run(recipe(home), tmp_path / "out", evaluate=False)
    (damaged,) = kept(tmp_path / "out")[1].glob("data-*.arrow")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(bytes(content))
    shutil.rmtree(tmp_path / "out/stages/01-layers")
    with pytest.raises(DistillationError, match=r"00001: augmented rows are damaged.*remove the folder 00001"):
        run(recipe(home), tmp_path / "out", evaluate=False)
    shutil.rmtree(damaged.parent)
    run(recipe(home), tmp_path / "out", evaluate=False)
    assert texts(tmp_path / "out") == list(expected(home)["sentence"])


def test_another_masked_lm_makes_other_rows(home: Path, tmp_path: Path) -> None:
    tiny_runs.save_masked_lm(tmp_path / "masked", seed=3)
    asked = recipe(home, augmentation={"masked_lm": str(tmp_path / "masked"), "samples": 3})
    run(asked, tmp_path / "out", evaluate=False)
    first = {path.parent for path in kept(tmp_path / "out")}
    tiny_runs.save_masked_lm(tmp_path / "masked", seed=4)
    shutil.rmtree(tmp_path / "out/stages/01-layers")
    run(asked, tmp_path / "out", evaluate=False)
    assert len({path.parent for path in kept(tmp_path / "out")} - first) == 1


def test_a_finished_run_needs_no_masked_lm(home: Path, tmp_path: Path) -> None:
    tiny_runs.save_masked_lm(tmp_path / "masked")
    asked = recipe(home, augmentation={"masked_lm": str(tmp_path / "masked"), "samples": 1})
    run(asked, tmp_path / "out", evaluate=False)
    shutil.rmtree(tmp_path / "masked")
    shutil.rmtree(tmp_path / "out/stages/02-prediction")
    run(asked, tmp_path / "out", evaluate=False)
    assert steps(tmp_path / "out", "02-prediction") == math.ceil(TRAIN / 16)


def test_what_cannot_augment_is_refused_before_anything_is_written(home: Path, tmp_path: Path) -> None:
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("good 1 0\nbad 1\n")
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"masked_lm": str(home / "teacher")}, IncompatiblePair, "the augmentation's masked LM .* has no weights for"),
        ({"masked_lm": str(tmp_path / "nothing")}, DistillationError, "augmentation's masked LM: there is no folder"),
        (
            {"masked_lm": str(home / "masked"), "word_vectors": str(tmp_path / "none.txt")},
            DataError,
            "none.txt: no such file",
        ),
        ({"masked_lm": str(home / "masked"), "word_vectors": str(vectors)}, DataError, "vectors.txt, line 2"),
    ]
    for settings, error, words in refused:
        with pytest.raises(error, match=words):
            run(recipe(home, augmentation=settings), tmp_path / "out", evaluate=False)
        assert not (tmp_path / "out").exists()
