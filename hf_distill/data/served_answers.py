"""Where things stand in the answer of a server, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_distill.data.files import describe
from hf_distill.errors import DataError


def answer_of(line: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the server answered; None where it did not."""
    response = line.get("response")
    if line.get("error") is not None or (response is None and "response" in line):
        return None
    if not isinstance(response, dict):
        return line
    if response.get("status_code", 200) != 200:
        return None
    body = response.get("body", response)
    return body if isinstance(body, dict) else {}


def asked_of(line: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((line[name] for name in ("request", "body") if isinstance(line.get(name), dict)), line)


def first_given(name: str, *places: Mapping[str, Any]) -> Any:
    """What stands under a name in the first place that has it."""
    return next((place[name] for place in places if place.get(name) is not None), None)


def has_echo(logprobs: Mapping[str, Any]) -> bool:
    """Whether a completion has its prompt before it: nothing foretells the first token of a prompt alone."""
    laws = logprobs.get("top_logprobs")
    return isinstance(laws, list) and len(laws) > 0 and laws[0] is None


def texts_and_laws(logprobs: Any, place: str) -> tuple[list[tuple[str, bytes | None]], list[Any]]:
    """The tokens of an answer as the server spells them, and their laws as they came."""
    if logprobs is None:
        return [], []
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if isinstance(content, list):
        laws = [each.get("top_logprobs") if isinstance(each, dict) else None for each in content]
        return [spelling_of(each, place) for each in content], laws
    tokens = logprobs.get("tokens") if isinstance(logprobs, dict) else None
    told = logprobs.get("top_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list) or not isinstance(told, list) or len(tokens) != len(told):
        raise DataError(
            f"{place}: logprobs is {describe(logprobs)}; expected content with top_logprobs, or as many tokens as "
            "top_logprobs (ask for logprobs of more than one token)."
        )
    return [spelling_of(token, place) for token in tokens], told


def spelling_of(told: Any, place: str) -> tuple[str, bytes | None]:
    """A token's text, and its bytes where they are told."""
    text = told.get("token") if isinstance(told, dict) else told
    octets = told.get("bytes") if isinstance(told, dict) else None
    if not isinstance(text, str):
        raise DataError(f"{place}: a token is {describe(told)}, expected its text.")
    if octets is None:
        return text, None
    if not isinstance(octets, list) or not all(type(each) is int and 0 <= each < 256 for each in octets):
        raise DataError(f"{place}: the bytes of {text!r} are {describe(octets)}, expected numbers from 0 to 255.")
    return text, bytes(octets)
