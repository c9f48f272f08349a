"""Several processes: what the first finds, all go by, and what ends it ends all."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from hf_distill import ranks
from hf_distill.errors import CacheMismatch, DistillationError

SECOND_FAILED = DistillationError("process 1 of 2 failed with OSError: the disk is full")


class TwoProcesses:
    """The second of two processes: it hears what the first found."""

    def __init__(self, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told = told
        monkeypatch.setattr(ranks, "place", lambda: (1, 2))
        monkeypatch.setattr(torch.distributed, "broadcast_object_list", self.hear)

    def hear(self, told: list[Any], src: int) -> None:
        assert (told, src) == ([None], 0)
        told[:] = [self.told]


def test_processes_go_by_what_the_first_reads_of_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    assert ranks.agreed(lambda: 5) == 5
    TwoProcesses({"shards": 3}, monkeypatch)
    assert ranks.agreed(lambda: asked.append(1)) == {"shards": 3}
    TwoProcesses(CacheMismatch("it is of another teacher"), monkeypatch)
    with pytest.raises(CacheMismatch, match="it is of another teacher"):
        ranks.agreed(lambda: asked.append(1))
    assert not asked


@pytest.mark.parametrize(
    ("error", "heard"),
    [
        (CacheMismatch("it is of another teacher"), "it is of another teacher"),
        (PermissionError(13, "not yours"), "the first process failed with PermissionError: [Errno 13] not yours"),
    ],
)
def test_whatever_ends_the_first_process_ends_the_others(
    monkeypatch: pytest.MonkeyPatch, error: Exception, heard: str
) -> None:
    """The others would wait for ever for what it cannot tell."""
    sent: list[Any] = []

    def fail() -> None:
        raise error

    monkeypatch.setattr(ranks, "place", lambda: (0, 2))
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", lambda told, src: sent.extend(told))
    with pytest.raises(type(error)) as raised:
        ranks.agreed(fail)
    assert raised.value is error
    (told,) = pickle.loads(pickle.dumps(sent))
    assert str(told) == heard
    TwoProcesses(told, monkeypatch)
    with pytest.raises(DistillationError) as ended:
        ranks.agreed(fail)
    assert str(ended.value) == heard


def gathering(other: Any, monkeypatch: pytest.MonkeyPatch, rank: int) -> list[Any]:
    """One of two processes, of which the other tells `other`; what this one told."""
    sent: list[Any] = []

    def gather(told: list[Any], own: Any) -> None:
        sent.append(pickle.loads(pickle.dumps(own)))
        told[:] = [own, other] if rank == 0 else [other, own]

    monkeypatch.setattr(ranks, "place", lambda: (rank, 2))
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    return sent


def test_a_process_that_did_its_share_hears_of_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    assert ranks.together(lambda: 5) == 5
    assert gathering(None, monkeypatch, 0) == []
    assert ranks.together(lambda: 7) == 7
    assert gathering(SECOND_FAILED, monkeypatch, 0) == []
    with pytest.raises(DistillationError, match="process 1 of 2 failed with OSError: the disk is full"):
        ranks.together(lambda: done.append(1))
    assert done == [1]


@pytest.mark.parametrize(
    ("error", "heard"),
    [
        (CacheMismatch("the disk is full"), "the disk is full"),
        (PermissionError(13, "not yours"), "process 1 of 2 failed with PermissionError: [Errno 13] not yours"),
    ],
)
def test_a_process_that_failed_tells_the_others_first(
    monkeypatch: pytest.MonkeyPatch, error: Exception, heard: str
) -> None:
    def fail() -> None:
        raise error

    sent = gathering(None, monkeypatch, 1)
    with pytest.raises(type(error)) as raised:
        ranks.together(fail)
    assert raised.value is error
    assert [str(each) for each in sent] == [heard]
    assert isinstance(sent[0], DistillationError)
