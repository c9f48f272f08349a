"""Contrast with a memory of all training rows: who is drawn, how the memory moves, and that a run can be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset

from hf_distill import DataError, DistillationError, DistillationTrainer, objectives
from hf_distill.activations import Activations
from hf_distill.data.numbering import classes_of, numbered
from hf_distill.objectives import Objective, Pair
from hf_distill.objectives.row_memory import Draws, last_of_each
from hf_distill.tasks import TASKS
from tests import tiny
from tests.shapes import shape

ROWS = 24
SETTINGS = {"dimension": 8, "negatives": 6, "temperature": 0.5}


def made(task: str = "single_label", labels: list[int] | None = None, **settings: Any) -> Objective:
    torch.manual_seed(0)
    objective = objectives.make("crd_memory", {**SETTINGS, **settings})
    objective.bind(Pair.from_shapes(shape(2, 4), shape(2, 6), TASKS[task]))
    objective.see_rows(ROWS, labels)
    return objective


def step(objective: Objective, rows: list[int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(len(rows), 2, dtype=torch.long)
    student, teacher = (torch.randn(len(rows), 2, width, generator=generator) for width in (4, 6))
    shown = [Activations(mask=mask, hidden={2: each.requires_grad_()}) for each in (student, teacher)]
    return objective(shown[0], shown[1], {"attention_mask": mask, "row_index": torch.tensor(rows)})


def test_draws_every_row_of_other_classes_as_often() -> None:
    classes = [0] * 5 + [1] * 2 + [2] * 3
    draws = Draws.of("x", 10, classes)
    index = torch.arange(10)
    found = torch.stack([draws(index, 40, torch.tensor(batch)) for batch in range(50)])  # [batches, rows, 40]
    for row, label in enumerate(classes):
        counts = found[:, row].flatten().bincount(minlength=10).double()
        others = torch.tensor([other != label for other in classes])
        assert not counts[~others].any()
        share = counts[others] / counts.sum() * others.sum()
        assert (share - 1).abs().max() < 0.2


def test_draws_all_rows_but_the_row_itself() -> None:
    draws = Draws.of("x", 5, None)
    found = draws(torch.arange(5), 200, torch.tensor(3))
    for row in range(5):
        assert found[row].unique().tolist() == [other for other in range(5) if other != row]


def test_draws_follow_from_rows_and_batches() -> None:
    draws = Draws.of("x", 50, None)
    first = draws(torch.tensor([3, 4]), 30, torch.tensor(1))
    assert torch.equal(draws(torch.tensor([4, 3]), 30, torch.tensor(1)), first.flip(0))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(draws(torch.tensor([3, 4]), 30, torch.tensor(2)), first)


@pytest.mark.parametrize(("number", "classes"), [(1, None), (3, [2, 2, 2])])
def test_refuses_rows_without_negatives(number: int, classes: list[int] | None) -> None:
    with pytest.raises(DataError, match="crd_memory"):
        Draws.of("crd_memory", number, classes)


def test_normalizers_are_set_by_the_first_batch_and_stay() -> None:
    objective = made()
    assert not objective.normalizers.any()
    step(objective, [0, 1, 2])
    first = objective.normalizers.clone()
    assert (first > 0).all()
    step(objective, [3, 4], seed=1)
    assert torch.equal(objective.normalizers, first)


def test_the_memory_moves_after_the_backward_pass_has_read_it() -> None:
    objective = made()
    before = objective.student_memory.clone()
    step(objective, [5, 2]).backward()
    assert torch.equal(objective.student_memory, before)
    after = objective.state_dict()["student_memory"]
    changed = (after != before).any(1)
    assert changed.nonzero().flatten().tolist() == [2, 5]
    torch.testing.assert_close(after[changed].norm(dim=1), torch.ones(2))


def test_of_repeated_rows_the_last_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of them a copy takes, as on a GPU it may be any: here in turned order, the first would win."""
    assert last_of_each(torch.tensor([4, 1, 4, 2, 1, 4])).tolist() == [5, 4, 5, 3, 4, 5]
    both = [made(), made()]
    for objective in both:
        step(objective, [5, 2, 5, 5])
    found, copy = both[0].state_dict(), torch.Tensor.index_copy_
    monkeypatch.setattr(torch.Tensor, "index_copy_", lambda m, dim, i, rows: copy(m, dim, i.flip(0), rows.flip(0)))
    assert all(torch.equal(tensor, found[name]) for name, tensor in both[1].state_dict().items())


