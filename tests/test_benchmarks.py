"""What a step costs in arithmetic, by formulae of the shape, and that the benchmark measures one loss."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

SCRIPTS = Path(__file__).parents[1] / "scripts" / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """The benchmarks' own modules."""
    names = ("catalogue", "gradients", "measuring", "probes", "report", "turns", "workloads")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield SimpleNamespace(**{name: importlib.import_module(f"peers.{name}") for name in names})


@pytest.fixture(scope="module")
def encoders() -> Iterator[Any]:
    """The benchmark of sentence encoders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("embeddings")


def test_sentences_to_learn_from_are_written_whole_and_without_those_that_are_judged(
    encoders: Any, tmp_path: Path
) -> None:
    """What an earlier call left there, broken off or of other files, does not stay."""
    for name, rows in {"texts": ["one", "two", "one"], "pairs": ["two", "three"]}.items():
        lines = [json.dumps({"a": row, "b": f" {row} "}) + "\n" for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join([*lines, json.dumps({"a": "more", "b": "one"}) + "\n"]))
    (tmp_path / "train.jsonl").write_text('{"text": "o')
    given = SimpleNamespace(
        output=tmp_path, texts=[f"{tmp_path / 'texts.jsonl'}:a,b"], pairs=tmp_path / "pairs.jsonl", pair_columns="a"
    )
    path = encoders.write_texts(given)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"text": "one"}]


def test_trials_that_are_read_again_have_their_metrics_in_the_same_order(encoders: Any) -> None:
    def result(*metrics: str) -> Any:
        run = SimpleNamespace(metrics=dict.fromkeys(metrics, 0.5))
        return SimpleNamespace(metric="spearmanr", run=lambda _role: run)

    heads = [
        encoders.table(encoders.summarised({("embedding_mse", 3): [result(*order)]})).splitlines()[0]
        for order in (("spearmanr", "pearson"), ("pearson", "spearmanr"))
    ]
    assert heads == ["| model | student's layers | seeds | spearmanr | pearson |"] * 2


@pytest.fixture(scope="module")
def runs() -> Iterator[Any]:
    """The file of a benchmark's runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("runs")


