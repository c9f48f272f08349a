"""What the heads and the loss of a large vocabulary cost by themselves, without the models below them.

    python scripts/benchmarks/vocabulary.py                  # the shapes of steps.py w3, w4 and w4_jsd
    python scripts/benchmarks/vocabulary.py w4 --rounds 3
    python scripts/benchmarks/vocabulary.py w4_152k          # causal KL at 151,936 words
    python scripts/benchmarks/vocabulary.py --scale 0.05 --rounds 1      # toy size: does it run?

Forward and backward pass from the states before both heads: `textbook` with whole logits, `floor` with a gradient
written by hand in chunks (`peers/floor_vocabulary.py`), and `hf_distill`, which differentiates the objectives'
own `rows` in chunks. They take turns; CPU seconds of the process, medians of the rounds' ratios. Extra
memory is what a pass adds to the resident set at its peak, in a process of its own (Linux).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from peers.floor_vocabulary import ChunkedHeads, Divergence, Head
from peers.probes import MemoryProbe
from torch import Tensor, nn
from torch.nn import functional

from hf_distill.chunks import RowLoss, Rows, Sizes, ThroughHead
from hf_distill.losses import forward_kl, generalized_jsd


@dataclass(frozen=True)
class Shape:
    """Rows, words, widths of student and teacher, and the loss: soft targets, and labels of a share of the rows."""

    rows: int
    words: int
    widths: tuple[int, int]
    bias: bool
    form: Divergence
    labelled: float = 0.0


SHAPES = {
    "w3": Shape(2048, 30522, (384, 384), True, Divergence(20.0 / 2048, 2.0, hard=2.0 / 303, rows=256), 0.148),
    "w4": Shape(896, 49152, (256, 384), False, Divergence(1.0 / 896)),
    "w4_jsd": Shape(896, 49152, (256, 384), False, Divergence(1.0 / 896, beta=0.5)),
    "w4_152k": Shape(896, 151936, (256, 384), False, Divergence(1.0 / 896)),
}


class Heads:
    """Both heads, the states before them, and labels; the same every time."""

    def __init__(self, shape: Shape, scale: float) -> None:
        generator = torch.Generator().manual_seed(0)
        rows, words = max(8, int(shape.rows * scale)), max(32, int(shape.words * scale))
        torch.manual_seed(0)
        self.student, self.teacher = (nn.Linear(width, words, bias=shape.bias) for width in shape.widths)
        self.teacher.requires_grad_(False)
        self.states, self.theirs = (torch.randn(rows, width, generator=generator) for width in shape.widths)
        self.states.requires_grad_()
        self.labels = torch.randint(0, words, (rows,), generator=generator)
        self.labels[torch.rand(rows, generator=generator) >= shape.labelled] = -100

    def clear(self) -> None:
        self.student.zero_grad()
        self.states.grad = None


def soft(form: Divergence, student: Tensor, teacher: Tensor) -> Tensor:
    """The divergence of each row at the form's temperature, without weights."""
    student, teacher = student / form.temperature, teacher / form.temperature
    return generalized_jsd(student, teacher, form.beta) if form.beta else forward_kl(student, teacher)


def textbook(heads: Heads, form: Divergence) -> Tensor:
    logits = heads.student(heads.states)
    with torch.no_grad():
        against = heads.teacher(heads.theirs)
    loss = form.soft * soft(form, logits, against).sum()
    return loss + form.hard * functional.cross_entropy(logits, heads.labels, reduction="sum") if form.hard else loss


def floor(heads: Heads, form: Divergence) -> Tensor:
    teacher = Head(heads.theirs, heads.teacher.weight, heads.teacher.bias)
    loss: Tensor = ChunkedHeads.apply(
        heads.states, heads.student.weight, heads.student.bias, teacher, heads.labels, form
    )
    return loss


def ours(heads: Heads, form: Divergence) -> Tensor:
    def labels(logits: Tensor, against: Tensor, positions: Tensor) -> Tensor:
        return functional.cross_entropy(logits, heads.labels[positions], ignore_index=-100, reduction="none")

    losses: list[RowLoss] = [lambda logits, against, positions: soft(form, logits, against), labels]
    weights = torch.stack([torch.ones(len(heads.labels)), (heads.labels >= 0).float()])
    rows = Rows(weights, Sizes.of(heads.student.out_features, heads.states.device))
    through_head = ThroughHead(
        heads.student,
        lambda positions: heads.teacher(heads.theirs[positions]),
        losses,
        [form.soft, form.hard],
        list(heads.student.parameters()),
        [],
    )
    return through_head(heads.states.unsqueeze(0), rows).total


FORMS: dict[str, Callable[[Heads, Divergence], Tensor]] = {"textbook": textbook, "floor": floor, "hf_distill": ours}


def one_pass(name: str, heads: Heads, form: Divergence) -> float:
    """CPU seconds of a forward and backward pass."""
    heads.clear()
    started = time.process_time()
    FORMS[name](heads, form).backward()
    return time.process_time() - started


def extra_memory(name: str, shape: str, given: argparse.Namespace) -> float:
    command = [sys.executable, __file__, shape, "--memory_of", name, "--scale", str(given.scale)]
    done = subprocess.run([*command, "--threads", str(given.threads)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def report(name: str, given: argparse.Namespace) -> None:
    shape, heads = SHAPES[name], Heads(SHAPES[name], given.scale)
    gradients = {}
    for form in FORMS:  # the first pass of each warms up
        one_pass(form, heads, shape.form)
        gradients[form] = torch.cat([heads.states.grad.flatten(), heads.student.weight.grad.flatten()])  # type: ignore[union-attr]
    seconds = [{form: one_pass(form, heads, shape.form) for form in FORMS} for _ in range(given.rounds)]
    memory = {form: extra_memory(form, name, given) for form in FORMS}
    print(f"\n{name}: {heads.states.shape[0]} rows, {heads.student.out_features} words, {given.rounds} rounds\n")
    print("| | CPU s | / floor | / textbook | extra MB | / floor | / textbook | largest difference of the gradient |")
    print("|---|---|---|---|---|---|---|---|")
    for form in FORMS:
        to_floor, to_whole = (
            statistics.median(taken[form] / taken[other] for taken in seconds) for other in ("floor", "textbook")
        )
        error = (gradients[form] - gradients["textbook"]).abs().max() / gradients["textbook"].abs().max()
        print(
            f"| {form} | {statistics.median(taken[form] for taken in seconds):.2f} | {to_floor:.2f} | {to_whole:.2f} "
            f"| {memory[form]:.0f} | {memory[form] / memory['floor']:.2f} | {memory[form] / memory['textbook']:.2f} "
            f"| {float(error):.1e} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []], help="default: all but w4_152k")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0, help="of rows and words")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory_of", choices=FORMS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name in given.shapes or ["w3", "w4", "w4_jsd"]:
        if given.memory_of:
            heads = Heads(SHAPES[name], given.scale)
            probe = MemoryProbe()
            one_pass(given.memory_of, heads, SHAPES[name].form)
            print(probe.close()["extra_megabytes"])
        else:
            report(name, given)


if __name__ == "__main__":
    main()
