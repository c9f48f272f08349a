"""How long a model takes for a sentence, and how many sentences it reads in a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from hf_distill.anatomy import Anatomy
from hf_distill.errors import DataError, DistillationError

BATCH = 32
SAMPLE = 256
"""At most so many sentences are read: enough for a median, few enough that every model gets through the same ones."""

WARM_UP = 5

Text = str | Sequence[str]
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Latency:
    """The time of a model's forward pass over sentences that are tokenised and on the device already.

    `milliseconds_per_sentence` is the median over sentences at batch 1, `low` and `high` its quartiles;
    `sentences_per_second` is at batch 32. `sentences` is the number that was timed at batch 1.
    """

    milliseconds_per_sentence: float
    low: float
    high: float
    sentences_per_second: float
    threads: int
    device: str
    sentences: int


def measure_latency(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str] | Sequence[tuple[str, str]],
    *,
    max_length: int = 128,
    repeats: int = 3,
    budget_seconds: float = 5.0,
    call: Callable[..., Any] | None = None,
) -> Latency:
    """Times `model` where it is, in its own dtype, in evaluation mode and without gradients.

    With `call`, that is timed in its place, on the inputs that `model` takes and where that is: the same model
    compiled or exported, as any callable that takes these inputs by name.

    At most 256 of the texts (or pairs) are read, drawn and ordered the same way for every model. At batch 1 each of
    them is run `repeats` times, and its median counts. At batch 32 they are sorted by length, padded batch by batch,
    and taken again from the start where they do not fill the last batch; the rate is that of each batch's median.
    Both phases start with runs that do not count. The first ends early at half of `budget_seconds`, the other at all
    of it, but neither before one run that counts. On an accelerator, the clock is read when the device has finished.
    Every module gets its own mode back, also after an error.

    Errors: DataError for no texts, other things than texts, or texts without a token; DistillationError for a
    `max_length`, `repeats` or `budget_seconds` that is not positive, or a tokenizer that cannot pad.
    """
    _check_positive(max_length=max_length, repeats=repeats, budget_seconds=budget_seconds)
    device = next(model.parameters()).device
    collate = DataCollatorWithPadding(tokenizer)
    rows = _tokenized(model, tokenizer, texts, max_length)
    singles: list[Inputs] = [collate([row]).to(device) for row in rows]
    batches: list[Inputs] = [collate(batch).to(device) for batch in _batches(rows)]
    timed = model if call is None else call
    started = perf_counter()
    with _evaluating(model):
        single = _median_seconds(timed, singles, repeats, started + budget_seconds / 2)
        batch = _median_seconds(timed, batches, repeats, started + budget_seconds)
    low, median, high = (1000 * float(seconds) for seconds in np.quantile(single, [0.25, 0.5, 0.75]))
    return Latency(
        milliseconds_per_sentence=median,
        low=low,
        high=high,
        sentences_per_second=BATCH * len(batch) / sum(batch),
        threads=torch.get_num_threads(),
        device=_name(device),
        sentences=len(single),
    )


def _check_positive(**settings: float) -> None:
    for name, value in settings.items():
        if not value > 0:
            raise DistillationError(f"measure_latency: {name} is {value}; it must be above 0.")


def _name(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def _tokenized(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], max_length: int
) -> list[dict[str, list[int]]]:
    """The inputs of a sample of the texts that the model's forward takes, without padding."""
    columns = _columns(texts)
    if tokenizer.pad_token is None:
        raise DistillationError(
            "measure_latency: the tokenizer has no padding token, so there is no batch of 32; set tokenizer.pad_token."
        )
    anatomy = Anatomy.of(model)
    vectors = anatomy.shape.sentence
    cut = None if vectors is None else vectors.max_length
    limits = [max_length, tokenizer.model_max_length, anatomy.shape.max_length, cut]
    limit = min(length for length in limits if length is not None)
    encoded = tokenizer(*columns, truncation=True, max_length=limit)
    names = [name for name in encoded if name in anatomy.accepts]
    rows = [
        {name: encoded[name][row] for name in names} for row, ids in enumerate(encoded["input_ids"]) if len(ids) > 0
    ]
    if not rows:
        raise DataError(f"measure_latency: none of {len(columns[0])} texts has a token.")
    return rows


def _columns(texts: Sequence[Text]) -> list[list[str]]:
    """A sample of the texts in an order drawn once and for all; of pairs, the first texts and the second ones."""
    if isinstance(texts, str) or not len(texts):
        raise DataError(f"measure_latency: the texts are {texts!r}; expected a list of at least one text or pair.")
    is_pair = not isinstance(texts[0], str)
    for row, text in enumerate(texts):
        parts = [text] if isinstance(text, str) else list(text)
        if len(parts) != 1 + is_pair or not all(isinstance(part, str) for part in parts):
            kind = "pair of texts, as the first one is" if is_pair else "text, as the first one is"
            raise DataError(f"measure_latency: texts[{row}] is {text!r:.80}; expected a {kind}.")
    sample = [texts[row] for row in np.random.default_rng(0).permutation(len(texts))[:SAMPLE]]
    return [list(column) for column in zip(*sample, strict=True)] if is_pair else [[str(text) for text in sample]]


def _batches(rows: Sequence[dict[str, list[int]]]) -> list[list[dict[str, list[int]]]]:
    """Whole batches of rows of similar length, in an order drawn once and for all."""
    number = -(-len(rows) // BATCH)
    filled = sorted(islice(cycle(rows), number * BATCH), key=lambda row: len(row["input_ids"]))
    return [filled[BATCH * index : BATCH * (index + 1)] for index in np.random.default_rng(0).permutation(number)]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _median_seconds(model: Callable[..., Any], inputs: Sequence[Inputs], repeats: int, deadline: float) -> list[float]:
    """The median time of each of the inputs that was reached before the deadline; at least the first one."""
    longest = max(inputs, key=lambda batch: batch["input_ids"].numel())
    now = perf_counter()
    warm = now + (deadline - now) / 10
    for _ in range(WARM_UP):
        _seconds(model, longest)
        if perf_counter() >= warm:
            break
    taken: list[list[float]] = [[] for _ in inputs]
    for index in list(range(len(inputs))) * repeats:
        if taken[0] and perf_counter() >= deadline:
            break
        taken[index].append(_seconds(model, inputs[index]))
    return [float(np.median(times)) for times in taken if times]


def _seconds(model: Callable[..., Any], inputs: Inputs) -> float:
    device = inputs["input_ids"].device
    _synchronize(device)
    started = perf_counter()
    model(**inputs)
    _synchronize(device)
    return perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
