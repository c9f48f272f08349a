"""What a language model's targets lose, and how fast they are read, in each form that a teacher's cache can hold.

    python scripts/benchmarks/language_model_targets.py --model FOLDER --text a.jsonl.gz b.jsonl.gz \\
        --fit_text a.jsonl.gz c.jsonl.gz --states states.safetensors

Contexts are runs of 256 tokens of a file's texts. A file that is named twice has its texts shuffled, of which a tenth
is scored and the rest is for the tables of codecs.

A form is scored by KL(teacher || target) in nats a token, the teacher's head applied to what is read back. The largest
logits with the mass of the rest (tail bucket) have no such target: of them it is the part of KL(teacher || student)
that a loss over them does not see, the student being the teacher with at most 32 tokens of context; a real student's
is larger. Intervals are the 95 % bootstrap of the mean over runs of 32 tokens; "largest" is the worst token. Reading
is timed as CPU seconds on one thread, the best of five: of `decode_axes` where a codec has axes that a head can read,
else of `decode`.

`--states` keeps the hidden states, so that a second run need not run the teacher.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_distill.activations import Signal
from hf_distill.teachers import Frozen
from hf_distill.teachers.cache import codecs

CONTEXT, SHORT = 256, 32
FORMS = {
    "float16": ("float16", {}),
    "bfloat16": ("bfloat16", {}),
    "int8": ("int8", {}),
    **{f"rotated, {bits:g} bits": ("rotated", {"bits": bits}) for bits in (8.0, 6.0, 4.0, 3.444, 2.75, 2.0)},
}
CLASSES = (16, 32, 64, 128, 256, 512)


@dataclass
class Score:
    """Of one form: bytes a token, nats by text `[tokens]`, rows a second where there is something to read back."""

    bytes: int
    lost: list[Tensor]
    rate: float | None = None


def texts(path: str) -> list[str]:
    """The lines of a text file, or the `text` of a JSON-lines file; either may be compressed by gzip."""
    opened = gzip.open if path.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as file:
        lines = list(file)
    if ".json" in Path(path).name:
        return [json.loads(line)["text"] for line in lines]
    return lines


def halves(path: str, given: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The texts of a file that are scored, and those for tables."""
    found = texts(path)
    if path not in given.text or path not in given.fit_text:
        return found, found
    random.Random(0).shuffle(found)
    return found[: len(found) // 10], found[len(found) // 10 :]


def contexts(lines: list[str], tokenizer: Callable, number: int) -> Tensor:
    """The first contexts `[contexts, 256]` of some texts, one after the other."""
    joined = "\n".join(line.strip() for line in lines if line.strip())
    ids = torch.tensor(tokenizer(joined[: 8 * number * CONTEXT]).input_ids)
    return ids[: min(number, len(ids) // CONTEXT) * CONTEXT].view(-1, CONTEXT)


def states(teacher: Frozen, ids: Tensor, length: int) -> Tensor:
    """The last hidden states `[tokens, width]` of contexts cut to `length`."""
    pieces = ids.reshape(-1, length).split(4 * CONTEXT // length)
    return torch.cat([teacher.activations({"input_ids": some}).final.flatten(0, 1) for some in pieces])


def all_states(given: argparse.Namespace, teacher: Frozen) -> dict[str, Tensor]:
    """Of the texts that are scored, of the same with short contexts, and of the sample for tables; kept in a file."""
    if given.states and Path(given.states).exists():
        return load_file(given.states)
    tokenizer = AutoTokenizer.from_pretrained(given.model, gguf_file=given.gguf_file)
    teacher.bind(frozenset({Signal("final")}))
    scored = [contexts(halves(path, given)[0], tokenizer, given.contexts) for path in given.text]
    sample = [contexts(halves(path, given)[1], tokenizer, given.fit_contexts) for path in given.fit_text]
    found = {"sample": states(teacher, torch.cat(sample), CONTEXT)}
    for number, ids in enumerate(scored):
        found[f"text{number}"] = states(teacher, ids, CONTEXT)
        found[f"short{number}"] = states(teacher, ids, SHORT)
    if given.states:
        save_file(found, given.states)
    return found


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def unseen(log_p: Tensor, log_q: Tensor, k: int) -> Tensor:
    """p_tail KL(p in the tail || q in the tail), the tail being all but the k likeliest classes."""
    ids = log_p.topk(k, dim=-1).indices
    log_p, log_q = (law.scatter(-1, ids, float("-inf")) for law in (log_p, log_q))
    tail_p, tail_q = log_p.logsumexp(-1), log_q.logsumexp(-1)
    each = log_p.exp() * (log_p - log_q).nan_to_num(0.0)
    return each.sum(-1) - tail_p.exp() * (tail_p - tail_q)


def score_forms(head: Callable[[Tensor], Tensor], found: dict[str, Tensor], number_of_texts: int) -> dict[str, Score]:
    """Every form that gives states back."""
    scores = {}
    for form, (name, settings) in FORMS.items():
        codec = codecs.make(name, settings)
        codec.fit(found["sample"], head)
        lost = []
        for number in range(number_of_texts):
            rows = found[f"text{number}"]
            parts = codec.encode(rows)
            read = codec.decode(parts)
            pairs = zip(rows.split(128), read.split(128), strict=True)
            lost.append(torch.cat([divergence(head(a).log_softmax(-1), head(b).log_softmax(-1)) for a, b in pairs]))
        scores[form] = Score(codec.bytes_per_row(rows.shape[1]), lost, rate(codec, parts))
        print(line(form, scores[form]), flush=True)
    return scores


def score_largest(
    head: Callable[[Tensor], Tensor], found: dict[str, Tensor], number_of_texts: int
) -> dict[str, Score]:
    """The largest logits: with the rest in one bucket, and scaled up to a law of their own, -log of their mass."""
    lost: dict[str, list[list[Tensor]]] = {}
    for number in range(number_of_texts):
        for rows, short in zip(found[f"text{number}"].split(128), found[f"short{number}"].split(128), strict=True):
            log_p, log_q = head(rows).log_softmax(-1), head(short).log_softmax(-1)
            for k in CLASSES:
                values = {
                    f"top {k}, tail bucket": unseen(log_p, log_q, k),
                    f"top {k}, scaled up": -log_p.topk(k, dim=-1).values.logsumexp(-1),
                }
                for form, each in values.items():
                    lost.setdefault(form, [[] for _ in range(number_of_texts)])[number].append(each)
    sizes = {f"top {k}": codecs.make("top_k", {"k": k}).bytes_per_row(log_p.shape[-1]) for k in CLASSES}
    scores = {form: Score(sizes[form.split(",")[0]], [torch.cat(each) for each in lost[form]]) for form in lost}
    for form, score in scores.items():
        print(line(form, score), flush=True)
    return scores


def rate(codec: codecs.Codec, parts: codecs.Parts) -> float:
    """Rows a CPU second that are read back, as far as a head needs it."""
    seconds = []
    read = codec.decode if codec.axes() is None else codec.decode_axes
    for _ in range(5):
        started = time.process_time()
        read(parts)
        seconds.append(time.process_time() - started)
    return len(next(iter(parts.values()))) / min(seconds)


def interval(values: Tensor) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean over runs of 32 tokens."""
    runs = values.reshape(-1, SHORT).mean(1).numpy()
    drawn = np.random.default_rng(0).choice(runs, (2000, len(runs))).mean(1)
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def line(form: str, score: Score) -> str:
    cells = []
    for lost in score.lost:
        low, high = interval(lost)
        cells.append(f"{lost.mean():.2g} [{low:.2g}, {high:.2g}] | {lost.max():.2g}")
    read = "- | -" if score.rate is None else f"{score.rate / 1000:.0f} k | {score.rate * score.bytes / 1e6:.0f}"
    return f"| {form} | {score.bytes} | {' | '.join(cells)} | {read} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a folder or Hub id of a causal language model")
    parser.add_argument("--gguf_file", help="the GGUF file of that folder to load")
    parser.add_argument("--text", nargs="+", required=True, help="files that are scored, each on its own")
    parser.add_argument("--fit_text", nargs="+", required=True, help="files that tables of codecs are made on")
    parser.add_argument("--contexts", type=int, default=6, help="contexts of 256 tokens of each scored file")
    parser.add_argument("--fit_contexts", type=int, default=16, help="contexts of each file for tables")
    parser.add_argument("--states", help="a safetensors file that keeps the hidden states")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(given.model, gguf_file=given.gguf_file, dtype=torch.float32)
    teacher = Frozen(model)
    with torch.no_grad():
        found = all_states(given, teacher)
        print("| form | bytes | " + " | ".join(f"{Path(path).parent.name} | largest" for path in given.text), end="")
        print(" | tokens / CPU-s | MB / CPU-s |")
        score_forms(teacher.anatomy.head, found, len(given.text))
        score_largest(teacher.anatomy.head, found, len(given.text))


if __name__ == "__main__":
    main()
