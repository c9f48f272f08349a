"""Distils a teacher into a smaller student that writes: translations, summaries and the like.

    accelerate launch scripts/distill_translation.py --train_file train.jsonl --validation_file validation.jsonl \\
        --source_column en --target_column de --teacher_name_or_path TEACHER --student_layers 3 --output_dir OUT

`--help` lists the flags.
"""

from __future__ import annotations

from hf_distill.commands.translation import main

if __name__ == "__main__":
    raise SystemExit(main())
