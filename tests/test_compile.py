"""Training under `torch.compile`: student with terms, and teacher, in one graph each, as in eager training.

The backend `eager` traces as `inductor` does and generates no code. `tests/slow/test_compiled.py` has the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import AutoModelForSequenceClassification

from hf_distill import DDGSD, DistillationTrainer, HiddenMSE, Labels, SoftTargets
from hf_distill.errors import DistillationError
from hf_distill.training.compilation import told_of_compiler
from tests import tiny


@pytest.fixture
def untraced() -> Iterator[None]:
    """Nothing is compiled yet, and nothing stays."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def trained(backend: str | None, terms: Any, task: str = "single_label", **given: Any) -> DistillationTrainer:
    """Steps over batches of several sizes and widths, on the backend, or without compilation."""
    torch.manual_seed(0)
    compiled = {} if backend is None else {"torch_compile": True, "torch_compile_backend": backend}
    settings = {
        "model": tiny.model(task, layers=1, seed=1),
        "teacher": tiny.model(task, layers=2, seed=2),
        "objectives": terms,
        "train_dataset": tiny.rows(task, 32, longest=40),
        "eval_dataset": tiny.rows(task, 6, seed=9),
        "data_collator": tiny.Pad(),
        "tokens_per_batch": 160,
        "args": tiny.arguments(**{"max_steps": 4, **compiled, **given.pop("arguments", {})}),
    }
    trainer = DistillationTrainer(**{**settings, **given})
    trainer.train()
    return trainer


def losses(trainer: DistillationTrainer) -> list[float]:
    return [row[key] for row in trainer.state.log_history for key in ("loss", "eval_loss") if key in row]


@pytest.mark.usefixtures("untraced")
def test_compiled_training_is_eager_training_in_one_graph_each(tmp_path: Path) -> None:
    """Of each model one graph for the size of the first batch, and another for all sizes; between them an
    evaluation, which is not compiled.
    """
    settings = {"eval_strategy": "steps", "eval_steps": 2}
    eager, compiled = (
        trained(backend, SoftTargets(temperature=2.0) + Labels() + HiddenMSE(), arguments=settings)
        for backend in (None, "eager")
    )
    assert not counters["graph_break"]
    assert 4 <= counters["stats"]["unique_graphs"] <= 6
    assert tiny.distance(eager.distillation, compiled.distillation) < 1e-5
    assert losses(compiled) == pytest.approx(losses(eager), abs=1e-5)
    assert any("eval_loss" in row for row in compiled.state.log_history)
    compiled.save_model(str(tmp_path))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert tiny.distance(again, compiled.model) == 0.0


@pytest.mark.usefixtures("untraced")
def test_labels_that_are_counted_apart_divide_as_in_eager_training() -> None:
    rows = [{**row, "labels": row["labels"] if i % 3 else -100} for i, row in enumerate(tiny.rows("single_label", 32))]
    eager, compiled = (
        trained(backend, DDGSD(distortion="dropout"), teacher=None, train_dataset=rows) for backend in (None, "eager")
    )
    assert tiny.distance(eager.distillation, compiled.distillation) < 1e-5
    assert losses(compiled) == pytest.approx(losses(eager), abs=1e-5)


def test_a_machine_without_a_compiler_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(DistillationError, match=r"no compiler here \(g\+\+, clang\+\+, cl\)"):
        trained("inductor", Labels())


@pytest.mark.usefixtures("untraced")
def test_a_backend_that_fails_is_told_in_one_line_with_what_may_have_broken_it() -> None:
    def failing(graph: Any, examples: Any) -> Any:
        raise ImportError("/tmp/torchinductor_me/ab/cd.so: file too short\nand a page of its own")

    with (
        pytest.raises(DistillationError, match=r"ImportError: /tmp/\S+cd\.so: file too short\. If a run") as told,
        told_of_compiler(),
    ):
        torch.compile(lambda x: x + 1, backend=failing)(torch.ones(2))
    assert "TORCHINDUCTOR_CACHE_DIR" in str(told.value)
    assert "\n" not in str(told.value)
