"""Has a teacher write for the training rows, from which students learn without its beam search.

    python scripts/generate_targets.py --recipe review/seq_kd --output_dir students/de --generated_folder texts/de

The flags are those of `distill_translation.py`, or, behind the word `lm` or with a recipe of conversations, those of
`distill_lm.py`, or, behind the word `speech` or with a recipe of sounds, those of `distill_speech.py`; the script
learns from the folder when it gets the same ones. Broken off, it goes on where it was. `--help` tells more.
"""

from __future__ import annotations

from hf_distill.commands.generate import main

if __name__ == "__main__":
    raise SystemExit(main())
