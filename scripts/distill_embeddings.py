"""Distils a sentence encoder into a smaller one, which sentence-transformers loads.

    accelerate launch scripts/distill_embeddings.py --train_file train.jsonl --validation_file validation.jsonl \\
        --text_columns sentence1,sentence2 --score_column label \\
        --teacher_name_or_path TEACHER --student_layers 3 --output_dir OUT

`--help` lists the flags.
"""

from __future__ import annotations

from hf_distill.commands.embeddings import main

if __name__ == "__main__":
    raise SystemExit(main())
