"""How much memory an evaluation takes on many sentences, against few.

    python scripts/benchmarks/evaluation_memory.py [--rows 1000 100000] [--file FILE] [--json FILE]

For each number of rows a process of its own reads them from a file of JSON lines, tokenises them, and evaluates a BERT
classifier of two layers beside a teacher on them, with all metrics; and another a masked language model on the same
texts, by its loss. Printed are the largest resident memory of each process, and its ratio to that of the fewest rows.
Texts are made up, or the column `sentence` of a FILE (.jsonl or .jsonl.gz), from its beginning again where it is too
short; the longest one comes first, so that the largest batch is as large for all. The exit status is 1 if a ratio is
above 1.2. `--rows 100 2000` is a smoke test.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from made_up_text import save_model, write_text
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    TrainingArguments,
)

from hf_distill import DistillationTrainer, Labels, SoftTargets
from hf_distill.data.text import load_files
from hf_distill.data.tokenization import tokenize
from hf_distill.evaluation.metrics import compute_metrics_for

ROOT = Path(__file__).parents[2]
LIMIT = 1.2
KINDS = ("classifier", "masked_lm")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--file", type=Path)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        kind, folder = given.one
        evaluate(kind, Path(folder), given.rows[0])
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), sorted(given.rows), given.file)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(max(each["ratio"] for told in found.values() for each in told.values()) > LIMIT)


def measured(folder: Path, rows: list[int], file: Path | None) -> dict[str, Any]:
    """Megabytes and ratios by kind and number of rows."""
    save_model(folder / "model", layers=2, width=64)
    texts = list(itertools.islice(sentences(folder, file), rows[-1]))
    texts.insert(0, texts.pop(max(range(len(texts)), key=lambda row: len(texts[row]))))
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as written:
        for number, text in enumerate(texts):
            written.write(json.dumps({"text": text, "label": number % 2}) + "\n")
    found: dict[str, Any] = {}
    for kind in KINDS:
        found[kind] = {}
        for number in rows:
            megabytes = peak(kind, folder, number) / 1e6
            fewest = found[kind].get(rows[0], {}).get("megabytes", megabytes)
            found[kind][number] = {"megabytes": round(megabytes, 1), "ratio": round(megabytes / fewest, 3)}
            print(f"{kind:<11}{number:>8} rows: {megabytes:7.1f} MB, {megabytes / fewest:.3f}", flush=True)
    return found


def sentences(folder: Path, file: Path | None) -> Iterator[str]:
    """Texts without an end."""
    if file is None:
        write_text(folder / "text.txt", 2.0)
        lines = (folder / "text.txt").read_text(encoding="utf-8").splitlines()
    else:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as opened:
            lines = [json.loads(line)["sentence"] for line in opened]
    return itertools.cycle(lines)


def peak(kind: str, folder: Path, rows: int) -> int:
    """The largest resident memory of an evaluation, in bytes."""
    lines = (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:rows]
    (folder / "some.jsonl").write_text("".join(lines), encoding="utf-8")
    command = [sys.executable, __file__, "--rows", str(rows), "--one", kind, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def evaluate(kind: str, folder: Path, rows: int) -> None:
    """Evaluates a student on all rows of the file, as a script does."""
    model, tokenizer = folder / "model", AutoTokenizer.from_pretrained(folder / "model")
    labelled = {"label_column": "label", "label_names": ["0", "1"]} if kind == "classifier" else {}
    data = load_files({"validation": folder / "some.jsonl"}, ["text"], **labelled)
    dataset = tokenize(data.splits["validation"], tokenizer, ["text"])
    cls, collator, settings = {
        "classifier": (AutoModelForSequenceClassification, DataCollatorWithPadding(tokenizer), {"num_labels": 2}),
        "masked_lm": (AutoModelForMaskedLM, DataCollatorForLanguageModeling(tokenizer), {}),
    }[kind]
    torch.manual_seed(0)
    student, teacher = (cls.from_pretrained(model, dtype=torch.float32, **settings) for _ in range(2))
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        objectives=SoftTargets() + Labels(),
        args=TrainingArguments(
            str(folder / "out"), use_cpu=True, per_device_eval_batch_size=32, report_to=[], disable_tqdm=True
        ),
        eval_dataset=dataset,
        data_collator=collator,
        compute_metrics=compute_metrics_for(None) if kind == "classifier" else None,
    )
    found = trainer.evaluate()
    if len(dataset) != rows or not found["eval_loss"] > 0:
        raise SystemExit(f"{rows} rows were to be evaluated; found {found}")


if __name__ == "__main__":
    raise SystemExit(main())
