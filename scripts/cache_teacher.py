"""Writes what a teacher shows of the training rows into a folder, from which students are trained without it.

    python scripts/cache_teacher.py glue --task_name sst2 --teacher_name_or_path TEACHER --student_layers 3 \\
        --cache_teacher caches/sst2
    torchrun --nproc_per_node 2 scripts/cache_teacher.py mlm --recipe recipe.yaml --cache_teacher caches/corpus

The first word is the kind of data (glue, qa, ner, mlm, lm, embeddings, translation); the flags are those of
`distill_<kind>.py`, which trains from the folder when it gets the same ones. Broken off, it goes on where it was.
`--help` tells more.
"""

from __future__ import annotations

from hf_distill.commands.cache_teacher import main

if __name__ == "__main__":
    raise SystemExit(main())
