"""Distils a teacher that hears (AutoModelForCTC) into a smaller student.

    accelerate launch scripts/distill_speech.py --train_file train.jsonl --validation_file validation.jsonl \\
        --audio_column audio --text_column text --teacher_name_or_path TEACHER --student_name_or_path STUDENT \\
        --output_dir OUT

`--help` lists the flags.
"""

from __future__ import annotations

from hf_distill.commands.speech import main

if __name__ == "__main__":
    raise SystemExit(main())
