"""What share of some texts is in no span that two tokenizers have in common: at these tokens a student learns nothing
of its teacher.

    python scripts/benchmarks/alignment.py --student_tokenizer FOLDER --teacher_tokenizer FOLDER --text a.jsonl.gz

Texts are read as a run reads them: the lines of a `.txt`, the cells `text` of a `.jsonl`, either compressed by gzip or
not. Long ones go on in further rows. The figures are counts of `align_texts`, the same on every machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers import AutoTokenizer

from hf_distill.data.aligned_rows import AlignmentCounts, align_texts
from hf_distill.data.streams import TextFiles


def aligned(given: argparse.Namespace) -> AlignmentCounts:
    """What became of the texts of all files."""
    ours = AutoTokenizer.from_pretrained(given.student_tokenizer)
    theirs = AutoTokenizer.from_pretrained(given.teacher_tokenizer, gguf_file=given.gguf_file)
    texts = TextFiles(tuple(map(Path, given.text))).documents()
    return align_texts(texts, ours, theirs, given.max_length, long="split").counts


def table(counts: AlignmentCounts) -> str:
    """Both sides, a line each."""
    found = counts.to_dict()
    lines = [
        f"{counts.texts:,} texts, {counts.rows:,} rows, {counts.spans:,} spans; {counts.texts_left_out:,} texts and "
        f"{counts.cut_characters:,} characters left out",
        "",
        "| | tokens that count | in no span | share |",
        "|---|---|---|---|",
    ]
    for side in ("student", "teacher"):
        tokens, alone = found[f"{side}_tokens"], found[f"{side}_unaligned"]
        lines.append(f"| {side} | {tokens:,} | {alone:,} | {alone / max(tokens, 1):.2%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--student_tokenizer", required=True, help="a folder or Hub id")
    parser.add_argument("--teacher_tokenizer", required=True, help="a folder or Hub id")
    parser.add_argument("--gguf_file", help="the GGUF file of the teacher's folder that has its tokenizer")
    parser.add_argument("--text", nargs="+", required=True, help="text files and files of JSON lines")
    parser.add_argument("--max_length", type=int, default=128, help="tokens of a row at most")
    print(table(aligned(parser.parse_args())))


if __name__ == "__main__":
    main()
