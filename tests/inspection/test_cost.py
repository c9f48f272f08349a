"""What a step costs: steps that are really made, at a size that is affordable, and a straight line beyond it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from hf_distill.anatomy import Anatomy
from hf_distill.errors import DistillationError
from hf_distill.inspection import cost, memory
from hf_distill.inspection.blueprint import Blueprint
from hf_distill.inspection.cost import StepCost, Trial, expected_costs
from hf_distill.inspection.memory import forget_peak, free_bytes, peak_bytes
from hf_distill.inspection.rows import made_up_rows
from hf_distill.recipe import Recipe
from hf_distill.runs.stages import StageTrainer
from hf_distill.tasks import IGNORED, task_of
from tests import tiny_runs
from tests.tiny_models import CLASSIFIER, SPANS, TOKENS, tiny


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Two stages of tiny models; of the teacher the configuration alone."""
    (tiny_runs.save_teacher(tmp_path / "teacher", layers=2) / "model.safetensors").unlink()
    stage = {"objectives": [{"soft_targets": {}}, {"hidden_mse": {}}]}
    arguments = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True}
    return Recipe.from_dict(
        {
            "schema": 1,
            "task": "sst2",
            "max_length": 16,
            "teacher": {"model": str(tmp_path / "teacher")},
            "student": {"from_layers": {"layers": 1}},
            "stages": [
                {"name": "one", **stage},
                {"name": "two", **stage, "arguments": arguments, "lora": {"target_modules": ["query"]}},
            ],
        }
    )


