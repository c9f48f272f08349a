"""Tensors in, tensors out: divergences between laws, distances between states, and the one masked sum.

Every function returns one value a row and leaves the reduction to its caller. Classes are last. Callers hand over at
least float32 (`at_least_float32`); float64 stays float64. Directions are written out: teacher law p, student law q.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor itself if it is float32 or float64, else its float32 copy."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def masked_sum(values: Tensor, mask: Tensor | None) -> Tensor:
    """The sum of the values that count; `mask` is 1 or True on them, `None` counts all.

    Values that do not count may be NaN: they are replaced, not multiplied. An empty sum is 0 and still attached to the
    graph.
    """
    return values.sum() if mask is None else torch.where(mask.bool(), values, values.new_zeros(())).sum()


def blank(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """`tensor` [..., features], zeros in the rows that do not count: no gradient can reach these, not even NaN."""
    return tensor if mask is None else torch.where(mask.bool().unsqueeze(-1), tensor, tensor.new_zeros(()))


def example_means(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the counted positions of each example: `[batch, ...]` to `[batch]`, 0 where an example has none."""
    counted = mask.bool().flatten(1)
    kept = torch.where(counted, values.flatten(1), values.new_zeros(()))
    return kept.sum(1) / counted.sum(1).clamp(min=1)


def expectation(law: Tensor, values: Tensor) -> Tensor:
    """sum_c p_c v_c of a law p. Classes without mass are dropped, not multiplied: their values may be infinite or NaN.
    `[..., classes]` to `[...]`.
    """
    return (law * torch.where(law == 0, 0.0, values)).sum(-1)


