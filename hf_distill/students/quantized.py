"""Students whose weights lie on a grid of few values while they train.

The weights that train are floats beneath; what the model computes with lies on the grid. `state_dict`, and with it
`save_pretrained` and every checkpoint, holds plain names with values on the grid; the floats and learned points are
saved beside the student, as what objectives learn is, so that training can go on. Never strip the grids off a copy of
such a student (`torch.nn.utils.parametrize`): the class that it shares with the copy would lose its weights. Save and
load it instead.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives.settings import check_choice, check_flag
from hf_distill.splitmix import STEP, scrambled
from hf_distill.students.grids import (
    STYLES,
    Coded,
    Style,
    at_points,
    encode,
    encode_at_points,
    init_points,
    quantize,
    rows,
)
from hf_distill.students.importance import evaluating

logger = logging.getLogger(__name__)

ROUNDINGS = ("nearest", "stochastic")
LAYERS = (nn.Linear, nn.Embedding, Conv1D)
"""Modules whose weights are put on a grid; norms and biases stay as they are."""

LEARNED = "student/weights"
"""What lies beneath a student, among the modules whose state is saved beside it; no term can have that name."""

FAST = 1e-3
"""Points are trained in steps of 1e-5 by the authors; above this rate they overtake each other."""


class Grid(nn.Module, ABC):
    """A parametrisation that puts a weight on a grid."""

    bucket_size: int

    @abstractmethod
    def encoded(self, weight: Tensor) -> Coded:
        """The weight in codes, as it is saved: what is drawn at random in training is rounded to the nearest."""


class UniformGrid(Grid):
    """2^bits points at equal distances in every bucket, see `grids.quantize`."""

    def __init__(self, bits: int, bucket_size: int, rounding: str, style: Style) -> None:
        super().__init__()
        self.bits, self.bucket_size, self.rounding, self.style = bits, bucket_size, rounding, style

    def forward(self, weight: Tensor) -> Tensor:
        """The weight on the grid, in its own type and computed in at least float32."""
        values = _wide(weight)
        drawn = self.rounding == "stochastic" and self.training
        noise = _noise(rows(values.detach(), self.bucket_size)) if drawn else None
        return quantize(values, self.bits, self.bucket_size, style=self.style, noise=noise).to(weight.dtype)

    def encoded(self, weight: Tensor) -> Coded:
        """The weight in codes of `bits` bits."""
        values = _wide(weight.detach())
        return encode(values.clamp(-1.0, 1.0) if self.style == "truncated" else values, self.bits, self.bucket_size)


def _noise(cells: Tensor) -> Tensor:
    """Numbers in (0, 1], one for each of some values, that are others as soon as one of the values is another: those
    of SplitMix64, which is begun at a digest of all bits. A 0 would lift values that lie on the grid, and the largest
    off it.
    """
    whole = torch.int64 if cells.dtype == torch.float64 else torch.int32
    key = scrambled(cells.view(whole).sum(dtype=torch.int64))
    places = torch.arange(cells.numel(), device=cells.device).view_as(cells)
    drawn = scrambled(places * STEP + key) & (2**24 - 1)
    return (drawn + 1).to(cells.dtype) / 2**24


class LearnedGrid(Grid):
    """Points that are learned, the same in every bucket up to its scale, see `grids.at_points`."""

    def __init__(self, points: Tensor, bucket_size: int) -> None:
        super().__init__()
        self.points, self.bucket_size = nn.Parameter(points), bucket_size

    def forward(self, weight: Tensor) -> Tensor:
        """The weight at its nearest points, in its own type and computed in at least float32."""
        return at_points(_wide(weight.detach()), self.points, self.bucket_size).to(weight.dtype)

    def encoded(self, weight: Tensor) -> Coded:
        """The weight in codes that count the sorted points."""
        return encode_at_points(_wide(weight.detach()), self.points.detach(), self.bucket_size)


# --- making ---------------------------------------------------------------------------------------


def quantize_uniform(
    student: PreTrainedModel,
    *,
    bits: int = 4,
    bucket_size: int = 256,
    rounding: Literal["nearest", "stochastic"] = "nearest",
    style: Style = "ste",
    include_embeddings: bool = True,
    include_head: bool = False,
) -> PreTrainedModel:
    """Quantized distillation (Polino et al., 2018, arXiv:1802.05668, section 3): the student, in place, with weights
    on a uniform grid of 2^bits values in each bucket of `bucket_size`.

    Every step computes loss and gradient at the weights on the grid, w_q = Q(w), and moves the floats w; the gradient
    reaches them by `style` (`grids.quantize`). `rounding` is to the nearest value, or while training at random to one
    of the two neighbours so that Q(w) is w on average. The authors' code trains with the nearest, and quantizes once
    for each batch, which is a step there; so a random rounding is drawn once a step here. What is drawn follows from
    the weights as they are: until they move it is the same in all passes, micro-batches and processes, and at all
    places of a tied weight. The paper trains with 0.7 T^2 KL + 0.3 cross-entropy at T = 2.

    Quantized are the weights of linear layers and embeddings, tied ones together; the authors' code quantizes biases
    and norms, too. What stands on top of the base model (a classifier) stays in floats unless `include_head`.

    Raises: `DistillationError` for bits outside 1 to 8, buckets below 2, an unknown setting, and NaN or infinite
    weights; `IncompatiblePair` for a student with an adapter, or whose weights are quantized already.
    """
    _check_whole("quantize_uniform", "bits", bits, 1, 8)
    check_choice("quantize_uniform", "rounding", rounding, ROUNDINGS)
    check_choice("quantize_uniform", "style", style, STYLES)
    chosen = _chosen(student, "quantize_uniform", bucket_size, include_embeddings, include_head)
    for places in chosen.values():
        _put_on(places, UniformGrid(bits, bucket_size, rounding, style))
    return _with_plain_state(student)


def quantize_points(
    student: PreTrainedModel,
    *,
    points: int | Mapping[str, int] = 16,
    bucket_size: int = 256,
    init: Literal["quantiles", "uniform"] = "quantiles",
    include_embeddings: bool = True,
    include_head: bool = False,
) -> PreTrainedModel:
    """Differentiable quantization (Polino et al., 2018, arXiv:1802.05668, section 4): the student, in place, with
    weights at the nearest of a few points for each tensor. The points alone train; all else is frozen.

    `points` is a number for every tensor, or one for each by its name (`gradient_norms` and `grids.assign_points`
    share them out). They start at the quantiles of the scaled weights or, `uniform`, at equal distances. Points are
    sorted before every use, and each keeps its own momentum when it overtakes another; the authors' code sorts after
    the step, and leaves the momentum where it was. There they train by SGD at a rate of 1e-5 with Nesterov momentum
    0.9, from what the student itself says before it is quantized; any other teacher serves as well.

    Raises: as `quantize_uniform`, and `DistillationError` for points outside 2 to 256, and for names that are none of
    the student's quantized weights.
    """
    check_choice("quantize_points", "init", init, ("quantiles", "uniform"))
    chosen = _chosen(student, "quantize_points", bucket_size, include_embeddings, include_head)
    names = [places[0][0] for places in chosen.values()]
    numbers = dict.fromkeys(names, points) if isinstance(points, int) else dict(points)
    if set(numbers) != set(names):
        wrong = sorted(set(numbers) ^ set(names))[0]
        raise DistillationError(
            f"quantize_points: points are given for {len(numbers)} tensors, and {len(names)} are quantized; "
            f"{wrong!r} is not in both. Names are those of gradient_norms."
        )
    for name, number in numbers.items():
        _check_whole("quantize_points", f"points of {name}", number, 2, 256)
    for weight, places in chosen.items():
        number, values = numbers[places[0][0]], _wide(weight.detach())
        start = torch.linspace(0, 1, number, dtype=values.dtype, device=values.device)
        found = init_points(values, number, bucket_size) if init == "quantiles" else start
        _put_on(places, LearnedGrid(found, bucket_size))
    train_points(student)
    return _with_plain_state(student)


def train_points(student: PreTrainedModel) -> None:
    """Freezes all but the points that are learned."""
    student.requires_grad_(False)
    for _, module in gridded(student):
        grid_of(module).requires_grad_(True)


def gradient_norms(
    student: PreTrainedModel,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    include_embeddings: bool = True,
    include_head: bool = False,
) -> dict[str, float]:
    """The mean norm, over batches with labels, of the gradient of the student's own loss by the weights that would be
    quantized, by their names; the authors take five batches. The student runs in eval mode; weights that are frozen
    have 0. Gradients are left as they were.

    Raises: `DistillationError` for no batches, and a batch without labels.
    """
    chosen = _chosen(student, "gradient_norms", 2, include_embeddings, include_head)
    weights = [weight for weight in chosen if weight.requires_grad]
    sums, number = dict.fromkeys(chosen, 0.0), 0
    for batch in batches:
        with evaluating(student):
            loss = student(**{name: value.to(student.device) for name, value in batch.items()}).loss
        if loss is None:
            raise DistillationError("gradient_norms: a batch has no labels, so the student has no loss; add labels.")
        found = torch.autograd.grad(loss, weights, allow_unused=True) if weights else ()
        for weight, gradient in zip(weights, found, strict=True):
            sums[weight] += 0.0 if gradient is None else float(gradient.norm())
        number += 1
    if not number:
        raise DistillationError("gradient_norms: there are no batches; give at least one.")
    return {places[0][0]: sums[weight] / number for weight, places in chosen.items()}


Places = list[tuple[str, nn.Module]]
"""The modules that hold a weight, with its name in each."""


def _chosen(
    student: PreTrainedModel, maker: str, bucket_size: int, include_embeddings: bool, include_head: bool
) -> dict[nn.Parameter, Places]:
    """The weights to quantise, and where each is held; tied ones in several places."""
    _check_student(student, maker)
    _check_whole(maker, "bucket_size", bucket_size, 2, 2**31)
    for name, flag in (("include_embeddings", include_embeddings), ("include_head", include_head)):
        check_flag(maker, name, flag)
    base = student.base_model
    below = {id(parameter) for parameter in base.parameters()}
    chosen: dict[nn.Parameter, Places] = {}
    for path, module in student.named_modules():
        if isinstance(module, LAYERS):
            weight: Any = module.weight
            chosen.setdefault(weight, []).append((f"{path}.weight", module))
    for weight, places in list(chosen.items()):
        embeds = any(isinstance(module, nn.Embedding) for _, module in places)
        if (embeds and not include_embeddings) or (id(weight) not in below and not include_head):
            del chosen[weight]
            continue
        if not bool(weight.isfinite().all()):
            raise DistillationError(f"{maker}: {places[0][0]} holds NaN or infinite values; no grid can hold them.")
        if weight.numel() < bucket_size:
            logger.warning(
                "%s: %s has %d values, fewer than a bucket of %d; it is one short bucket",
                maker, places[0][0], weight.numel(), bucket_size,
            )  # fmt: skip
    return chosen


def _check_student(student: object, maker: str) -> None:
    if not isinstance(student, PreTrainedModel) or getattr(student, "peft_config", None):
        raise IncompatiblePair(
            f"{maker}: {type(student).__name__} is no plain transformers model; merge_and_unload() an adapter first."
        )
    if getattr(student, "is_quantized", False) or has_grids(student):
        raise IncompatiblePair(
            f"{maker}: the weights of {type(student).__name__} are quantized already; load the student with its float "
            "weights."
        )


def _check_whole(maker: str, setting: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise DistillationError(f"{maker}: {setting} is {value!r}; it must be a whole number from {low} to {high}.")


def _put_on(places: Places, grid: Grid) -> None:
    """Registers one grid on all modules that hold the weight: on one alone, the others would show the floats."""
    for _, module in places:
        parametrize.register_parametrization(module, "weight", grid)


def _wide(weight: Tensor) -> Tensor:
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


# --- reading --------------------------------------------------------------------------------------


def gridded(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The modules with a weight on a grid, by their paths; one that is held in several places comes repeatedly."""
    for path, module in model.named_modules(remove_duplicate=False):
        if parametrize.is_parametrized(module, "weight") and isinstance(grid_of(module), Grid):
            yield path, module


