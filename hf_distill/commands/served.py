"""`cache served`: a teacher's cache made of what a server told of texts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from hf_distill.commands.console import configure_logging
from hf_distill.commands.flags import refuse_tokens, whole
from hf_distill.commands.help import Parser
from hf_distill.data.served_cache import Imported, import_records
from hf_distill.errors import DistillationError, RecipeError

NAME = "served"

DESCRIPTION = """Writes the log-probabilities that a served teacher gave of texts into --cache_teacher FOLDER.

--records are JSON lines: the answers of a server that speaks OpenAI's protocol (vLLM: prompt_logprobs, logprobs), one
a line, with prompt or messages beside an answer that does not tell its token ids. The student that trains from the
folder has the same tokenizer; the teacher is nowhere.

  hf-distill cache served --records answers.jsonl --tokenizer_name_or_path STUDENT \\
      --cache_teacher caches/served"""


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = Parser(f"cache {NAME}", DESCRIPTION)
    made.add_argument("--records", type=Path, nargs="+", required=True, metavar="FILE", help="files (.jsonl, .gz)")
    made.add_argument(
        "--tokenizer_name_or_path", required=True, metavar="NAME", help="the tokenizer of teacher and student"
    )
    made.add_argument("--cache_teacher", type=Path, required=True, metavar="FOLDER", help="the cache to write")
    made.add_argument(
        "--config_name_or_path",
        metavar="NAME",
        help="the configuration of the served model, or of one of the same vocabulary (default: the tokenizer's)",
    )
    made.add_argument(
        "--k", type=whole, help="tokens of a place to keep (default: as many as 95 %% of the places have)"
    )
    made.add_argument("--max_seq_length", type=whole, help="cut texts to so many tokens, as those trained on")
    made.add_argument("--revision", help="branch, tag or commit of tokenizer and configuration")
    return made


def run(words: Sequence[str]) -> int:
    """Imports the records and tells what was found; the exit status."""
    refuse_tokens(words)
    given, unknown = parser().parse_known_args(list(words))
    if unknown:
        raise RecipeError(f"command line: unknown argument {unknown[0].partition('=')[0]}; --help lists the flags.")
    configure_logging()
    done = import_records(
        given.records,
        given.cache_teacher,
        _loaded(AutoTokenizer, given.tokenizer_name_or_path, given.revision),
        _loaded(AutoConfig, given.config_name_or_path or given.tokenizer_name_or_path, given.revision),
        k=given.k,
        max_length=given.max_seq_length,
    )
    sys.stdout.write(f"{given.cache_teacher}: {told(done)}, fingerprint {done.facts.digest}\n")
    return 0


def told(done: Imported) -> str:
    """What an import found, in words."""
    counts = done.counts
    parts = [
        f"{done.written} of {counts.texts} texts written",
        f"{done.k} tokens kept at each of {counts.places - counts.silent - done.short} places",
        f"{counts.silent + done.short} of {counts.places} places without a record",
    ]
    parts += [f"{done.short} of them with fewer than {done.k} tokens"] if done.short else []
    parts += [f"{counts.cut} texts cut"] if counts.cut else []
    parts += [f"{counts.failed} requests that failed"] if counts.failed else []
    parts += [f"{counts.unknown} likely tokens that the tokenizer does not know"] if counts.unknown else []
    return ", ".join(parts)


def _loaded(kind: Any, name: str, revision: str | None) -> Any:
    """A tokenizer or a configuration by its name."""
    try:
        return kind.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise DistillationError(f"{name}: cannot be loaded: {error}") from error
