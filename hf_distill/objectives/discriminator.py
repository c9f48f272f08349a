"""A small network that scores a text by the vectors at its positions, and the losses of a game against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_distill.losses import blank, safe_sqrt

Layers = Sequence[tuple[Tensor, Tensor | None]]
"""Weight and bias of each layer, from the first to the last, which has no bias."""

KINDS = ("wgan-gp", "hinge", "vanilla", "vanilla_minimax")
DOUBLINGS = 6


class Discriminator(nn.Module):
    """One score a text: linear, twice a convolution over three positions, mean over the text, linear; leaky ReLU (0.1)
    between them.

    Every weight W is divided by a bound of its largest singular value (`spectral_bound`), which does the work of
    spectral normalisation (Miyato et al., 2018, arXiv:1802.05957) with neither a state nor chance, so that it does not
    depend on how often it is called. There is no normalisation over the batch: a penalty of each example's gradient
    must not see the other examples. The last layer has no bias: a difference of scores knows none.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        sizes = ((features, width), (3 * width, width), (3 * width, width))
        self.bent = nn.ModuleList(nn.Linear(*size, dtype=torch.float32) for size in sizes)
        self.last = nn.Linear(width, 1, bias=False, dtype=torch.float32)

    def layers(self, dtype: torch.dtype) -> Layers:
        """The layers as they compute, in the precision of what they read."""
        tensors: list[tuple[Tensor, Tensor | None]] = [(each.weight, each.bias) for each in self.bent]  # type: ignore[misc]
        tensors.append((self.last.weight, None))
        cast = [(weight.to(dtype), None if bias is None else bias.to(dtype)) for weight, bias in tensors]
        return [(weight / spectral_bound(weight), bias) for weight, bias in cast]


def frozen(layers: Layers) -> Layers:
    """The same layers without gradients of their own; those of what they read pass through."""
    return [(weight.detach(), None if bias is None else bias.detach()) for weight, bias in layers]


def scores(layers: Layers, states: Tensor, mask: Tensor) -> Tensor:
    """D(x) `[batch]` of `states` `[batch, length, features]`; padding counts as zeros, also beside the text."""
    first, *middle, last = layers
    hidden = _bent(functional.linear(blank(states, mask), *first))
    for layer in middle:
        hidden = _bent(functional.linear(_with_neighbours(blank(hidden, mask)), *layer))
    mean = blank(hidden, mask).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    return functional.linear(mean, *last).squeeze(-1)


def _bent(hidden: Tensor) -> Tensor:
    return functional.leaky_relu(hidden, 0.1)


def _with_neighbours(hidden: Tensor) -> Tensor:
    """Each position between those before and after it, `[batch, length, 3 * width]`."""
    around = functional.pad(hidden, (0, 0, 1, 1))
    return torch.cat([around[:, :-2], hidden, around[:, 2:]], -1)


def spectral_bound(weight: Tensor) -> Tensor:
    """(tr (W W^T)^p)^(1 / 2p), p = 64: at least the largest singular value of W, and with d rows or columns at most
    d^(1 / 128) of it, 3 % more for 64. Smooth, without a start vector, and no decomposition.
    """
    gram = weight @ weight.mT if weight.shape[0] <= weight.shape[1] else weight.mT @ weight
    smallest = torch.finfo(weight.dtype).tiny
    logarithm, power = weight.new_zeros(()), 2**DOUBLINGS
    for _ in range(DOUBLINGS):  # tr G^p = t^p tr (G / t)^p with t = tr G
        trace = gram.diagonal().sum().clamp(min=smallest)
        logarithm = logarithm + power * trace.log()
        gram, power = (gram / trace) @ (gram / trace), power // 2
    logarithm = logarithm + gram.diagonal().sum().clamp(min=smallest).log()
    return torch.exp(logarithm / 2 ** (DOUBLINGS + 1))


def student_loss(kind: str, fake: Tensor) -> Tensor:
    """What the student pays for the score of each of its texts: -D, or with the `vanilla` kinds softplus(-D), and
    log(1 - sigmoid(D)) in the minimax form.
    """
    if kind in ("wgan-gp", "hinge"):
        return -fake
    return functional.softplus(-fake) if kind == "vanilla" else -functional.softplus(fake)


def discriminator_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator pays for its scores of each text as the teacher and as the student show it."""
    if kind == "wgan-gp":
        return fake - real
    if kind == "hinge":
        return functional.relu(1.0 - real) + functional.relu(1.0 + fake)
    return functional.softplus(-real) + functional.softplus(fake)


def gradient_penalty(
    score: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mask: Tensor, alpha: Tensor
) -> Tensor:
    """(|dD/dx| - 1)^2 of each text at x = alpha real + (1 - alpha) fake, the norm over all of its entries (Gulrajani
    et al., 2017, arXiv:1704.00028). `alpha` `[batch]`; gradients go to what `score` learns alone.
    """
    share = alpha.view(-1, 1, 1)
    mixed = blank(share * real + (1.0 - share) * fake, mask).detach().requires_grad_()
    with torch.enable_grad():  # an evaluation asks for the value, too
        (gradient,) = torch.autograd.grad(score(mixed).sum(), [mixed], create_graph=True)
    length = safe_sqrt(blank(gradient, mask).square().flatten(1).sum(1))
    return (length - 1.0).square()
