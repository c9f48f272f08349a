"""Errors of the Hub's client: told with the repository and the remedy, and tried again where that may help."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from hf_distill.errors import HubError
from hf_distill.hub.markdown import line

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each new attempt after a failure that may pass."""

MAX_WAIT = 300.0
"""The longest wait that the Hub may ask for."""

# Base of all errors of the client's HTTP library, lost connections included: httpx in huggingface_hub 1, httpx2 in 2.
_HTTP_ERROR: type[BaseException] = HfHubHTTPError.__bases__[0]

# The client also raises ValueError (bad names, cards), OSError (no token, offline) and RuntimeError (large files).
CLIENT_ERRORS = (_HTTP_ERROR, OSError, ValueError, RuntimeError)

REMEDIES = {
    400: "The Hub found the request or the card's metadata wrong; see its message.",
    401: "The token is missing, wrong or expired: run `hf auth login` or set HF_TOKEN.",
    403: "The token may not write there: use a token with write access, or another name space.",
    404: "There is no such repository or revision, or the token may not see it: check the name and the token.",
    409: "Another operation on the repository is under way: try again when it has ended.",
    412: "Somebody else changed the repository meanwhile: look at it, then publish again.",
    413: "The Hub found the upload too large: use larger or fewer shards.",
    429: "The Hub asks for fewer requests: wait some minutes, then publish again.",
}


def until_it_holds(
    attempt: Callable[[], Result], sleep: Callable[[float], None] = time.sleep, waits: Sequence[float] = WAITS
) -> Result:
    """Attempt until it succeeds, the failure is final, or the waits are used up.

    Raises: `HubError`, the last one that `attempt` raised.
    """
    for wait in waits:
        try:
            return attempt()
        except HubError as error:
            if not may_pass(error):
                raise
            seconds = max(wait, min(_asked_wait(error), MAX_WAIT))
            logger.warning("%s Trying again in %g s.", error, seconds)
        sleep(seconds)
    try:
        return attempt()
    except HubError as error:
        if not waits or not may_pass(error):
            raise
        raise HubError(
            f"{error} It was tried {len(waits) + 1} times. Running it again is safe: nothing is sent twice."
        ) from error.__cause__


@contextmanager
def as_hub_error(repo_id: str) -> Iterator[None]:
    """Turn what the client raises into a `HubError` with that cause."""
    try:
        yield
    except HubError:
        raise
    except CLIENT_ERRORS as error:
        raise HubError(f"{repo_id}: {_what_happened(error)} {_remedy(error)}".strip()) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _answer(error: BaseException) -> HfHubHTTPError | None:
    """The Hub's answer that is the reason of `error`, if it answered."""
    return next((cause for cause in _causes(error) if isinstance(cause, HfHubHTTPError)), None)


def _what_happened(error: BaseException) -> str:
    answer = _answer(error)
    if answer is None:
        chain = dict.fromkeys(f"{type(cause).__name__}: {line(str(cause)).rstrip('.')}" for cause in _causes(error))
        return f"{' from '.join(chain)}."
    told = line(answer.server_message or str(answer))
    return f"the Hub answered {answer.response.status_code} ({told})."


def _remedy(error: BaseException) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "The client is offline: unset HF_HUB_OFFLINE."
    if isinstance(error, LocalTokenNotFoundError):
        return REMEDIES[401]
    answer = _answer(error)
    if answer is not None:
        return REMEDIES.get(answer.response.status_code, "")
    return "The connection to the Hub failed." if may_pass(error) else ""


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    answer = _answer(error)
    if answer is not None:
        status = answer.response.status_code
        return status in (408, 429) or status >= 500
    return any(
        isinstance(cause, (_HTTP_ERROR, ConnectionError, TimeoutError)) and not isinstance(cause, OfflineModeIsEnabled)
        for cause in _causes(error)
    )


def _asked_wait(error: BaseException) -> float:
    """Seconds that the Hub asked to wait, or 0."""
    answer = _answer(error)
    asked = answer.response.headers.get("Retry-After", "") if answer is not None else ""
    return float(asked) if asked.isdecimal() else 0.0
