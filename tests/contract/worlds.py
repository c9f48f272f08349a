"""Made-up pairs, batches and activations for every task, and the cases that the registry makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, cached_property
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hf_distill import objectives
from hf_distill.activations import MAIN, Activations, EnsembleActivations, Pass, Signal
from hf_distill.anatomy import Shape
from hf_distill.errors import DistillationError
from hf_distill.member_logits import Combining
from hf_distill.objectives import Objective, Pair
from hf_distill.objectives.across import Across
from hf_distill.objectives.base import Loss
from hf_distill.objectives.hypotheses import PLACE, SCORES, TEXTS
from hf_distill.passes import FOUND
from hf_distill.tasks import IGNORED, TASKS
from tests.shapes import shape

Signals = dict[Signal, Tensor]
Batch = dict[str, Tensor]

LENGTHS = (5, 3, 1)
TARGET_LENGTHS = (2, 4, 3, 2)
NUM_LOGITS = {
    "single_label": 3,
    "multi_label": 3,
    "regression": 1,
    "token_classification": 3,
    "question_answering": 2,
    "masked_lm": 7,
    "causal_lm": 7,
    "seq2seq_lm": 7,
    "ctc": 7,
    "encoder": 0,
    "embeddings": 0,
}
PER_TOKEN = ("token_classification", "masked_lm", "causal_lm", "seq2seq_lm", "ctc")
LENGTH_AXES = {"scores": (-2, -1), "start_logits": (-1,), "end_logits": (-1,)}

ALIKE = ("alike", 2, 4, 2, 4)
"""Name, student depth and width, teacher depth and width."""
SIZES = {size[0]: size for size in (ALIKE, ("deeper", 2, 4, 4, 4), ("wider", 2, 4, 4, 6), ("narrower", 2, 6, 2, 4))}
ACROSS = "across"
"""The size of a pair that reads two vocabularies."""

POOL: tuple[dict[str, Any], ...] = (
    {"kind": "reverse_kl"},
    {"kind": "cross_entropy"},
    {"kind": "jsd", "beta": 0.3},
    {"kind": "jsd", "beta": 0.0},
    {"kind": "jsd", "beta": 1.0},
    {"kind": "skew_kl"},
    {"top_k": 2},
    {"top_k": 3, "kind": "reverse_kl"},
    {"kind": "skew_rkl"},
    {"kind": "logit_mse"},
    {"kind": "probability_mse"},
    {"kind": "hinge"},
    {"kind": "vanilla", "reads": "hidden"},
    {"kind": "vanilla_minimax", "reads": "probabilities"},
    {"kind": "logit_l1"},
    {"standardize": True},
    {"deviation": "sample"},
    {"direction": "student_first"},
    {"base": "mse", "margin": 0.1},
    {"correct_probability": 0.9, "form": "code"},
    {"temperature": 1.0, "scale": "none"},
    {"reduction": "example_mean"},
    {"reduction": "element_mean"},
    {"tokens": "all"},
    {"tokens": "masked"},
    {"tokens": "labeled", "reduction": "example_mean"},
    {"tokens": "attention", "reduction": "example_mean"},
    {"label_reduction": "sum"},
    {"label_smoothing": 0.2},
    {"layer_map": "spread", "layer_reduction": "sum"},
    {"layer_map": [[0, 0], [2, 1], [2, 2]]},
    {"layer_map": "first", "projection": "shared"},
    {"layer_map": "final", "projection": "per_layer"},
    {"stack": "encoder", "reduction": "example_mean"},
    {"stack": "decoder"},
    {"stack": "decoder", "pooling": "last_token"},
    {"reduction": "element_mean", "normalize": False},
    {"layer_map": "uniform", "masking": "keys"},
    {"layer_map": "last", "reduction": "example_mean"},
    {"layer_map": "spread", "projection": "per_level"},
    {"form": "plain"},
    {"form": "code"},
    {"form": "channel", "layer_map": "final"},
    {"regressor": "conv1d", "layer_map": "final"},
    {"mean": "linear", "form": "code"},
    {"kind": "max_p", "p": 1.0},
    {"kernel": "gaussian", "sigma2": 0.5},
    {"kernel": "poly", "degree": 3, "c": 1.0},
    {"layer_map": "overlapping"},
    {"scaled": True, "pool": "last_token", "stack": "decoder"},
    {"normalized_weight": 0.0, "variance_weight": 1.0},
    {"alpha": 0.3, "temperature": 2.0},
    {"relation_heads": 2, "reduction": "token_mean", "causal": True},
    {"relations": {"qk": 0.5, "vv": 2.0}},
    {"rope": "after", "student_layer": 1, "teacher_layer": 1},
    {"side": "left", "k": 2, "center": True},
    {"vector": "mean", "heads": 2},
    {"span": 2, "form": "code"},
    {"window": 2, "moments": [1, 2]},
    {"pool": "max", "center": True, "stack": "encoder"},
    {"pool": "last_token", "form": "code", "stack": "decoder"},
    {"pool": "first_token", "layer_map": [[1, 1], [2, 2]]},
    {"kernel": "bilinear"},
    {"flatten": True},
    {"rows": "tokens"},
    {"rows": "tokens", "unbiased": False},
    {"length_normalize": True, "temperature": 2.0},
    {"weights": "uniform"},
    {"blank": 1, "weights": "best"},
    {"pairs": "spans", "reduction": "span_mean"},
    {"merge": "observed", "beta": 0.0},
    {"merge": "observed", "pairs": "spans"},
    {"match": "text", "matched_weight": 0.5, "unmatched_weight": 2.0, "student_temperature": 2.0},
    {"pool": "sentence"},
    {"projection": "learned"},
    {"margins": "column", "similarity": "cosine"},
)
"""Settings that are tried on every objective; those that an objective does not have, or refuses, make no case."""


NUM_ROWS = 9
"""Rows of the training data that a batch's examples, the first ones, belong to."""

