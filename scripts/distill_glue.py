"""Distils a teacher into a smaller student, on a GLUE task or on texts of your own.

    accelerate launch scripts/distill_glue.py --task_name sst2 --teacher_name_or_path TEACHER --student_layers 3 \\
        --output_dir students/sst2

`--help` lists the flags; without any the recipe `quickstart` is run.
"""

from __future__ import annotations

from hf_distill.commands.glue import main

if __name__ == "__main__":
    raise SystemExit(main())