def _log_laws(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """log q and log p."""
    return functional.log_softmax(student_logits, -1), functional.log_softmax(teacher_logits, -1)


def _finite(log_law: Tensor) -> Tensor:
    """The logarithm of a law, at the lowest number where it rules a class out (-inf): 0 times its difference from a
    mixture, which may rule the class out as well, is then 0."""
    return log_law.clamp(min=torch.finfo(log_law.dtype).min)


def forward_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(p || q) = sum_c p_c (log p_c - log q_c), teacher first. `[..., classes]` to `[...]`.

    A class without teacher mass counts nothing, also where the student rules it out as well; inf where the student
    alone rules a class out.
    """
    log_q, log_p = _log_laws(student_logits, teacher_logits)
    return expectation(log_p.exp(), log_p - log_q)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(q || p) = sum_c q_c (log q_c - log p_c), student first. Not finite where the teacher alone rules a class
    out."""
    log_q, log_p = _log_laws(student_logits, teacher_logits)
    return expectation(log_q.exp(), log_q - log_p)


def cross_entropy(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """-sum_c p_c log q_c: the forward KL plus the teacher's entropy; the gradient is the same."""
    return -expectation(functional.softmax(teacher_logits, -1), functional.log_softmax(student_logits, -1))


def generalized_jsd(student_logits: Tensor, teacher_logits: Tensor, beta: float) -> Tensor:
    """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q (Agarwal et al., 2024, arXiv:2306.13649).

    At the ends the formula itself is 0; `beta` = 0 is taken as KL(p || q) and `beta` = 1 as KL(q || p), its scaled
    limits.
    """
    if beta in (0.0, 1.0):
        return (forward_kl if beta == 0.0 else reverse_kl)(student_logits, teacher_logits)
    log_q, log_p = (_finite(law) for law in _log_laws(student_logits, teacher_logits))
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    to_teacher = (log_p.exp() * (log_p - log_m)).sum(-1)
    to_student = (log_q.exp() * (log_q - log_m)).sum(-1)
    return beta * to_teacher + (1.0 - beta) * to_student


def skew_kl(student_logits: Tensor, teacher_logits: Tensor, alpha: float) -> Tensor:
    """KL(p || alpha p + (1 - alpha) q) (Ko et al., 2024, arXiv:2402.03898)."""
    log_q, log_p = _log_laws(student_logits, teacher_logits)
    log_p = _finite(log_p)
    log_m = torch.logaddexp(log_p + math.log(alpha), log_q + math.log1p(-alpha))
    return (log_p.exp() * (log_p - log_m)).sum(-1)


def skew_reverse_kl(student_logits: Tensor, teacher_logits: Tensor, alpha: float) -> Tensor:
    """KL(q || (1 - alpha) p + alpha q) (Ko et al., 2024, arXiv:2402.03898)."""
    log_q, log_p = _log_laws(student_logits, teacher_logits)
    log_q = _finite(log_q)
    log_m = torch.logaddexp(log_p + math.log1p(-alpha), log_q + math.log(alpha))
    return (log_q.exp() * (log_q - log_m)).sum(-1)


def sorted_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """sum_i |q_(i) - p_(i)| of numbers in descending order, `[rows, words]` of either side; a missing one is 0."""
    ours, theirs = (each.sort(dim=-1, descending=True).values for each in (student, teacher))
    words = max(ours.shape[-1], theirs.shape[-1])
    ours, theirs = (functional.pad(each, (0, words - each.shape[-1])) for each in (ours, theirs))
    return (ours - theirs).abs().sum(-1)


def part_divergence(student_log: Tensor, teacher_log: Tensor, beta: float) -> Tensor:
    """The generalised JSD of parts of two laws, which need not add up to 1, from their logarithms `[..., words]`:
    beta sum p log(p/m) + (1 - beta) sum q log(q/m) with m = beta p + (1 - beta) q; 0 and 1 are sum p log(p/q) and sum
    q log(q/p), which are below 0 where the left part is the smaller.
    """
    if beta == 0.0:
        return (teacher_log.exp() * (teacher_log - student_log)).sum(-1)
    if beta == 1.0:
        return (student_log.exp() * (student_log - teacher_log)).sum(-1)
    mixed = torch.logaddexp(teacher_log + math.log(beta), student_log + math.log1p(-beta))
    to_teacher = (teacher_log.exp() * (teacher_log - mixed)).sum(-1)
    to_student = (student_log.exp() * (student_log - mixed)).sum(-1)
    return beta * to_teacher + (1.0 - beta) * to_student


def probability_mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """(1/C) sum_c (q_c - p_c)^2 on probabilities (Tarvainen & Valpola, 2017, arXiv:1703.01780)."""
    return (functional.softmax(student_logits, -1) - functional.softmax(teacher_logits, -1)).square().mean(-1)


def logit_mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """(1/C) sum_c (student_c - teacher_c)^2 on raw logits."""
    return (student_logits - teacher_logits).square().mean(-1)


def logit_sse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """sum_c (student_c - teacher_c)^2 on raw logits."""
    return (student_logits - teacher_logits).square().sum(-1)


def logit_l1(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """sum_c |student_c - teacher_c| on raw logits."""
    return (student_logits - teacher_logits).abs().sum(-1)


def bernoulli_cross_entropy(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """-r log s - (1 - r) log(1 - s), r and s the sigmoids of teacher and student; elementwise."""
    return functional.binary_cross_entropy_with_logits(student_logits, teacher_logits.sigmoid(), reduction="none")


def bernoulli_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL between two Bernoulli laws given by logits, r log(r/s) + (1 - r) log((1 - r)/(1 - s)); elementwise."""
    r = teacher_logits.sigmoid()
    on = functional.logsigmoid(teacher_logits) - functional.logsigmoid(student_logits)
    off = functional.logsigmoid(-teacher_logits) - functional.logsigmoid(-student_logits)
    return r * on + (1.0 - r) * off


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos(student, teacher) over the last axis; 1 for a zero vector (norms are at least 1e-8)."""
    return 1.0 - functional.cosine_similarity(student, teacher, dim=-1, eps=1e-8)


def squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """(student - teacher)^2; elementwise."""
    return (student - teacher).square()


def mean_squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """(1/D) sum_d (student_d - teacher_d)^2 over the last axis."""
    return (student - teacher).square().mean(-1)


def unit(vectors: Tensor) -> Tensor:
    """x / |x| over the last axis; exactly 0, with a gradient of 0, where |x| is at most 1e-12 (float32: 1e-6)."""
    smallest = 1e-12 if vectors.dtype == torch.float64 else 1e-6
    squares = vectors.square().sum(-1, keepdim=True)
    long = ~(squares <= smallest**2)  # NaN stays NaN
    return torch.where(long, vectors / torch.where(long, squares, 1.0).sqrt(), 0.0)


def safe_sqrt(values: Tensor) -> Tensor:
    """sqrt(x), with a gradient of 0 where x is not above 0; elementwise."""
    positive = ~(values <= 0)  # NaN stays NaN
    return torch.where(positive, torch.where(positive, values, 1.0).sqrt(), 0.0)


EQUAL = 4.0
"""Roundings of the largest logit of a row by which equal logits may differ."""


def standardized(logits: Tensor, ddof: int = 0) -> Tensor:
    """(z - mean z) / (std z + 1e-7) over the classes, with std^2 = sum (z - mean z)^2 / (C - ddof).

    A row of logits that are equal but for rounding becomes 0, with a gradient of 0: it is known by the largest and the
    smallest of them, as their mean is rounded by so much as the device and the number of classes have it.
    `[..., classes]` to the same.
    """
    centred = logits - logits.mean(-1, keepdim=True)
    deviation = safe_sqrt(centred.square().sum(-1, keepdim=True) / (logits.shape[-1] - ddof))
    low, high = logits.detach().aminmax(dim=-1, keepdim=True)
    equal = high - low <= EQUAL * torch.finfo(logits.dtype).eps * torch.maximum(high.abs(), low.abs())
    return torch.where(equal, 0.0, centred / (deviation + 1e-7))  # NaN stays NaN


def label_loss(logits: Tensor, labels: Tensor, form: str, *, label_smoothing: float = 0.0) -> Tensor:
    """-log softmax(z)_y of each row (`form` `softmax`; 0 for a label of -100), the binary cross-entropy of an element
    (`sigmoid`), or (z - y)^2 (`identity`).
    """
    if form == "identity":
        return functional.mse_loss(logits, labels.to(logits.dtype), reduction="none")
    if form == "sigmoid":
        return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
    flat = functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=-100, reduction="none", label_smoothing=label_smoothing
    )
    return flat.view(labels.shape)


def ctc_loss(logits: Tensor, labels: Tensor, blank: int) -> Tensor:
    """-log of the probability that frames `[batch, frames, symbols]` say `labels` `[batch, length]`, -100 behind the
    last, summed over all alignments. `[batch]`; 0 where there is no alignment.
    """
    log_q = functional.log_softmax(logits, -1).transpose(0, 1)
    lengths = (labels != -100).sum(-1)
    frames = torch.full_like(lengths, logits.shape[1])
    # By an index, which tells of symbols that there are not; ctc_loss reads other memory for these.
    targets = torch.arange(logits.shape[-1], device=labels.device)[labels.clamp(min=0)]
    return functional.ctc_loss(log_q, targets, frames, lengths, blank=blank, reduction="none", zero_infinity=True)


def diversity(logits: Tensor) -> Tensor:
    """How far apart the laws of several models are: the mean over pairs of models of |p_a - p_b|, p = softmax(z).

    `[models, ..., classes]` to `[...]`; 0 for one model.
    """
    laws = functional.softmax(logits, -1)
    first, second = torch.triu_indices(len(laws), len(laws), 1, device=laws.device)
    apart = safe_sqrt((laws[first] - laws[second]).square().sum(-1))
    return apart.sum(0) / max(len(apart), 1)