NO_MINIMUM = {
    "activation_boundary",
    "attention_layer_map",
    "darkrank_hard",
    "dist",
    "dkpp",
    "voted_triplets",
    "weighted_soft_ce",
}
"""Objectives that say in their documentation that a student like its teacher is not at the minimum."""


FOLLOWS_ITSELF = {"ddgsd", "knowledge_flow"}
"""Objectives whose targets are the student's own answers, without gradient, so that it is not that of the value."""

TARGETS = {"knowledge_flow": MAIN}
"""Objectives that take what the student shows in a pass for a constant target, which has no gradient then."""

PADDING = {"labels": IGNORED, "teacher_labels": IGNORED, "student_spans": -1, "teacher_spans": -1}
"""What columns of the batch hold in padding, but for 0."""

PEERS = ("peer_1", "peer_2")
"""The models with which an objective that trains all of them at once is tried."""

HINGES = {"voted_triplets"}
"""Objectives that are 0 with few examples, as the order of these is right by chance."""


OF_SOUNDS = {"ctc_nbest_kd", "labels"}
"""Objectives that are tried on models that hear, whose states no anatomy knows."""

TWO_VOCABULARIES = {"gold", "uld"}
"""Objectives between models that read tokens of their own."""

TEACHERS_WORDS = 9
"""Logits of a teacher that reads tokens of its own."""

MATCHED = Across(exact=((0, 3), (2, 1), (5, 8)), text=((0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)))

SPANS = {"student_spans": (-1, 0, 0, 1, 2), "teacher_spans": (-1, 0, 1, 1, 2)}
"""The span of each token of a text, from its beginning on."""

UNLIKE_CLASSES = {"ctc_nbest_kd", "dkpp", "gold", "holistic_kd", "uld", "weighted_soft_ce"}
"""Objectives that treat classes differently by their place."""


