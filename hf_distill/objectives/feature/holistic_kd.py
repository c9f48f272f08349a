"""A student that a discriminator cannot tell from its teacher."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from hf_distill.activations import Activations, Needs, Signal
from hf_distill.anatomy import Shape, StackShape
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import at_least_float32, blank, masked_sum
from hf_distill.objectives.base import Loss, Objective
from hf_distill.objectives.discriminator import (
    KINDS,
    Discriminator,
    discriminator_loss,
    frozen,
    gradient_penalty,
    scores,
    student_loss,
)
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.parameter_groups import ParameterGroup
from hf_distill.tasks import Batch, Task, real_tokens

LARGEST = 4096
"""Logits of more columns are not read."""


@register("holistic_kd")
class HolisticKD(Objective):
    """Holistic distillation (Liu, Chen, Liu, Qin, Luo & Wang, 2019, arXiv:1903.04197), the adversarial part of
    structured distillation: a discriminator D scores texts by what a model shows of them, and the student is trained
    towards the scores of the teacher (Goodfellow et al., 2014, arXiv:1406.2661).

    With real = D(teacher) and fake = D(student), a text costs the student and, beside it, D by `kind`:
    `wgan-gp` -fake; fake - real + `penalty` (|dD/dx| - 1)^2 between both (Gulrajani et al., 2017, arXiv:1704.00028);
    `hinge` -fake; relu(1 - real) + relu(1 + fake); `vanilla` softplus(-fake); softplus(-real) + softplus(fake), and
    `vanilla_minimax` with log(1 - sigmoid(fake)) for the student. Gradients of the student's part pass through D and
    leave it as it is; D sees both models detached. Both learn in one step, D from the states before it; the published
    code moves the student first. Its code weighs both parts by 0.1 (here the weight of the term is the student's
    alone), D by SGD at `learning_rate`, which here is that of the run's own optimizer for D.

    `reads`: `logits` (as the code does), `probabilities`, or `hidden`, the last hidden states, of equal width. D,
    `width` wide, is described in `Discriminator`; it has no text as a condition, as in the code (the paper has the
    image). While D is untrained it gives the student noise: before the share `warmup` of the steps D alone learns.

    Reads: logits, or hidden[last] of both.  Counts: examples, those with text where it reads positions.
    Errors: `IncompatiblePair` for probabilities of a regression or of one class, for a vocabulary's logits, for models
    without a head and states of other widths; `DistillationError` for a setting out of range.
    """

    two_sided = True
    traceable = False
    citation = """@inproceedings{liu2019structured,
  title = {Structured Knowledge Distillation for Semantic Segmentation},
  author = {Liu, Yifan and Chen, Ke and Liu, Chris and Qin, Zengchang and Luo, Zhenbo and Wang, Jingdong},
  booktitle = {CVPR},
  year = {2019},
  eprint = {1903.04197},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        kind: str = "wgan-gp",
        reads: str = "logits",
        width: int = 64,
        penalty: float = 10.0,
        learning_rate: float = 4e-4,
        warmup: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice(self.name, "kind", kind, KINDS)
        check_choice(self.name, "reads", reads, ("logits", "probabilities", "hidden"))
        check_number(self.name, "width", width, 1, 65536)
        if not isinstance(width, int):
            raise DistillationError(f"{self.name}: width is {width!r}; it must be a whole number.")
        check_number(self.name, "penalty", penalty, 0.0, 1e6)
        check_number(self.name, "learning_rate", learning_rate, 0.0, 1e3, open_low=True)
        check_number(self.name, "warmup", warmup, 0.0, 1.0)
        self.kind, self.reads, self.width, self.penalty = kind, reads, width, penalty
        self.learning_rate, self.warmup = learning_rate, warmup
        self.discriminator: Discriminator | None = None

    @property
    def equation(self) -> str:
        student = {"vanilla": "softplus(-D(student))", "vanilla_minimax": "log(1 - sigmoid(D(student)))"}
        value = student.get(self.kind, "-D(student)")
        return f"L = {value} of each text; beside it D learns by its own loss ({self.kind})"

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if pair.teacher is None:
            raise IncompatiblePair(f"objective {self.name!r} compares with a teacher and there is none.")
        features = self._width(pair.student, pair.teacher) if self.reads == "hidden" else self._classes(pair)
        self.discriminator = Discriminator(features, self.width)

    def _width(self, student: Shape, teacher: Shape) -> int:
        widths = [_last(shape)[1].hidden_size for shape in (student, teacher)]
        if widths[0] != widths[1]:
            raise IncompatiblePair(
                f"{self.name}: the student's hidden states are {widths[0]} wide, the teacher's {widths[1]}, and one "
                "discriminator scores both; take a student of the teacher's width, or reads='logits'."
            )
        return widths[0]

    def _classes(self, pair: Pair) -> int:
        """The features of a position, or of an example: its classes, or for an answer its start and its end."""
        task, classes = pair.task, pair.vocabulary or pair.student.num_logits
        if not task.logit_fields:
            raise IncompatiblePair(f"{self.name}: a model without a head has no {self.reads}; set reads='hidden'.")
        if len(task.logit_fields) > 1:
            return len(task.logit_fields)
        if task.form == "alignment":
            raise IncompatiblePair(
                f"{self.name}: the discriminator sees what both models answer at one place, and frames of a "
                f"{task.name} task do not answer to each other: two models may hear the same symbol at other moments. "
                "Take ctc_nbest_kd."
            )
        if self.reads == "probabilities" and (task.form == "identity" or (classes == 1 and task.form == "softmax")):
            raise IncompatiblePair(
                f"{self.name}: the {classes} output{'s' * (classes > 1)} of a {task.name} task "
                f"{'are' if classes > 1 else 'is'} no law over classes; set reads='logits' or 'hidden'."
            )
        if classes > LARGEST:
            raise IncompatiblePair(
                f"{self.name}: the logits have {classes} columns, and the discriminator would read them all at every "
                f"position ({LARGEST} at most); set reads='hidden'."
            )
        return classes

    def needs(self) -> Needs:
        if self.reads != "hidden":
            signals = [Signal(field) for field in self.pair.task.logit_fields]
            return Needs.of(signals, signals)
        sides = [_last(shape) for shape in (self.pair.student, self.pair.teacher) if shape is not None]
        student, teacher = (Signal("hidden", shape.num_hidden_layers, stack) for stack, shape in sides)
        return Needs.of([student], [teacher])

    def parameter_groups(self) -> list[ParameterGroup]:
        return (
            []
            if self.discriminator is None
            else [ParameterGroup(list(self.discriminator.parameters()), self.learning_rate)]
        )

    @property
    def reaches_zero(self) -> bool:
        return True  # and falls below, but for the kind `vanilla`

    def mask(self, batch: Batch) -> Tensor | None:
        """The positions that D sees, `[batch, length]`; None where it sees one vector of an example."""
        task = self.pair.task
        if self.reads == "hidden":
            return task.decoder_tokens(batch) if _last(self.pair.student)[0] == "decoder" else real_tokens(batch)
        if len(task.logit_fields) > 1:
            return real_tokens(batch)
        return task.soft_mask(batch, task.tokens[0]) if task.tokens else None

    @property
    def joins_documents(self) -> str:
        return "scores each row as a whole"

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        mask = self.mask(batch)
        return task.num_examples(batch) if mask is None else mask.any(1).sum()

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Loss:
        if teacher is None or self.discriminator is None:
            raise DistillationError(f"objective {self.name!r} got no teacher.")
        fake, real = self._shown(student, teacher, batch)
        given = self.mask(batch)
        mask = torch.ones_like(fake[..., 0], dtype=torch.bool) if given is None else given
        layers = self.discriminator.layers(fake.dtype)
        main = masked_sum(student_loss(self.kind, scores(frozen(layers), fake, mask)), mask.any(1))
        if self.progress < self.warmup:
            main = main * 0.0
        fake = fake.detach()
        theirs, ours = scores(layers, torch.cat([real, fake]), torch.cat([mask, mask])).chunk(2)
        paid = discriminator_loss(self.kind, theirs, ours)
        if self.kind == "wgan-gp":
            alpha = torch.rand(len(real), device=real.device).to(real.dtype)
            paid = paid + self.penalty * gradient_penalty(partial(scores, layers, mask=mask), real, fake, mask, alpha)
        return Loss(main, masked_sum(paid, mask.any(1)))

    def _shown(self, student: Activations, teacher: Activations, batch: Batch) -> tuple[Tensor, Tensor]:
        """What D is shown of both, `[batch, length, features]`; of an example's one vector the length is 1."""
        if self.reads == "hidden":
            sides = [(student, self.pair.student), (teacher, self.pair.teacher)]
            fake, real = (_state(shown, shape) for shown, shape in sides if shape is not None)
            return fake, real.detach()
        task = self.pair.task
        tokens = task.tokens[0] if task.tokens else ""
        pairs = zip(task.rows(student, batch, tokens), task.rows(teacher, batch, tokens), strict=True)
        rows = [[at_least_float32(each) for each in self.pair.align(*sides)] for sides in pairs]
        if len(rows) > 1:  # the positions are the classes, and padding is none of them already
            fake, real = (torch.stack([self._law(each) for each in side], -1) for side in zip(*rows, strict=True))
            return fake, real.detach()
        mask = self.mask(batch)
        fake, real = (self._law(blank(each, mask)) for each in rows[0])
        return (fake.unsqueeze(1), real.detach().unsqueeze(1)) if mask is None else (fake, real.detach())

    def _law(self, logits: Tensor) -> Tensor:
        if self.reads == "logits":
            return logits
        return logits.sigmoid() if self.pair.task.form == "sigmoid" else logits.softmax(-1)


def _last(shape: Shape) -> tuple[str, StackShape]:
    """The stack whose last states are read, and its sizes: a lone one, or the decoder."""
    stack = "decoder" if "decoder" in shape.stacks else ""
    return stack, shape.stack(stack)


def _state(shown: Activations, shape: Shape) -> Tensor:
    stack, sizes = _last(shape)
    return at_least_float32(shown.stack(stack).hidden[sizes.num_hidden_layers])
