"""Runs in a process of its own: publishes the cases read from standard input and prints what came of each as JSON."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from hf_distill.errors import HubError
from hf_distill.hub.publish import publish


def run(case: dict[str, Any]) -> dict[str, Any]:
    """One publication: its result or its error, and the waits it asked for."""
    waits: list[float] = []
    os.environ.pop("HF_TOKEN", None)
    if case["token"]:
        os.environ["HF_TOKEN"] = case["token"]
    try:
        done = publish(case["folder"], case["repo_id"], **case["arguments"], sleep=waits.append)
    except HubError as error:
        return {"error": str(error), "waits": waits}
    return {"done": asdict(done), "waits": waits}


if __name__ == "__main__":
    cases = json.load(sys.stdin)
    print(json.dumps({name: run(case) for name, case in cases.items()}))
