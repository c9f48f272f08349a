"""The training arguments of a stage, by the names of the installed release."""

from __future__ import annotations

from pathlib import Path

from hf_distill.runs.arguments import renamed, training_arguments


def test_checkpointing_is_asked_for_without_a_warning(tmp_path: Path) -> None:
    """Newer releases call it `activation_checkpointing`, and warn of the name that the older ones know."""
    given = {"gradient_checkpointing": True, "use_cpu": True, "report_to": "none"}
    found = training_arguments(given, tmp_path, 0, "stage 'one'")
    assert getattr(found, "activation_checkpointing", found.gradient_checkpointing) is True


def test_names_are_those_of_the_release() -> None:
    given = {"gradient_checkpointing": True, "seed": 1}
    assert renamed(given, {"gradient_checkpointing", "seed"}) == given
    newer = {"gradient_checkpointing", "activation_checkpointing", "seed"}
    assert renamed(given, newer) == {"activation_checkpointing": True, "seed": 1}
    both = {"gradient_checkpointing": True, "activation_checkpointing": False}
    assert renamed(both, newer) == both
