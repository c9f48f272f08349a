"""What a model writes is what a loop over tokens writes with the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from hf_distill.drawn_tokens import DRAWS, Drawn, Law
from hf_distill.training.sampling import Sampling, numbers, write
from hf_distill.training.texts import Prompts, prompts_of
from tests import tiny
from tests.on_policy.worlds import END, drawn_for, prompt_of, rows, small, text_of

LENGTH = 6


def sampling(**changes: Any) -> Sampling:
    settings: dict[str, Any] = {"max_new_tokens": LENGTH, "ends": (END,), "padding": 0}
    law = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "vocabulary": None}
    law |= {name: changes.pop(name) for name in law if name in changes}
    return Sampling(Law(**law), **{**settings, **changes})


def asked(task: str, number: int = 6) -> tuple[list[dict[str, Any]], Prompts]:
    made = rows(task, number)
    window = [tiny.Pad()(made[:4]), tiny.Pad(extra=3)(made[4:])]
    return made, prompts_of(window, decoder=task == "causal_lm", prompt_tokens=None, padding=0)


def texts(model: PreTrainedModel, prompts: Prompts, settings: Sampling, rows_at_once: int | None = None) -> list[Any]:
    drawn = numbers(3, 5, range(len(prompts.ids)), settings.max_new_tokens)
    found = write(model, prompts, settings, drawn, rows_at_once)
    return [ids[mask].tolist() for ids, mask in zip(found.ids, found.mask, strict=True)]


@pytest.mark.parametrize("family", ["causal_lm", "gpt2"])
def test_texts_are_those_of_a_loop(family: str) -> None:
    texts_are_those_of_a_loop(family)


def texts_are_those_of_a_loop(family: str) -> None:
    """Positions, padding and caches of a family."""
    task = "seq2seq_lm" if family in ("seq2seq_lm", "bart") else "causal_lm"
    model = small(family)
    made, prompts = asked(task)
    drawn = drawn_for(3, 5, range(len(made)), LENGTH)
    expected = [text_of(model, prompt_of(row, task), drawn[i]) for i, row in enumerate(made)]
    assert texts(model, prompts, sampling()) == expected
    assert len({tuple(text) for text in expected}) > 1


@pytest.mark.parametrize(
    "law",
    [
        {"temperature": 0.5},
        {"temperature": 3.0, "top_k": 5},
        {"top_p": 0.6},
        {"temperature": 0.0},
        {"top_k": 3, "top_p": 0.7},
    ],
)
def test_laws_are_shaped(law: dict[str, Any]) -> None:
    model = small("causal_lm")
    made, prompts = asked("causal_lm")
    drawn = drawn_for(3, 5, range(len(made)), LENGTH)
    expected = [text_of(model, prompt_of(row), drawn[i], **law) for i, row in enumerate(made)]
    assert texts(model, prompts, sampling(**law)) == expected
    assert expected != [text_of(model, prompt_of(row), drawn[i]) for i, row in enumerate(made)]


def test_rows_at_once_change_nothing() -> None:
    rows_at_once_change_nothing("causal_lm")


def rows_at_once_change_nothing(task: str) -> None:
    model = small(task)
    _, prompts = asked(task)
    together = texts(model, prompts, sampling())
    assert all(texts(model, prompts, sampling(), size) == together for size in (1, 4))


def test_texts_stop_at_any_end_and_that_token_belongs_to_them() -> None:
    model = small("causal_lm")
    made, prompts = asked("causal_lm", 16)
    ends = (END, 17, 40)
    found = texts(model, prompts, sampling(ends=ends))
    drawn = drawn_for(3, 5, range(len(made)), LENGTH)
    assert found == [text_of(model, prompt_of(row), drawn[i], ends) for i, row in enumerate(made)]
    written = write(model, prompts, sampling(ends=ends), numbers(3, 5, range(16), LENGTH))
    assert written.ended.tolist() == [text[-1] in ends for text in found]
    assert 0 < sum(written.ended.tolist()) < 16


def test_an_end_that_is_the_padding_ends_a_text_once() -> None:
    model = small("causal_lm")
    _, prompts = asked("causal_lm", 16)
    assert texts(model, prompts, sampling(padding=END)) == texts(model, prompts, sampling())


def test_classes_that_are_not_shared_are_never_drawn() -> None:
    model = small("causal_lm")
    with torch.no_grad():
        model.lm_head.weight[60:] *= 4
    _, prompts = asked("causal_lm", 16)
    assert max(max(text) for text in texts(model, prompts, sampling())) >= 60
    assert max(max(text) for text in texts(model, prompts, sampling(vocabulary=60))) < 60


def test_the_models_own_generation_config_shapes_nothing_and_stays() -> None:
    plain, model = small("causal_lm"), small("causal_lm")
    config = model.generation_config
    config.update(do_sample=True, temperature=0.2, top_k=2, repetition_penalty=5.0, num_beams=3, min_new_tokens=8)
    config.forced_eos_token_id = 5
    before = config.to_dict()
    _, prompts = asked("causal_lm")
    assert texts(model, prompts, sampling()) == texts(plain, prompts, sampling())
    assert model.generation_config is config
    assert config.to_dict() == before


def test_a_model_in_training_writes_without_dropout_and_is_left_in_training() -> None:
    quiet, model = small("causal_lm"), small("causal_lm", dropout=0.5)
    model.train()
    model.model.norm.eval()
    before = {name: module.training for name, module in model.named_modules()}
    _, prompts = asked("causal_lm")
    state = torch.get_rng_state()
    assert texts(model, prompts, sampling()) == texts(quiet, prompts, sampling())
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_whose_layers_are_checkpointed_writes_the_same_with_its_cache() -> None:
    checkpointed_layers_write_the_same("causal_lm")


def checkpointed_layers_write_the_same(task: str) -> None:
    plain, model = small(task), small(task)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.config.use_cache = False  # as the Trainer sets it
    model.train()
    lengths: list[int] = []
    block = (model.model.layers if task == "causal_lm" else model.decoder.block)[0]
    block.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    _, prompts = asked(task)
    assert texts(model, prompts, sampling()) == texts(plain, prompts, sampling())
    assert set(lengths[1:]) == {1}


def test_numbers_are_of_seed_step_and_place() -> None:
    found = numbers(3, 5, [0, 1, 2], 400)
    assert torch.equal(numbers(3, 5, [2, 0], 400), found[[2, 0]])
    assert torch.equal(numbers(3, 5, [1], 10)[0], found[1, :10])
    others = [numbers(4, 5, [0], 400), numbers(3, 6, [0], 400), found[1:2]]
    assert all(not torch.equal(other[0], found[0]) for other in others)
    assert int(found.min()) >= 0
    assert int(found.max()) < DRAWS
    assert float(found.double().mean()) / DRAWS == pytest.approx(0.5, abs=0.025)  # three deviations
    assert numbers(3, 5, [], 4).shape == (0, 4)


def test_the_first_and_the_last_number_draw_classes_that_have_a_probability() -> None:
    scores = torch.randn(3, 50_000, generator=torch.Generator().manual_seed(0))
    scores[:, 49_000:] = -torch.inf
    ids = torch.zeros(3, 4, dtype=torch.long)
    chosen = Drawn(torch.full((3, 1), DRAWS - 1), 4)(ids, scores).argmax(-1)
    assert all(48_000 < each < 49_000 for each in chosen.tolist())
    first = Drawn(torch.zeros(3, 1, dtype=torch.long), 4)(ids, scores.flip(1)).argmax(-1)
    assert first.tolist() == [1000] * 3
    certain = torch.full((3, 50_000), -torch.inf).scatter_(1, torch.tensor([[7], [0], [49_999]]), 1.0)
    for number in (0, DRAWS // 2, DRAWS - 1):
        assert Drawn(torch.full((3, 1), number), 4)(ids, certain).argmax(-1).tolist() == [7, 0, 49_999]


def test_laws_that_are_not_finite_still_give_a_token() -> None:
    """What is wrong is told by the loss."""
    model = small("causal_lm")
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    _, prompts = asked("causal_lm")
    assert max(map(max, texts(model, prompts, sampling()))) < tiny.VOCABULARY
