"""A source of text that goes away while it is read, and errors in worker processes: told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset, IterableDataset

from hf_distill.data.streams import TextFiles
from hf_distill.errors import DataError
from hf_distill.training.workers import told_of_workers
from tests import tiny
from tests.faults.tiny_faults import trainer_for


class Streamed(IterableDataset):
    """A row for each line; the second file goes away once the first is read."""

    def __init__(self, folder: Path) -> None:
        self.paths = (folder / "a.txt", folder / "b.txt")
        for path in self.paths:
            path.write_text("a good film\n" * 12)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for text in TextFiles(self.paths).documents():
            self.paths[1].unlink(missing_ok=True)
            yield {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": len(text) % 3}


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])  # torch waits for 5 s
def test_a_file_that_goes_away_in_mid_epoch_is_named(workers: int, tmp_path: Path) -> None:
    arguments = {"max_steps": 4, "dataloader_num_workers": workers, "save_strategy": "steps", "save_steps": 1}
    given = {**arguments, "output_dir": str(tmp_path / "out")}
    trainer = trainer_for(train_dataset=Streamed(tmp_path), arguments=given)
    with pytest.raises(DataError) as caught:
        trainer.train()
    assert str(caught.value).startswith(f"{tmp_path / 'b.txt'}: not readable as txt: ")
    assert "No such file" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "out" / "checkpoint-1").exists()


class Refusing(Dataset):
    """Rows of which the last one is refused by name."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> dict[str, Any]:
        if row == 3:
            raise DataError(f"row {row}: no good.")
        return tiny.rows("single_label", 8)[row]


@pytest.mark.slow  # torch waits for 5 s
@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_an_error_in_a_worker_is_told_without_its_traceback(stage: str) -> None:
    trainer = trainer_for(train_dataset=Refusing(), arguments={"dataloader_num_workers": 1})
    with pytest.raises(DataError) as caught:
        trainer.train() if stage == "train" else trainer.evaluate(Refusing())
    assert str(caught.value) == "row 3: no good."
    assert "DataLoader worker process 0" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "text",
    [
        "DataLoader worker (pid 12) is killed by signal: Killed. ",
        "DataLoader worker (pid(s) 12, 13) exited unexpectedly",
        "DataLoader timed out after 5 seconds",
    ],
)
def test_a_dead_worker_is_an_error_of_the_data(text: str) -> None:
    """One that is killed in earnest is in `test_processes.py`."""
    with pytest.raises(DataError) as caught, told_of_workers():
        raise RuntimeError(text)
    assert str(caught.value).startswith(text.strip(" .") + ". What was trained stands in the last checkpoint")


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), DataError("Caught a fish"), KeyError("DataLoader ")])
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, told_of_workers():
        raise error
    assert caught.value is error


def test_a_traceback_of_a_worker_stays_out_of_the_message() -> None:
    text = "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File\n"
    with pytest.raises(DataError) as caught, told_of_workers():
        raise DataError(f"{text}hf_distill.errors.DataError: row 3: no good.\n")
    assert str(caught.value) == "row 3: no good."
