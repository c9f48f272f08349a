"""How an access token of the Hub looks."""

from __future__ import annotations

import re

TOKEN = re.compile(r"(?:hf_(?:oauth_|jwt_)?|api_org_)[A-Za-z0-9]{16,}")
"""A user's or fine-grained token (`hf_`), one of OAuth, and the organisation tokens of old."""


def redacted(text: str) -> str:
    """The text without anything that looks like an access token."""
    return TOKEN.sub("hf_...", text)
