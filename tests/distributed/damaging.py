"""Whether a checkpoint of several processes is known by its manifest, file by file."""

from __future__ import annotations

from pathlib import Path

from hf_distill import checkpoints
from hf_distill.checkpoints.manifest import MANIFEST


def finds_every_damage(checkpoint: Path) -> None:
    """Flips a byte of each file in turn, and puts it back."""
    assert checkpoints.fault_of(checkpoint) is None
    files = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST]
    for path in files:
        before = path.read_bytes()
        if not before:
            continue
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        name = path.relative_to(checkpoint).as_posix()
        assert checkpoints.fault_of(checkpoint) == f"{name} has another SHA-256 than when it was written"
        path.write_bytes(before)
    assert checkpoints.fault_of(checkpoint) is None
