"""Programs on several gloo processes, as `torchrun` starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 900
"""What a program may take on a busy machine."""


def own_lines(errors: str) -> list[str]:
    """What stands on the standard error of a process, but for what torchao says of itself where it is installed."""
    return [line for line in errors.splitlines() if "torchao" not in line and "_pytree.py" not in line]


def launched(
    script: Path, *words: object, processes: int = 2, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A script with these words on its command line, once it has ended in all processes, in whatever way."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, str(script), *map(str, words)],
        env={**os.environ, **own} if environment is None else dict(environment),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def on_processes(
    script: Path, *words: object, processes: int = 2, environment: Mapping[str, str] | None = None
) -> str:
    """What a script printed that ended well in all processes."""
    done = launched(script, *words, processes=processes, environment=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
