"""Whether a training that is killed at any instant goes on bit by bit: SIGKILL, half of the times aimed at a save.

    python scripts/benchmarks/kills.py [--kills 50] [--seed 0] [--json FILE]

A distillation of a tiny classifier, with dropout, accumulation, two workers, a projection that is learned, best-model
loading and rotation, runs once to its end. Then, for every kill, it is started in a new folder, killed with its
workers at a random instant (of the whole run; or from the moment on at which a checkpoint is begun, for twice as long
as one takes), and started again. Student, projection and optimizer are compared bitwise with those of the first run.
Prints what each kill left, and exits with 1 if any run ended otherwise. Unix alone: runs are forks of one process.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import logging
import os
import random
import signal
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import tqdm
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from hf_distill import DistillationTrainer, HiddenMSE, Labels, SoftTargets, checkpoints

STEPS, EVERY = 12, 2
END = "end.txt"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        found = kill_often(Path(home), given.kills, random.Random(given.seed))
        print(
            f"{found['exact']} of {given.kills} ended bit by bit as the run without a kill: {found['left']}",
            flush=True,
        )
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(found["exact"] < given.kills)


def kill_often(home: Path, kills: int, instants: random.Random) -> dict[str, Any]:
    """Runs, kills and runs again; how many were exact, and what the kills left."""
    # its own is shared between forks, and stays locked when its holder is killed
    tqdm.tqdm.set_lock(threading.RLock())
    # forks would wait for ever for the threads of this process, which they have not
    torch.set_num_threads(1)
    (home / "first").mkdir()
    expected = trained(home / "first")  # in this process, so that those forked from it find all modules loaded
    gc.collect()  # its workers, which forks would take for theirs
    (home / "timed").mkdir()
    run_seconds, save_seconds = timed(home / "timed")
    print(f"a run takes {run_seconds:.2f} s, a save {save_seconds:.3f} s", flush=True)
    exact, left, number = 0, Counter[str](), 0
    while number < kills:
        folder = home / str(number)
        folder.mkdir(exist_ok=True)
        child = start(folder)
        if number % 2:
            wait_for(part(folder, instants.randrange(EVERY, STEPS + 1, EVERY)), child)
            time.sleep(instants.uniform(0.0, 2 * save_seconds))
        else:
            time.sleep(instants.uniform(0.0, run_seconds))
        if not killed(child):
            folder.rename(home / f"late-{time.monotonic_ns()}")  # it was over before: once more
            continue
        state = what_is_left(folder)
        status = finished(start(folder))
        same = status == 0 and (folder / END).read_text() == expected
        print(f"{number + 1}: {state}: {'exact' if same else f'DIFFERENT (status {status})'}", flush=True)
        if not same:
            print((folder / "log.txt").read_text()[-3000:], flush=True)
        exact += same
        left[state] += 1
        number += 1
    return {"exact": exact, "kills": kills, "left": dict(left.most_common())}


# ---- the run ----


def trained(folder: Path) -> str:
    """Trains from the newest whole checkpoint on, if there is one; the digest of all that was learned."""
    torch.manual_seed(0)
    config = {"vocab_size": 96, "num_attention_heads": 2, "max_position_embeddings": 32, "num_labels": 3}
    teacher, student = (
        BertForSequenceClassification(
            BertConfig(**config, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers)
        )
        for layers, width in ((2, 64), (1, 48))
    )
    made = torch.randint(4, 96, (40, 12)).tolist()
    rows = [{"input_ids": ids, "attention_mask": [1] * 12, "labels": i % 3} for i, ids in enumerate(made)]
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        objectives=SoftTargets() + Labels() + HiddenMSE(layer_map="final"),
        args=arguments(folder),
        train_dataset=rows,
        eval_dataset=rows[:8],
    )
    trainer.train(resume_from_checkpoint=checkpoints.last_whole(folder) is not None)
    digest = hashlib.sha256()
    for name, tensor in trainer.distillation.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    for number, values in trainer.optimizer.state_dict()["state"].items():
        for name, tensor in values.items():
            digest.update(f"{number} {name}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def arguments(folder: Path) -> TrainingArguments:
    return TrainingArguments(
        str(folder),
        max_steps=STEPS,
        save_steps=EVERY,
        eval_steps=EVERY,
        eval_strategy="steps",
        save_strategy="steps",
        save_total_limit=2,
        load_best_model_at_end=True,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        dataloader_num_workers=2,
        dataloader_persistent_workers=True,
        learning_rate=1e-3,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )


# ---- processes ----


def start(folder: Path) -> int:
    """A run in a process group of its own, with its workers; the process id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        (folder / END).write_text(trained(folder))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def finished(child: int) -> int:
    """Waits for the end of a run, five minutes at most; its exit status."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    raise SystemExit(f"a run hung: {os.waitpid(child, 0)}")


def killed(child: int) -> bool:
    """Kills a run and its workers; False if it was over before."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:  # it has not come to its setsid, or it is over
        os.kill(child, signal.SIGKILL)
    return finished(child) == -signal.SIGKILL


def part(folder: Path, step: int) -> Path:
    return checkpoints.part_of(folder, step)


def wait_for(path: Path, child: int) -> None:
    """Returns when the path is there, or the run has left a later checkpoint, or is over."""
    whole = path.with_name(path.name.removeprefix(".").removesuffix(".part"))
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while not path.exists() and not whole.exists() and os.waitid(os.P_PID, child, options) is None:
        time.sleep(0.0002)


def timed(folder: Path) -> tuple[float, float]:
    """How long a run takes that is a fork, and its second save."""
    begin = time.perf_counter()
    child = start(folder)
    wait_for(part(folder, 2 * EVERY), child)
    saving = time.perf_counter()
    while not (folder / f"checkpoint-{2 * EVERY}").exists():
        time.sleep(0.0002)
    save_seconds = time.perf_counter() - saving
    if finished(child):
        raise SystemExit((folder / "log.txt").read_text())
    return time.perf_counter() - begin, save_seconds


def what_is_left(folder: Path) -> str:
    """What a kill left, in words."""
    torn = [path.name for path in folder.glob(".checkpoint-*")]
    newest = checkpoints.last_whole(folder)
    sums = newest is not None and "sha256" in (newest / "manifest.json").read_text()
    last = "no checkpoint" if newest is None else f"a whole one{'' if sums else ' without its sums'}"
    return f"{last} and {'one half written' if torn else 'nothing half written'}"


if __name__ == "__main__":
    logging.disable(logging.INFO)
    raise SystemExit(main())
