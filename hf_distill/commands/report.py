"""`report`: the page and the pictures of a finished run, or of all the runs in a folder."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from hf_distill.commands import reports_errors
from hf_distill.commands.help import Parser
from hf_distill.runs.reporting import draw_report


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = Parser(
        "report",
        "Draws the report of a finished run again, or one page that compares all the runs in a folder: "
        "FOLDER/report.html, which a browser shows without a network, and FOLDER/report/*.png. No model is loaded.",
    )
    made.add_argument("folder", type=Path, help="the output_dir of a run, or a folder with runs in it")
    return made


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Draws, and prints what was written; the exit status."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    given = parser().parse_args(argv)
    written = draw_report(given.folder)
    sys.stdout.write("".join(f"{path}\n" for path in written))
    return 0
