"""Every objective has golden values, a recipe and a paper, and stands in the documentation; every reference leads to
what is there."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

import hf_distill
from hf_distill import objectives
from hf_distill.commands.main import COMMANDS
from hf_distill.recipe import shipped
from hf_distill.recipe.document import parse
from hf_distill.recipe.sections.objective import WEIGHING
from tests.golden_cases import BUILDERS, VALUES

ROOT = Path(__file__).parents[1]
DOCUMENTED = runpy.run_path(str(ROOT / "scripts" / "document_objectives.py"))
REVIEW, TABLE = DOCUMENTED["review"](), DOCUMENTED["table"]()

GOLDEN = {
    "annealing": "annealing_loss",
    "dkpp": "born_again_dkpp",
    "knowledge_flow": "knowledge_flow_loss",
    "labels": "hard_ce",
}
"""The golden cases of objectives that have another name there."""

OWN_VALUES = {
    "embedding_cosine": "objectives/test_sentence_vectors.py",
    "embedding_mse": "objectives/test_sentence_vectors.py",
    "margin_mse": "objectives/test_sentence_vectors.py",
    "multilingual_mse": "objectives/test_sentence_vectors.py",
    "gold": "objectives/test_across_tokenizers.py",
    "uld": "objectives/test_across_tokenizers.py",
    "factor_paraphraser": "objectives/test_features.py",
    "knowledge_preregression_heads": "objectives/test_features.py",
    "mhgd_estimator": "objectives/test_text_relations.py",
    "next_sentence": "contract/test_pretraining.py",
    "pooled_distance": "objectives/test_pooled_distance.py",
    "ted_filters": "objectives/test_features.py",
}
"""Objectives of which no values are stored, first stages above all, or values of another form, and the tests that work
theirs out or compare them."""

NO_PAPER = {"labels"}
"""The task's own loss."""

NO_RECIPE = {"next_sentence"}
"""Raw text has no pairs of sentences in recipes; this is for a trainer of one's own."""

each_objective = pytest.mark.parametrize("name", objectives.names())


def used() -> set[str]:
    """The objectives that a stage of a shipped recipe names."""
    recipes: list[Any] = [parse(file.read_text(encoding="utf-8"), name).data for name, file in shipped().items()]
    entries = [entry for recipe in recipes for stage in recipe["stages"] for entry in stage["objectives"]]
    return {key for entry in entries for key in entry if key not in WEIGHING}


USED = used()


@each_objective
def test_an_objective_has_golden_values(name: str) -> None:
    if name in OWN_VALUES:
        text = (ROOT / "tests" / OWN_VALUES[name]).read_text(encoding="utf-8")
        assert name in text or objectives.get(name).__name__ in text
        return
    stored = BUILDERS.keys() | VALUES.keys()
    wanted = GOLDEN.get(name, name)
    assert any(method == wanted or method.startswith(f"{wanted}_") for method in stored), sorted(stored)


@each_objective
def test_an_objective_has_a_recipe(name: str) -> None:
    assert (name in USED) is (name not in NO_RECIPE)


@each_objective
def test_an_objective_has_a_citation(name: str) -> None:
    citation = objectives.get(name).citation
    assert bool(citation) is (name not in NO_PAPER)
    if citation:
        assert citation.startswith("@")
        assert citation.count("{") == citation.count("}")
        assert DOCUMENTED["paper"](objectives.get(name))


@each_objective
def test_an_objective_says_what_it_reads_and_counts(name: str) -> None:
    row = next(line for line in TABLE.splitlines() if line.startswith(f"| `{name}` |"))
    cells = row.strip("| ").replace("\\|", "").split(" | ")
    assert cells[1].split(", ")[0] in ("response", "feature", "relation")
    assert cells[2].split(",")[0].split(";")[0].split(":")[0] in ("offline", "online", "self", "none")
    assert all(cells[3:4] + cells[5:7])


@pytest.mark.parametrize("name", ["attention_transfer", "dmkd", "fitnets_hint", "vid"])
def test_the_table_says_what_each_form_counts(name: str) -> None:
    (row,) = (line for line in TABLE.splitlines() if line.startswith(f"| `{name}` |"))
    assert '| examples that have text; tokens with `form="code"` |' in row


@each_objective
def test_an_objective_with_a_paper_is_among_the_references(name: str) -> None:
    if name not in NO_PAPER | NO_RECIPE:
        assert any(name in entry.get("objectives", []) for entry in REVIEW)


def test_tables_of_exceptions_name_objectives() -> None:
    named = {*GOLDEN, *OWN_VALUES, *NO_PAPER, *NO_RECIPE, *DOCUMENTED["KINDS"], *DOCUMENTED["MODES"]}
    assert named <= set(objectives.names())


@pytest.mark.parametrize("entry", REVIEW, ids=lambda entry: f"{entry['authors']} {entry['year']}")
def test_a_reference_leads_to_what_is_there(entry: dict[str, Any]) -> None:
    assert set(entry) <= {
        "authors",
        "year",
        "title",
        "link",
        "objectives",
        "recipes",
        "parts",
        "carries",
        "rest",
        "beyond",
    }
    assert set(entry.get("objectives", [])) <= set(objectives.names())
    assert set(entry.get("recipes", [])) <= set(shipped())
    for part in entry.get("parts", []):
        if part.startswith("hf-distill "):
            assert part.removeprefix("hf-distill ") in COMMANDS
        else:
            room, _, name = part.partition(".")
            assert hasattr(getattr(hf_distill, room), name)
    assert entry["carries"]
    assert entry["rest"]


def test_no_reference_stands_there_twice() -> None:
    titles = [entry["title"] for entry in REVIEW]
    assert len(titles) == len(set(titles))


def test_the_page_of_methods_is_up_to_date() -> None:
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == DOCUMENTED["methods"]()
