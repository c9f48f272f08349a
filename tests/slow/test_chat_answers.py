"""Students that learn what a causal teacher answers to conversations: whole runs, and writers that are killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_distill.commands import generate, lm
from hf_distill.runs import run
from tests import chats, tiny_runs, writers
from tests.runs import test_across_tokenizers as two_tokenizers
from tests.test_across_tokenizers import THEIRS, model

pytestmark = pytest.mark.slow

RUN = """
import json, sys, time
from hf_distill.runs import generate_targets
from hf_distill.teachers import generated

generated.PART = 2
write_whole = generated.write_whole

def slowly(path, data):
    time.sleep(float(sys.argv[3]))
    write_whole(path, data)
    print(path.name, flush=True)

generated.write_whole = slowly
generate_targets(json.loads(sys.argv[1]), sys.argv[2])
"""


def save(folder: Path) -> None:
    chats.writer().save_pretrained(folder / "teacher")
    chats.tokenizer().save_pretrained(folder / "teacher")
    chats.write(folder)


def written(folder: Path) -> list[list[dict[str, Any]]]:
    """The answers to each conversation."""
    lines = [line for path in sorted(folder.glob("part-*.jsonl")) for line in path.read_bytes().splitlines()]
    return [json.loads(line)["hypotheses"] for line in lines]


def test_answers_are_written_once_and_learned_as_if_they_were_the_datas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a run on a file with the answers in it."""
    save(tmp_path)
    rows = [{"messages": chats.said(i)} for i in range(12)]
    rows[5]["messages"][0]["content"] = "x" * 120  # leaves no room for an answer
    tiny_runs.write_jsonl(tmp_path / "train.jsonl", rows)
    common = ["--validation_file", str(tmp_path / "validation.jsonl"), "--teacher_name_or_path"]
    common += [str(tmp_path / "teacher"), "--student_layers", "1", "--max_seq_length", "128", "--use_cpu"]
    common += ["--max_steps", "3", "--report_to", "none", "--disable_tqdm", "true"]
    words = ["--train_file", str(tmp_path / "train.jsonl"), *common, "--targets", "best", "--max_new_tokens", "16"]
    words += ["--generated_folder", str(tmp_path / "texts"), "--output_dir", str(tmp_path / "out")]
    assert generate.main(["lm", *words]) == 0
    told = "0 duplicate, 0 empty, 11 kept, 0 too long, 1 without room for an answer, 11 written"
    assert told in capsys.readouterr().out
    before = (tmp_path / "texts" / "part-00000.jsonl").stat().st_mtime_ns
    assert lm.main(words) == 0
    assert (tmp_path / "texts" / "part-00000.jsonl").stat().st_mtime_ns == before
    counts = {"written": 11, "kept": 11, "empty": 0, "too long": 0, "duplicate": 0, "without room for an answer": 1}
    assert json.loads((tmp_path / "out" / "distillation.json").read_text())["texts"] == counts
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Texts of the teacher: learned is the best one of each row, not the data's own." in card
    assert "Of 11 texts 11 were kept (1 without room for an answer)." in card

    answered = []
    for row, answers in zip(rows, written(tmp_path / "texts"), strict=True):
        if answers:
            said = {"role": "assistant", "content": answers[0]["text"]}
            answered.append({"messages": [row["messages"][0], said]})
    tiny_runs.write_jsonl(tmp_path / "answered.jsonl", answered)
    words = ["--train_file", str(tmp_path / "answered.jsonl"), *common, "--output_dir", str(tmp_path / "again")]
    assert lm.main(words) == 0
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_all_answers_are_weighed(tmp_path: Path) -> None:
    save(tmp_path)
    recipe = chats.recipe(tmp_path, stage={"targets": "all", "objectives": [{"nbest_kd": {}}]})
    recipe["teacher"]["generate"] = {"beams": 3, "hypotheses": 3, "max_new_tokens": 16}
    run(recipe, tmp_path / "out")
    log = json.loads((tmp_path / "out" / "train_results.json").read_text())
    assert log["train_loss"] > 0
    assert max(len(row) for row in written(tmp_path / "out" / "stages" / "teacher-texts")) == 3


