"""Distils a teacher into a smaller student on raw text.

    accelerate launch scripts/distill_mlm.py --train_file corpus.txt --teacher_name_or_path TEACHER \\
        --student_layers 6 --output_dir students/general

`--help` lists the flags.
"""

from __future__ import annotations

from hf_distill.commands.mlm import main

if __name__ == "__main__":
    raise SystemExit(main())
