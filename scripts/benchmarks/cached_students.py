"""What a cache's bytes buy: each form's loss of the teacher, and the students that are trained from it.

    python scripts/benchmarks/cached_students.py --model TEACHER --text a.jsonl.gz b.jsonl.gz \\
        --test wikitext2-test.jsonl.gz --student_layers 10 --steps 2000 --seeds 1 2 3 --out runs/cached_students

A causal language model is cached over runs of `--length` tokens of the texts in every form, and a student of
`--student_layers` of its layers is trained from each cache with each seed: soft targets at temperature 1, and labels
with `--labels`. `live` runs the teacher in every step, `control` has the labels alone; every student takes the same
steps over the same batches of its seed, and starts from the same layers. On the test text are measured, all in nats a
token over every token but the first of a run:

- KL lost: KL(teacher || what is read back), of the largest logits the part of KL(teacher || student) that their loss
  does not see, for the student of the first seed that learned from the live teacher;
- of the students perplexity, KL(teacher || student), and the share of tokens at which both prefer the same one.

A trial is a file of `OUT/trials`; what is there is not run again, so that the script may be stopped and started. The
table is printed, and written to `OUT/table.md`, whenever a trial is done.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from language_model_targets import divergence, texts, unseen
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, TrainingArguments, set_seed

from hf_distill import DistillationTrainer, Labels, SoftTargets, students
from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.objectives import Terms
from hf_distill.teachers import Cached, Frozen
from hf_distill.teachers.cache import codecs

ROWS = 128
"""Rows of logits that are made at a time."""

FORMS: dict[str, tuple[str, dict[str, Any], str]] = {
    "float16": ("float16", {}, "bucket"),
    "int8": ("int8", {}, "bucket"),
    "rotated, 4 bits": ("rotated", {"bits": 4.0}, "bucket"),
    "rotated, 2 bits": ("rotated", {"bits": 2.0}, "bucket"),
    **{f"top {k}, tail bucket": ("top_k", {"k": k}, "bucket") for k in (8, 16, 64, 256)},
    "top 64, scaled up": ("top_k", {"k": 64}, "renormalized"),
    "top 64, even tail": ("top_k", {"k": 64}, "uniform"),
}
"""The codec of a form, its settings, and what becomes of the tail."""

LIVE, CONTROL = "live", "control"

Row = dict[str, list[int]]


class Rows(torch.utils.data.Dataset):
    """Runs of tokens `[runs, length]`, all of them labels."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> Row:
        ids = self.ids[number].tolist()
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids}


def together(rows: list[Row]) -> dict[str, Tensor]:
    """Rows of one length."""
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


