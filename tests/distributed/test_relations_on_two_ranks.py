"""Relations over the batches of several processes are those of one process with the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from hf_distill.trainer import _spare_buffers
from tests.distributed.train_relations import names, state, trained
from tests.processes import on_processes


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "wider"), [(2, False), (2, True), (4, False)])
def test_ranks_that_gather_equal_one_process(tmp_path: Path, processes: int, wider: bool) -> None:
    """Also where the teacher is wider than the student; mhgd alone takes no such one."""
    words = [tmp_path, *(["wider"] if wider else [])]
    on_processes(Path(__file__).with_name("train_relations.py"), *words, processes=processes)
    whole = trained(gather=False, wider=wider, per_device_train_batch_size=8)
    expected = state(whole)
    for rank in range(processes):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    logged = [row for row in whole.state.log_history if "objective/pkt" in row]
    values = [row[f"objective/{name}"] for row in logged for name in (*names(wider), "crd_memory")]
    told = [line.split()[1] for line in (tmp_path / "values").read_text().splitlines()]
    assert [float(each) for each in told] == pytest.approx(values, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_batches_that_are_not_gathered_are_related_apart() -> None:
    """The test above could not fail otherwise: half of the batch is another relation."""
    whole, halves = (state(trained(gather=False, per_device_train_batch_size=size)) for size in (8, 4))
    assert max(float((whole[name].double() - halves[name].double()).abs().max()) for name in whole) > 1e-3


@pytest.mark.parametrize(("layer", "sent"), [(nn.LayerNorm, False), (nn.BatchNorm1d, True)])
def test_buffers_are_sent_where_they_may_come_apart_alone(layer: type[nn.Module], sent: bool) -> None:
    """A memory of all rows is large and equal in all processes; the statistics of a batch norm are not."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(nn.Sequential(nn.Linear(2, 2), layer(2)))
        _spare_buffers(wrapped)
        assert wrapped.broadcast_buffers is sent
    finally:
        distributed.destroy_process_group()
