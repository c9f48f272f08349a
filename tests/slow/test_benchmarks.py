"""The benchmarks' commands run, at toy sizes and without other toolkits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import tiny_runs
from tests.data.served import TEXTS, model, tokenizer

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def command(name: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(ROOT / "scripts" / "benchmarks" / name), *arguments], check=True, cwd=ROOT)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_steps(tmp_path: Path) -> None:
    file, plot = tmp_path / "steps.json", tmp_path / "steps.png"
    names = ["floor", "loop", "hf_kd", "hf_control", "hf_distill"]
    for workload in ("w0", "w2"):
        more = ["--scale", "0.1", "--rounds", "2", "--output", str(file), "--plot", str(plot)]
        command("steps.py", workload, "--only", *names, *more)
    held = json.loads(file.read_text())["workloads"]
    assert list(held) == ["w0", "w2"]
    assert list(held["w0"]["rows"]) == names
    assert list(held["w2"]["rows"]) == [name for name in names if name != "hf_control"]
    for found in held.values():
        assert all(row["same_gradient"] for row in found["rows"].values() if row["same_loss"])
        assert all(len(row["against_loop"]["rounds"]) == 2 for row in found["rows"].values())
        assert found["rows"]["hf_distill"]["flops"] == found["rows"]["floor"]["flops"]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_gpu_without_one(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    asked = ["--device", "cpu", "--scale", "0.1", "--steps", "3", "--eager", "--output", str(file)]
    command("gpu.py", "w1", "w2", "w3", "w4", *asked)
    for rows in json.loads(file.read_text())["workloads"].values():
        assert list(rows) == ["loop", "hf_kd", "hf_distill"]
        assert all("error" not in row and row["tokens_per_second"] > 0 for row in rows.values())


def test_cached_students(tmp_path: Path) -> None:
    words = tokenizer()
    words.save_pretrained(tmp_path / "teacher")
    model(1100, layers=2, seed=3).save_pretrained(tmp_path / "teacher")
    text = tmp_path / "text.txt"
    text.write_text("\n".join([*TEXTS] * 30), encoding="utf-8")
    asked = [
        "--model", str(tmp_path / "teacher"), "--text", str(text), "--test", str(text), "--student_layers", "1",
        "--length", "16", "--runs", "24", "--test_runs", "4", "--steps", "3", "--batch_size", "4", "--seeds", "1", "2",
        "--forms", "float16", "rotated, 4 bits", "top 8, tail bucket", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    command("cached_students.py", *asked)
    trials = {path.name: path.read_text() for path in (tmp_path / "out" / "trials").iterdir()}
    assert len(trials) == 2 * 5
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == [
        "| live", "| control", "| float16", "| rotated, 4 bits", "| top 8, tail bucket",
    ]  # fmt: skip
    assert table[4].split(" | ")[1:3][0] == "32"
    command("cached_students.py", *asked)
    assert {path.name: path.read_text() for path in (tmp_path / "out" / "trials").iterdir()} == trials, "not run again"


def test_families_on_scores(tmp_path: Path) -> None:
    """Patient-KD's soft targets were refused there."""
    tiny_runs.save_base(tmp_path / "base", layers=6, hidden=24)
    for split, rows in (("train", 40), ("validation", 20)):
        found = [{f"sentence{n}": tiny_runs.sentence(i + n)[0] for n in (1, 2)} for i in range(rows)]
        scored = [{**row, "label": i % 5 + 0.5} for i, row in enumerate(found)]
        tiny_runs.write_jsonl(tmp_path / "stsb" / f"{split}.jsonl", scored)
    folders = ["--base", str(tmp_path / "base"), "--dataset_dir", str(tmp_path / "stsb")]
    results = tmp_path / "results.json"
    asked = [*folders, "--output_dir", str(tmp_path / "out"), "--results", str(results), "--seeds", "1"]
    command("families.py", "--task", "stsb", *asked)
    kept = json.loads(results.read_text())
    methods = ["distilbert", "labels_twice", "minilm_v2", "pkd", "soft_targets", "tinybert"]
    assert sorted(kept) == [f"{method}/1" for method in methods]
    assert all(abs(scores["eval_spearmanr"]) <= 1 for scores in kept.values())


def test_spoken_digits(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split, texts in (("train", ["one", "two"] * 4), ("validation", ["two", "one"])):
        lengths = random.integers(2000, 3000, size=len(texts))
        samples = random.integers(-9000, 9000, size=lengths.sum()).astype(np.int16)
        np.savez(tmp_path / split, samples=samples, offsets=np.cumsum([0, *lengths]), sampling_rate=8000)
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    output = tmp_path / "out"
    asked = ["--data", str(tmp_path), "--seeds", "1", "--max_steps", "1", "--output", str(output)]
    command("spoken_digits.py", *asked)
    runs = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert [run["method"] for run in runs] == ["teacher", "control", "nbest", "both"]
    assert all(run["wer"] >= 0 and run["cer"] >= 0 for run in runs)
    assert (output / "results.md").read_text(encoding="utf-8").count("\n") == 6


def test_evaluation_memory(tmp_path: Path) -> None:
    file = tmp_path / "memory.json"
    command("evaluation_memory.py", "--rows", "20", "400", "--json", str(file))
    found = json.loads(file.read_text(encoding="utf-8"))
    assert list(found) == ["classifier", "masked_lm"]
    assert all(0.9 < told["400"]["ratio"] <= 1.2 and told["20"]["megabytes"] > 100 for told in found.values())


@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed in groups")
def test_kills_of_the_quickstart(tmp_path: Path) -> None:
    """It needs the extra `quickstart`."""
    file = tmp_path / "kills.json"
    command("soak.py", "kills", "--kills", "2", "--rows", "160", "--json", str(file))
    found = json.loads(file.read_text(encoding="utf-8"))
    assert (found["exact"], found["exact_students"]) == (2, found["students"])
