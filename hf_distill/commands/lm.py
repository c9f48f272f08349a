"""`distill_lm`: language models, on conversations or on raw text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from hf_distill.commands import mlm
from hf_distill.commands.flags import FILES, HUB, ON_POLICY, WRITING, WRITING_KEYS, flag, whole
from hf_distill.commands.overrides import Changes, Script, name_of_rows, on_policy, on_rows, on_targets
from hf_distill.commands.script import entry_points
from hf_distill.data.streams import UNITS
from hf_distill.errors import RecipeError
from hf_distill.objectives.response.soft_targets import KINDS
from hf_distill.recipe import Recipe
from hf_distill.recipe.rules.kept import REFERENCE
from hf_distill.tasks import CausalLM

DESCRIPTION = """Distil a language model into a smaller one, on conversations or on raw text.

Rows are conversations (a column of messages, or prompts and completions), read through the tokenizer's chat
template; what the assistant says is learned. Of raw text, a .txt file or a column (--text_column), it is every word;
packing, streams and several sources of raw text are for recipes (data.text). Flags alone stand for forward KL at
temperature 1, 0.9, and labels, 0.1. With --student_share the student writes a share of the texts itself (GKD); with
--targets best it learns the answers that the teacher writes, once, to the conversations before their last answer.
Where a model writes all that is learned, training rows may be prompts alone.

  hf-distill lm --train_file chats.jsonl --teacher_name_or_path TEACHER --teacher_dtype bfloat16 \\
      --student_layers 12 --max_seq_length 1024 --output_dir students/chat
  hf-distill lm --recipe language_models/reverse_kl --train_file chats.jsonl --packing \\
      --output_dir students/chat"""

SETTINGS: dict[str, dict[str, Any]] = {
    "messages_column": flag("The column of messages (default: messages)."),
    "prompt_column": flag("The column of prompts, with --completion_column, or alone where a model answers all."),
    "completion_column": flag("The column of what the assistant says to them."),
    "system_message": flag("What stands first in conversations without a message of the system's."),
    "chat_template": flag("A file with a chat template in place of the tokenizer's."),
    "chat_date": flag("The day that a template is told which asks for it (default: 2024-07-26)."),
    "packing": {
        "help": "Put several conversations into a training row, each read as if it stood alone.",
        "action": "store_true",
    },
    "num_samples": flag("Validation prompts that teacher and student answer in the report (default: 4).", int),
    "text_column": flag("The rows are raw text, in this column."),
    "text_unit": flag("The rows are raw text: what a document is in a .txt file.", choices=UNITS),
}

LOSSES: dict[str, dict[str, Any]] = {
    "divergence": flag("How student and teacher are compared (default: forward_kl).", choices=KINDS),
    "beta": flag("Of the divergence jsd: 0 is the forward KL, 1 the reverse one.", float),
    "skew": flag("Of the divergences skew_kl and skew_rkl: the share of the other law.", float),
    "top_k": flag("Compare over the teacher's k likeliest tokens, and the rest as one.", whole),
    "lora_rank": flag("Train low-rank adapters of this rank, which become part of the student at the end.", whole),
}

KEYS = {
    "messages_column": "messages_column",
    "prompt_column": "prompt_column",
    "completion_column": "completion_column",
    "system_message": "system",
    "chat_template": "template",
    "chat_date": "date",
    "packing": "packing",
    "num_samples": "samples",
}
"""Where flags stand below `data.chat`."""

OF_TEXT = ("text_column", "text_unit")
"""Flags that say that the rows are raw text, and how it is read."""

OF_LOSS = {"divergence": "kind", "beta": "beta", "skew": "alpha", "top_k": "top_k"}
"""Where flags stand below `soft_targets`."""


def _data(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    rows = _text(own, recipe) if _is_text(own, recipe) else on_rows(own, recipe, "chat", KEYS)
    return {**rows, **_losses(own, recipe), **_targets(own, recipe), **on_policy(own, recipe)}


def _is_text(own: Mapping[str, Any], recipe: Recipe) -> bool:
    """Whether the rows are raw text: by the flags, or else by the recipe."""
    if any(name in own for name in OF_TEXT) or (recipe.data is not None and recipe.data.text is not None):
        return True
    return PurePath(own.get("train_file", "").removesuffix(".gz")).suffix == ".txt"


def _text(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    """Raw text, of which every next word is learned.

    Raises: `RecipeError` for flags about conversations.
    """
    of_chat = [name for name in KEYS if name in own]
    if of_chat:
        raise RecipeError(
            f"command line: --{of_chat[0]} is about conversations, and the rows are raw text; leave it out."
        )
    if "test_file" in own:
        raise RecipeError("command line: --test_file goes with conversations; raw text has no test. Leave it out.")
    files = {f"{split}_file": [own[f"{split}_file"]] for split in ("train", "validation") if f"{split}_file" in own}
    kept = {name: own[name] for name in (*HUB, *OF_TEXT) if name in own}
    changes = mlm.SCRIPT.data({**kept, **files}, recipe)
    if "data" in changes:
        typed, data = changes["data"]
        changes["data"] = (typed, {"text": {**data["text"], "task": CausalLM.name}})
    return changes


def _targets(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    """What the flags say of texts that the teacher writes; to learn them is to have it write."""
    changes = on_targets(own, recipe, WRITING_KEYS)
    has = recipe.teacher is not None and recipe.teacher.generate is not None
    needs = own.get("targets", REFERENCE) != REFERENCE and not has
    return {**({"teacher.generate": ("--targets", {})} if needs else {}), **changes}


def _losses(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    """What the flags say of the soft targets of every stage, and of its adapters.

    Raises: `RecipeError` where there are none.
    """
    changes: Changes = {}
    if "lora_rank" in own:
        changes |= {f"stages.{i}.lora.r": ("--lora_rank", own["lora_rank"]) for i in range(len(recipe.stages))}
    for name in (name for name in OF_LOSS if name in own):
        found = {
            f"stages.{i}.objectives.{j}.soft_targets.{OF_LOSS[name]}": (f"--{name}", own[name])
            for i, stage in enumerate(recipe.stages)
            for j, entry in enumerate(stage.objectives)
            if entry.objective == "soft_targets"
        }
        if not found:
            raise RecipeError(f"command line: --{name} is given, and no stage of the recipe has soft_targets.")
        changes |= found
    return changes


SCRIPT = Script(
    name="lm",
    description=DESCRIPTION,
    flags={**HUB, **FILES, **SETTINGS, **LOSSES, **WRITING, **ON_POLICY},
    plain={
        "schema": 1,
        "data": {"files": {"train": "train"}, "chat": {}},
        "max_length": 1024,
        "teacher": {"model": "teacher"},
        "student": {"from_layers": {"layers": 1}},
        "stages": [
            {
                "name": "distil",
                "objectives": [
                    {"soft_targets": {"temperature": 1.0}, "weight": 0.9},
                    {"labels": {}, "weight": 0.1},
                ],
            }
        ],
    },
    data_name=name_of_rows,
    data=_data,
)

parser, main = entry_points(SCRIPT)
