"""Streams of raw text that a training goes on in: what their order follows from is compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import IterableDataset
from transformers import BertForMaskedLM

from hf_distill import BrokenCheckpoint, DistillationTrainer
from hf_distill.checkpoints import check_same_run
from hf_distill.checkpoints.manifest import MANIFEST, Manifest
from hf_distill.data.masking import Masking, Padding
from hf_distill.data.packing import Layout
from hf_distill.data.pretraining import PackedStream
from hf_distill.data.streams import First, HubText, Source
from hf_distill.training.identity import run_of
from tests import tiny, tiny_runs

TOKENIZER = tiny_runs.tokenizer()
LAYOUT = Layout.of(TOKENIZER, 12)


class Sentences(Source):
    """Texts of known words."""

    def __init__(self, start: int = 0) -> None:
        self.name, self.start = "sentences", start

    def identity(self) -> str:
        return f"{self.start:064x}"

    def documents(self) -> Iterator[str]:
        return (tiny_runs.sentence(self.start + row)[0] for row in range(30))


def stream(*sources: Source, layout: Layout = LAYOUT, masks: int = 3, **settings: Any) -> PackedStream:
    given = {"shuffle": 5, "seed": 1, **settings}
    return PackedStream(sources or (Sentences(),), TOKENIZER, layout, Masking(TOKENIZER, seed=masks), **given)


def run(rows: Any, **arguments: Any) -> dict[str, Any]:
    """What tells a training on these rows from others."""
    student, teacher = (BertForMaskedLM(tiny_runs.config(("a", "b"), layers=1)).eval() for _ in range(2))
    for parameter in teacher.parameters():
        parameter.data.fill_(0.01)
    settings = {"max_steps": 2, "save_strategy": "no", **arguments}
    trainer = DistillationTrainer(
        model=student, teacher=teacher, args=tiny.arguments(**settings), train_dataset=rows, data_collator=Padding(0)
    )
    return run_of(trainer)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that a training on a stream left, of which the manifest is all that counts here."""
    folder = tmp_path_factory.mktemp("checkpoint-2")
    Manifest(2, run(stream(), dataloader_num_workers=1), {}).write(folder)
    return folder


OTHERS: dict[str, tuple[Any, str]] = {
    "text": (lambda: stream(Sentences(100)), r"data\.sources\.1: another than before"),
    "beginning": (lambda: stream(First(Sentences(), 9)), r"data\.sources\.1: \"0{64}, 9 docum.*, was \"0{64}\""),
    "more text": (lambda: stream(Sentences(), Sentences(7), weights=[1.0, 2.0]), r"data\.sources\.2: .* was absent"),
    "weights": (lambda: stream(weights=[2.0]), r"data\.weights: \[2\.0\], was \[1\.0\]"),
    "shuffle": (lambda: stream(shuffle=6), r"data\.shuffle: 6, was 5"),
    "seed": (lambda: stream(seed=2), r"data\.seed: 2, was 1"),
    "length": (lambda: stream(layout=replace(LAYOUT, max_length=14)), r"data\.layout\.max_length: 14, was 12"),
    "masks": (lambda: stream(masks=4), r"data\.masking: another than before"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_stream_in_another_order_is_refused(what: str, checkpoint: Path) -> None:
    make, message = OTHERS[what]
    with pytest.raises(BrokenCheckpoint, match=message + r".*resume_despite=\('data',\)"):
        check_same_run(checkpoint, run(make()))


def test_a_stream_is_gone_on_with_by_as_many_workers(checkpoint: Path) -> None:
    """The process itself reads in the order of one worker."""
    for workers in (0, 1):
        check_same_run(checkpoint, run(stream(), dataloader_num_workers=workers))
    with pytest.raises(BrokenCheckpoint, match=r"arguments\.dataloader_num_workers: 2, was 1"):
        check_same_run(checkpoint, run(stream(), dataloader_num_workers=2))
    check_same_run(checkpoint, run(stream(), dataloader_num_workers=2, ignore_data_skip=True))


def test_rows_with_numbers_may_have_other_workers_and_shards_no_more_than_there_are() -> None:
    rows = [{"input_ids": [5, 6], "labels": [5, 6]}] * 8
    shards = IterableDataset.from_generator(lambda parts: iter(rows * len(parts)), gen_kwargs={"parts": [1, 2, 3]})
    found = [run(given, dataloader_num_workers=n)["arguments"] for given in (rows, shards) for n in (0, 2, 5)]
    assert [arguments.get("dataloader_num_workers") for arguments in found] == [None, None, None, 1, 2, 3]


def test_checkpoints_that_tell_less_of_a_stream_are_gone_on_with(checkpoint: Path, tmp_path: Path) -> None:
    told = json.loads((checkpoint / MANIFEST).read_text())
    told["run"]["data"] = None
    del told["run"]["arguments"]["dataloader_num_workers"]
    (tmp_path / MANIFEST).write_text(json.dumps(told))
    check_same_run(tmp_path, run(stream(Sentences(100)), dataloader_num_workers=2))


def test_a_branch_that_moved_is_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for commit in ("a" * 40, "b" * 40):
        monkeypatch.setattr(HubText, "_commit_now", lambda self, now=commit: now)
        found = run(stream(HubText("some/corpus")))
        if commit[0] == "a":
            Manifest(2, found, {}).write(tmp_path)
    with pytest.raises(BrokenCheckpoint, match=r"\"commit b{40} of some/corpus:train, text\", was \"commit a{40} of"):
        check_same_run(tmp_path, found)
