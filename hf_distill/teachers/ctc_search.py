"""What a teacher that hears takes sounds for: the N best sequences of symbols, by prefix beam search."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_distill.activations import Activations
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.losses import ctc_loss
from hf_distill.objectives.hypotheses import SCORES, TEXTS
from hf_distill.tasks import CTC, IGNORED, task_of

Prefix = tuple[int, ...]


class _Paths(NamedTuple):
    """The logarithms of the probabilities of all paths to a prefix that end in a blank, and of those that do not."""

    blank: float = -math.inf
    symbol: float = -math.inf

    @property
    def both(self) -> float:
        return _log_of_sum(self.blank, self.symbol)


@torch.no_grad()
def ctc_hypotheses(
    model: PreTrainedModel, batch: Mapping[str, Tensor], *, beams: int = 16, hypotheses: int = 8
) -> list[dict[str, list[list[int]] | list[float]]]:
    """The columns `hypotheses` and `hypothesis_scores` of each example of a batch, the most probable first, at most so
    many; what `data.hypotheses.WithHypotheses` puts together, and `ctc_nbest_kd` learns.

    The search keeps `beams` prefixes a frame, of which it follows as many of the most probable symbols (prefix search,
    Graves et al., 2006, of a beam). A score is log P of the sequence over all its alignments, not over those alone
    that the search saw. The model runs where it is, in eval mode.

    Raises: `IncompatiblePair` for a model without a CTC head; `DistillationError` for more hypotheses than beams;
    `DataError` for a sound that is too short for a frame.
    """
    task = task_of(model)
    if not isinstance(task, CTC):
        raise IncompatiblePair(
            f"the teacher is a {type(model).__name__}, whose task is {task.name}; sounds are heard by AutoModelForCTC."
        )
    if not 1 <= hypotheses <= beams:
        raise DistillationError(f"{hypotheses} hypotheses are asked for and there are {beams} beams; give as many.")
    training = model.training
    model.eval()
    heard = {name: tensor for name, tensor in batch.items() if name != "labels"}
    try:
        shown = Activations(mask=batch.get("attention_mask"), logits=model(**heard).logits)
    finally:
        model.train(training)
    (logits,) = task.rows(shown, batch)
    lengths = task.num_frames(batch).tolist()
    if min(lengths) < 1:
        raise DataError(
            f"row {lengths.index(min(lengths)) + 1} of a batch is too short: the teacher makes no frame of it; leave "
            "the row out."
        )
    log_p = logits.log_softmax(-1).cpu()
    return [_of_example(log_p[i, :length], task.blank, beams, hypotheses) for i, length in enumerate(lengths)]


def _of_example(log_p: Tensor, blank: int, beams: int, number: int) -> dict[str, list[list[int]] | list[float]]:
    found = prefix_search(log_p, blank, beams)
    longest = max(1, *map(len, found))
    labels = torch.tensor([[*prefix, *[IGNORED] * (longest - len(prefix))] for prefix in found])
    scores = -ctc_loss(log_p.expand(len(found), -1, -1), labels, blank)
    order = scores.argsort(descending=True, stable=True)[:number].tolist()
    return {TEXTS: [list(found[i]) for i in order], SCORES: [float(scores[i]) for i in order]}


def prefix_search(log_p: Tensor, blank: int, beams: int) -> list[Prefix]:
    """The sequences of symbols that the search ends with, at most `beams`, for log-probabilities `[frames, symbols]`,
    by their probability on the paths that it followed.
    """
    kept: dict[Prefix, _Paths] = {(): _Paths(blank=0.0)}
    best = log_p.topk(min(beams + 1, log_p.shape[1]), -1)
    for frame, (values, symbols) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        reached: dict[Prefix, _Paths] = defaultdict(_Paths)
        of_blank = float(log_p[frame, blank])
        for prefix, paths in kept.items():
            _add(reached, prefix, blank=paths.both + of_blank)
            if prefix:
                _add(reached, prefix, symbol=paths.symbol + float(log_p[frame, prefix[-1]]))
            for value, symbol in zip(values, symbols, strict=True):
                if symbol != blank:  # the same symbol again is another one only behind a blank
                    before = paths.blank if prefix and symbol == prefix[-1] else paths.both
                    _add(reached, (*prefix, symbol), symbol=before + value)
        ordered = sorted(reached.items(), key=lambda item: -item[1].both)
        kept = dict(ordered[:beams])
    return [prefix for prefix, paths in kept.items() if paths.both > -math.inf]


def _add(
    reached: dict[Prefix, _Paths], prefix: Prefix, *, blank: float = -math.inf, symbol: float = -math.inf
) -> None:
    paths = reached[prefix]
    reached[prefix] = _Paths(_log_of_sum(paths.blank, blank), _log_of_sum(paths.symbol, symbol))


def _log_of_sum(first: float, second: float) -> float:
    """log(e^first + e^second)."""
    high, low = max(first, second), min(first, second)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