def test_steps_are_made_as_the_stage_says(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[tuple[int, ...]] = []
    compute = StageTrainer.compute_loss

    def watched(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(tuple(inputs["input_ids"].shape))
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "compute_loss", watched)
    before = sorted(tmp_path.rglob("*"))
    ((name, found),) = expected_costs(recipe, ["two"])
    assert name == "two"
    assert (found.batch, found.length, found.measured, found.accumulated) == (4, 16, 4, 2)
    assert seen == [(4, 16)] * 6, "three steps of two batches"
    assert found.cost.cpu_seconds > 0
    assert found.cost.peak_bytes > 50e6, "a process with torch in it"
    assert found.cost.accelerator_bytes == 0
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left"


def test_each_batch_is_measured_with_adapters_on_the_plain_student(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    compute = StageTrainer.compute_loss

    def watched(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        student = self.model
        trained.append(sum(p.numel() for p in student.parameters() if p.requires_grad))
        assert len([name for name, _ in student.named_modules() if name.endswith("query.base_layer")]) == 1
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "compute_loss", watched)
    ((_, found),) = expected_costs(recipe.override({"stages.1.arguments.per_device_train_batch_size": 8}), ["two"])
    assert (found.batch, found.measured) == (8, 8)
    assert len(trained) == 12, "three steps of two batches, of 4 rows and of 8"
    assert len(set(trained)) == 1


@pytest.mark.parametrize(("ours", "theirs"), [(40, 23), (23, 40)])
def test_tables_of_embeddings_may_be_longer_than_the_tokenizer(
    recipe: Recipe, tmp_path: Path, ours: int, theirs: int
) -> None:
    """Some are padded to a round number: a run takes such a pair, and the rows have no token that one side lacks."""
    for name, entries in (("teacher", theirs), ("student", ours)):
        config = tiny_runs.config(("negative", "positive"))
        config.vocab_size = entries
        config.save_pretrained(tmp_path / name)
    other = recipe.override({"student": {"model": str(tmp_path / "student")}})
    ((_, found),) = expected_costs(other, ["two"], tokenizer=tiny_runs.tokenizer())
    assert found.cost.cpu_seconds > 0


def test_a_batch_that_takes_too_long_is_reckoned(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 1 + 0.5 n seconds: 100 examples would take 153 seconds of three steps, 10 are affordable."""
    asked: list[int] = []

    def told(self: Trial, batch: int) -> StepCost:
        asked.append(batch)
        return StepCost(2.0 + batch, 1.0 + 0.5 * batch, 1e9 + 1e6 * batch, 3e6 * batch)

    monkeypatch.setattr(Trial, "cost", told)
    ((_, found),) = expected_costs(recipe, ["one"], batch=100, length=8)
    assert asked == [4, 8]
    assert (found.batch, found.length, found.measured) == (100, 8, 8)
    assert vars(found.cost) == pytest.approx(vars(StepCost(102.0, 51.0, 1.1e9, 3e8)))
    monkeypatch.setattr(cost, "PATIENCE", 1e9)
    ((_, found),) = expected_costs(recipe, ["one"], batch=100)
    assert asked[2:] == [4, 100]
    assert (found.measured, found.length, found.cost.seconds) == (100, 16, 51.0)


def test_a_batch_is_as_large_as_its_tokens(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trial, "cost", lambda self, batch: StepCost(0.0, 1e-9, 0.0))
    budget = recipe.override({"stages.0.tokens_per_batch": 100})
    assert [found.batch for _, found in expected_costs(budget, ["one"], length=8)] == [12]


def test_a_straight_line_never_falls() -> None:
    small, large = StepCost(1.0, 3.0, 100.0, 0.0), StepCost(2.0, 2.0, 150.0, 0.0)
    assert large.beyond(small, 8, 4, 16) == StepCost(4.0, 2.0, 250.0, 0.0)


@pytest.mark.parametrize(("family", "head"), [
    ("bert", CLASSIFIER), ("bert", TOKENS), ("roberta", SPANS), ("bert", "AutoModelForMaskedLM"),
    ("gpt2", "AutoModelForCausalLM"), ("t5", "AutoModelForSeq2SeqLM"), ("t5", CLASSIFIER), ("bert", "AutoModel"),
])  # fmt: skip
def test_made_up_rows_are_rows_of_the_task(family: str, head: str) -> None:
    model = tiny(family, head, layers=1)
    task = task_of(model)
    rows = made_up_rows(Anatomy.of(model), task, 5, 9, 90).with_format("torch")
    batch = {name: rows[name][:] for name in rows.column_names}
    assert batch["input_ids"].shape == (5, 9)
    assert int(batch["input_ids"].max()) < 90
    assert not (batch["input_ids"] == model.config.pad_token_id).any(), "nothing that is taken for padding"
    if isinstance(model.config.eos_token_id, int):
        assert (batch["input_ids"] == model.config.eos_token_id).sum(1).tolist() == [1] * 5
    for name in task.label_names:
        kept = batch[name][batch[name] != IGNORED]
        assert int(kept.max()) < (9 if head == SPANS else Anatomy.of(model).shape.num_logits)
    if task.label_names:
        assert int(task.label_mask(batch).sum()) > 0


def test_a_regression_has_scores() -> None:
    model = tiny("bert", CLASSIFIER, layers=1, num_labels=1, problem_type="regression")
    rows = made_up_rows(Anatomy.of(model), task_of(model), 4, 6, 96).with_format("torch")
    assert rows["labels"][:].shape == (4, 1)
    assert rows["labels"][:].is_floating_point()


def test_without_a_driver_the_device_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that was built for CUDA names it on every machine, unless asked whether it is there."""

    def of_the_build(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", of_the_build)
    assert cost._device() == torch.device("cpu")


def test_whether_the_last_batch_is_left_out_follows_from_the_stage(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trial, "cost", lambda self, batch: StepCost(0.0, 1e-9, 0.0))
    changed = recipe.override({"stages.1.arguments.dataloader_drop_last": True})
    assert [found.drops_last for _, found in expected_costs(changed, ["one", "two"])] == [False, True]


def test_what_is_no_lack_of_memory_keeps_its_traceback(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **given: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(StageTrainer, "compute_loss", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        list(expected_costs(recipe, ["two"]))


def test_models_that_do_not_fit_are_told(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*args: object, **given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(BertForSequenceClassification, "__init__", exhausted)
    monkeypatch.setattr(cost, "accelerator_memory", lambda: (10**9, 8 * 10**9))
    with pytest.raises(DistillationError, match="the models of the recipe do not fit into the 8 GB of the") as told:
        list(expected_costs(recipe, ["one"]))
    assert "smaller models" in str(told.value)
    assert "per_device_train_batch_size" not in str(told.value), "which does not make models smaller"


@pytest.mark.parametrize(("stages", "expected"), [((1,), "meta"), ((0, 1), "cpu")])
def test_models_are_built_on_the_cpu_where_every_stage_trains_there(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, stages: tuple[int, ...], expected: str
) -> None:
    """The meta device stands for an accelerator."""
    places: list[str] = []

    def looked_at(blueprint: Blueprint) -> Iterator[Any]:
        places.append(blueprint.place.type)
        return iter(())

    monkeypatch.setattr(cost, "_device", lambda: torch.device("meta"))
    monkeypatch.setattr(cost, "models_of_stages", looked_at)
    monkeypatch.setattr(cost, "plan", lambda *args: SimpleNamespace(student=[]))
    changed = recipe.override({f"stages.{i}.arguments.use_cpu": True for i in stages})
    assert list(expected_costs(changed, ["one"])) == []
    assert places == [expected]


def groups(folder: Path, own: str, files: dict[str, str]) -> None:
    (folder / "own").write_text(own, encoding="ascii")
    for name, content in files.items():
        (folder / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "groups" / name).write_text(content, encoding="ascii")


@pytest.mark.parametrize(("own", "files", "left"), [
    ("0::/a/b\n", {"a/b/memory.max": "900\n", "a/b/memory.current": "500\n", "a/b/memory.stat": "anon 7\n"}, 400),
    ("0::/a/b\n", {"a/memory.max": "900\n", "a/memory.current": "500\n", "a/memory.stat": "inactive_file 30\n"}, 430),
    ("0::/\n", {"memory.max": "max\n", "memory.current": "500\n"}, None),
    ("0::/\n", {"memory.max": "900\n", "memory.current": "1000\n"}, 0),
    ("5:cpu:/x\n4:memory:/x\n", {"memory/memory.limit_in_bytes": "900\n", "memory/memory.usage_in_bytes": "500\n",
     "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 20\n"}, 420),
    ("4:memory:/\n", {"memory/memory.limit_in_bytes": f"{2**63 - 4096}", "memory/memory.usage_in_bytes": "1\n"}, None),
])  # fmt: skip
def test_memory_is_no_more_than_a_container_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], left: int | None
) -> None:
    """Of the files that it has read, the group can let go."""
    groups(tmp_path, own, files)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    machine = SimpleNamespace(available=10**6)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: machine)
    assert free_bytes() == (machine.available if left is None else left)


def test_memory_is_told_without_the_files_of_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has neither these nor the module `resource`."""
    monkeypatch.setitem(sys.modules, "resource", None)
    importlib.reload(memory)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "none")
    assert memory.free_bytes() > 0


def test_the_peak_is_that_since_it_was_forgotten() -> None:
    size = 64 * 2**20
    torch.zeros(size, dtype=torch.uint8).fill_(1)  # and gone again
    forget_peak()
    low = peak_bytes()
    torch.zeros(size, dtype=torch.uint8).fill_(1)
    assert peak_bytes() - low > 0.9 * size
    assert free_bytes() > size
