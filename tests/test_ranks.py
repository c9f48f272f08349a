"""Several processes: what the first finds, all go by, and what ends it ends all."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from hf_distill import ranks
from hf_distill.errors import CacheMismatch, DistillationError


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
