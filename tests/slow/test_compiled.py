"""What `torch.compile` makes of every objective, of what stays outside of its graphs, and of generated code.

The last needs a C++ compiler.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.utils import counters
from transformers import BertForMaskedLM, Trainer

from hf_distill import HiddenCosine, HiddenMSE, HolisticKD, Labels, Learned, Schedule, SoftTargets, objectives
from hf_distill.errors import DistillationError
from hf_distill.objectives import Term, Terms
from tests import tiny
from tests.contract.worlds import Case, cases, scene
from tests.test_compile import losses, trained, untraced  # noqa: F401

BY_DEFAULT = {case.objective: case for case in cases() if not case.settings}
TRACEABLE = [case for case in BY_DEFAULT.values() if objectives.get(case.objective).traceable]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("untraced"),
    # inductor's own, when it is loaded
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]


def compared(backend: str, terms: Any, task: str, **given: Any) -> None:
    eager, compiled = (trained(each, terms(), task, **given) for each in (None, backend))
    assert counters["stats"]["unique_graphs"] >= 2
    assert tiny.distance(eager.distillation, compiled.distillation) < 1e-5
    assert losses(compiled) == pytest.approx(losses(eager), abs=1e-5)


def trained_by_inductor() -> None:
    trained("inductor", Labels(), arguments={"max_steps": 1})


def plainly_trained_by_inductor() -> None:
    compiled = {"torch_compile": True, "torch_compile_backend": "inductor"}
    rows = tiny.rows("single_label", 8)
    settings = {"train_dataset": rows, "data_collator": tiny.Pad()}
    Trainer(tiny.model("single_label", layers=1), tiny.arguments(max_steps=1, **compiled), **settings).train()


def halved_after(run: str, cache: Path) -> None:
    """Has another process compile the same, so that this one has nothing of it in memory, and halves the libraries."""
    program = f"from tests.slow.test_compiled import {run}; {run}()"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
    made = list(cache.rglob("*.so"))
    assert made, "code was generated"
    for library in made:
        os.truncate(library, 100)


@pytest.mark.parametrize("case", TRACEABLE, ids=lambda case: case.objective)
def test_what_is_called_traceable_is_traced_in_one_graph(case: Case) -> None:
    """But for its remarks, which are of training alone and are put down outside of the graph."""
    objective, made = case.bound().eval(), scene(case).leaves()
    expected = made.loss(objective)
    compiled = torch.compile(made.loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(objective), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "settings"), [("minilm_v2", {"relation_heads": 2}), ("attention_kl", {})])
def test_terms_that_form_their_gradient_themselves_stay_outside_of_the_graph(
    name: str, settings: dict[str, Any]
) -> None:
    """The models are compiled, and the student's graph ends before the terms."""

    def terms() -> Any:
        return objectives.make(name, settings) + 0.5 * Labels()

    compared("aot_eager", terms, "masked_lm")
    assert len(counters["graph_break"]) == 1
    assert "_outside_graph" in next(iter(counters["graph_break"]))


def test_a_large_vocabulary_stays_in_chunks() -> None:
    config = tiny.model("masked_lm", layers=1).config
    config.vocab_size = 5000
    torch.manual_seed(1)
    models = {"model": BertForMaskedLM(config), "teacher": BertForMaskedLM(config)}
    start = {name: tensor.clone() for name, tensor in models["model"].state_dict().items()}
    runs = []
    for backend in (None, "aot_eager"):
        models["model"].load_state_dict(start)
        run = trained(backend, SoftTargets() + Labels(), "masked_lm", arguments={"max_steps": 2}, **models)
        assert run.distillation._vocabulary is not None
        runs.append({name: tensor.clone() for name, tensor in models["model"].state_dict().items()})
    assert "_outside_graph" in next(iter(counters["graph_break"]))
    for name, tensor in runs[0].items():
        torch.testing.assert_close(runs[1][name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("settings", [{}, {"bf16": True, "gradient_accumulation_steps": 2}], ids=["plain", "mixed"])
def test_gradients_through_a_compiled_backward(settings: dict[str, Any]) -> None:
    def terms() -> Any:
        return 0.5 * SoftTargets(temperature=2.0) + 0.5 * Labels() + HiddenMSE() + HiddenCosine(projection="shared")

    compared("aot_eager", terms, "single_label", arguments=settings)
    assert not counters["graph_break"]


@pytest.mark.parametrize("task", ["single_label", "masked_lm"])
def test_generated_code_trains_as_eager_code(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A run that is broken off leaves half a library in the shared cache, which every later run would load.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compared("inductor", lambda: 0.5 * SoftTargets(temperature=2.0) + 0.5 * Labels() + HiddenMSE(), task)
    assert list(tmp_path.rglob("*.so")), "code was generated"


@pytest.mark.parametrize(
    ("run", "error", "words"),
    [
        (trained_by_inductor, DistillationError, r"^torch_compile: \w+: .* half a library .* TORCHINDUCTOR_CACHE_DIR"),
        (plainly_trained_by_inductor, TorchDynamoException, r"^(?!.*TORCHINDUCTOR_CACHE_DIR)[^\n]*\n"),
    ],
)
def test_half_a_library_of_a_killed_run_is_told(
    run: Callable[[], None], error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain Trainer ends in the compiler's own error of many lines, and no remedy."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    halved_after(run.__name__, tmp_path)
    with pytest.raises(error, match=words):
        run()


def test_learned_weights_are_part_of_the_graph() -> None:
    def terms() -> Any:
        return Terms.of([Term(Labels(), Learned(0.1)), Term(SoftTargets(kind="cross_entropy"), Learned(0.1))])

    compared("aot_eager", terms, "single_label")
    assert not counters["graph_break"]


def test_weights_of_a_step_and_games_stay_outside_of_the_graph() -> None:
    """A number that changes at every step would be compiled anew each time."""

    def terms() -> Any:
        return Labels() + Schedule.linear(1.0, 0.0) * SoftTargets() + 0.1 * HolisticKD(kind="hinge", width=8)

    compared("aot_eager", terms, "single_label")
    assert len(counters["graph_break"]) == 1
    assert "_outside_graph" in next(iter(counters["graph_break"]))
