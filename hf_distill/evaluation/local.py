"""Metrics of the library evaluate that come with this package, instead of being loaded as code from the Hub."""

from __future__ import annotations

import tempfile

import evaluate


class LocalMetric(evaluate.Metric):  # type: ignore[misc]
    """A metric that keeps everything in memory and in one process: under several, each computes it from the gathered
    predictions, so that nothing is written to the home folder and no two processes meet in one file.
    """

    def __init__(self, config_name: str | None = None) -> None:
        with tempfile.TemporaryDirectory() as folder:
            super().__init__(config_name, keep_in_memory=True, cache_dir=folder)
