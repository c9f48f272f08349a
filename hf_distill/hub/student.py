"""What a record says of its student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_distill.hub.folder import WEIGHTS
from hf_distill.hub.record import ModelFacts, is_hub_id, sha256_of_files


def student_facts(student: PreTrainedModel, folder: Path) -> ModelFacts:
    """The facts of a student, with the sums of its configuration and weights where these lie in `folder`, and of an
    adapter the model that it is one of, where that is on the Hub."""
    files = sha256_of_files(folder, ("config.json", *WEIGHTS))
    return ModelFacts.of(student).model_copy(update={"files": files, "adapter_of": _adapter_of(student)})


def _adapter_of(student: PreTrainedModel) -> str | None:
    adapters: dict[str, Any] = getattr(student, "peft_config", None) or {}
    names = {str(each.base_model_name_or_path or "") for each in adapters.values()}
    name = names.pop() if len(names) == 1 else ""
    return name if is_hub_id(name) and not Path(name).exists() else None