@dataclass(frozen=True)
class World:
    """A task on one stack, or on an encoder and a decoder, with models of certain sizes."""

    task: str
    size: str = "alike"
    encoder_decoder: bool = False

    @property
    def pair(self) -> Pair:
        _, *numbers = SIZES.get(self.size, ALIKE)
        words = NUM_LOGITS[self.task]
        of_teacher = TEACHERS_WORDS if self.size == ACROSS else words
        sides = [
            shape(depth, width, number, encoder_decoder=self.encoder_decoder)
            for depth, width, number in ((*numbers[:2], words), (*numbers[2:], of_teacher))
        ]
        across = {"across": MATCHED} if self.size == ACROSS else {}
        return Pair.from_shapes(sides[0], sides[1], TASKS[self.task], **across)

    def __str__(self) -> str:
        return f"{self.task}-{self.size}" + ("-stacks" if self.encoder_decoder else "")


WORLDS = [World(task, "alike", task == "seq2seq_lm") for task in TASKS]
WORLDS += [World(task, "alike", True) for task in ("single_label", "question_answering")]
WORLDS += [World("single_label", "deeper"), World("causal_lm", ACROSS)]
WORLDS += [World("embeddings", size) for size in ("wider", "narrower")]
WORLDS += [
    World(task, size, task == "seq2seq_lm")
    for task in ("masked_lm", "seq2seq_lm")
    for size in SIZES
    if size != "alike"
]


@dataclass(frozen=True)
class Case:
    """An objective with settings in a world that it accepts."""

    objective: str
    settings: tuple[tuple[str, Any], ...]
    world: World

    def bound(self) -> Objective:
        """The objective in float64, bound; what it learns is the same every time."""
        with same_draws(7):
            objective = objectives.make(self.objective, dict(self.settings))
            objective.bind(self.pair)
            if objective.reads_rows:
                objective.see_rows(NUM_ROWS, [i % 3 for i in range(NUM_ROWS)])
                objective.eval()  # what it keeps of rows stands still
        return objective.double()

    @cached_property
    def example(self) -> Objective:
        """One that is bound, to look at: a test that evaluates it takes its own."""
        return self.bound()

    @property
    def pair(self) -> Pair:
        """The world's, with several teachers like its own where the objective trains all models at once."""
        pair = self.world.pair
        if not self.trains_peers:
            return pair
        return Pair.together(dict.fromkeys(PEERS, pair), Combining(len(PEERS), "losses"))

    @property
    def trains_peers(self) -> bool:
        """Its gradient reaches what it learns from as well."""
        return objectives.get(self.objective).trains_peers

    @property
    def padding_counts(self) -> bool:
        """Question answering over all positions takes the padding into its softmax, scores with masked keys alone
        have its queries in their mean; both by definition."""
        if self.objective == "attention_mse":
            return ("masking", "keys") in self.settings
        return self.world.task == "question_answering" and ("tokens", "all") in self.settings

    @property
    def compares_positions(self) -> bool:
        """Its laws are over the positions of a text, so they depend on its length and not on a common value."""
        saliencies = ("gradient_attention_transfer", "jacobian_matching")
        within_texts = ("holistic_kd", "pairwise_kd", "region_affinity", "svd_kd")
        laws = ("attention_kl", "minilm", "minilm_v2")
        features = ("activation_boundary", "attention_transfer", "delta", "dmkd", "factor_transfer", "fitnets_hint")
        features = (*features, "nst", "vid")
        neighbours = self.padding_counts or ("regressor", "conv1d") in self.settings
        return self.objective in (*laws, *saliencies, *within_texts, *features) or neighbours

    @property
    def holds_norms(self) -> bool:
        """It takes norms for constants in its gradient, as the authors' code does, so that this is not the value's."""
        return self.objective == "pairwise_kd" and ("form", "code") in self.settings

    @property
    def has_classes(self) -> bool:
        """It reads logits over classes that have no order."""
        reads_answers = any(signal.field == "logits" for signal in self.example.needs().student)
        has_order = self.world.task in ("regression", "ctc")
        return reads_answers and not has_order and self.objective not in UNLIKE_CLASSES

    @property
    def compares_equals(self) -> bool:
        """It reads the same signals of both sides, and nothing else that could pull the student away."""
        objective = self.example
        needs = objective.needs()
        pulled = getattr(objective, "needs_labels", False) or self.learns or self.objective in NO_MINIMUM
        beside = self.objective == "pkt" and ("form", "code") in self.settings  # by the 1e-7 in its logarithms
        return needs.student == needs.teacher and not (pulled or beside)

    @property
    def keeps_rows(self) -> bool:
        """It compares each example with other rows of the training data."""
        return objectives.get(self.objective).reads_rows

    @property
    def two_sided(self) -> bool:
        """It has two losses, each of which leaves alone what the other one trains."""
        return objectives.get(self.objective).two_sided

    @property
    def draws(self) -> bool:
        """It draws a number for each example by its place in the batch."""
        return self.objective == "holistic_kd" and dict(self.settings).get("kind", "wgan-gp") == "wgan-gp"

    @property
    def relates_batch(self) -> bool:
        """Its units are batches: parts do not add up to the whole, and equal examples say nothing."""
        return objectives.get(self.objective).relates_batch

    @property
    def learns(self) -> bool:
        return bool(list(self.example.parameters()))

    @property
    def title(self) -> str:
        settings = ",".join(f"{name}={value}".replace(" ", "") for name, value in self.settings)
        return f"{self.objective}({settings})"

    def __str__(self) -> str:
        return f"{self.title} in {self.world}"


