"""The command line: `hf-distill`, and what the scripts call."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence

from hf_distill.access_tokens import redacted
from hf_distill.errors import DistillationError

Command = Callable[[Sequence[str] | None], int]


def reports_errors(command: Command) -> Command:
    """The command with errors of the user's told in one message on standard error, without any access token that they
    repeat, and by the exit status 2.

    Whatever else is raised is a defect, and keeps its traceback.
    """

    @functools.wraps(command)
    def reporting(argv: Sequence[str] | None = None) -> int:
        try:
            return command(argv)
        except DistillationError as error:
            rank = os.environ.get("RANK", "0")
            sys.stderr.write(redacted(f"error{'' if rank == '0' else f' (process {rank})'}: {error}\n"))
            return 2

    return reporting