def test_an_evaluation_changes_nothing_and_needs_no_numbers() -> None:
    objective = made().eval()
    kept = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    assert step(objective, [5, 2]) > 0
    assert all(torch.equal(tensor, kept[name]) for name, tensor in objective.state_dict().items())
    mask = torch.ones(2, 1, dtype=torch.long)
    shown = [Activations(mask=mask, hidden={2: torch.ones(2, 1, width)}) for width in (4, 6)]
    assert objective(shown[0], shown[1], {"attention_mask": mask}) == 0
    assert objective.count({"attention_mask": mask}, TASKS["single_label"]) == 0
    with pytest.raises(DataError, match="no column 'row_index'"):
        objective.train().count({"attention_mask": mask}, TASKS["single_label"])


def test_classes_are_those_of_one_label_a_text() -> None:
    """Other tasks have none, whatever their labels are."""
    labels = [0] * ROWS
    made("multi_label", labels)
    made("single_label", labels, drawn="any")
    with pytest.raises(DataError, match=r"all 24 training rows are of the class 0.*drawn='any'"):
        made("single_label", labels)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"negatives": 0}, "negatives is 0"),
        ({"momentum": 1.5}, "momentum is 1.5"),
        ({"drawn": "all"}, "drawn is 'all'"),
        ({"temperature": -1.0}, "temperature is -1.0"),
    ],
)
def test_refuses_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        objectives.make("crd_memory", settings)


def test_refuses_several_layers() -> None:
    with pytest.raises(DistillationError, match="2 pairs, and a memory is of one"):
        made(layer_map=[[1, 1], [2, 2]])


# ---- rows ----


def test_numbers_rows_of_all_kinds() -> None:
    rows = [{"labels": 1, "x": 5}, {"labels": 0, "x": 6}]
    for given in (rows, Dataset.from_list(rows)):
        found = numbered(given)
        assert [found[i] for i in range(2)] == [{**row, "row_index": i} for i, row in enumerate(rows)]
        again = numbered(found)
        assert [again[i]["row_index"] for i in range(len(again))] == [0, 1]
        assert classes_of(found) == [1, 0]
    assert numbered(Dataset.from_list(rows)).column_names == ["labels", "x", "row_index"]
    assert classes_of([{"labels": 0.5}]) is None


def trainer(data: Any, folder: Path | None = None, **settings: Any) -> DistillationTrainer:
    torch.manual_seed(0)
    if folder is not None:
        settings["output_dir"] = str(folder)
    return DistillationTrainer(
        model=tiny.model("single_label", seed=1),
        teacher=tiny.model("single_label", layers=4, hidden=48, seed=2),
        objectives=objectives.make("crd_memory", SETTINGS) + objectives.Labels(),
        args=tiny.arguments(**settings),
        train_dataset=data,
        data_collator=tiny.Pad(),
    )


def test_refuses_a_stream() -> None:
    stream = IterableDataset.from_generator(lambda: iter(tiny.rows("single_label", 4)))
    with pytest.raises(DataError, match="rows of a stream"):
        trainer(stream)


@pytest.mark.parametrize("kind", [list, Dataset.from_list])
def test_trains_on_numbered_rows(kind: Any) -> None:
    run = trainer(kind(tiny.rows("single_label", ROWS)), per_device_train_batch_size=8, max_steps=2)
    objective = run.distillation.terms()[0]
    before = objective.student_memory.clone()
    run.train()
    changed = (objective.state_dict()["student_memory"] != before).any(1)
    assert changed.tolist() == [True] * 16 + [False] * 8
    assert [row["objective/crd_memory"] > 0 for row in run.state.log_history if "objective/crd_memory" in row] == [
        True,
        True,
    ]
    run.evaluate(tiny.rows("single_label", 4))


def test_a_resumed_run_is_the_run_that_was_not_broken_off(tmp_path: Path) -> None:
    data = tiny.rows("single_label", ROWS)
    settings = {"per_device_train_batch_size": 4, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole = trainer(data, tmp_path / "whole", **settings)
    whole.train()
    resumed = trainer(data, tmp_path / "resumed", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-3"))
    assert tiny.distance(whole.distillation, resumed.distillation) < 1e-6
    for name, tensor in whole.distillation.objectives.state_dict().items():
        torch.testing.assert_close(resumed.distillation.objectives.state_dict()[name], tensor, msg=name)
