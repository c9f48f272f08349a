"""The best student that keeps to a budget of time or size on this machine: measured, tried, trained and written.

    python scripts/auto.py --teacher TEACHER --task_name sst2 --latency_share 0.25 --time_budget 1h \\
        --output_dir students/sst2

`--help` lists the flags. Called again with the same output_dir, it goes on where it was broken off.
"""

from __future__ import annotations

from hf_distill.commands.auto import main

if __name__ == "__main__":
    raise SystemExit(main())