@dataclass
class Study:
    """What the command line asks for, with what is made of it once."""

    given: argparse.Namespace
    out: Path

    def path(self, *names: str) -> Path:
        place = self.out.joinpath(*names)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    @cached_property
    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.given.model, gguf_file=self.given.gguf_file)

    @cached_property
    def teacher(self) -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            self.given.model, gguf_file=self.given.gguf_file, dtype=torch.float32
        )
        return model.eval()

    def runs(self, paths: list[str], number: int) -> Tensor:
        """The first runs `[runs, length]` of some texts, the same number of each file."""
        length, found = self.given.length, []
        for path in paths:
            joined = "\n".join(line.strip() for line in texts(path) if line.strip())
            each = math.ceil(number / len(paths))
            ids = torch.tensor(self.tokenizer(joined[: 8 * each * length])["input_ids"])
            found.append(ids[: min(each, len(ids) // length) * length].view(-1, length))
        return torch.cat(found)[:number]

    @cached_property
    def train(self) -> Tensor:
        return self.runs(self.given.text, self.given.runs)

    @cached_property
    def test(self) -> Tensor:
        return self.runs(self.given.test, self.given.test_runs)

    @cached_property
    def test_states(self) -> Tensor:
        """What the teacher's head reads of the test text `[runs, length, width]`."""
        place = self.path("test_states.safetensors")
        if not place.exists():
            save_file({"states": states(self.teacher, self.test)}, place)
        return load_file(place)["states"]


def states(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The last states of a model `[runs, length, width]`."""
    shown = Frozen(model)
    shown.bind(frozenset({Signal("final")}))
    found = torch.cat([shown.activations({"input_ids": some}).final for some in ids.split(4)])
    shown.bind(frozenset())
    return found


def laws(model: PreTrainedModel, final: Tensor) -> Iterator[Tensor]:
    """The log-probabilities of every place but the last of its run, some at a time."""
    head = Anatomy.of(model).head
    for some in final[:, :-1].flatten(0, 1).split(ROWS):
        yield head(some.unsqueeze(0)).squeeze(0).float().log_softmax(-1)


# ---- students ----


def terms(name: str, labels: float) -> Any:
    """What a student learns."""
    if name == CONTROL:
        return Terms.of(Labels())
    tail = FORMS[name][2] if name in FORMS else "bucket"
    soft = Terms.of(SoftTargets(temperature=1.0, tail=tail))
    return soft if labels == 0.0 else (1.0 - labels) * SoftTargets(temperature=1.0, tail=tail) + labels * Labels()


def made_trainer(study: Study, name: str, seed: int, teacher: Any) -> DistillationTrainer:
    """A student at its start, with the batches of a seed."""
    given = study.given
    set_seed(seed)
    arguments = TrainingArguments(
        str(study.path("work", "trainer")),
        max_steps=given.steps,
        per_device_train_batch_size=given.batch_size,
        per_device_eval_batch_size=4,
        gradient_accumulation_steps=given.accumulation,
        learning_rate=given.learning_rate,
        warmup_steps=given.steps // 20,
        lr_scheduler_type="cosine",
        seed=seed,
        save_strategy="no",
        logging_steps=max(given.steps // 10, 1),
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    return DistillationTrainer(
        model=students.from_layers(study.teacher, layers=given.student_layers, pick="spread"),
        teacher=teacher,
        objectives=terms(name, given.labels),
        args=arguments,
        train_dataset=Rows(study.train),
        data_collator=together,
    )


def cached(study: Study, name: str) -> Cached:
    """The cache of a form, written where it is not there yet."""
    codec, settings, _ = FORMS[name]
    folder = study.path("caches", codec + "".join(f"-{value}" for value in settings.values()))
    trainer = made_trainer(study, name, 0, study.teacher)
    trainer.cache_teacher(folder, codec=codecs.make(codec, settings))
    return Cached(folder)


def trial(study: Study, name: str, seed: int) -> None:
    """Trains and measures one student."""
    teacher = {LIVE: study.teacher, CONTROL: None}.get(name) if name not in FORMS else cached(study, name)
    started = time.perf_counter()
    trainer = made_trainer(study, name, seed, teacher)
    trainer.train()
    seconds = time.perf_counter() - started
    model = trainer.model.eval().cpu()
    if (name, seed) == (LIVE, study.given.seeds[0]):
        save_file({"states": states(model, study.test)}, study.path("live_states.safetensors"))
        model.save_pretrained(study.path("live_student", "config.json").parent)
    write(study.path("trials", f"{slug(name)}-{seed}.json"), {**scored(study, model), "seconds": seconds})


def scored(study: Study, model: PreTrainedModel) -> dict[str, float]:
    """A student on the test text."""
    labels = study.test[:, 1:].flatten().split(ROWS)
    sums, number = {"nats": 0.0, "kl": 0.0, "agreement": 0.0}, 0
    with torch.no_grad():
        both = zip(laws(study.teacher, study.test_states), laws(model, states(model, study.test)), labels, strict=True)
        for p, q, targets in both:
            sums["nats"] -= float(q.gather(-1, targets.unsqueeze(-1)).sum())
            sums["kl"] += float(divergence(p, q).sum())
            sums["agreement"] += float((p.argmax(-1) == q.argmax(-1)).sum())
            number += len(targets)
    return {
        "perplexity": math.exp(sums["nats"] / number),
        **{name: sums[name] / number for name in ("kl", "agreement")},
    }


# ---- what a form loses ----


def lost(study: Study, name: str) -> dict[str, float]:
    """Bytes a token, and the nats of the teacher's law that are not there any more; for the largest logits those that
    the student of the live teacher's first seed would not be told of."""
    codec_name, settings, _ = FORMS[name]
    rows = study.test_states[:, :-1].flatten(0, 1)
    width = study.teacher.config.vocab_size if codec_name == "top_k" else rows.shape[1]
    codec = codecs.make(codec_name, settings)
    size = codec.bytes_per_row(width)
    with torch.no_grad():
        if codec_name == "top_k":
            if not study.path("live_states.safetensors").exists():
                return {"bytes": size}
            student = AutoModelForCausalLM.from_pretrained(study.path("live_student"), dtype=torch.float32)
            ours = laws(student, load_file(study.path("live_states.safetensors"))["states"])
            pairs = zip(laws(study.teacher, study.test_states), ours, strict=True)
            each = [unseen(p, q, settings["k"]) for p, q in pairs]
        else:
            written = cached(study, name)._written[Signal("final")].codec
            read = written.decode(written.encode(rows)).view(*study.test_states[:, :-1].shape[:2], -1)
            again = torch.cat([read, read[:, -1:]], 1)
            pairs = zip(laws(study.teacher, study.test_states), laws(study.teacher, again), strict=True)
            each = [divergence(p, q) for p, q in pairs]
    return {"bytes": size, "lost": float(torch.cat(each).mean())}


# ---- the table ----


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def write(path: Path, facts: Mapping[str, Any]) -> None:
    """A file that is there whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(facts), encoding="utf-8")
    part.replace(path)


def table(study: Study, names: list[str]) -> str:
    """The trials that are done, each form with mean and standard deviation over its seeds."""
    lines = [
        "| form | bytes a token | KL lost | students | perplexity | KL(teacher to student) | same first choice |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in names:
        done = [
            path for seed in study.given.seeds if (path := study.path("trials", f"{slug(name)}-{seed}.json")).exists()
        ]
        found = [json.loads(path.read_text(encoding="utf-8")) for path in done]
        kept = study.path("forms", f"{slug(name)}.json")
        facts = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        cells = [_spread([each[figure] for each in found]) for figure in ("perplexity", "kl", "agreement")]
        loss = f"{facts['lost']:.2g}" if "lost" in facts else "-"
        lines.append(f"| {name} | {facts.get('bytes', '-')} | {loss} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.mean(values):.4g}" + (f" ({statistics.stdev(values):.2g})" if len(values) > 1 else "")


def once(path: Path, make: Callable[[], None]) -> None:
    """Makes a file where it is not there yet."""
    if not path.exists():
        make()


def main(words: list[str] | None = None) -> None:
    given = parser().parse_args(words)
    study = Study(given, Path(given.out))
    torch.set_num_threads(given.threads)
    names = [LIVE, CONTROL, *given.forms]
    for seed in given.seeds:
        for name in names:
            once(study.path("trials", f"{slug(name)}-{seed}.json"), lambda n=name, s=seed: trial(study, n, s))
            place = study.path("forms", f"{slug(name)}.json")
            if name in FORMS and "lost" not in (json.loads(place.read_text()) if place.exists() else {}):
                write(place, lost(study, name))
            study.path("table.md").write_text(table(study, names), encoding="utf-8")
            print(f"{name}, seed {seed}", flush=True)
    print(table(study, names))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", required=True, help="a folder or Hub id of a causal language model")
    made.add_argument("--gguf_file", help="the GGUF file of that folder to load")
    made.add_argument("--text", nargs="+", required=True, help="files to train on: lines, or JSON lines with a text")
    made.add_argument("--test", nargs="+", required=True, help="files to measure on")
    made.add_argument("--out", required=True, help="a folder for caches, trials and the table")
    made.add_argument(
        "--forms", nargs="+", default=[*FORMS], choices=[*FORMS], metavar="FORM", help="forms of a cache"
    )
    made.add_argument("--student_layers", type=int, required=True, help="layers of the teacher that a student keeps")
    made.add_argument("--length", type=int, default=256, help="tokens of a run")
    made.add_argument("--runs", type=int, default=4096, help="runs to train on")
    made.add_argument("--test_runs", type=int, default=64, help="runs to measure on")
    made.add_argument("--steps", type=int, default=1000, help="steps of the optimizer")
    made.add_argument("--batch_size", type=int, default=8, help="runs of a batch")
    made.add_argument("--accumulation", type=int, default=1, help="batches of a step")
    made.add_argument("--learning_rate", type=float, default=5e-4)
    made.add_argument("--labels", type=float, default=0.0, help="weight of the labels; soft targets have the rest")
    made.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    made.add_argument("--threads", type=int, default=2)
    return made


if __name__ == "__main__":
    main()
