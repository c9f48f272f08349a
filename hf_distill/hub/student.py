"""What a record says of its student."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from hf_distill.hub.folder import WEIGHTS
from hf_distill.hub.record import ModelFacts, sha256_of_files


def student_facts(student: PreTrainedModel, folder: Path) -> ModelFacts:
    """The facts of a student, with the sums of its configuration and weights where these lie in `folder`."""
    return ModelFacts.of(student).model_copy(update={"files": sha256_of_files(folder, ("config.json", *WEIGHTS))})
