"""A student that was cut comes closer to its teacher on a handful of sentences, without labels or an optimizer."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_distill.anatomy import Anatomy
from hf_distill.errors import IncompatiblePair
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.students.importance import LAYOUTS, checked, evaluating

logger = logging.getLogger(__name__)

MAKER = "few_sample"
HELD_OUT = 5
"""Every fifth sentence is not fitted to, but judges the fit."""

FEW_ROWS, WEAK_RIDGE = 4, 1e-3
"""Tokens for each unknown of an output, and the ridge, below which a fit was measured to be worse than none."""

STREAMS = {
    "bert": ("attention.output.LayerNorm", "output.LayerNorm"),
    "roberta": ("attention.output.LayerNorm", "output.LayerNorm"),
    "electra": ("attention.output.LayerNorm", "output.LayerNorm"),
    "albert": ("attention.LayerNorm", "full_layer_layer_norm"),
    "mpnet": ("attention.LayerNorm", "output.LayerNorm"),
    "distilbert": ("sa_layer_norm", "output_layer_norm"),
    "gpt2": ("ln_2", ""),
    "llama": ("post_attention_layernorm", ""),
    "qwen3": ("post_attention_layernorm", ""),
}
"""Of a block the modules that read the sum after its attention and after its feed-forward part; empty where that is
what the block gives."""


@dataclass(frozen=True)
class Recovered:
    """What became of one projection.

    `fit` is what was solved for; the errors are the mean squared differences from the target before and after, on the
    sentences that were fitted and on those held out; `kept` says whether the correction was merged.
    """

    name: str
    fit: Literal["full", "block"]
    fitted: tuple[float, float]
    held_out: tuple[float, float]
    kept: bool

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.fit}): error {self.fitted[0]:.4g} -> {self.fitted[1]:.4g}, held out "
            f"{self.held_out[0]:.4g} -> {self.held_out[1]:.4g}{'' if self.kept else ', left as it was'}"
        )


def recover(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    layers: Sequence[int] | None = None,
    target: Literal["stream", "sublayer"] = "stream",
    fit: Literal["full", "block"] | None = None,
    ridge: float = 0.1,
) -> list[Recovered]:
    """Few-sample distillation (FSKD; Li et al., 2020, arXiv:1812.01839): corrects the student, in place, block after
    block from the first, by least squares on what the teacher shows of the same sentences.

    Corrected are the projections whose output is added to the residual stream, attention's and the feed-forward
    part's, where they lost inputs (`from_shape` with heads or neurons cut), and the last one of a layer before which
    layers of the teacher were left out (`from_layers`); for the latter `layers` says which layer of the teacher each
    of the student's is. Over the rows m, the real tokens of all sentences, is minimised

        block:  sum_m |A s_m + c - t_m|^2 + r |A - I|_F^2,   then W <- A W, b <- A b + c (the published form)
        full:   sum_m |W x_m + b - t_m|^2 + r |W - W_0|_F^2

    with s_m the projection's output, x_m its input, and r = `ridge` times the mean diagonal entry of X'X (of S'S); the
    authors take no ridge, which with few sentences is worse than no correction. By default `full` where inputs were
    lost, `block` elsewhere. The target t_m is the teacher's output of the projection (`sublayer`, as published), or
    that which makes the student's sum equal the teacher's (`stream`): the teacher's output and residual less the
    student's residual, so that what earlier layers got wrong is repaired as well.

    Every fifth sentence is held out. Where the error on these grows, the projection is left as it was. Both models run
    once for each projection, in eval mode; sums are in float64.

    Raises: `IncompatiblePair` for models of other families or widths, a depth that differs without `layers`, nothing
    that was cut, projections that are tied, adapted or quantized, fewer than five sentences, and a singular system;
    `DistillationError` for settings out of range.
    """
    check_choice(MAKER, "target", target, ("stream", "sublayer"))
    if fit is not None:
        check_choice(MAKER, "fit", fit, ("full", "block"))
    check_number(MAKER, "ridge", ridge, 0, float("inf"))
    sides = _Sides(Anatomy.of(student), Anatomy.of(teacher))
    read = [checked(batch, sides.student.base.device, MAKER) for batch in batches]
    found = []
    with torch.no_grad(), evaluating(sides.student.base), evaluating(sides.teacher.base):
        for place in sides.places(layers, fit):
            found.append(_correct(sides, place, read, target, ridge))
            logger.info("%s: %s", MAKER, found[-1])
    left = [each.name for each in found if not each.kept]
    if left:
        logger.warning("%s: the error on held-out sentences would grow, so left as it was: %s", MAKER, ", ".join(left))
    return found


# --- least squares --------------------------------------------------------------------------------


class Sums:
    """X'X, X'T and T'T over rows, with a column of ones behind X where there is a bias; in float64."""

    def __init__(self, inputs: int, outputs: int, bias: bool, device: torch.device | None = None) -> None:
        wide = {"dtype": torch.float64, "device": device}
        self.bias, self.rows, self.squares = bias, 0, torch.zeros((), **wide)  # type: ignore[arg-type]
        self.gram = torch.zeros(inputs + bias, inputs + bias, **wide)  # type: ignore[arg-type]
        self.cross = torch.zeros(inputs + bias, outputs, **wide)  # type: ignore[arg-type]

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Adds rows `[rows, inputs]` and their targets `[rows, outputs]`."""
        x, t = inputs.double(), targets.double()
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1) if self.bias else x
        self.gram += x.T @ x
        self.cross += x.T @ t
        self.squares += t.square().sum()
        self.rows += len(x)

    def solve(self, start: Tensor, ridge: float) -> Tensor:
        """argmin_B |X B - T|^2 + ridge |B - start|^2, `[inputs + bias, outputs]`; the bias is not drawn to its start.

        Raises: `IncompatiblePair` where the rows do not determine it.
        """
        if ridge == 0 and torch.linalg.matrix_rank(self.gram, hermitian=True) < len(self.gram):
            raise IncompatiblePair(
                f"{MAKER}: {self.rows} tokens do not determine {len(self.gram)} unknowns for each output (the system "
                "is singular); give more sentences, or a ridge above 0."
            )
        inputs = len(self.gram) - self.bias
        drawn = torch.zeros_like(self.gram)
        drawn[:inputs, :inputs].fill_diagonal_(ridge)
        solved: Tensor = torch.linalg.solve(self.gram + drawn, self.cross + drawn @ start)
        return solved

    def error(self, solution: Tensor) -> float:
        """The mean over rows and outputs of (X B - T)^2."""
        fitted = (solution * (self.gram @ solution)).sum() - 2 * (solution * self.cross).sum() + self.squares
        return max(float(fitted), 0.0) / (self.rows * self.cross.shape[1])

    def relative(self, ridge: float) -> float:
        """A ridge in units of the mean diagonal entry of X'X."""
        diagonal = self.gram.diagonal()
        return ridge * float(diagonal[: len(diagonal) - self.bias].mean())


# --- which projections ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """A projection of both models, its name in the student, the blocks that it is in and which of their runs in a pass
    it is (layers may share a block), what reads the sum after it, and what is solved for."""

    name: str
    blocks: tuple[nn.Module, nn.Module]
    runs: tuple[int, int]
    path: str
    stream: str
    fit: Literal["full", "block"]

    def projection(self, side: int) -> Any:
        return self.blocks[side].get_submodule(self.path)


class _Sides:
    """Student and teacher of one family and width."""

    def __init__(self, student: Anatomy, teacher: Anatomy) -> None:
        self.student, self.teacher = student, teacher
        families = [side.shape.family for side in (student, teacher)]
        if families[0] != families[1] or families[0] not in STREAMS:
            raise IncompatiblePair(
                f"{MAKER}: the student is {families[0]!r}, the teacher {families[1]!r}; both must be one of "
                f"{', '.join(STREAMS)}."
            )
        widths = [side.shape.stack().hidden_size for side in (student, teacher)]
        if widths[0] != widths[1]:
            raise IncompatiblePair(
                f"{MAKER}: the student is {widths[0]} wide, the teacher {widths[1]}, and it is not known which of the "
                "teacher's dimensions were kept; cut heads, intermediate_size or layers, not hidden_size."
            )

    def places(self, layers: Sequence[int] | None, fit: Literal["full", "block"] | None) -> list[_Place]:
        """The projections to correct, front to back."""
        mapped = self._mapped(layers)
        layout, streams = LAYOUTS[self.student.shape.family], STREAMS[self.student.shape.family]
        ours, theirs = self.student.blocks(), self.teacher.blocks()
        found = []
        for i, layer in enumerate(mapped):
            skipped = layer != (mapped[i - 1] if i else 0) + 1
            blocks, runs = (ours[i], theirs[layer - 1]), (_run(ours, i), _run(theirs, layer - 1))
            for path, stream in zip((layout.joined, layout.narrowing), streams, strict=True):
                lost = _inputs(blocks[0].get_submodule(path)) != _inputs(blocks[1].get_submodule(path))
                if lost or (skipped and path == layout.narrowing):
                    name = f"layer {i + 1} {path}"
                    found.append(_Place(name, blocks, runs, path, stream, fit or ("full" if lost else "block")))
        if not found:
            raise IncompatiblePair(
                f"{MAKER}: the student has the first {len(ours)} of its teacher's {len(theirs)} layers, with all "
                "heads and neurons; none was left out before one that it has, so there is nothing to recover."
            )
        for place in found:
            self._check(place)
        return found

    def _mapped(self, layers: Sequence[int] | None) -> list[int]:
        """The teacher's layer for each of the student's."""
        depths = [side.shape.stack().num_hidden_layers for side in (self.student, self.teacher)]
        if layers is None and depths[0] == depths[1]:
            return list(range(1, depths[0] + 1))
        if layers is None:
            raise IncompatiblePair(
                f"{MAKER}: the student has {depths[0]} layers, the teacher {depths[1]}; give layers, the teacher's "
                "layer for each of the student's."
            )
        mapped = list(layers)
        if len(mapped) != depths[0] or mapped != sorted(set(mapped)) or not 1 <= mapped[0] <= mapped[-1] <= depths[1]:
            raise IncompatiblePair(
                f"{MAKER}: layers are {mapped}; they must be {depths[0]} of the teacher's layers 1 to {depths[1]}, in "
                "increasing order, one for each of the student's."
            )
        return mapped

    def _check(self, place: _Place) -> None:
        """Refuses a projection into which nothing can be merged."""
        module = place.projection(0)
        if type(module) not in (nn.Linear, Conv1D):
            raise IncompatiblePair(
                f"{MAKER}: {place.name} is a {type(module).__name__}, into which no correction can be merged; merge "
                "an adapter and load float weights first."
            )
        holders = self.student.base.named_parameters(remove_duplicate=False)
        names = [name for name, parameter in holders if parameter is module.weight]
        if len(names) > 1 or self.student.blocks().count(place.blocks[0]) > 1:
            raise IncompatiblePair(
                f"{MAKER}: {place.name} is tied ({', '.join(names)}), and merging a correction would change its other "
                "places as well; untie it first."
            )


def _run(blocks: Sequence[nn.Module], place: int) -> int:
    """How many times the block of that place, counted from 0, has run in a pass when it is over."""
    return sum(block is blocks[place] for block in blocks[: place + 1])


def _inputs(module: Any) -> int:
    return int(module.weight.shape[0 if isinstance(module, Conv1D) else 1])


# --- correcting -----------------------------------------------------------------------------------


def _correct(sides: _Sides, place: _Place, batches: list[dict[str, Tensor]], target: str, ridge: float) -> Recovered:
    """Fits one projection, and merges the fit where it is better on the sentences held out."""
    module = place.projection(0)
    weight: Tensor = module.weight.T if isinstance(module, Conv1D) else module.weight
    outputs, inputs = weight.shape
    bias = module.bias is not None
    width = inputs if place.fit == "full" else outputs
    sums = [Sums(width, outputs, bias, weight.device) for _ in ("fitted", "held out")]
    for x, s, t, held in _rows(sides, place, batches, target):
        for part, rows in zip(sums, (~held, held), strict=True):
            part.add((x if place.fit == "full" else s)[rows], t[rows])
    fitted, judged = sums
    if not judged.rows or not fitted.rows:
        raise IncompatiblePair(
            f"{MAKER}: there are fewer than {HELD_OUT} sentences with text, and every fifth judges the fit; give 100."
        )
    if fitted.rows < FEW_ROWS * width and ridge < WEAK_RIDGE:
        logger.warning(
            "%s: %s has %d unknowns for each output, and there are %d tokens with a ridge of %g: such a fit was "
            "measured to be worse than no correction. Give more sentences, or a ridge of 0.01 to 0.1.",
            MAKER, place.name, width, fitted.rows, ridge,
        )  # fmt: skip
    start = weight.double().T if place.fit == "full" else torch.eye(outputs, dtype=torch.float64, device=weight.device)
    if bias:
        offset = module.bias.double() if place.fit == "full" else torch.zeros_like(module.bias, dtype=torch.float64)
        start = torch.cat([start, offset.unsqueeze(0)])
    solution = fitted.solve(start, fitted.relative(ridge))
    errors = [(part.error(start), part.error(solution)) for part in sums]
    kept = errors[1][1] <= errors[1][0]
    if kept:
        _merge(module, weight, solution, place.fit)
    return Recovered(place.name, place.fit, errors[0], errors[1], kept)


def _merge(module: Any, weight: Tensor, solution: Tensor, fit: str) -> None:
    """Writes W and b, or A W and A b + c, into the projection; `weight` is its matrix `[outputs, inputs]`."""
    merged, offset = merged_projection(weight, module.bias, solution, fit)
    weight.copy_(merged)
    if module.bias is not None:
        module.bias.copy_(offset)


def merged_projection(weight: Tensor, bias: Tensor | None, solution: Tensor, fit: str) -> tuple[Tensor, Tensor | None]:
    """The weights and the bias, in float64, after the `solution` of `Sums.solve`."""
    matrix = solution[: len(solution) - (bias is not None)].T
    if fit == "full":
        return matrix, None if bias is None else solution[-1]
    return matrix @ weight.double(), None if bias is None else matrix @ bias.double() + solution[-1]


def _rows(
    sides: _Sides, place: _Place, batches: list[dict[str, Tensor]], target: str
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Of the real tokens of each batch: the projection's input, output and target, `[rows, ...]`, and whether their
    sentence is held out."""
    number = 0
    for batch in batches:
        shown = []
        for side, anatomy in enumerate((sides.student, sides.teacher)):
            part = anatomy.part(anatomy.base.base_model)
            with _seen(place, side) as seen:
                part.base(**{name: value for name, value in batch.items() if name in part.accepts})
            shown.append(seen)
        inputs, output, stream = shown[0]["inputs"], shown[0]["output"], shown[0]["stream"]
        aim = shown[1]["output"] if target == "sublayer" else shown[1]["stream"] - (stream - output)
        given = batch.get("attention_mask")
        real = torch.ones(aim.shape[:2], dtype=torch.bool, device=aim.device) if given is None else given.bool()
        sentences = torch.arange(number, number + len(real), device=aim.device)
        held = (sentences % HELD_OUT == HELD_OUT - 1).unsqueeze(1).expand_as(real)
        number += len(real)
        yield inputs[real], output[real], aim[real], held[real]


@contextmanager
def _seen(place: _Place, side: int) -> Iterator[dict[str, Tensor]]:
    """A table that fills with the input and output of the projection and the sum after it in the next pass, in the
    run of the block that is the layer's."""
    seen: dict[str, Tensor] = {}
    block, run = place.blocks[side], place.runs[side]

    def projection(module: nn.Module, args: Any, output: Tensor) -> None:
        seen["inputs"], seen["output"] = args[0], output

    def block_output(module: nn.Module, args: Any, output: Any) -> None:
        seen["stream"] = output if isinstance(output, Tensor) else output[0]

    def reader(module: nn.Module, args: Any) -> None:
        seen["stream"] = args[0]

    handles = [place.projection(side).register_forward_hook(_in_run(run, projection))]
    if place.stream:
        handles.append(block.get_submodule(place.stream).register_forward_pre_hook(_in_run(run, reader)))
    else:
        handles.append(block.register_forward_hook(_in_run(run, block_output)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _in_run(run: int, hook: Callable[..., None]) -> Callable[..., None]:
    """The hook at one run of a module in a pass alone, counted from 1."""
    runs = itertools.count(1)

    def at_run(*args: Any) -> None:
        if next(runs) == run:
            hook(*args)

    return at_run
