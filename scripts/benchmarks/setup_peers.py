"""Makes the virtual environments of the toolkits that `steps.py` and `job.py` measure.

    python scripts/benchmarks/setup_peers.py --folder FOLDER
    python scripts/benchmarks/setup_peers.py --folder FOLDER --only textbrewer -- --index-url URL

Each holds one toolkit, at the version of `peers/catalogue.py`, and shares torch and transformers with the environment
that runs this script, some 30 MB in all. What follows `--` is handed to pip.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from peers import environments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = [made.name for made in environments.with_requirements()]
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=choices, default=choices)
    parser.add_argument("pip", nargs="*", help="arguments of pip, after --")
    given = parser.parse_args()
    for implementation in environments.with_requirements():
        if implementation.name in given.only:
            environments.make(implementation, given.folder.resolve(), given.pip)
            print(f"{implementation.name}: {', '.join(implementation.requirements)}", flush=True)


if __name__ == "__main__":
    main()
