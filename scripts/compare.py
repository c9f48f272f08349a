"""Compares recipes on one task, each with several seeds: a table and a picture of what they gain and cost.

    python scripts/compare.py glue --recipes recipes/review/*.yaml --task_name sst2 --dataset_dir FOLDER \\
        --teacher_name_or_path TEACHER --student_layers 3 --seeds 0 1 2 --max_train_samples 4000 \\
        --num_train_epochs 2 --per_device_train_batch_size 32 --output_dir comparisons/sst2

`--report` writes what is there; `glue --help` lists the flags.
"""

from __future__ import annotations

from hf_distill.commands.compare import main

if __name__ == "__main__":
    raise SystemExit(main())
