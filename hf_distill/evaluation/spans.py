"""From the scores of starts and ends in windows to the answer of each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from hf_distill.errors import NonFiniteLoss

Span = tuple[int, int]


@dataclass(frozen=True)
class Answer:
    """A span of the context as text, "" for no answer; and how probable it is that there is none, among the best
    spans."""

    text: str
    no_answer_probability: float


@dataclass(frozen=True)
class Search:
    """How answers are looked for: the best `n_best` starts and ends of each window make spans of `max_answer_length`
    tokens at most. `no_answer`: whether there may be none, which is said where its score is higher than that of the
    best span by more than `threshold`."""

    n_best: int = 20
    max_answer_length: int = 30
    no_answer: bool = False
    threshold: float = 0.0


def best_answers(
    contexts: Sequence[str],
    windows: Mapping[str, Sequence[Any]],
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    search: Search,
) -> list[Answer]:
    """The answers to the questions on `contexts`, one each, as BERT's code for SQuAD finds them (Devlin et al., 2019,
    arXiv:1810.04805, section 4.2 and 4.3).

    A span scores start + end; only tokens of the context begin or end one. No answer scores what the classification
    token does, start + end, in the window where that is least. Probabilities are a softmax over the scores of the
    `n_best` best spans of a question and, if it is allowed, of no answer. Logits are `[windows, length]`, padded
    anyhow; `windows` are the columns that `hf_distill.data.windows.windows` gives with offsets, in the same order.

    Errors: NonFiniteLoss where logits are NaN.
    """
    broken = int((np.isnan(start_logits).any(1) | np.isnan(end_logits).any(1)).sum())
    if broken:
        raise NonFiniteLoss(f"answers: the predictions of {broken} of {len(start_logits)} windows are NaN.")
    spans: list[dict[Span, float]] = [{} for _ in contexts]
    silence = np.full(len(contexts), np.inf)
    for row, example in enumerate(windows["example"]):
        first, starts, ends = (windows[name][row] for name in ("context_start", "offset_starts", "offset_ends"))
        token = windows["no_answer"][row]
        silence[example] = min(silence[example], float(start_logits[row, token]) + float(end_logits[row, token]))
        tokens = slice(first, first + len(starts))
        for begin, end, score in _spans(start_logits[row, tokens], end_logits[row, tokens], search):
            span = (starts[begin], ends[end])
            spans[example][span] = max(score, spans[example].get(span, -np.inf))
    return [
        _answer(context, found, float(least), search)
        for context, found, least in zip(contexts, spans, silence, strict=True)
    ]


def _spans(start: np.ndarray, end: np.ndarray, search: Search) -> list[tuple[int, int, float]]:
    """First token, last token and score of the best spans between the best starts and ends of one window."""
    begins = np.argsort(-start, kind="stable")[: search.n_best]
    ends = np.argsort(-end, kind="stable")[: search.n_best]
    length = ends[None, :] - begins[:, None] + 1
    rows, columns = np.nonzero((length >= 1) & (length <= search.max_answer_length))
    scores = start[begins[rows]].astype(np.float64) + end[ends[columns]]
    best = np.argsort(-scores, kind="stable")[: search.n_best]
    return [(int(begins[rows[i]]), int(ends[columns[i]]), float(scores[i])) for i in best]


def _answer(context: str, spans: Mapping[Span, float], silence: float, search: Search) -> Answer:
    best = sorted(spans.items(), key=lambda item: -item[1])[: search.n_best]
    if not best:
        return Answer("", 1.0)
    (begin, end), score = best[0]
    text = context[begin:end]
    if not search.no_answer:
        return Answer(text, 0.0)
    scores = np.asarray([silence, *(score for _, score in best)])
    probability = float(special.softmax(scores)[0])
    return Answer("" if silence - score > search.threshold else text, probability)
