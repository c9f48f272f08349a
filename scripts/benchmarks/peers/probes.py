"""What one step does: operators, FLOPs, and memory at its peak."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


class Probe(Protocol):
    def close(self) -> dict[str, float]: ...


class OperatorCount(TorchDispatchMode):
    """Counts dispatched operators.

    In inference mode torch shows composite operators whole. They are taken apart here, so that the same work counts
    the same there and under `no_grad`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        composite = torch._C.DispatchKey.CompositeImplicitAutograd
        if func.has_kernel_for_dispatch_key(composite):
            with self:
                return func._op_dk(composite, *args, **(kwargs or {}))
        self.number += 1
        return func(*args, **(kwargs or {}))


class WorkProbe:
    """Operators and FLOPs from here to `close`."""

    def __init__(self) -> None:
        self._operators, self._flops = OperatorCount(), FlopCounterMode(display=False)
        self._flops.__enter__()
        self._operators.__enter__()

    def close(self) -> dict[str, float]:
        self._operators.__exit__(None, None, None)
        self._flops.__exit__(None, None, None)
        return {"operators": self._operators.number, "flops": self._flops.get_total_flops()}


class MemoryProbe:
    """What the step adds to the resident set at its peak (Linux)."""

    def __init__(self) -> None:
        if not sys.platform.startswith("linux"):
            raise SystemExit(f"peak memory is read from /proc, which {sys.platform} has not; measure on Linux")
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = resident("VmRSS")

    def close(self) -> dict[str, float]:
        return {"extra_megabytes": resident("VmHWM") - self._before, "resident_megabytes": self._before}


def resident(field: str) -> float:
    """Megabytes of a field of the process's status."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    if found is None:
        raise SystemExit(f"/proc/self/status has no {field}")
    return int(found.group(1)) / 1024
