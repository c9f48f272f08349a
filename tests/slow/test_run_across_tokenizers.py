"""A whole run in which the teacher reads by its own tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_distill import Recipe, run
from hf_distill.errors import IncompatiblePair
from hf_distill.evaluation.findings import Findings
from tests.runs import test_across_tokenizers as conversations
from tests.test_across_tokenizers import OURS, THEIRS, model
from tests.tokenizers_of_kinds import CORPUS

pytestmark = pytest.mark.slow


def recipe(folder: Path, name: str) -> dict[str, Any]:
    """A shipped recipe with tiny models and texts in place of its own."""
    for role, tokens, seed in (("teacher", THEIRS, 2), ("student", OURS, 1)):
        model(tokens, seed).save_pretrained(folder / role)
        tokens.save_pretrained(folder / role)
    for split, texts in (("train", CORPUS * 3), ("validation", CORPUS[:2])):
        lines = "".join(f"{json.dumps({'text': text})}\n" for text in texts)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    loaded = Recipe.load(f"language_models/{name}").to_dict()
    loaded["data"]["text"] |= {
        split: [{"files": [str(folder / f"{split}.jsonl")]}] for split in ("train", "validation")
    }
    loaded["teacher"]["model"], loaded["student"]["model"] = str(folder / "teacher"), str(folder / "student")
    loaded["max_length"], loaded["control"] = 20, True
    loaded["stages"][0]["arguments"] = {"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True}
    return loaded


@pytest.mark.parametrize("name", ["uld", "gold"])
def test_a_run_leaves_what_was_aligned(name: str, tmp_path: Path) -> None:
    result = run(recipe(tmp_path, name), tmp_path / "out")
    assert {each.role for each in result.runs} == {"teacher", "student", "control"}
    assert all(each.metrics["perplexity"] > 1.0 and each.agreement is None for each in result.runs)
    record = json.loads((tmp_path / "out" / "distillation.json").read_text(encoding="utf-8"))
    counts = record["data"]["alignment"]["train"]
    assert counts["texts"] == 15
    assert counts["rows"] == record["data"]["sizes"]["train"] > 15
    assert counts["spans"] > 0
    assert 0 < counts["teacher_unaligned"] < counts["teacher_tokens"] / 2
    train = json.loads((tmp_path / "out" / "train_results.json").read_text(encoding="utf-8"))
    assert train["alignment_student_unaligned"] == counts["student_unaligned"]
    assert any("Aligned, train: 15 texts" in note for note in result.notes)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"{counts['teacher_unaligned']} of the teacher's {counts['teacher_tokens']} tokens" in card
    alone = run(recipe(tmp_path, name), tmp_path / "out", train=False)
    assert alone.run("student").metrics == result.run("student").metrics


@pytest.mark.parametrize("objective", ["uld", "gold"])
def test_a_run_on_conversations_learns_what_the_assistant_says(objective: str, tmp_path: Path) -> None:
    result = run(conversations.recipe(conversations.home(tmp_path), objective), tmp_path / "out")
    assert all(each.metrics["perplexity"] > 1.0 and each.agreement is None for each in result.runs)
    record = json.loads((tmp_path / "out" / "distillation.json").read_text(encoding="utf-8"))
    counts = record["data"]["alignment"]["train"]
    assert (counts["texts"], counts["rows"], counts["texts_left_out"]) == (9, 9, 0)
    assert 0 < counts["teacher_unaligned"] < counts["teacher_tokens"] / 2
    log = json.loads((tmp_path / "out" / "train_results.json").read_text(encoding="utf-8"))
    assert log["alignment_spans"] == counts["spans"]
    told = Findings.read(tmp_path / "out" / "report" / "data.json")
    assert told is not None
    assert [{*sample.written} for sample in told.samples] == [{"teacher", "student"}] * 2
    assert any("Aligned, train: 9 texts" in note for note in result.notes)
    alone = run(conversations.recipe(tmp_path, objective), tmp_path / "out", train=False)
    assert alone.run("student").metrics == result.run("student").metrics


def test_another_vocabulary_that_was_not_asked_for_is_refused(tmp_path: Path) -> None:
    given = recipe(tmp_path, "uld")
    given["teacher"]["tokenizer"] = None
    given["stages"][0]["objectives"] = [{"soft_targets": {}}]
    with pytest.raises(IncompatiblePair, match=r"the tokenizers differ.*tokenizer: own"):
        run(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()
