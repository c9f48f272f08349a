"""Runs a model's passes beside the main one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_distill.activations import MAIN, Activations, Pass, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.depth import Run, shallow
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.loading import brought
from hf_distill.passes.embeddings import Embeddings
from hf_distill.passes.kinds import Drawn, InputGradient, Kind
from hf_distill.tasks import Batch

TWICE = ("eager", "sdpa")
"""Attention implementations that can be differentiated twice, the second with its plain kernel."""


class Passes:
    """The passes of one model whose signals are read beside those of the main pass, each as deep as it is read.

    `role` is named in messages; `in_part=False` has the whole model run. Nothing is made, hooked or run where no
    signal is of another pass.

    Raises: `IncompatiblePair` for a student whose attention cannot be differentiated twice, where its input gradient
    is read; `DistillationError` for a pass of no known kind.
    """

    def __init__(self, anatomy: Anatomy, signals: Iterable[Signal], role: str, *, in_part: bool = True) -> None:
        self.anatomy, self.role = anatomy, role
        self._captures: dict[Kind, Capture] = {}
        read: dict[Pass, set[Signal]] = {}
        for signal in signals:
            if signal.source != MAIN:
                read.setdefault(signal.source, set()).add(signal)
        for source in sorted(read, key=repr):
            if not isinstance(source, Kind):
                raise DistillationError(f"{role}: {source!r} is no pass that can be run; take one of passes.kinds.")
            self._check(source)
            captured = _captured(source, read[source])
            run = shallow(anatomy, captured) if in_part else Run.whole(anatomy)
            self._captures[source] = Capture(anatomy, captured, role, run=run)
        reads_embeddings = any(source.embeds for source in self._captures)
        self._embeddings = Embeddings(anatomy, role) if reads_embeddings else None

    def __bool__(self) -> bool:
        return bool(self._captures)

    def close(self) -> None:
        """Removes the hooks."""
        for capture in self._captures.values():
            capture.close()
        if self._embeddings is not None:
            self._embeddings.close()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def show(self, batch: Batch, shown: Activations, teacher: Activations | None = None) -> Activations:
        """`shown`, what the main pass showed, with what the others show, `shown.passes`.

        `teacher`: what the teacher showed, of which passes the draws are taken over.
        """
        found: dict[Pass, Activations] = {}
        for source, capture in self._captures.items():
            known = {} if teacher is None else teacher.passes
            drawn = known[source].drawn if source in known else source.draw(batch, self._embeddings)
            given = brought(source.batch(batch, drawn), self.anatomy.base)
            if isinstance(source, InputGradient):
                found[source] = self._differentiate(source, capture, given, drawn)
                continue
            with self._around(source, drawn):
                found[source] = capture(given)[1]
            found[source].drawn = drawn
        shown.passes = found
        return shown

    def _around(self, source: Kind, drawn: Drawn) -> AbstractContextManager[object]:
        """What a plain pass runs in."""
        stack = ExitStack()
        if not source.gradient:
            stack.enter_context(torch.no_grad())
        if source.embeds and self._embeddings is not None:
            stack.enter_context(self._embeddings.within(drawn.get("noise")))
        return stack

    def _differentiate(self, source: InputGradient, capture: Capture, batch: Batch, drawn: Drawn) -> Activations:
        """One forward and one backward pass, in evaluation mode: of the student a backward that can itself be
        differentiated, so with the plain kernel of its attention.
        """
        embeddings = self._embeddings
        assert embeddings is not None
        twice = self.role == "student" and torch.is_grad_enabled()
        device = self.anatomy.base.device.type
        with (
            _without_dropout(self.anatomy.model),
            torch.enable_grad(),
            torch.autocast(device, enabled=False),
            sdpa_kernel(SDPBackend.MATH) if twice else nullcontext(),
            embeddings.within(),
        ):
            shown = capture(batch)[1]
            logits = source.in_student_order(shown.logits) if self.role == "teacher" else shown.logits
            classes = source.classes(logits, batch, drawn).to(logits.device)
            value = source.value(logits, classes)
            (gradient,) = torch.autograd.grad(value, [embeddings.shown], create_graph=twice)
        found = Activations(mask=shown.mask, input_gradient=gradient)
        found.drawn = {"classes": classes}
        return found

    def _check(self, source: Kind) -> None:
        implementation = getattr(self.anatomy.base.config, "_attn_implementation", "eager")
        if isinstance(source, InputGradient) and self.role == "student" and implementation not in TWICE:
            raise IncompatiblePair(
                f"{self.role}: its attention runs as {implementation!r}, which has no second derivative, and an "
                f"objective differentiates the {source.name}. Load it with attn_implementation='eager' or 'sdpa'."
            )


def _captured(source: Kind, signals: set[Signal]) -> set[Signal]:
    """What a forward pass is asked for: an input gradient is that of the logits."""
    if not isinstance(source, InputGradient):
        return signals
    return {Signal("logits", source=source)}


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, module by module, and back."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
