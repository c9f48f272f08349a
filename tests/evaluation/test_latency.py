"""The clock is made up: a hook on the model moves it, so every expected time is known."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hf_distill.errors import DataError, DistillationError
from hf_distill.evaluation import latency
from hf_distill.evaluation.latency import measure_latency

WORDS = [f"w{number}" for number in range(1100)]


def make_tokenizer(special: bool = True, **tokens: str) -> PreTrainedTokenizerFast:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    raw = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        **({"pad_token": "[PAD]"} | tokens),
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def model() -> PreTrainedModel:
    config = BertConfig(
        vocab_size=1104,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=24,
    )
    return AutoModelForSequenceClassification.from_config(config)


class Clock:
    """A clock that stands still unless the model runs; keeps the inputs of every run."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs: list[dict[str, torch.Tensor]] = []

    def watch(self, model: PreTrainedModel, cost: Callable[[int, int, int], float]) -> None:
        """A run costs `cost(rows, tokens, number of the run from 0)` seconds."""

        def before(module: PreTrainedModel, args: tuple[()], kwargs: dict[str, torch.Tensor]) -> None:
            assert torch.is_inference_mode_enabled()
            assert not any(each.training for each in module.modules())
            self.now += cost(*kwargs["input_ids"].shape, len(self.runs))
            self.runs.append(kwargs)

        model.register_forward_pre_hook(before, with_kwargs=True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(latency, "perf_counter", lambda: made.now)
    return made


def sentence(words: int, start: int = 0) -> str:
    return " ".join(WORDS[start : start + words])


def milliseconds(rows: int, tokens: int, number: int) -> float:
    return rows * tokens / 1000


def test_median_and_quartiles_at_batch_1(model, tokenizer, clock):
    clock.watch(model, milliseconds)
    words = [9, 1, 14, 3, 6, 2]
    measured = measure_latency(model, tokenizer, [sentence(count) for count in words], budget_seconds=100)
    low, median, high = statistics.quantiles([count + 2 for count in words], n=4, method="inclusive")
    assert measured.low == pytest.approx(low)
    assert measured.milliseconds_per_sentence == pytest.approx(median)
    assert measured.high == pytest.approx(high)
    assert measured.sentences == 6
    assert measured.device == "cpu"
    assert measured.threads == torch.get_num_threads()


def test_batch_of_32_is_sorted_by_length_and_padded(model, tokenizer, clock):
    clock.watch(model, milliseconds)
    texts = [sentence(1 if row % 2 else 8, row) for row in range(64)]
    measured = measure_latency(model, tokenizer, texts, budget_seconds=100)
    assert measured.sentences_per_second == pytest.approx(64 / (32 * 3 / 1000 + 32 * 10 / 1000))


def test_few_texts_are_taken_again_to_fill_a_batch(model, tokenizer, clock):
    clock.watch(model, milliseconds)
    measured = measure_latency(model, tokenizer, [sentence(1), sentence(4)], budget_seconds=100)
    assert {tuple(run["input_ids"].shape) for run in clock.runs} == {(1, 3), (1, 6), (32, 6)}
    assert measured.sentences_per_second == pytest.approx(1000 / 6)
    assert measured.sentences == 2


def test_warm_up_does_not_count(model, tokenizer, clock):
    clock.watch(model, lambda rows, tokens, number: 5.0 if number in (0, 13) else 0.001)
    measured = measure_latency(model, tokenizer, [sentence(2)], repeats=8, budget_seconds=1000)
    assert [len(run["input_ids"]) for run in clock.runs] == [1] * 13 + [32] * 13
    assert measured.high == pytest.approx(1.0)
    assert measured.sentences_per_second == pytest.approx(32 / 0.001)


def test_one_slow_run_of_three_changes_nothing(model, tokenizer, clock):
    clock.watch(model, lambda rows, tokens, number: 7.0 if number in (6, 14) else 0.001)
    measured = measure_latency(model, tokenizer, [sentence(2)], repeats=3, budget_seconds=1000)
    assert len(clock.runs) == 2 * (5 + 3)
    assert measured.milliseconds_per_sentence == pytest.approx(1.0)
    assert measured.sentences_per_second == pytest.approx(32 / 0.001)


def test_budget_ends_the_measurement(model, tokenizer, clock):
    clock.watch(model, lambda rows, tokens, number: 0.1)
    measured = measure_latency(model, tokenizer, [sentence(2, row) for row in range(500)], budget_seconds=5)
    assert 5 <= clock.now <= 5.1 + 1e-9
    singles = sum(len(run["input_ids"]) == 1 for run in clock.runs)
    assert 25 <= singles <= 26
    assert measured.milliseconds_per_sentence == pytest.approx(100)
    assert measured.sentences == singles - 3  # the warm-up took a tenth of its half: 0.25 s


def test_model_slower_than_the_budget_runs_once_after_each_warm_up(model, tokenizer, clock):
    clock.watch(model, lambda rows, tokens, number: 60.0)
    measured = measure_latency(model, tokenizer, [sentence(2, row) for row in range(40)], budget_seconds=5)
    assert [len(run["input_ids"]) for run in clock.runs] == [1, 1, 32, 32]
    assert measured.sentences == 1
    assert measured.milliseconds_per_sentence == pytest.approx(60_000)
    assert measured.sentences_per_second == pytest.approx(32 / 60)


def test_every_model_reads_the_same_sample(model, tokenizer, clock):
    clock.watch(model, lambda rows, tokens, number: 1e-6)
    texts = [sentence(1, row) for row in range(1000)]
    seen = []
    for _ in range(2):
        clock.runs.clear()
        measured = measure_latency(model, tokenizer, texts, repeats=1)
        seen.append([run["input_ids"].tolist() for run in clock.runs])
        assert measured.sentences == 256
    assert seen[0] == seen[1]
    drawn = {run["input_ids"][0, 1].item() - 4 for run in clock.runs if len(run["input_ids"]) == 1}
    assert len(drawn) == 256
    assert max(drawn) > 900  # not the first rows, which in many files are of one class


def test_pairs_are_encoded_together(model, tokenizer, clock):
    clock.watch(model, milliseconds)
    measure_latency(model, tokenizer, [("w1 w2", "w3")], budget_seconds=100)
    assert clock.runs[0]["input_ids"].tolist() == [[2, 5, 6, 3, 7, 3]]
    assert clock.runs[0]["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1]]


@pytest.mark.parametrize(("max_length", "tokens"), [(5, 5), (128, 24)])
def test_texts_are_cut_to_the_least_limit(model, tokenizer, clock, max_length, tokens):
    clock.watch(model, milliseconds)
    measured = measure_latency(model, tokenizer, [sentence(100)], max_length=max_length, budget_seconds=100)
    assert measured.milliseconds_per_sentence == pytest.approx(tokens)


def test_inputs_that_the_model_does_not_take_are_left_out(tokenizer, clock):
    config = DistilBertConfig(vocab_size=1104, dim=8, n_layers=1, n_heads=1, hidden_dim=8, max_position_embeddings=24)
    model = AutoModelForSequenceClassification.from_config(config)
    clock.watch(model, milliseconds)
    measure_latency(model, tokenizer, [sentence(3)])
    assert set(clock.runs[0]) == {"input_ids", "attention_mask"}


def test_empty_text_is_a_sentence_where_it_has_tokens(model, tokenizer, clock):
    clock.watch(model, milliseconds)
    assert measure_latency(model, tokenizer, ["", ""], budget_seconds=100).milliseconds_per_sentence == pytest.approx(
        2
    )


def test_empty_text_without_tokens_is_left_out(model, clock):
    clock.watch(model, milliseconds)
    measured = measure_latency(model, make_tokenizer(special=False), ["", sentence(4)], budget_seconds=100)
    assert (measured.sentences, measured.milliseconds_per_sentence) == (1, pytest.approx(4))


@pytest.mark.parametrize("fails", [False, True])
def test_every_module_gets_its_mode_back(model, tokenizer, fails):
    model.train()
    model.bert.embeddings.eval()
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2
    if fails:
        model.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            measure_latency(model, tokenizer, [sentence(2)], repeats=1)
    else:
        measure_latency(model, tokenizer, [sentence(2)], repeats=1)
    assert [module.training for module in model.modules()] == before
    assert not torch.is_inference_mode_enabled()


def test_model_can_be_trained_afterwards(model, tokenizer):
    measure_latency(model, tokenizer, [sentence(2)], repeats=1)
    model(**tokenizer([sentence(2)], return_tensors="pt"), labels=torch.tensor([1])).loss.backward()
    assert model.classifier.weight.grad.abs().sum() > 0


def test_clock_is_read_when_an_accelerator_has_finished(monkeypatch, clock):
    queued = [3.0]  # work from before the measurement

    def synchronize(device: torch.device) -> None:
        assert device == torch.device("cuda", 0)
        clock.now += sum(queued)
        queued.clear()

    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)
    inputs = {"input_ids": SimpleNamespace(device=torch.device("cuda", 0))}
    assert latency._seconds(lambda input_ids: queued.append(0.25), inputs) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], r"\[\]"),
        ("a text", "'a text'"),
        (["w1", ("w2", "w3")], r"texts\[1\] is \('w2', 'w3'\); expected a text"),
        ([("w1", "w2"), "w3"], r"texts\[1\] is 'w3'; expected a pair"),
        ([("w1", "w2"), ("w3", None)], r"texts\[1\]"),
    ],
)
def test_other_things_than_texts_are_refused(model, tokenizer, texts, found):
    with pytest.raises(DataError, match=found):
        measure_latency(model, tokenizer, texts)


@pytest.mark.parametrize("setting", [{"max_length": 0}, {"repeats": 0}, {"budget_seconds": 0.0}])
def test_settings_that_are_not_positive_are_refused(model, tokenizer, setting):
    with pytest.raises(DistillationError, match=f"{next(iter(setting))} is 0"):
        measure_latency(model, tokenizer, [sentence(2)], **setting)


def test_texts_without_any_token_are_refused(model):
    with pytest.raises(DataError, match="none of 2 texts"):
        measure_latency(model, make_tokenizer(special=False), ["", ""])


def test_tokenizer_that_cannot_pad_is_refused(model):
    with pytest.raises(DistillationError, match="pad_token"):
        measure_latency(model, make_tokenizer(pad_token=None), [sentence(2)])
