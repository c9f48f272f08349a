"""Compares the layers of a student with those of its teacher: linear CKA and SVCCA of every pair, as a table.

    python scripts/layer_similarity.py --student runs/distilled --teacher TEACHER --texts sentences.txt

The same for a student that was trained without the teacher shows which layers its knowledge went to. Also
`hf-distill similarity`. `--help` tells more.
"""

from __future__ import annotations

from hf_distill.commands.similarity import main

if __name__ == "__main__":
    raise SystemExit(main())
