"""SIGKILL to a student that writes while it trains: what is gone on with ends bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
RUN = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from hf_distill import OnPolicy
from hf_distill.training import on_policy
from tests.on_policy.test_training import trainer_of
from tests.on_policy.worlds import rows, small

folder, step = sys.argv[1], int(sys.argv[2])
write = on_policy.write

def killed(*given):
    found = write(*given)
    if trainer.state.global_step == step:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

on_policy.write = killed
trainer = trainer_of(
    model=small("causal_lm", dropout=0.3),
    train_dataset=rows("causal_lm", 20),
    on_policy=OnPolicy(student_share=0.9, max_new_tokens=6),
    arguments={
        "output_dir": folder, "max_steps": 9, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch",
        "gradient_accumulation_steps": 2, "train_sampling_strategy": "random", "per_device_train_batch_size": 3,
    },
)
trainer.train(resume_from_checkpoint=any(Path(folder).glob("checkpoint-*")))
trainer.save_model(folder)
"""


def train(folder: Path, step: int = -1) -> int:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", RUN, str(folder), str(step)]
    return subprocess.run(words, env=environment, capture_output=True, timeout=900).returncode


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are of Unix")
def test_a_student_that_is_killed_while_it_writes_goes_on_exactly(tmp_path: Path) -> None:
    """Within an epoch and in the next one; a checkpoint is at each second step."""
    assert train(tmp_path / "whole") == 0
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    for step in (3, 6):
        folder = tmp_path / f"killed-{step}"
        assert train(folder, step) == -signal.SIGKILL
        assert not (folder / "model.safetensors").exists()
        assert train(folder) == 0
        again = load_file(folder / "model.safetensors")
        assert whole.keys() == again.keys()
        assert all((again[name] == tensor).all() for name, tensor in whole.items())
