"""Distils a language model into a smaller one, on conversations or on raw text.

    accelerate launch scripts/distill_lm.py --train_file chats.jsonl --teacher_name_or_path TEACHER \\
        --teacher_dtype bfloat16 --student_layers 12 --max_seq_length 1024 --output_dir students/chat

`--help` lists the flags.
"""

from __future__ import annotations

from hf_distill.commands.lm import main

if __name__ == "__main__":
    raise SystemExit(main())
