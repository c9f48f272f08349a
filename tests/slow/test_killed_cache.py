"""A process that writes a teacher's cache, killed by the system at whatever instant, and another that goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from hf_distill.teachers import Cached
from tests import tiny

WRITE = """
import sys, time
from hf_distill import DistillationTrainer, HiddenMSE, SoftTargets
from hf_distill.teachers.cache import filling
from tests import tiny
filling.SHARD_BYTES = 1
teacher = tiny.model("single_label", layers=3, seed=3)
passes = []

def slowly(*_):
    passes.append(1)
    time.sleep(float(sys.argv[2]))

teacher.register_forward_pre_hook(slowly)
trainer = DistillationTrainer(
    model=tiny.model("single_label"),
    teacher=teacher,
    objectives=SoftTargets() + HiddenMSE(layer_map="final"),
    args=tiny.arguments(per_device_eval_batch_size=2),
    train_dataset=tiny.rows("single_label", 60),
    data_collator=tiny.Pad(),
)
trainer.cache_teacher(sys.argv[1])
print(len(passes))
"""


def process(folder: Path, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITE, str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_shards_and_is_gone_on_with(tmp_path: Path) -> None:
    whole, errors = process(tmp_path / "whole", 0.0).communicate(timeout=500)
    assert whole.strip() == "31", errors
    broken = process(tmp_path / "broken", 0.05)
    pause = threading.Event()
    while not (tmp_path / "broken" / "shard-00004.safetensors").exists() and broken.poll() is None:
        pause.wait(0.01)
    broken.kill()
    broken.communicate()
    assert broken.returncode == -signal.SIGKILL
    left = len(Cached(tmp_path / "broken").reader)
    assert 8 <= left < 60
    again, errors = process(tmp_path / "broken", 0.0).communicate(timeout=500)
    assert again.strip() == str((60 - left) // 2), errors
    rows = tiny.rows("single_label", 60)
    ours, theirs = (Cached(tmp_path / name).reading(tiny.Pad())(rows) for name in ("broken", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