@cache
def cases() -> list[Case]:
    """Every registered objective, by default and with what it takes of `POOL`, in the worlds that it accepts."""
    every = [
        Case(name, tuple(settings.items()), world)
        for name in objectives.names()
        for settings in ({}, *POOL)
        if settings.keys() <= signature(objectives.get(name)).parameters.keys()
        for world in WORLDS
    ]
    return [case for case in every if accepted(case)]


def accepted(case: Case) -> bool:
    """Whether it can be bound; of settings that repeat another case in all but the task, a few tasks are enough."""
    settings, world = dict(case.settings), case.world
    if world.task == "ctc" and case.objective not in OF_SOUNDS:
        return False
    if world.size == ACROSS and case.objective not in TWO_VOCABULARIES:
        return False
    if settings and world.size not in ("alike", ACROSS) and not {"projection", "layer_map"} & settings.keys():
        return False
    try:
        needs = case.example.needs()
    except DistillationError:
        return False
    if world.task == "embeddings" and not any(signal.field == "sentence" for signal in needs.student):
        return False
    reads_answers = any(signal.field.endswith("logits") for signal in needs.student)
    some_tasks = ("single_label", "multi_label", "question_answering", "causal_lm")
    if "kind" in settings and reads_answers and world.task not in some_tasks:
        return False
    return reads_answers or not settings or world.task in ("masked_lm", "embeddings") or world.encoder_decoder


