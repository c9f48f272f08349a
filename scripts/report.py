"""Draws the report of a finished run again, or one page that compares all the runs in a folder.

    python scripts/report.py runs/sst2
    python scripts/report.py runs

Writes `report.html` and `report/*.png` into the folder. Also `hf-distill report`. `--help` tells more.
"""

from __future__ import annotations

from hf_distill.commands.report import main

if __name__ == "__main__":
    raise SystemExit(main())