def test_a_teacher_of_another_tokenizer_writes_what_is_learned(tmp_path: Path) -> None:
    recipe = two_tokenizers.recipe(two_tokenizers.home(tmp_path))
    writer = model(THEIRS, seed=2, positions=256)
    writer.generation_config.update(suppress_tokens=list(range(len(THEIRS), len(THEIRS) + 3)), min_new_tokens=3)
    inputs = {"input_ids": torch.arange(4, 68).reshape(8, 8)}
    writers.ending_soon(writer, inputs, 3.0, THEIRS.eos_token_id).save_pretrained(tmp_path / "teacher")
    recipe["teacher"]["generate"] = {"beams": 2, "max_new_tokens": 24}
    recipe["stages"][0] |= {"targets": "best", "objectives": [{"labels": {}}]}
    run(recipe, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "distillation.json").read_text())
    assert (record["texts"]["written"], record["data"]["sizes"]["train"]) == (9, 9)
    assert record["data"]["alignment"]["train"]["texts"] == record["texts"]["kept"] > 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


def process(recipe: dict[str, Any], folder: Path, pause: float) -> subprocess.Popen[str]:
    """`pause` seconds pass before anything is put down."""
    command = [sys.executable, "-c", RUN, json.dumps(recipe), str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_write_what_one_does(tmp_path: Path) -> None:
    save(tmp_path)
    recipe = chats.recipe(tmp_path, stage={"targets": "best", "objectives": [{"labels": {}}]})
    own = {"beams": 2, "max_new_tokens": 16, "batch_size": 2}
    found, said = [], []
    for number in (1, 2):
        recipe["teacher"]["generate"] = {**own, "folder": str(tmp_path / f"by-{number}")}
        running = [process(recipe, tmp_path / f"{number}-{i}", 0.3) for i in range(number)]
        done = [each.communicate(timeout=500) for each in running]
        assert [each.returncode for each in running] == [0] * number, done
        found.append((tmp_path / f"by-{number}" / "generated.json").read_bytes())
        said.append(sorted(line for out, _ in done for line in out.split() if line.startswith("part-")))
    assert found[0] == found[1]
    assert written(tmp_path / "by-1") == written(tmp_path / "by-2")
    assert said == [[f"part-{number:05d}.jsonl" for number in range(6)]] * 2


def test_a_writer_that_is_killed_goes_on_with_the_part_that_it_was_at(tmp_path: Path) -> None:
    save(tmp_path)
    recipe = chats.recipe(tmp_path, stage={"targets": "best", "objectives": [{"labels": {}}]})
    recipe["teacher"]["generate"] = {"beams": 2, "max_new_tokens": 16, "batch_size": 2}
    whole, broken = (tmp_path / name / "stages" / "teacher-texts" for name in ("whole", "broken"))
    first = process(recipe, tmp_path / "whole", 0.0)
    _, errors = first.communicate(timeout=500)
    assert first.returncode == 0, errors
    running, pause = process(recipe, tmp_path / "broken", 1.0), threading.Event()
    while not (broken / "part-00002.jsonl").exists() and running.poll() is None:
        pause.wait(0.005)
    running.kill()
    _, errors = running.communicate()
    assert running.returncode == -signal.SIGKILL, errors
    facts = json.loads((broken / "generated.json").read_text())
    assert len(facts["parts"]) == 2  # the third is there, and not named yet
    before = {name: (broken / name).stat().st_mtime_ns for name in ("part-00000.jsonl", "part-00001.jsonl")}
    again = process(recipe, tmp_path / "broken", 0.0)
    _, errors = again.communicate(timeout=500)
    assert again.returncode == 0, errors
    assert {name: (broken / name).stat().st_mtime_ns for name in before} == before
    assert (broken / "generated.json").read_bytes() == (whole / "generated.json").read_bytes()
    assert written(broken) == written(whole)
    assert len(written(whole)) == 12