def grid_of(module: Any) -> Any:
    """What puts the weight of a module on a grid."""
    return module.parametrizations.weight[0]


def has_grids(model: nn.Module) -> bool:
    """Whether weights of a model lie on grids."""
    return next(gridded(model), None) is not None


def has_points(model: nn.Module) -> bool:
    """Whether a model learns points."""
    return any(isinstance(grid_of(module), LearnedGrid) for _, module in gridded(model))


def beneath(student: nn.Module) -> nn.ParameterDict:
    """What lies beneath the grids of a student: its float weights and learned points themselves, each once.

    The names are those of the weights, and `<path>/points`, with `/` for the dots.
    """
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for path, module in gridded(student):
        parts = {"weight": module.parametrizations.weight.original, **dict(grid_of(module).named_parameters())}
        for name, parameter in parts.items():
            if id(parameter) not in seen:
                found["/".join([*path.split("."), name])] = parameter
            seen.add(id(parameter))
    return nn.ParameterDict(found)


def plain_name(name: str) -> str:
    """The name of a parameter as it is without a grid."""
    return name.replace(".parametrizations.weight.original", ".weight")


def go_on_from(student: nn.Module, learned: Mapping[str, Tensor]) -> None:
    """Gives a student what lay beneath it before, by names as in `distillation.safetensors`; others are left out."""
    with torch.no_grad():
        for name, parameter in beneath(student).items():
            before = learned.get(f"{LEARNED}.{name}")
            if before is not None and before.shape == parameter.shape:
                parameter.copy_(before)


