"""A whole run on sounds: what the teacher hears, a student that learns it, and what is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoFeatureExtractor, AutoTokenizer

from hf_distill.commands import generate
from hf_distill.runs import run
from hf_distill.teachers.generated import Generated
from tests import sounds
from tests.runs.test_speech import recipe


@pytest.mark.slow
def test_a_run_learns_what_its_teacher_hears(tmp_path: Path) -> None:
    folder = sounds.write_sounds(tmp_path)
    sounds.save(folder / "student")
    sounds.save(folder / "teacher", seed=1)
    written = recipe(folder, control=True)
    (folder / "recipe.yaml").write_text(json.dumps(written.to_dict()))
    assert generate.main(["--recipe", str(folder / "recipe.yaml"), "--output_dir", str(folder / "out")]) == 0
    before = (folder / "out/stages/teacher-texts/generated.json").stat().st_mtime_ns
    result = run(written, folder / "out")
    assert result.metric == "wer"
    assert {"eval_wer", "eval_cer", "eval_loss"} <= result.metrics.keys()
    kept = Generated(folder / "out/stages/teacher-texts")
    assert kept.facts.rows == 8
    assert (kept.path / "generated.json").stat().st_mtime_ns == before
    read = AutoTokenizer.from_pretrained(folder / "out")
    assert AutoFeatureExtractor.from_pretrained(folder / "out").sampling_rate == 80
    assert read.get_vocab() == AutoTokenizer.from_pretrained(folder / "student").get_vocab()
    record = json.loads((folder / "out/distillation.json").read_text())
    assert record["task"] == "ctc"
    again = run(written, folder / "out", train=False)
    assert again.metrics["eval_wer"] == pytest.approx(result.metrics["eval_wer"])
