"""Faults of `torch.compile`, told as errors of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch._dynamo.exc import BackendCompilerFailed

from hf_distill.errors import DistillationError


@contextmanager
def told_of_compiler() -> Iterator[None]:
    """Tells in one line that code for the models cannot be had meanwhile.

    A run that is killed while it compiles leaves half a library in the folder in which inductor keeps what it made.
    torch neither checks nor replaces that, so that every later run that needs it fails.

    Raises: `DistillationError` for a backend of `torch.compile` that fails.
    """
    try:
        yield
    except BackendCompilerFailed as error:
        fault = error.inner_exception
        first = (str(fault).strip().splitlines() or ["no message"])[0].rstrip(".: ")
        raise DistillationError(
            f"torch_compile: {type(fault).__name__}: {first}. If a run was killed while it compiled, half a library "
            "of it fails all that come after: remove the folder of compiled code (torchinductor_… among the temporary "
            "files) or set TORCHINDUCTOR_CACHE_DIR to another; else leave torch_compile out."
        ) from error
