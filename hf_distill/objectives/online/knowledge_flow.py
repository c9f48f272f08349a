"""States of teachers that flow into the student while it learns to do without them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_distill.activations import MAIN, Activations, Needs, Signal
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import at_least_float32, bernoulli_kl, blank, forward_kl, masked_sum
from hf_distill.objectives.layer_pairs import LayerPairs, Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_number
from hf_distill.parameter_groups import ParameterGroup
from hf_distill.passes import ALONE
from hf_distill.tasks import Batch, Task

INDEPENDENT = 0.99
"""The share of its own state below which a student has lost something when nothing flows into it any more."""


@register("knowledge_flow")
class KnowledgeFlow(LayerPairs):
    """Knowledge flow (Liu, Peng & Schwing, 2019, arXiv:1904.05878).

    While the student trains, the output h_l of each of its mapped layers is replaced by

        p_l0 h_l + sum_k p_lk Q_lk z_lk,  p_l = softmax(w_l),

    z_lk the states of the teachers' layers that the layer map pairs with l, without gradient, and all other terms are
    of that student. Q and w are learned. In evaluation, and when the student is saved, nothing flows; so the term
    draws it to independence: L = sum_l (-log p_l0) + kl KL(p_before || p_now). p_before is the student's law with the
    flow, without gradient, and p_now its law without, from a second pass, at temperature 1. The weight of the term is
    that of the dependency loss: let it rise (`weight: {linear: {from: 0.0, to: 10.0}}`) until the smallest p_l0,
    logged as `student_share`, is near to 1, and let a stage without the term follow. At the end of a training a share
    below 0.99 is warned of.

    The form is a reconstruction from the abstract and the reviews, as the paper was not read (unconfirmed). That
    p_before is of the same step, where the paper may have that of an earlier iterate, is a choice made here. So are
    the beginnings: w = 0, which gives all states of a layer the same share, and Q the identity where widths agree,
    else normal with deviation 0.02; and that w has a learning rate of its own, without weight decay, since with that
    of a fine-tuning it would hardly move.

    Reads: hidden[layers] of each teacher (widths may differ); with `kl` above 0 logits of the student in the main pass
    and in one without the flow.  Counts: tokens, examples, or numbers of a multi-label task, as soft targets do; the
    dependency is the same for each.
    Errors: `IncompatiblePair` for layers that do not exist or are shared, for teachers that show other positions, and,
    with `kl` above 0, for regression and models without a head; `DistillationError` for a setting out of range, with
    gradient checkpointing, and where parameters are in shards (FSDP, DeepSpeed).
    """

    feeds = True
    takes_members = True
    traceable = False
    first_layer = 1
    default_layer_map = "spread"
    citation = """@inproceedings{liu2019knowledge,
  title = {Knowledge Flow: Improve Upon Your Teachers},
  author = {Liu, Iou-Jen and Peng, Jian and Schwing, Alexander G.},
  booktitle = {ICLR},
  year = {2019},
  eprint = {1904.05878},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self, *, layer_map: Layers | None = None, kl: float = 0.1, learning_rate: float = 1e-2, stack: str = ""
    ) -> None:
        super().__init__(layer_map=layer_map, stack=stack)
        check_number(self.name, "kl", kl, 0.0, 1e6)
        check_number(self.name, "learning_rate", learning_rate, 0.0, 1e4, open_low=True)
        self.kl, self.learning_rate = kl, learning_rate
        self.sources: dict[int, list[tuple[str, int]]] = {}

    def bind(self, pair: Pair) -> None:
        self.sources, widths = {}, {}
        for name, each in ({"": pair} if pair.members is None else pair.members).items():
            super().bind(each)
            width, theirs = (shape.hidden_size for shape in self.shapes(each))
            widths[name] = theirs
            for ours, layer in self.layers:
                self.sources.setdefault(ours, []).append((name, layer))
        self._pair = pair
        self._check_answers(pair)
        self.transforms = nn.ModuleList(
            nn.ModuleList(_transform(widths[name], width) for name, _ in sources) for sources in self.sources.values()
        )
        self.weights = nn.ParameterList(torch.zeros(len(sources) + 1) for sources in self.sources.values())

    def _check_answers(self, pair: Pair) -> None:
        if self.kl and (pair.task.form in ("identity", "alignment") or not pair.task.logit_fields):
            has = {"identity": "scores", "alignment": "frames"}.get(pair.task.form, "no logits")
            raise IncompatiblePair(
                f"{self.name}: kl is {self.kl:g}, and compares laws over classes; a {pair.task.name} task has {has}. "
                "Set kl=0."
            )

    @property
    def fed_layers(self) -> frozenset[tuple[str, int]]:
        return frozenset((self.stack, layer) for layer in self.sources)

    def needs(self) -> Needs:
        fields = self.pair.task.logit_fields if self.kl else ()
        answers = [Signal(field, None, "", source) for field in fields for source in (MAIN, ALONE)]
        read = [each for sources in self.sources.values() for each in sources]
        return Needs.of(answers, (Signal("hidden", layer, self.stack, MAIN, name) for name, layer in read))

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(list(self.weights), self.learning_rate, 0.0)]

    @property
    def logs(self) -> tuple[str, ...]:
        return ("student_share",)

    def feed(self, stack: str, layer: int, states: Tensor, teacher: Activations) -> Tensor:
        number = list(self.sources).index(layer)
        shares = at_least_float32(self.weights[number]).softmax(0).to(states.dtype)
        transforms: Any = self.transforms[number]
        mixed = shares[0] * states
        for share, transform, (name, theirs) in zip(shares[1:], transforms, self.sources[layer], strict=True):
            shown = teacher.member(name).stack(stack)
            self._check_positions(states.shape, shown.hidden[theirs].shape)
            features = blank(shown.hidden[theirs].detach().to(states.dtype), shown.mask)
            mixed = mixed + share * functional.linear(features, transform.weight.to(states.dtype))
        return mixed

    def student_shares(self) -> Tensor:
        """p_l0 of every mapped layer."""
        return self._log_shares().exp()

    def _log_shares(self) -> Tensor:
        return torch.stack([at_least_float32(each).log_softmax(0)[0] for each in self.weights])

    def conclude(self) -> list[str]:
        smallest = float(self.student_shares().detach().min())
        if smallest >= INDEPENDENT:
            return []
        return [
            f"the student's own states have a share of {smallest:.3f} in a layer, and what is saved of it is without "
            "the others: it has lost a part of what it was trained with. Raise the weight of the term, train longer, "
            "or let a stage without the term follow."
        ]

    def mask(self, batch: Batch) -> Tensor | None:  # type: ignore[override]
        """Which rows of logits count; None for all."""
        task = self.pair.task
        return task.soft_mask(batch, next(iter(task.tokens), ""))

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        mask = self.mask(batch)
        if mask is not None:
            return mask.sum()
        return task.num_examples(batch) * (1 if task.form == "softmax" else max(self.pair.student.num_logits, 1))

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        count, log_shares = self.count(batch, self.pair.task), self._log_shares()
        self.note("student_share", log_shares.detach().exp().min() * count)
        dependency = -log_shares.sum() * count
        return dependency + self.kl * self._divergence(student, batch) if self.kl else dependency

    def _divergence(self, student: Activations, batch: Batch) -> Tensor:
        """KL(p_before || p_now), summed over the rows that count."""
        task, mask = self.pair.task, self.mask(batch)
        tokens = next(iter(task.tokens), "")
        now, before = task.rows(student.in_pass(ALONE), batch, tokens), task.rows(student, batch, tokens)
        divergence = forward_kl if task.form == "softmax" else bernoulli_kl
        total = None
        for ours, target in zip(now, before, strict=True):
            real = mask if mask is not None and 1 < mask.dim() < ours.dim() else None
            value = divergence(blank(at_least_float32(ours), real), blank(at_least_float32(target.detach()), real))
            total = value if total is None else total + value
        if total is None:
            raise DistillationError(f"objective {self.name!r} got no logits.")
        return masked_sum(total / len(now), mask)


def _transform(theirs: int, ours: int) -> nn.Linear:
    """Q: the identity, or small random numbers between spaces of different widths."""
    made = nn.Linear(theirs, ours, bias=False)
    with torch.no_grad():
        if theirs == ours:
            made.weight.copy_(torch.eye(ours))
        else:
            made.weight.normal_(std=0.02)
    return made
