"""Raw text as a run sees it: what is kept of a batch's outputs, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import EvalPrediction

from hf_distill.data import streams
from hf_distill.data.packing import Layout
from hf_distill.errors import DistillationError, NonFiniteLoss
from hf_distill.hub.record import Record
from hf_distill.recipe import Recipe
from hf_distill.runs.folder import RunFolder
from hf_distill.runs.running import run
from hf_distill.runs.workload import Limits
from hf_distill.runs.workloads import load_workload
from hf_distill.runs.workloads.pretraining import BEGINNING, PredictedWords
from hf_distill.tasks import IGNORED
from tests import tiny_runs, tokenizers_of_kinds

LABELS = torch.tensor([[IGNORED, 2, IGNORED, 0], [1, IGNORED, IGNORED, IGNORED]])
LOGITS = torch.tensor([0.0, 1.0, 3.0]).repeat(2, 4, 1)


def workload(folder: Path, task: str) -> PredictedWords:
    recipe: dict[str, Any] = {
        "schema": 1,
        "data": {"text": {"train": [{"files": [str(tiny_runs.write_text(folder / "a.txt", 9))]}], "task": task}},
        "student": {"model": "x"},
        "stages": [{"name": "a", "objectives": [{"labels": {}}]}],
    }
    found = load_workload(Recipe.from_dict(recipe))
    assert isinstance(found, PredictedWords)
    return found


def answers(found: PredictedWords, logits: torch.Tensor) -> Any:
    kept = found.reduce(logits, LABELS).numpy()
    rows = Dataset.from_dict({"input_ids": [[0], [0]]})
    prediction = EvalPrediction(predictions=kept, label_ids=LABELS.numpy())
    return found.answers("validation", rows, np.arange(2), prediction, ())


@pytest.mark.parametrize(("task", "wanted"), [("masked_lm", [2, 0, 1]), ("causal_lm", [2, 0])])
def test_words_are_scored_where_they_are_predicted(tmp_path: Path, task: str, wanted: list[int]) -> None:
    """A causal model is not asked for the first word of a row."""
    found = workload(tmp_path, task)
    score = found.score("validation", answers(found, LOGITS))
    normalizer = math.log(sum(math.exp(x) for x in (0.0, 1.0, 3.0)))
    losses = [normalizer - (0.0, 1.0, 3.0)[word] for word in wanted]
    assert score["accuracy"] == pytest.approx(wanted.count(2) / len(wanted))
    assert score["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)))


@pytest.mark.parametrize("kind", tokenizers_of_kinds.KINDS)
def test_the_models_go_on_from_what_rows_begin_with(tmp_path: Path, kind: str) -> None:
    found, tokenizer = workload(tmp_path, "causal_lm"), tokenizers_of_kinds.tokenizer(kind)
    prompt = found.prompts(tokenizer, Limits(64, [None], frozenset()))[0]
    bare = tokenizer(found.texts()[0], add_special_tokens=False)["input_ids"]
    begun = bare[: min(BEGINNING, len(bare) // 2)]
    assert prompt.ids == [*Layout.of(tokenizer, 64).prefix, *begun]
    assert prompt.text == tokenizer.decode(begun)


def test_nan_is_told_and_not_scored(tmp_path: Path) -> None:
    broken = LOGITS.clone()
    broken[0, 1] = torch.nan
    with pytest.raises(NonFiniteLoss, match="the predictions of 1 of 3 words are NaN"):
        answers(workload(tmp_path, "masked_lm"), broken)


# ---- the Hub ----


class MovingHub:
    """A data set whose branch has another commit each time it is asked for; `read` keeps those that are read."""

    def __init__(self) -> None:
        self.asked, self.read = 0, set[str]()

    def dataset_info(self, name: str, revision: str | None) -> Any:
        self.asked += 1
        return SimpleNamespace(sha=f"{self.asked:040x}")

    def load(self, *place: Any, revision: str, **settings: Any) -> Iterator[dict[str, str]]:
        self.read.add(revision)
        return ({"text": tiny_runs.sentence(i)[0]} for i in range(40))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> MovingHub:
    found = MovingHub()
    monkeypatch.setattr(streams, "HfApi", lambda: found)
    monkeypatch.setattr(streams, "load_dataset", found.load)
    return found


def of_the_hub(folder: Path, *train: dict[str, Any], **text: Any) -> Recipe:
    """One step on the text."""
    arguments = {"max_steps": 1, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    return Recipe.from_dict(
        {
            "schema": 1,
            "data": {"text": {"train": list(train), "cache_dir": str(folder / "cache"), **text}},
            "student": {"model": str(folder / "model")},
            "max_length": 16,
            "stages": [{"name": "a", "objectives": [{"labels": {}}], "arguments": arguments}],
        }
    )


CORPUS = {"hub": {"id": "some/corpus"}}


def test_a_run_goes_on_at_the_commit_that_it_began_with(hub: MovingHub, tmp_path: Path) -> None:
    tiny_runs.save_masked_lm(tmp_path / "model")
    recipe = of_the_hub(tmp_path, CORPUS)
    run(recipe, tmp_path / "out", evaluate=False)
    assert Record.read(tmp_path / "out").data.revision == f"{1:040x}"
    (tmp_path / "out" / "stages" / "01-a" / "stage.json").unlink()  # as if it had been broken off
    hub.asked = 6
    run(recipe, tmp_path / "out", evaluate=False)
    assert (hub.asked, hub.read) == (6, {f"{1:040x}"})


def test_the_commits_of_a_run_are_for_its_own_data(hub: MovingHub, tmp_path: Path) -> None:
    sources = ({**CORPUS, "documents": 9}, {"files": [str(tiny_runs.write_text(tmp_path / "a.txt", 9))]})
    recipe = of_the_hub(tmp_path, *sources, validation=[{"hub": {"id": "some/corpus", "revision": "v2"}}])
    folder = RunFolder(tmp_path / "out")
    assert folder.pinned(recipe) is recipe
    began = load_workload(recipe)
    with folder.claimed(recipe, began.sources, began.commits):
        pass
    again = load_workload(folder.pinned(recipe))
    assert again.facts(recipe) == began.facts(recipe)
    keys = [f"data.text.{split}.0.hub.revision" for split in ("train", "validation")]
    assert again.facts(recipe).commits == dict(zip(keys, (f"{1:040x}", f"{2:040x}"), strict=True))
    folder.check(recipe, again.sources)
    other = of_the_hub(tmp_path, CORPUS)
    assert folder.pinned(other) is other
    with pytest.raises(DistillationError, match=r"data of train 1: another .* data of validation: another"):
        folder.check(recipe, load_workload(recipe).sources)
