"""Killed workers, killed ranks, and NaN on one rank of two, with real processes: an error, on all of them, within
two minutes, and never a hang."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset

from hf_distill import Labels
from hf_distill.errors import DataError
from tests import tiny
from tests.faults.tiny_faults import Broken, trainer_for
from tests.processes import launched

FAULTY = Path(__file__).with_name("faulty_rank.py")
END = 120
"""Seconds that processes may take to end once one of them is gone."""

pytestmark = pytest.mark.slow


def test_nan_on_one_rank_stops_all_before_the_step_and_names_it(tmp_path: Path) -> None:
    done = launched(FAULTY, tmp_path, "nan")
    assert done.returncode == 0, done.stderr[-3000:]
    told = [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert told[0] == told[1]
    assert told[0].startswith(
        "step 3: the value of 'faulty' on rank 1 of 2 is NaN or infinite. The weights are those of step 2."
    )
    left, right = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(left[name], right[name]) for name in left)
    arguments = {"max_steps": 2, "per_device_train_batch_size": 4, "optim": "adamw_torch_fused", "learning_rate": 1e-3}
    healthy = trainer_for(objectives=Labels() + Broken(at=0), arguments=arguments)
    healthy.train()
    for name, parameter in healthy.model.named_parameters():
        if not name.endswith("key.bias"):  # its gradient is 0 but for rounding, of which Adam makes steps
            torch.testing.assert_close(left[name], parameter.detach(), rtol=0, atol=5e-6)


@pytest.mark.parametrize(("kind", "words"), [("killed", "SIGKILL"), ("raises", "something broke on rank 1")])
def test_the_other_ranks_end_with_the_one_that_is_gone(kind: str, words: str, tmp_path: Path) -> None:
    done = launched(FAULTY, tmp_path, kind)  # ends by TimeoutExpired where one waits for ever
    assert done.returncode == 1
    assert words in done.stderr
    assert time.time() - (tmp_path / "gone").stat().st_mtime < END


class Killing(Dataset):
    """Rows whose reading kills the process that reads the sixth."""

    def __init__(self, parent: int) -> None:
        self.parent = parent

    def __len__(self) -> int:
        return 64

    def __getitem__(self, row: int) -> dict[str, Any]:
        if row == 37 and os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return tiny.rows("single_label", 8)[row % 8]


@pytest.mark.parametrize("persistent", [False, True])
def test_a_killed_worker_is_an_error_and_the_checkpoint_before_it_stays(persistent: bool, tmp_path: Path) -> None:
    arguments = {
        "output_dir": str(tmp_path), "max_steps": 16, "dataloader_num_workers": 2, "save_strategy": "steps",
        "save_steps": 1, "save_total_limit": 2, "dataloader_persistent_workers": persistent,
    }  # fmt: skip
    trainer = trainer_for(train_dataset=Killing(os.getpid()), arguments=arguments)
    with pytest.raises(DataError, match=r"DataLoader worker \(pid.*What was trained stands in the last checkpoint"):
        trainer.train()
    again = trainer_for(train_dataset=[tiny.rows("single_label", 8)[i % 8] for i in range(64)], arguments=arguments)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 16


class Hanging(Killing):
    """Rows of which a worker process reads all but the sixth batch, and waits for ever there."""

    def __getitem__(self, row: int) -> dict[str, Any]:
        if row == 37 and os.getpid() != self.parent:
            threading.Event().wait()
        return tiny.rows("single_label", 8)[row % 8]


@pytest.mark.parametrize("training", [True, False])
def test_a_worker_that_hangs_is_waited_for_until_ddp_timeout(training: bool, tmp_path: Path) -> None:
    """The plain Trainer's loader waits for ever."""
    arguments = {"output_dir": str(tmp_path), "max_steps": 16, "dataloader_num_workers": 2, "ddp_timeout": 2}
    trainer = trainer_for(train_dataset=Hanging(os.getpid()), arguments=arguments)
    with pytest.raises(DataError, match=r"timed out after 2 seconds.*ddp_timeout"):
        trainer.train() if training else trainer.evaluate(Hanging(os.getpid()))


def test_a_training_in_another_thread_hears_of_a_worker_that_died_and_not_of_time(tmp_path: Path) -> None:
    """torch learns of a dead worker by a signal, which the main thread alone gets; elsewhere it looks every 5 s, but
    not where it waits for a limited time, and so no limit is set there."""
    arguments = {"output_dir": str(tmp_path), "max_steps": 16, "dataloader_num_workers": 2, "ddp_timeout": 60}
    trainer = trainer_for(train_dataset=Killing(os.getpid()), arguments=arguments)
    told: list[BaseException] = []

    def train() -> None:
        try:
            trainer.train()
        except DataError as error:
            told.append(error)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    thread.join(END)
    assert len(told) == 1
    assert re.search(r"DataLoader worker \(pid.* exited unexpectedly.*What was trained stands", str(told[0]))
