"""Distils a teacher into a smaller student, on SQuAD or on questions of your own with answers in a text.

    accelerate launch scripts/distill_qa.py --dataset_name rajpurkar/squad --teacher_name_or_path TEACHER \\
        --student_layers 3 --output_dir students/squad

`--help` lists the flags.
"""

from __future__ import annotations

from hf_distill.commands.qa import main

if __name__ == "__main__":
    raise SystemExit(main())
