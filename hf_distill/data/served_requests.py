"""What a served model was asked for, as far as it tells the tokens of its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_distill.data.files import describe
from hf_distill.errors import DataError

REMEDY = "ask the server for token ids (vLLM: return_token_ids)"

OF_MESSAGES: dict[str, Any] = {
    "tools": None,
    "documents": None,
    "chat_template": None,
    "chat_template_kwargs": None,
    "add_generation_prompt": True,
    "continue_final_message": False,
    "add_special_tokens": False,
}
"""Settings of a chat that change its prompt, and what vLLM takes them for where they are not given."""

OF_TEXT = {"add_special_tokens": True}
"""The same of a prompt that is a text."""


def check_settings(asked: Mapping[str, Any], usual: Mapping[str, Any], place: str) -> None:
    """Refuses a request for another prompt than one by the `usual` settings, which alone is made here.

    Raises: `DataError` that names the setting.
    """
    more = asked.get("extra_body")
    given = {**(more if isinstance(more, dict) else {}), **asked}  # as OpenAI's client takes what only vLLM knows
    for name, value in usual.items():
        found = given.get(name)
        if found is not None and found != value and found not in ("", [], {}):
            raise DataError(
                f"{place}: was asked with {name} {describe(found)}, so that its prompt is another than the one "
                f"that is made here; {REMEDY}."
            )


def check_number(body: Mapping[str, Any], choice: Mapping[str, Any], tokens: int, place: str) -> None:
    """Compares the number of tokens of a prompt with what the server counted, where it did. Prompts that it answered
    together, each with ids of its own, it counts together.

    Raises: `DataError` where it is another.
    """
    usage = body.get("usage")
    counted = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    is_of_several = choice.get("prompt_token_ids") is not None and len(body["choices"]) > 1
    if type(counted) is int and counted != tokens and not is_of_several:
        raise DataError(
            f"{place}: the prompt has {tokens} tokens, and the server counts {counted} (usage.prompt_tokens): it read "
            f"another text, or one that begins with its special token twice; {REMEDY}."
        )
