"""The N best sequences of symbols against all of them."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.teachers.ctc_search import ctc_hypotheses, prefix_search
from tests import sounds, tiny


def every_sequence(log_p: Tensor, blank: int) -> dict[tuple[int, ...], float]:
    """The probability of every sequence, added up over all paths."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    frames, symbols = log_p.shape
    for path in itertools.product(range(symbols), repeat=frames):
        said = tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != blank)
        found[said] += math.exp(sum(float(log_p[t, symbol]) for t, symbol in enumerate(path)))
    return found


@pytest.mark.parametrize("blank", [0, 2])
def test_with_beams_enough_the_search_finds_the_most_probable(blank: int) -> None:
    log_p = (2.0 * torch.randn(5, 3, generator=torch.Generator().manual_seed(blank))).double().log_softmax(-1)
    exact = every_sequence(log_p, blank)
    assert sum(exact.values()) == pytest.approx(1.0)
    found = prefix_search(log_p, blank, beams=200)
    assert found == sorted(exact, key=lambda said: -exact[said])
    assert prefix_search(log_p, blank, beams=3)[0] == found[0]


def test_scores_are_those_of_all_alignments_and_padding_is_not_heard() -> None:
    model = sounds.hearing().train()
    batch = sounds.collate([{name: row[name] for name in ("input_values", "labels")} for row in sounds.rows()])
    together = ctc_hypotheses(model, batch, beams=4, hypotheses=3)
    assert model.training
    with torch.no_grad():
        alone = {"input_values": batch["input_values"][1:2, :40], "attention_mask": batch["attention_mask"][1:2, :40]}
        (by_itself,) = ctc_hypotheses(model, alone, beams=4, hypotheses=3)
        log_p = model.eval()(**alone).logits[0].double().log_softmax(-1)
    assert by_itself["hypotheses"] == together[1]["hypotheses"]
    assert by_itself["hypothesis_scores"] == pytest.approx(together[1]["hypothesis_scores"], abs=1e-4)
    assert [len(row["hypotheses"]) for row in together] == [3, 3, 3]
    for said, score in zip(by_itself["hypotheses"], by_itself["hypothesis_scores"], strict=True):
        length = torch.tensor([len(said)])
        nll = torch.nn.functional.ctc_loss(
            log_p[:, None], torch.tensor([said]), torch.tensor([len(log_p)]), length, reduction="sum"
        )
        assert score == pytest.approx(-float(nll), abs=1e-4)
    assert by_itself["hypothesis_scores"] == sorted(by_itself["hypothesis_scores"], reverse=True)


def test_a_sound_without_a_frame_is_refused() -> None:
    batch = sounds.collate([{name: row[name] for name in ("input_values", "labels")} for row in sounds.rows()])
    batch["attention_mask"][1, 2:] = 0
    with pytest.raises(DataError, match="row 2 of a batch is too short"):
        ctc_hypotheses(sounds.hearing(), batch)


def test_models_that_do_not_hear_and_too_few_beams_are_refused() -> None:
    with pytest.raises(IncompatiblePair, match="whose task is masked_lm"):
        ctc_hypotheses(tiny.model("masked_lm"), {})
    with pytest.raises(DistillationError, match="5 hypotheses are asked for and there are 4 beams"):
        ctc_hypotheses(sounds.hearing(), {}, beams=4, hypotheses=5)