# --- state ----------------------------------------------------------------------------------------


def _with_plain_state(student: PreTrainedModel) -> PreTrainedModel:
    student.register_state_dict_post_hook(_show_plain)
    student.register_load_state_dict_pre_hook(_take_plain)
    return student


def _show_plain(model: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Puts in place of what lies beneath the values on the grid, one tensor for all places of a tied weight."""
    shown: dict[int, Tensor] = {}
    for path, module in gridded(model):
        place, original = f"{prefix}{path}.", module.parametrizations.weight.original
        for name in [name for name in state if name.startswith(f"{place}parametrizations.")]:
            del state[name]
        if id(original) not in shown:
            coded = grid_of(module).encoded(original)
            shown[id(original)] = coded.values(original.shape, grid_of(module).bucket_size).to(original.dtype)
        state[f"{place}weight"] = shown[id(original)]


def _take_plain(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Takes plain weights as what lies beneath; where a tied one is missing, that of its other place."""
    given: dict[int, Tensor] = {}
    modules = list(gridded(model))
    for path, module in modules:
        weight = state.pop(f"{prefix}{path}.weight", None)
        if weight is not None:
            given[id(module.parametrizations.weight.original)] = weight
    for path, module in modules:
        place, original = f"{prefix}{path}.parametrizations.weight.", module.parametrizations.weight.original
        if id(original) in given:
            state[f"{place}original"] = given[id(original)]
        for name, tensor in grid_of(module).state_dict().items():
            state.setdefault(f"{place}0.{name}", tensor)