def over(cases: list[Case]) -> Callable[[Callable[[Case], None]], Callable[[str], None]]:
    """Runs a test on every case, one test item for each objective and its settings."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.title, []).append(case)

    def decorate(test: Callable[[Case], None]) -> Callable[[str], None]:
        @pytest.mark.parametrize("title", groups)
        def run(title: str) -> None:
            for case in groups[title]:
                try:
                    test(case)
                except Exception as error:
                    error.add_note(f"in the case {case}")
                    raise

        run.__doc__ = test.__doc__
        return run

    return decorate


@dataclass
class Scene:
    """A batch and what both models showed on it."""

    task: str
    batch: Batch
    student: Signals
    teacher: Signals
    encoder_decoder: bool
    target: Pass | None = None
    """The pass of the student that is a constant."""

    def leaves(self) -> Scene:
        """The same values as new leaves; both sides would take gradients, but in passes without any."""
        copies = [
            {name: t.detach().clone().requires_grad_(name.source.gradient) for name, t in side.items()}
            for side in self.sides
        ]
        return replace(self, student=copies[0], teacher=copies[1])

    @property
    def sides(self) -> tuple[Signals, Signals]:
        return self.student, self.teacher

    @property
    def trained(self) -> Signals:
        """What the student shows with gradient."""
        constant = (self.target,)
        return {s: tensor for s, tensor in self.student.items() if s.source.gradient and s.source not in constant}

    def map(self, change: Any) -> Scene:
        """Every tensor of both sides, and of the batch, changed by `change(signal or column name, tensor)`."""
        student, teacher, batch = (
            {key: change(key, tensor) for key, tensor in tensors.items()}
            for tensors in (self.student, self.teacher, self.batch)
        )
        return replace(self, student=student, teacher=teacher, batch=batch)

    def loss(self, objective: Objective, student: Signals | None = None) -> Tensor:
        """The objective's sum, the way the harness asks for it; of a two-sided one both sums together."""
        ours = self.activations(self.student if student is None else student)
        theirs = self.activations(self.teacher) if objective.needs_teacher else None
        with nullcontext() if torch.compiler.is_compiling() else same_draws():
            loss = objective(ours.read_by(objective.name), theirs, self.batch)
        assert isinstance(loss, Loss) == objective.two_sided
        whole = loss.main + loss.auxiliary if isinstance(loss, Loss) else loss
        assert isinstance(whole, Tensor)
        return whole

    def count(self, objective: Objective) -> int:
        count = objective.count(self.batch, TASKS[self.task])
        assert not isinstance(count, Tensor) or (count.dim() == 0 and not count.requires_grad)
        return int(count)

    def activations(self, signals: Mapping[Signal, Tensor]) -> Activations:
        return activations(signals, self.masks())

    def masks(self) -> dict[str, Tensor]:
        """The mask of each stack and of the logits' own axis (`""`)."""
        mask = self.batch["attention_mask"]
        if not self.encoder_decoder:
            return {"": mask}
        decoder = (self.batch["labels"] != IGNORED).long() if self.task == "seq2seq_lm" else mask
        return {"": decoder, "encoder": mask, "decoder": decoder}


@contextmanager
def same_draws(seed: int = 0) -> Iterator[None]:
    """What is drawn inside is the same every time; by the generator itself, as `torch.manual_seed` takes longer than
    most objectives where there is no accelerator."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def activations(signals: Mapping[Signal, Tensor], masks: Mapping[str, Tensor]) -> Activations:
    """Activations as a capture, and further passes, would hand them over, of one model or of several."""
    members = sorted({signal.member for signal in signals} - {""})
    if members:
        of_each = {m: {s._replace(member=""): t for s, t in signals.items() if s.member == m} for m in members}
        return EnsembleActivations({member: activations(its, masks) for member, its in of_each.items()})
    by_pass: dict[Pass, dict[Signal, Tensor]] = {MAIN: {}}
    for signal, tensor in signals.items():
        by_pass.setdefault(signal.source, {})[signal] = tensor
    shown = of_pass(by_pass.pop(MAIN), masks)
    shown.passes = {source: of_pass(its, masks) for source, its in by_pass.items()}
    return shown


def of_pass(signals: Mapping[Signal, Tensor], masks: Mapping[str, Tensor]) -> Activations:
    fields: dict[str, dict[str, Any]] = {stack: {} for stack in masks}
    for signal, tensor in signals.items():
        if signal.layer is None:
            fields[signal.stack][signal.field] = tensor
        else:
            fields[signal.stack].setdefault(signal.field, {})[signal.layer] = tensor
    stacks = {stack: Activations(mask=masks[stack], **fields[stack]) for stack in masks if stack}
    return Activations(mask=masks[""], **fields[""], **stacks)


def scene(case: Case, *, batch: Batch | None = None, seed: int = 0, dtype: torch.dtype = torch.float64) -> Scene:
    """Random activations for exactly what the case's objective needs."""
    generator = torch.Generator().manual_seed(seed)
    world, objective = case.world, case.example
    examples = 4 if objective.name in HINGES else objective.smallest_batch
    enough = LENGTHS + (4,) * (examples - len(LENGTHS))
    constant = None if objective.trains_student else MAIN
    batch = made_batch(world.task, generator, enough) if batch is None else batch
    made = Scene(world.task, batch, {}, {}, world.encoder_decoder, TARGETS.get(objective.name, constant))
    sides = []
    for shape_, signals in (
        (world.pair.student, objective.needs().student),
        (world.pair.teacher, objective.needs().teacher),
    ):
        side = {}
        for signal in sorted(signals, key=str):
            size = signal_size(signal, shape_, made)
            side[signal] = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
        sides.append(side)
    return replace(made, student=sides[0], teacher=sides[1])


