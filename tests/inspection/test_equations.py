"""Every objective says what it computes, in one line, and what it counts; papers and weights are told in words."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hf_distill import objectives
from hf_distill.inspection.explanation import counts
from hf_distill.inspection.formula import total, weights
from hf_distill.inspection.papers import paper
from hf_distill.objectives import HiddenCosine, Labels, Learned, Pair, Schedule, SoftTargets, Terms
from hf_distill.objectives.equations import documented_equation
from hf_distill.objectives.weighing import Weighing
from hf_distill.tasks import TASKS
from tests.shapes import shape


def made(name: str, **settings: Any) -> objectives.Objective:
    return objectives.make(name, settings)


@pytest.mark.parametrize("name", objectives.names())
def test_an_objective_has_an_equation(name: str) -> None:
    equation = made(name).equation
    assert equation.startswith(("L = ", "L_k = "))
    assert "\n" not in equation
    assert "  " not in equation
    assert len(equation) > len("L = 1")
    assert equation.count("(") == equation.count(")")
    assert counts(made(name)), "what it counts"


def test_the_equation_is_the_sentence_of_the_documentation() -> None:
    class Made:
        """A loss (Somebody, 2020), with L = nothing in brackets (L = 0).

        With p = softmax(z), L = sum_i (p_i - q_i)^2 of each text (q. v.; `form="a"`: the
        other. One), where p. and q are laws. It is not said here. L = 5.

        L = 7.
        """

    assert documented_equation(Made) == "L = nothing in brackets (L = 0)"
    Made.__doc__ = (Made.__doc__ or "").replace(", with L = nothing in brackets (L = 0)", "")
    expected = 'L = sum_i (p_i - q_i)^2 of each text (q. v.; `form="a"`: the other. One), where p. and q are laws'
    assert documented_equation(Made) == expected
    assert documented_equation(type("Empty", (), {})) == ""


def test_settings_choose_the_equation() -> None:
    assert made("soft_targets").equation.startswith("L = T^2 KL(p || q), p = softmax(teacher / T)")
    assert made("soft_targets").equation.endswith("T = 2")
    assert made("soft_targets", kind="reverse_kl", scale="none").equation.startswith("L = KL(q || p)")
    assert made("soft_targets", kind="jsd", beta=0.25).equation.startswith(
        "L = T^2 [0.25 KL(p || m) + 0.75 KL(q || m)]"
    )
    assert made("soft_targets", kind="logit_mse").equation == "L = mean_c (student_c - teacher_c)^2"
    assert "MSE(h_s, h_t)" in made("feature_map_transfer", form="plain").equation
    assert "-sum p_at log q_at" in made("attention_kl", kind="cross_entropy").equation
    assert "|J_s - J_t|" in made("gradient_attention_transfer", space="shared").equation


TWO_FORMS = [
    name
    for name in objectives.names()
    if 'form="code"' in (objectives.get(name).__doc__ or "") and name != "mhgd"  # its other form is ours
]


@pytest.mark.parametrize("name", TWO_FORMS)
def test_the_form_chooses_the_equation(name: str) -> None:
    assert made(name, form="paper").equation != made(name, form="code").equation


def test_the_code_of_a_method_has_its_own_equation() -> None:
    assert len(TWO_FORMS) >= 10
    assert made("tf_kd_reg", form="code", multiplier=100.0).equation.startswith(
        "L = 0.9 (-log q_y) + 10 (1/K) KL(u || softmax(z))"
    )
    assert made("rkd_distance", form="code").equation.startswith("L = (1/b^2) sum_(i != j) h(")
    assert made("pkt", form="code").equation.startswith("L = (1/b^2) sum_ij p_ij log((p_ij + 1e-7) / (q_ij + 1e-7))")
    assert made("fitnets_hint", form="code").equation.startswith("L = (1/D) |W s + b - t|^2 at every real token")
    assert made("attention_transfer", form="code", kind="max_p", p=1.0).equation.startswith(
        "L = (q_s - q_t)^2 at every token, q = max_c |h_kc|^1 over its norm"
    )


@pytest.mark.parametrize(("task", "law", "label"), [
    ("single_label", "softmax", "-log q_y"), ("multi_label", "sigmoid", "log(1 - q)"), ("regression", "", "y)^2"),
])  # fmt: skip
def test_the_task_chooses_the_equation(task: str, law: str, label: str) -> None:
    logits = 1 if task == "regression" else 3
    pair = Pair.from_shapes(shape(2, 4, logits), shape(2, 4, logits), TASKS[task])
    soft, hard = made("soft_targets"), made("labels")
    for objective in (soft, hard):
        objective.bind(pair)
    assert (f"{law}(teacher / T)" if law else "(student - teacher)^2") in soft.equation
    assert label in hard.equation


def test_a_map_stands_in_the_equation_where_there_is_one() -> None:
    for widths, wanted in (((4, 4), "|h_s - h_t|"), ((4, 6), "|W h_s + b - h_t|")):
        objective = made("hidden_mse")
        objective.bind(Pair.from_shapes(*(shape(2, width, 3) for width in widths), TASKS["single_label"]))
        assert wanted in objective.equation


@pytest.mark.parametrize("name", [name for name in objectives.names() if name != "labels"])
def test_papers_are_told_with_authors_and_year(name: str) -> None:
    told = paper(objectives.get(name).citation)
    author, _, rest = told.partition(" (")
    assert author
    assert rest[:4].isdigit()
    assert len(rest.split(". ", 1)[1]) > 10
    assert not set("{}\\") & set(told)


def test_a_paper_in_a_line() -> None:
    citation = """@misc{x,
  title = {A {Long} Title
           that goes on},
  author = {Fleuret, Fran{\\c{c}}ois and One, A.},
  year = {2015},
  eprint = {1503.02531},
  archivePrefix = {arXiv}
}"""
    assert paper(citation) == "Fleuret & One (2015). A Long Title that goes on. arXiv:1503.02531"
    assert paper("") == ""


def test_the_formula_is_what_is_added_up() -> None:
    """Each part of the text, worked out by hand, against what the trainer makes of the same means."""
    terms = Terms.of([
        5.0 * SoftTargets(), Labels() * "learned", HiddenCosine() * Schedule.linear(2.0, 0.0),
        Learned(0.5) * SoftTargets(kind="reverse_kl"), objectives.make("pkt", {}),
    ])  # fmt: skip
    means = {"soft_targets": 0.5, "labels": 0.75, "hidden_cosine": 0.25, "soft_targets_2": 1.5, "pkt": 3.0}
    weighing = Weighing(terms)
    weighing.set(0.25)
    for term, value in ((terms[1], 0.5), (terms[3], -1.0)):
        with torch.no_grad():
            term.objective.log_variance.fill_(value)
    known = {
        "w_hidden_cosine(x)": 1.5, "exp(-s_labels)/2": math.exp(-0.5) / 2, "s_labels/2": 0.25,
        "exp(-s_soft_targets_2)/2": math.exp(1.0) / 2, "s_soft_targets_2/2": -0.5, **means,
    }  # fmt: skip
    parts = total(terms).removeprefix("total = ").split(" + ")
    found = sum(math.prod(known.get(word) or float(word) for word in part.split()) for part in parts)
    with torch.no_grad():
        assert found == pytest.approx(weighing.total(means))
    assert weights(terms)[0].startswith("s_labels: learned, at a rate of 0.001")
    assert "linear from 2 to 0" in weights(terms)[1]
    assert "at a rate of 0.5" in weights(terms)[2]


def test_what_opposes_the_student_is_added() -> None:
    terms = Terms.of(0.1 * objectives.make("holistic_kd", {}))
    assert total(terms) == "total = 0.1 holistic_kd + auxiliary_holistic_kd"
    assert weights(terms)[0].startswith("auxiliary_holistic_kd: ")
