"""Low-rank adapters that train in place of a student's weights, and become part of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from hf_distill.checkpoints import let_others_read
from hf_distill.errors import RecipeError
from hf_distill.recipe import Lora

OF_PEFT = ("adapter_config.json", "adapter_model.safetensors", "README.md")
"""What peft writes; with it in a folder, transformers would look for the weights elsewhere."""


def adapted(model: PreTrainedModel, section: Lora, title: str) -> Any:
    """The student as a PeftModel, whose adapters alone train, and the modules that are saved whole; it is changed in
    place. Adapters add nothing at the start.

    Raises: `RecipeError` for modules that the student does not have, and where peft knows none for its family.
    """
    settings = section.model_dump()
    config = LoraConfig(lora_alpha=settings.pop("alpha"), lora_dropout=settings.pop("dropout"), **settings)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        reason = str(error).strip().split("\n")[0]
        raise RecipeError(f"{title}: lora: {reason} Name modules of the student as target_modules.") from error


def merged(model: Any) -> PreTrainedModel:
    """The plain student, whose weights hold what the adapters learned. The model is changed in place, so each process
    does it, and all of them hold the same one."""
    plain: PreTrainedModel = model.merge_and_unload()
    return plain


def save_plain(plain: PreTrainedModel, folder: Path) -> None:
    """Puts the plain student in the place of the adapters that were saved in a folder."""
    plain.save_pretrained(folder)
    let_others_read(folder, "config.json")
    for name in OF_PEFT:
        (folder / name).unlink(missing_ok=True)