def signal_size(signal: Signal, shape_: Shape | None, made: Scene) -> tuple[int, ...]:
    assert shape_ is not None
    examples, length = made.masks()[signal.stack].shape
    if signal.field == "logits":
        return (examples, length, shape_.num_logits) if made.task in PER_TOKEN else (examples, shape_.num_logits)
    if signal.field in ("start_logits", "end_logits"):
        return (examples, length)
    if signal.field == "next_sentence_logits":
        return (examples, 2)
    one = shape_.stack(signal.stack if shape_.stacks.keys() != {"encoder", "decoder"} else signal.stack or "decoder")
    if signal.field in ("pooled", "sentence"):
        return (examples, one.hidden_size)
    if signal.field == "scores":
        return (examples, one.num_attention_heads, length, length)
    if signal.field in ("queries", "rotated_queries"):
        return (examples, length, one.num_attention_heads * one.head_size)
    if signal.field in ("keys", "rotated_keys", "values"):
        return (examples, length, one.num_key_value_heads * one.head_size)
    if signal.field == "feedforward":
        return (examples, length, one.feedforward_size)
    return (examples, length, one.hidden_size)


# ---- batches ----


def ragged(lengths: tuple[int, ...]) -> Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()


def made_batch(task: str, generator: torch.Generator, lengths: tuple[int, ...] = LENGTHS) -> Batch:
    """Ragged text, padded on the right, with labels; some are missing where the task allows it."""
    mask = ragged(lengths)
    ids = torch.randint(3, 30, mask.shape, generator=generator) * mask
    batch = {"input_ids": ids, "attention_mask": mask, "row_index": torch.arange(len(lengths))}
    examples, classes = len(lengths), NUM_LOGITS[task]

    if task == "embeddings":
        batch["margin"] = torch.randn(examples, generator=generator, dtype=torch.float64)
    if not classes:
        return batch

    def draw(*size: int) -> Tensor:
        return torch.randint(0, classes, size, generator=generator)

    if task == "single_label":
        batch["labels"] = draw(examples)
        batch[FOUND] = torch.arange(examples) != 1
    elif task == "multi_label":
        batch["labels"] = torch.randint(0, 2, (examples, classes), generator=generator).double()
        batch["labels"][0, 1] = IGNORED
    elif task == "regression":
        batch["labels"] = torch.randn(examples, generator=generator, dtype=torch.float64)
    elif task == "question_answering":
        last = torch.tensor(lengths) - 1
        batch["start_positions"], batch["end_positions"] = last // 2, last
    elif task == "seq2seq_lm":
        target = ragged(TARGET_LENGTHS[:examples])
        batch["labels"] = torch.where(target.bool(), draw(*target.shape), IGNORED)
    elif task == "ctc":
        batch["labels"], batch[TEXTS] = symbols(generator, examples)
    else:
        batch["labels"] = torch.where(mask.bool(), draw(*mask.shape), IGNORED)
        batch["labels"][0, 2:3] = IGNORED
    if task == "causal_lm":
        batch |= in_two_vocabularies(batch["labels"], generator)
    if task in ("causal_lm", "seq2seq_lm", "ctc"):
        batch |= hypotheses(generator, examples)
    if task == "masked_lm":
        batch["next_sentence_label"] = torch.randint(0, 2, (examples,), generator=generator)
    return batch


