"""`layer_similarity`: how alike the layers of two models are, as a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill import checks
from hf_distill.anatomy import Anatomy
from hf_distill.commands import reports_errors
from hf_distill.commands.flags import whole
from hf_distill.commands.help import Parser
from hf_distill.commands.outputs import check_place, write_text
from hf_distill.errors import DataError
from hf_distill.evaluation.similarity import layer_similarity
from hf_distill.loading import load_model, load_tokenizer
from hf_distill.runs.models import plain_tokenizer
from hf_distill.runs.workload import Limits

BATCH = 32


DESCRIPTION = """Compares every layer of a student with every layer of its teacher by linear CKA and SVCCA.

  hf-distill similarity --student students/sst2 --teacher TEACHER --texts sentences.txt"""


def parser() -> Parser:
    """The flags."""
    made = Parser("similarity", DESCRIPTION)
    made.add_argument("--student", required=True, help="a folder, or the id of a model on the Hub")
    made.add_argument("--teacher", required=True, help="the model to compare it with; it must read the same tokens")
    made.add_argument("--texts", required=True, type=Path, help="a text file with a sentence a line")
    made.add_argument("--max_texts", type=whole, default=512, help="read so many lines at most (512)")
    made.add_argument("--max_length", type=whole, default=128, help="cut texts to so many tokens at most (128)")
    made.add_argument("--output", type=Path, help="a file for the table; without it the table is printed")
    return made


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prints or writes the table; the exit status."""
    given = parser().parse_args(argv)
    if given.output is not None:
        check_place(given.output, "--output")
    tokenizer = plain_tokenizer(given.student, "student")
    checks.equal_tokenizers(tokenizer, load_tokenizer(given.teacher, role="teacher"), given.teacher)
    student, teacher = (load_model(getattr(given, role), "AutoModel", role=role) for role in ("student", "teacher"))
    lines, length = _lines(given.texts, given.max_texts), _length(given, tokenizer, student, teacher)
    accepted = ("input_ids", "attention_mask")
    collator = DataCollatorWithPadding(tokenizer)

    def batches() -> Iterator[dict[str, Tensor]]:
        for first in range(0, len(lines), BATCH):
            read = tokenizer(lines[first : first + BATCH], truncation=True, max_length=length)
            rows = [{name: read[name][i] for name in accepted} for i in range(len(read["input_ids"]))]
            yield dict(collator(rows))

    table = layer_similarity(student, teacher, batches()).markdown()
    if given.output is None:
        sys.stdout.write(table + "\n")
    else:
        write_text(given.output, table + "\n", "--output")
    return 0


def _length(given: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, *models: PreTrainedModel) -> int:
    """The most tokens of a text: those that are asked for, as far as tokenizer and models take them. Raises:
    `DataError` where the special tokens leave no room for others."""
    positions = [Anatomy.of(model).shape.max_length for model in models]
    length: int = Limits(given.max_length, positions, frozenset()).longest(tokenizer)
    special: int = tokenizer.num_special_tokens_to_add()
    if length <= special:
        raise DataError(f"--max_length {length} leaves no room beside the {special} special tokens of a text.")
    return length


def _lines(path: Path, number: int) -> list[str]:
    """The first lines that are not empty. Raises: `DataError` for a file that cannot be read or has none."""
    try:
        with path.open(encoding="utf-8") as file:
            found = list(islice((line.strip() for line in file if line.strip()), number))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--texts {path} cannot be read: {error}") from error
    if not found:
        raise DataError(f"--texts {path} has no line of text.")
    return found
