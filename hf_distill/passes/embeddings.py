"""What a model's token embedding gives, before positions are added: changed or remembered for the time of one pass.

A hook does it, so that the model reads its own input ids as always: many find positions, padding or the token that
is classified from them, and would not from embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill.anatomy import Anatomy
from hf_distill.errors import DistillationError

ALIKE = 0.5
"""Two tables are one, trained apart, while they differ by less than this share of the teacher's norm; two that were
drawn independently differ by more than all of it."""


def token_embedding(anatomy: Anatomy) -> nn.Module:
    """The module that looks tokens up; in an encoder-decoder the encoder's."""
    root: Any = anatomy.roots.get("encoder", anatomy.base)
    embedding: nn.Module = root.get_input_embeddings()
    return embedding


def same_table(student: Anatomy, teacher: Anatomy) -> bool:
    """Whether both models look tokens up in the same table, or in one that began as the same."""
    ours, theirs = (token_embedding(each).weight.detach() for each in (student, teacher))  # type: ignore[operator]
    if ours.shape[-1] != theirs.shape[-1]:
        return False
    if ours.is_meta or theirs.is_meta:
        return True
    rows = min(len(ours), len(theirs))
    ours, theirs = ours[:rows].float().cpu(), theirs[:rows].float().cpu()
    return bool((ours - theirs).norm() <= ALIKE * theirs.norm())


class Embeddings:
    """The first call of a model's token embedding in a pass."""

    def __init__(self, anatomy: Anatomy, role: str) -> None:
        self.module = token_embedding(anatomy)
        self.role = role
        self._active = False
        self._noise: Tensor | None = None
        self._shown: Tensor | None = None
        self._handle = self.module.register_forward_hook(self._look)

    @property
    def width(self) -> int:
        """Features of an embedding."""
        return int(self._weight.shape[-1])

    @property
    def root_mean_square(self) -> Tensor:
        """Of the entries of the table as it is now."""
        return self._weight.detach().float().square().mean().sqrt()

    @property
    def _weight(self) -> Tensor:
        weight: Any = self.module.weight
        return weight  # type: ignore[no-any-return]

    @property
    def shown(self) -> Tensor:
        """What the embedding gave in the pass, with gradient where that is enabled.

        Raises: `DistillationError` where it did not run.
        """
        if self._shown is None:
            raise DistillationError(
                f"{self.role}: its {type(self.module).__name__} did not run in this pass, so there is nothing to add "
                "noise to or to differentiate. The batch must hold input_ids, and the model that is read must run."
            )
        return self._shown

    @contextmanager
    def within(self, noise: Tensor | None = None) -> Iterator[None]:
        """A pass in which `noise` `[batch, length, width]` is added, and what comes out is remembered."""
        self._active, self._noise = True, noise
        try:
            yield
        finally:
            self._active, self._noise, self._shown = False, None, None

    def close(self) -> None:
        """Removes the hook."""
        self._handle.remove()

    def _look(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not self._active or self._shown is not None:
            return None
        if self._noise is not None:
            output = output + self._noise.to(output)
        elif torch.is_grad_enabled() and not output.requires_grad:
            output = output.detach().requires_grad_()
        self._shown = output
        return output