def test_a_benchmark_goes_on_where_it_was_broken_off(runs: Any, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "runs.json"
    first = runs.Runs(path, {"epochs": 1})
    assert list(first.missing(("a", "b"), (1, 2))) == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    first.add({"arm": "b", "seed": 1, "accuracy": 0.5})
    again = runs.Runs(path, {"epochs": 1})
    assert again.found == [{"arm": "b", "seed": 1, "accuracy": 0.5}]
    assert list(again.missing(("a", "b"), (1, 2))) == [("a", 1), ("a", 2), ("b", 2)]
    assert [entry.name for entry in path.parent.iterdir()] == ["runs.json"]


def test_a_benchmark_refuses_runs_with_other_settings(runs: Any, tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    runs.Runs(path, {"epochs": 1}).add({"arm": "a", "seed": 1})
    other = tmp_path / "other.json"
    assert list(runs.Runs(other, {"epochs": 1}).missing(("a",), (1,))) == [("a", 1)]
    with pytest.raises(SystemExit, match="holds runs with the settings"):
        runs.Runs(other, {"epochs": 2})  # though no run of the first ones is over
    with pytest.raises(SystemExit, match=r"with the settings \{'epochs': 1\}; these have \{'epochs': 2\}"):
        runs.Runs(path, {"epochs": 2})


class Finished(Exception):
    pass


class Clock:
    """Counts the work of the step after two others, and ends the run."""

    def __init__(self, probe: Callable) -> None:
        self.probe, self.requests, self.open = probe, 0, None
        self.facts: dict[str, float] = {}

    def tick(self) -> None:
        self.requests += 1
        if self.requests == 3:
            self.open = self.probe()
        elif self.requests == 4:
            self.facts = self.open.close()
            raise Finished


def small(bench: SimpleNamespace, name: str):
    """A workload of few tokens whose vocabulary is large enough to be taken in chunks."""
    made = bench.workloads.WORKLOADS[name].scaled(0.1)
    return made if made.kind in ("classifier", "relations") else dataclasses.replace(made, vocabulary=6144)


def one_step(bench: SimpleNamespace, name: str, workload) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """The work of a step, and the first gradient by parameter."""
    teacher, student = workload.models()
    parameters, gradient = dict(student.named_parameters()), {}

    def keep(*_: object) -> None:
        if not gradient:
            gradient.update({key: p.grad.clone() for key, p in parameters.items() if p.grad is not None})

    clock = Clock(bench.probes.WorkProbe)
    handle = register_optimizer_step_pre_hook(keep)
    try:
        with pytest.raises(Finished):
            bench.catalogue.run_of(name)(workload, teacher, student, bench.turns.Batches(workload.batches(), clock))
    finally:
        handle.remove()
    return clock.facts, gradient


# ---- arithmetic; torch does not count the products inside the CPU's fused attention ----


def bert_layer(tokens: int, width: int) -> int:
    """Four projections of width x width, and two of width x 4 width."""
    return tokens * 24 * width**2


def llama_layer(tokens: int, width: int, heads: int) -> int:
    """Queries and output; keys and values of half as many heads; gate, up and down."""
    inner = width * 8 // 3 // 64 * 64
    return tokens * (4 * width**2 + 4 * width * (width // heads * (heads // 2)) + 6 * width * inner)


def classifier(w, cut: bool) -> int:
    tokens, h = w.batch * w.length, w.teacher_width
    head = w.batch * (2 * h**2 + 2 * h * 2)
    last = tokens * 4 * h**2 + w.batch * 20 * h**2 if cut else bert_layer(tokens, h)
    teacher = (w.teacher_layers - 1) * bert_layer(tokens, h) + last + head
    return teacher + 3 * ((w.student_layers - 1) * bert_layer(tokens, h) + last + head)


def relations(w, cut: bool) -> int:
    tokens, h = w.batch * w.length, w.teacher_width
    last = tokens * 6 * h**2 if cut else bert_layer(tokens, h)
    models = (w.teacher_layers - 1) * bert_layer(tokens, h) + last
    models += 3 * (w.student_layers - 1) * bert_layer(tokens, h)
    # the student's last attention and its feed-forward run without a gradient where they run at all
    models += 3 * tokens * 6 * h**2 + (0 if cut else bert_layer(tokens, h) - tokens * 6 * h**2)
    scores = 2 * w.batch * w.length**2 * h
    return models + 3 * (2 * scores + 2 * scores)  # of q, k, v: both models' scores, and two products backward


def masked_lm(w, cut: bool) -> int:
    tokens, h = w.batch * w.length, w.teacher_width
    head = tokens * (2 * h**2 + 2 * h * w.vocabulary)
    return w.teacher_layers * bert_layer(tokens, h) + head + 3 * (w.student_layers * bert_layer(tokens, h) + head)


def causal_lm(w, cut: bool) -> int:
    """`cut`: heads over target tokens alone."""
    tokens = w.batch * w.length
    rows = w.batch * (w.length - w.length // 8) if cut else tokens
    teacher = w.teacher_layers * llama_layer(tokens, w.teacher_width, w.teacher_heads)
    student = w.student_layers * llama_layer(tokens, w.student_width, w.student_heads)
    heads = 2 * rows * w.vocabulary
    return teacher + heads * w.teacher_width + 3 * (student + heads * w.student_width)


FLOPS = {"w1": classifier, "w1_12": classifier, "w2": relations, "w3": masked_lm, "w4": causal_lm}


@pytest.mark.parametrize("name", FLOPS)
def test_a_step_does_the_arithmetic_of_the_floor(bench: SimpleNamespace, name: str) -> None:
    """And its gradient is that of the whole models with the textbook loss, which do more."""
    workload = small(bench, name)
    whole, reference = one_step(bench, "loop", workload)
    assert whole["flops"] == FLOPS[name](workload, cut=False)
    for implementation in ("floor", "hf_distill"):
        facts, gradient = one_step(bench, implementation, workload)
        assert facts["flops"] == FLOPS[name](workload, cut=True), implementation
        assert_same(gradient, reference)


def test_the_divergence_with_a_mixture_is_one_loss_too(bench: SimpleNamespace) -> None:
    workload = small(bench, "w4_jsd")
    _, reference = one_step(bench, "loop", workload)
    for implementation in ("floor", "hf_distill"):
        facts, gradient = one_step(bench, implementation, workload)
        assert facts["flops"] == causal_lm(workload, cut=True), implementation
        assert_same(gradient, reference)


def assert_same(gradient: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> None:
    """Relative to the whole gradient: a parameter whose gradient is all rounding (keys' biases) does not matter."""
    missing = {name for name in reference if name not in gradient}
    assert all(not reference[name].any() for name in missing), missing
    parts = [(gradient[name], reference[name]) for name in reference if name in gradient]
    ours, theirs = (torch.cat([pair[side].flatten().double() for pair in parts]) for side in (0, 1))
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


@pytest.mark.parametrize("name", ["w1", "w4"])
def test_inference_mode_counts_what_no_grad_counts(bench: SimpleNamespace, name: str) -> None:
    workload = small(bench, name)
    teacher, _ = workload.models()
    batch = {key: value for key, value in workload.batches()[0].items() if key != "labels"}
    found = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            probe = bench.probes.WorkProbe()
            teacher(**batch)
            found.append(probe.close())
    assert found[0] == found[1]
    assert found[0]["operators"] > 100


# ---- what is made of the figures ----


def test_a_round_is_the_median_of_its_turns_and_a_ratio_the_median_of_rounds(bench: SimpleNamespace) -> None:
    ours = bench.measuring.Measured(rounds=[[2.0, 3.0, 8.0], [4.0, 4.0, 4.0], [1.0, 1.0, 1.0]])
    base = bench.measuring.Measured(rounds=[[1.0, 1.0, 2.0], [2.0, 4.0, 1.0], [1.0, 1.0, 1.0]])
    found = bench.report.ratio(ours, base)
    assert found["rounds"] == [3.0, 2.0, 1.0]
    assert found["median"] == 2.0
    assert found["range"] == (1.0, 3.0)
    low, high = found["interval"]
    assert 1.0 <= low <= 2.0 <= high <= 3.0


def test_every_implementation_goes_first_equally_often(bench: SimpleNamespace) -> None:
    orders = list(bench.measuring.rotated(["a", "b", "c"], 6))
    assert sorted(order[0] for order in orders) == ["a", "a", "b", "b", "c", "c"]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)


@pytest.mark.parametrize(("ours", "cosine", "norm_ratio", "same"), [
    ({"w": [3.0, 4.0], "unused": [0.0]}, 1.0, 1.0, True),
    ({"w": [6.0, 8.0]}, 1.0, 2.0, False),
    ({"w": [4.0, -3.0]}, 0.0, 1.0, False),
    ({"w": [3.0, 4.0], "more": [5.0]}, 0.5**0.5, 2**0.5, False),
])  # fmt: skip
def test_a_gradient_is_compared_over_all_parameters(
    bench: SimpleNamespace, tmp_path: Path, ours: dict, cosine: float, norm_ratio: float, same: bool
) -> None:
    torch.save({"w": torch.tensor([3.0, 4.0])}, tmp_path / "reference.pt")
    torch.save({name: torch.tensor(values) for name, values in ours.items()}, tmp_path / "ours.pt")
    found = bench.gradients.likeness(tmp_path / "ours.pt", tmp_path / "reference.pt")
    assert (found.cosine, found.norm_ratio) == pytest.approx((cosine, norm_ratio))
    assert found.same is same


def test_a_row_with_another_gradient_is_marked(bench: SimpleNamespace) -> None:
    facts = {"same_loss": True, "cosine": 0.9, "norm_ratio": 1.0, "same_gradient": False}
    assert "does not count" in bench.report.gradient_cell(facts)
    assert "does not count" not in bench.report.gradient_cell({**facts, "same_gradient": True})
    assert bench.report.gradient_cell({"same_loss": False}) == "other loss"


@pytest.mark.parametrize("name", ["w1", "w2", "w3", "w4", "w4_152k", "w4_jsd"])
def test_full_size_is_what_the_documentation_says(bench: SimpleNamespace, name: str) -> None:
    found = bench.workloads.WORKLOADS[name]
    assert found.scaled(1.0) is found
    sizes = {
        "w1": (32, 64, 384, 384, 30522), "w2": (32, 128, 384, 384, 30522), "w3": (16, 128, 384, 384, 30522),
        "w4": (4, 256, 384, 256, 49152), "w4_152k": (4, 256, 384, 256, 151936), "w4_jsd": (4, 256, 384, 256, 49152),
    }  # fmt: skip
    assert (found.batch, found.length, found.teacher_width, found.student_width, found.vocabulary) == sizes[name]


# ---- memory over time ----


@pytest.mark.parametrize(
    ("rate", "wave", "above"), [(0.0, 5.0, False), (0.05, 5.0, False), (2.0, 5.0, True), (-2.0, 5.0, False)]
)
def test_memory_grows_where_it_grows_by_more_than_its_noise(
    rate: float, wave: float, above: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`rate` is in megabytes a minute; the wave of an evaluation is no growth."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    soak = importlib.import_module("soak")
    points = [(10.0 * i, 900.0 + rate * i / 6 + wave * (i % 7 == 0)) for i in range(180)]
    found = soak.growth(points)
    assert found["minutes"] == pytest.approx(29.8, abs=0.05)
    assert found["growth"] == pytest.approx(rate * 29.8, abs=0.5)
    assert found["interval"][0] <= rate * 29.8 <= found["interval"][1]
    assert found["above_noise"] is above
