"""What a command says on the terminal."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import datasets
import transformers

from hf_distill.ranks import is_main_process
from hf_distill.runs import RunResult


def configure_logging() -> None:
    """Messages of the main process from information up, of the others from errors up; progress bars for the main
    one.
    """
    is_main = is_main_process()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("hf_distill").setLevel(logging.INFO if is_main else logging.ERROR)
    if not is_main:
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the package's own messages, for a command that says the same in its report."""
    logger = logging.getLogger("hf_distill")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def command_line(name: str, words: Sequence[str]) -> list[str]:
    """How the run can be started again: the script with its launcher, or `hf-distill <name>`, and the flags."""
    if not sys.argv[0].endswith(".py"):
        return ["hf-distill", name, *words]
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION")
    launcher = ["python"] if precision is None else ["accelerate", "launch", "--mixed_precision", precision]
    return [*launcher, sys.argv[0], *words]


def show(result: RunResult) -> None:
    """Prints the table and where the files are; the main process alone."""
    if not is_main_process():
        return
    lines = [result.table] if result.table else []
    lines += [f"Predictions: {path}" for path in result.predictions]
    lines.append(f"Everything is in {result.output_dir}" + (f", and published at {result.url}" if result.url else ""))
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
