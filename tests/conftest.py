"""What every test shares."""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
from collections.abc import Iterator

import datasets
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from hf_distill.evaluation import canvas


def pytest_configure(config: pytest.Config) -> None:
    """Tests that run side by side have one thread each, and so have the processes that they start: the threads of one
    would wait for those of the others."""
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="module", autouse=True)
def _what_stays_is_not_searched() -> None:
    """What is imported and collected stays until the end, and so does what modules of tests leave behind. Every
    training ends with a search for garbage, which would go through all of it, and takes three times as long as the
    training of a tiny model."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Temporary files lie where pytest removes them, those of the processes that tests start as well: a trainer's
    output folder is made by the hundred. So do the caches of data sets: what one run of the tests has written, no
    other one reads."""
    folder = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", folder)
        patch.setenv("TMPDIR", folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that evaluates ends with a report, whose pictures take longer to draw than tiny models to train. They are
    drawn where a test is about them."""
    if request.node.get_closest_marker("draws") is None:
        monkeypatch.setattr(canvas, "png", lambda figure: b"png")


@pytest.fixture(autouse=True)
def _lasting_workers_end() -> Iterator[None]:
    """Workers that stay leave when they are told to, but once their loader is garbage nothing reaches them, and torch
    waits five seconds for each."""
    yield
    if multiprocessing.active_children():
        for each in gc.get_objects():
            if type(each) is _MultiProcessingDataLoaderIter:
                each._shutdown_workers()
