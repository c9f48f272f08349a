"""Distils a teacher into a smaller student that tags tokens: named entities, parts of speech.

    accelerate launch scripts/distill_ner.py --train_file train.jsonl --validation_file validation.jsonl \\
        --class_names O,B-PER,I-PER --teacher_name_or_path TEACHER --student_layers 3 --output_dir students/names

`--help` lists the flags.
"""

from __future__ import annotations

from hf_distill.commands.ner import main

if __name__ == "__main__":
    raise SystemExit(main())
