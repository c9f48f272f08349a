"""Publishes the student of a finished run on the Hub, with its card and its record.

    python scripts/publish.py students/sst2 --repo_id me/sst2-student

Log in first: `hf auth login`, or set HF_TOKEN. Also `hf-distill publish`. `--help` tells more.
"""

from __future__ import annotations

from hf_distill.commands.publish import main

if __name__ == "__main__":
    raise SystemExit(main())