def in_two_vocabularies(labels: Tensor, generator: torch.Generator) -> Batch:
    """The columns of a teacher with tokens of its own, as many as the student's, of which others are a span."""
    real = labels != IGNORED
    words = torch.randint(0, TEACHERS_WORDS, labels.shape, generator=generator)
    batch = {name: torch.where(real, torch.tensor(row[: labels.shape[1]]), -1) for name, row in SPANS.items()}
    mask = {"teacher_attention_mask": real.flip(1).cummax(1).values.flip(1).long()}
    return {**batch, **mask, "teacher_labels": torch.where(real, words, IGNORED)}


def symbols(generator: torch.Generator, examples: int) -> tuple[Tensor, Tensor]:
    """Labels of models that hear, and two hypotheses of each; those of every second example are two symbols long, of
    which no two are equal, and no symbol is one of the two that settings take for the blank."""
    texts = torch.randint(2, 5, (examples, 3, 2), generator=generator)
    texts[:, :, 1] += 2 - texts[:, :, 1] // 4  # 4 to 6
    texts[:, :, 1] = torch.where(texts[:, :, 1] == texts[:, :, 0], 6, texts[:, :, 1])
    texts[2::3, :, 1] = IGNORED
    return texts[:, 0], texts[:, 1:]


def hypotheses(generator: torch.Generator, examples: int) -> Batch:
    """One of one for the first example, then pairs of a source."""
    scores = -3.0 * torch.rand(examples, 2, generator=generator)
    scores[2::2] = scores[1 : examples - 1 : 2]
    scores[0, 1] = -torch.inf
    return {SCORES: scores, PLACE: (torch.arange(examples) + 1) % 2 * (torch.arange(examples) > 0)}


def is_padding(made: Scene, signal: Signal) -> Tensor | None:
    """Where a signal's tensor belongs to padding, so that it broadcasts; None where no axis is a position."""
    if signal.field in ("pooled", "sentence", "next_sentence_logits"):
        return None
    if signal.field == "logits" and made.task not in PER_TOKEN:
        return None
    real = made.masks()[signal.stack].bool()
    if signal.field == "scores":
        return ~(real[:, None, :, None] & real[:, None, None, :])
    return ~real if signal.field in ("start_logits", "end_logits") else ~real.unsqueeze(-1)


def widened(made: Scene, left: int, right: int, value: float) -> Scene:
    """The same scene with more padding on both sides; signals hold `value` there."""

    def change(key: str | Signal, tensor: Tensor) -> Tensor:
        if isinstance(key, str):
            if key in ("start_positions", "end_positions"):
                return tensor + left
            at_positions = key != "labels" or (made.task in PER_TOKEN and made.task != "ctc")
            if tensor.dim() < 2 or not at_positions or key in (SCORES, TEXTS):
                return tensor
            return functional.pad(tensor, (left, right), value=PADDING.get(key, 0))
        if is_padding(made, key) is None:
            return tensor
        axes = LENGTH_AXES.get(key.field, (-2,))
        amounts = [(left, right) if axis in axes else (0, 0) for axis in (-1, -2)]
        return functional.pad(tensor, tuple(n for pair in amounts for n in pair), value=value)

    return made.map(change)


def rows(made: Scene, index: Tensor | slice) -> Scene:
    """Some examples of a scene."""
    return made.map(lambda _key, tensor: tensor[index])
