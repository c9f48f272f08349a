"""What is left of a language model when a part of it is cut, by what it is cut by?

    python scripts/benchmarks/pruned.py --model FOLDER --text test.jsonl.gz --calibration validation.jsonl.gz \\
        --output pruned.json

Perplexity on the first tokens of a text, before any training: of the model, of students with `--layers` of its layers
chosen in every way, and of students that keep these shares of its neurons, heads and hidden dimensions. Importance is
measured on other text. A student that is in the output file is not measured again.

    python scripts/benchmarks/pruned.py --output pruned.json --table

prints what is there as a table.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill import students
from hf_distill.anatomy import Anatomy
from hf_distill.students.layers import cut_layers
from hf_distill.writing import write_whole

PLACES = ("spread", "first", "last")
MEASURED = [(pick, contiguous) for pick in ("importance", "loss_rise") for contiguous in (False, True)]
WIDTHS = ("neurons", "heads", "hidden", "all")
RANKINGS: dict[str, dict[str, Any]] = {
    "added": {},
    "activations": {"ranking": "activations"},
    "activations, l2 of l2": {"ranking": "activations", "over_tokens": "l2", "over_texts": "l2"},
    "activations, mean of mean": {"ranking": "activations", "over_tokens": "mean", "over_texts": "mean"},
    "activations, var of var": {"ranking": "activations", "over_tokens": "var", "over_texts": "var"},
    "added, 3 steps": {"steps": 3},
}


def blocks_of(path: str, tokenizer: PreTrainedTokenizerBase, number: int, length: int) -> list[dict[str, Tensor]]:
    """The first tokens of a file of texts, `number` rows of `length` without padding, four rows a batch."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8")  # noqa: SIM115
    ids: list[int] = []
    with opened as lines:
        for line in lines:
            text = json.loads(line)["text"]
            ids += tokenizer(text if text.endswith("\n") else text + "\n", add_special_tokens=False)["input_ids"]
            if len(ids) >= number * length:
                break
    rows = torch.tensor(ids[: len(ids) // length * length][: number * length]).view(-1, length)
    return [
        {"input_ids": part, "attention_mask": torch.ones_like(part), "labels": part} for part in rows.split(4)
    ]  # fmt: skip


@torch.no_grad()
def perplexity(model: PreTrainedModel, rows: list[dict[str, Tensor]]) -> float:
    total, number = 0.0, 0
    for batch in rows:
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
        targets = batch["labels"][:, 1:]
        total += float(functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum"))
        number += targets.numel()
    return math.exp(total / number)


def sizes_of(model: PreTrainedModel, what: str, share: float) -> dict[str, int]:
    """Sizes with that share of a width of the model, whole groups of heads."""
    stack = Anatomy.of(model).shape.stack()
    groups = max(1, round(share * stack.num_key_value_heads))
    heads = groups * (stack.num_attention_heads // stack.num_key_value_heads)
    narrow = {"num_attention_heads": heads, "num_key_value_heads": groups}
    neurons = {"intermediate_size": round(share * stack.feedforward_size)}
    # A width must be a multiple of the heads that there are.
    of_all = heads if what == "all" else stack.num_attention_heads
    hidden = {"hidden_size": round(share * stack.hidden_size / of_all) * of_all}
    if what == "heads" and stack.hidden_size % heads:
        raise SystemExit(
            f"hidden_size {stack.hidden_size} is no multiple of {heads} heads; give another --width_share"
        )
    return {"neurons": neurons, "heads": narrow, "hidden": hidden, "all": {**neurons, **narrow, **hidden}}[what]


def arms(
    given: argparse.Namespace, model: PreTrainedModel, rows: list[dict[str, Tensor]]
) -> Iterator[tuple[str, Callable[[], tuple[PreTrainedModel, dict[str, Any]]]]]:
    """Names, and makers of a student and of what else is told of it."""
    yield "whole", lambda: (model, {})
    layers = given.layers or round(2 * Anatomy.of(model).shape.stack().num_hidden_layers / 3)
    for pick in PLACES:
        yield f"{layers} layers, {pick}", lambda pick=pick: (students.from_layers(model, layers, pick), {})
    for pick, contiguous in MEASURED:

        def measured(pick: str = pick, contiguous: bool = contiguous) -> tuple[PreTrainedModel, dict[str, Any]]:
            student, kept = cut_layers(model, layers, pick, contiguous=contiguous, calibration=rows)
            return student, {"layers": kept.layers[""], "scores": kept.scores[""]}

        yield f"{layers} layers, {pick}{', one run' if contiguous else ''}", measured
    for what in WIDTHS:
        for name, settings in RANKINGS.items():
            sizes = sizes_of(model, what, given.width_share)

            def narrower(
                sizes: dict[str, int] = sizes, settings: dict[str, Any] = settings
            ) -> tuple[PreTrainedModel, dict[str, Any]]:
                cut = students.from_shape(model, initialisation="importance", calibration=rows, **sizes, **settings)
                return cut, sizes

            yield f"{what} {given.width_share:.2f}, {name}", narrower


def measure(given: argparse.Namespace, found: dict[str, Any]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()
    judged = blocks_of(given.text, tokenizer, given.rows, given.length)
    read = blocks_of(given.calibration, tokenizer, given.calibration_rows, given.length)
    for name, make in arms(given, model, read):
        if name in found or (given.only and given.only not in name):
            continue
        start = time.perf_counter()
        student, told = make()
        seconds = time.perf_counter() - start
        found[name] = {
            "perplexity": perplexity(student, judged),
            "parameters": student.num_parameters(),
            "seconds_to_make": round(seconds, 1),
            "tokens": sum(batch["input_ids"].numel() for batch in judged),
            "calibration_tokens": sum(batch["input_ids"].numel() for batch in read),
            **told,
        }
        write_whole(Path(given.output), (json.dumps(found, indent=1) + "\n").encode())
        print(f"{name}: {found[name]['perplexity']:.4g}", flush=True)


def table(found: dict[str, Any]) -> str:
    lines = ["| student | parameters | perplexity |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {each['parameters']:,} | {each['perplexity']:.4g} |" for name, each in found.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="the folder of a causal language model")
    parser.add_argument("--text", help="a file of rows with a text each, to judge by")
    parser.add_argument("--calibration", help="another one, to measure importance on")
    parser.add_argument("--output", required=True, help="where the results are kept")
    parser.add_argument("--layers", type=int, help="how many layers are kept (default: two thirds)")
    parser.add_argument("--width_share", type=float, default=2 / 3, help="which share of a width is kept")
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--calibration_rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--only", help="students with this in their names")
    parser.add_argument("--table", action="store_true", help="print what is there")
    given = parser.parse_args()
    place = Path(given.output)
    found = json.loads(place.read_text()) if place.exists() else {}
    if not given.table:
        measure(given, found)
    print(table(found))


if __name__ == "__main__":
    main()
