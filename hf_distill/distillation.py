"""The module that the training engine wraps: the student and what the objectives learn."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from hf_distill.activations import MAIN, Activations, Needs
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.depth import Run, shallow
from hf_distill.errors import DistillationError
from hf_distill.evaluator import Evaluation, Evaluator
from hf_distill.objectives.base import Loss, Objective
from hf_distill.objectives.columns import Columns
from hf_distill.objectives.label_columns import check_columns
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.terms import Terms
from hf_distill.objectives.weighing import Weighing
from hf_distill.parameter_groups import ParameterGroup
from hf_distill.passes import Feeds, Passes
from hf_distill.reach import unreached
from hf_distill.students.quantized import LEARNED, beneath
from hf_distill.tasks import Batch, device_type
from hf_distill.teachers.alongside import Alongside
from hf_distill.vocabulary import Step, Vocabulary

logger = logging.getLogger(__name__)


class Counts(NamedTuple):
    """What each term's sum is divided by: its units in the whole window over all processes, above 0. `batches` is
    the number of batches of the window, over which the cost of learned weights is spread; `labels` are those of the
    terms that count them apart (`counts_labels`), in their order.
    """

    divisors: tuple[Tensor | float, ...]
    batches: Tensor | float = 1.0
    labels: tuple[Tensor | float, ...] = ()


class Losses(NamedTuple):
    """The weighted total, with gradient, and what is logged of it, without: every term's unweighted value `[terms]`,
    and behind these what else `Distillation.columns` names. `outputs` are the student's, where they were asked for.
    """

    total: Tensor
    values: Tensor
    outputs: ModelOutput | None = None


class Distillation(nn.Module):
    """The student, the bound terms, and one forward pass through both.

    The student is a submodule and so is every objective, so that an engine reduces, clips, casts and shards what they
    learn together with the student; what is published is `student` alone. The teacher is none, but models that train
    `alongside` the student are: they run here.

    While it trains, the student runs as deep as the terms read it; evaluated, it runs whole. Logits of a large
    vocabulary are made and compared in chunks (`Vocabulary`), the teacher's by its head, `teacher_head`.
    `in_part=False` for an engine that must see all of the student in every pass, and where last digits matter.
    """

    def __init__(
        self,
        student: nn.Module,
        terms: Terms,
        pair: Pair,
        *,
        in_part: bool = True,
        teacher_head: Callable[[Tensor], Tensor] | None = None,
        alongside: Alongside | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self._alongside = Alongside() if alongside is None else alongside
        self.peers = nn.ModuleDict(self._alongside.members)
        self.objectives = nn.ModuleDict({term.name: term.objective for term in terms})
        self.weights = Weighing(terms)
        self._columns = Columns(self.objectives, self.weights)
        for term in terms:
            term.objective.bind(pair.of_member(term.member))
        check_columns(terms)
        self.objectives.to(next(student.parameters()).device)
        self._evaluator = Evaluator(pair)
        self.pair, self._in_part, self._teacher_head = pair, in_part, teacher_head
        self._resting: tuple[nn.Module, ...] = ()
        self._look()

    def _look(self) -> None:
        """Makes what reads the student, of the modules and parameters that it has now."""
        anatomy = Anatomy.of(self.student)
        named = dict(zip(self.objectives, self.terms(), strict=True))
        feeding = [objective for objective in self.terms() if objective.feeds]
        # In front of all hooks that read, so that these see what the next layer does; a part run has other layers.
        self._feeds = Feeds(anatomy, frozenset[tuple[str, int]]().union(*(each.fed_layers for each in feeding)))
        in_part = self._in_part and not feeding
        self._vocabulary: Vocabulary | None = None
        if in_part and not self.peers:
            self._vocabulary = Vocabulary.of(named, self.pair, anatomy, self._teacher_head)
        signals = self.reads().student
        read = frozenset(signal for signal in signals if signal.source == MAIN)
        run = shallow(anatomy, read) if in_part else Run.whole(anatomy)
        logger.info("the student runs %s while it trains", run.description)
        above = () if self._vocabulary is None else self._vocabulary.head_parameters
        role = "student" if any(objective.trains_student for objective in self.terms()) else "student at rest"
        self._capture = Capture(anatomy, read, role=role, run=run, above=above)
        self._passes = Passes(anatomy, signals, role="student", in_part=self._in_part)
        self._runs_main = bool(read) or not self._passes
        needs = self.needs()
        drawn = any(signal.source != MAIN for signal in needs.student | needs.teacher)
        self.weights.always_taught = drawn or bool(feeding)
        steady = self._vocabulary is None and not self.weights.scheduled  # else it would be traced at every step anew
        steady = steady and not self._passes  # a graph would begin again behind them
        steady = steady and not self.peers and not feeding
        self._traceable = steady and all(objective.traceable for objective in self.terms())
        self._evaluator.look(anatomy)
        self.list_members()

    @property
    def is_current(self) -> bool:
        """Whether the student still has the modules and parameters that it was looked at with. New ones come with
        `load_state_dict(assign=True)`, `resize_token_embeddings`, or another module in place of one.
        """
        parts = _parts(self.student)
        same = (seen() is part for seen, part in zip(self._seen, parts, strict=False))
        return len(parts) == len(self._seen) and all(same)

    def refresh(self, pair: Pair) -> None:
        """Reads a student whose modules or parameters were replaced, `pair` being what it makes with its teacher now.

        What the objectives learned stays, unless they learn tensors of another shape for it.

        Raises: `IncompatiblePair` where the terms do not fit the student any more.
        """
        self.close()
        if replace(pair, task=self.pair.task) != self.pair or pair.task.name != self.pair.task.name:
            for objective in self.terms():
                _bind_again(objective, pair)
            self.objectives.to(next(self.student.parameters()).device)
            self._evaluator.bind(pair)
            self.pair = pair
        self._look()

    @property
    def config(self) -> object:
        """The student's, which engines ask for."""
        return self.student.config

    @property
    def _no_split_modules(self) -> object:
        return getattr(self.student, "_no_split_modules", None)

    def terms(self) -> list[Objective]:
        """The bound objectives, in order."""
        return list(self.objectives.values())  # type: ignore[arg-type]

    def needs(self) -> Needs:
        """The union of what the terms read."""
        union = Needs()
        for objective in self.terms():
            union = union | self._alongside.needs(objective)
        return union

    @property
    def learned(self) -> nn.ModuleDict:
        """What is saved beside the student: the objectives, what trains alongside, and what lies beneath the grids of
        quantized weights.
        """
        floats = beneath(self.student)
        grids = {LEARNED: floats} if len(floats) else {}
        return nn.ModuleDict({**self.beside, **grids}) if grids else self.beside

    @property
    def beside(self) -> nn.ModuleDict:
        """What trains beside the student: the objectives, and the weights of models that train alongside."""
        others = self._alongside.beside()
        return nn.ModuleDict({**self.objectives, **others}) if others else self.objectives

    def conclusions(self) -> list[str]:
        """What the terms have to say when the training is over; waits for the device."""
        named = zip(self.objectives, self.terms(), strict=True)
        return [f"{name}: {text}" for name, objective in named for text in objective.conclude()]

    def remarks(self) -> list[str]:
        """What the terms have found out about their batches since it was last asked; waits for the device."""
        named = zip(self.objectives, self.terms(), strict=True)
        return [f"{name}: {text}" for name, objective in named for text in objective.remarks()]

    def reads(self) -> Needs:
        """What the models are asked for: what the terms read, or what the logits that they read are made of."""
        needs = self.needs()
        return needs if self._vocabulary is None else self._vocabulary.reads(needs)

    def unreached(self) -> list[nn.Parameter]:
        """The trainable parameters of the student, and of what trains alongside, that no term depends on, leaving out
        terms that do not train the student; asked before an engine wraps the module.
        """
        return self._unreached_of_student() + self._alongside.unreached()

    def _unreached_of_student(self) -> list[nn.Parameter]:
        training = [objective for objective in self.terms() if objective.trains_student]
        signals = frozenset(signal for objective in training for signal in objective.needs().student)
        anatomy = Anatomy.of(self.student)
        has_two_heads = "next_sentence_label" in anatomy.accepts
        answers = {*self.pair.task.logit_fields, "input_gradient"}
        if not has_two_heads and any(signal.field in answers and signal.source.gradient for signal in signals):
            return []
        return [parameter for _, parameter in unreached(anatomy, signals)]

    @property
    def blanks(self) -> dict[str, int]:
        """The columns of symbols that the terms and the evaluation align with frames, each with its blank."""
        of_terms = {name: blank for objective in self.terms() for name, blank in objective.blanks.items()}
        return {**self._evaluator.blanks, **of_terms}

    def parameter_groups(self) -> list[ParameterGroup]:
        """The parameters that train at rates of their own: of objectives, and of learned weights."""
        own = [group for objective in self.terms() for group in objective.parameter_groups()]
        return [*own, *self.weights.parameter_groups(), *self._alongside.parameter_groups()]

    def count(self, batch: Batch) -> list[Tensor | int]:
        """The units of one batch that each term counts, and behind these the labels of each that counts them apart."""
        task, terms = self.pair.task, self.terms()
        labels = [objective.count_labels(batch, task) for objective in terms if objective.counts_labels]
        return [*(objective.count(batch, task) for objective in terms), *labels]

    def rest(self, part: nn.Module | None) -> None:
        """Has a part of the student, of which nothing trains, run as in evaluation while the others train: without
        dropout. None has all of it train again.
        """
        self._resting = () if part is None else tuple(part.modules())
        self.list_members()

    def train(self, mode: bool = True) -> Self:
        """Sets the mode, also of the part of the student that runs. The Trainer asks for it before every step; what
        is in the mode already is left alone.
        """
        is_set = all(module.training is mode for module in self._awake)
        if not is_set or any(module.training for module in self._resting):
            super().train(mode)
            for module in self._resting:
                module.training = False
            self._capture.run.refresh()  # compiled, it does not look again before every pass
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops all gradients."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for parameter in self._held():
            parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """The gradient of every parameter that has one, each once."""
        return list({id(p): p.grad for p in self._held() if p.grad is not None}.values())

    def list_members(self) -> None:
        """Looks up the modules, once for all steps: torch would walk over them several times a step. Asked again when
        an engine may have put others in their place.
        """
        self._members = tuple(self.modules())
        resting = {id(module) for module in self._resting}
        self._awake = tuple(module for module in self._members if id(module) not in resting)
        self._seen = [weakref.ref(part) for part in _parts(self.student)]

    def _held(self) -> Iterator[nn.Parameter]:
        """The parameters; those that modules share come more than once."""
        for module in self._members:
            for parameter in module._parameters.values():
                if parameter is not None:
                    yield parameter

    def answer_in_words(self, teacher: nn.Module | None = None, *, in_part: bool = True) -> None:
        """Has evaluations give, in place of a language model's logits, what it answers at each predicted position
        (`word_answers`), a vocabulary's logits never in full; with a teacher also how far it is from that one's.
        `in_part=False` for an engine that must see all of the student in every pass.
        """
        self._evaluator.answer_in_words(Anatomy.of(self.student), teacher, in_part=in_part)

    def close(self) -> None:
        """Take the hooks off the student."""
        self._capture.close()
        self._feeds.close()
        self._passes.close()
        self._evaluator.close()

    def forward(
        self,
        batch: Batch | None = None,
        teacher: Activations | None = None,
        counts: Counts | None = None,
        outputs: bool = False,
        **columns: Any,
    ) -> Losses | Evaluation | ModelOutput:
        """The losses of a batch, on demand with the `outputs` of the student's main pass; without `counts`, the
        evaluation of it. Called with columns by name, as models are, it gives the student's own output.
        """
        if batch is None:
            own: ModelOutput = self.student(**columns)
            return own
        if counts is None:
            return self._evaluator(batch)
        teacher = self._alongside.show(batch, teacher)
        step = None if self._vocabulary is None else self._vocabulary.step(batch, taught=teacher is not None)
        found, activations = self._show(batch, teacher)
        given = (activations, teacher, batch, counts, step)
        losses: Losses = self._compare(*given) if self._traceable else _outside_graph(self._compare, *given)
        return losses._replace(outputs=found) if outputs else losses

    def _show(self, batch: Batch, teacher: Activations | None) -> tuple[ModelOutput | None, Activations]:
        """What the student gives and shows, in the main pass if that is read, and in those that are read besides."""
        found: ModelOutput | None = None
        if self._feeds and self.training:
            with self._feeds.within(partial(self._fed, teacher)):
                found, shown = self._capture(batch)
        elif self._runs_main:
            found, shown = self._capture(batch)
        else:
            shown = Activations(mask=batch.get("attention_mask"))
        return found, self._passes.show(batch, shown, teacher) if self._passes else shown

    def _fed(self, teacher: Activations | None, stack: str, layer: int, states: Tensor) -> Tensor:
        """What the terms make of the output of a layer of the student."""
        if teacher is None:
            raise DistillationError("a term feeds the student what a teacher shows, and there is none.")
        for objective in self.terms():
            if (stack, layer) in objective.fed_layers:
                states = objective.feed(stack, layer, states, teacher.member(objective.pair.member))
        return states

    def _compare(
        self, student: Activations, teacher: Activations | None, batch: Batch, counts: Counts, step: Step | None
    ) -> Losses:
        """The losses; heads in the precision that is active, all else outside of mixed precision."""
        total: Tensor | None = None
        sums: dict[str, Tensor] = {}
        if self._vocabulary is not None and step is not None:
            divisors = dict(zip(self.objectives, counts.divisors, strict=True))
            total, sums = self._vocabulary(student, teacher, step, divisors, self.weights.factors())
        device = device_type(batch)
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self._losses(student, teacher, batch, counts, total, sums)
        return self._losses(student, teacher, batch, counts, total, sums)

    def _losses(
        self,
        student: Activations,
        teacher: Activations | None,
        batch: Batch,
        counts: Counts,
        total: Tensor | None,
        sums: Mapping[str, Tensor],
    ) -> Losses:
        """Adds the terms that have no sum yet to the `total` of those in `sums`."""
        values: list[Tensor | None] = []
        auxiliary: list[Tensor] = []
        listed = list(zip(self.objectives, self.terms(), counts.divisors, strict=True))
        apart = (name for name, objective, _ in listed if objective.counts_labels)
        labels = dict(zip(apart, counts.labels, strict=True))
        for name, objective, divisor in listed:
            if name in sums:
                values.append(sums[name])
                if name in self.weights.learned:
                    total = _plus(total, self.weights.learning(name, sums[name], divisor, counts.batches))
                continue
            if teacher is None and objective.needs_teacher:  # it weighs 0, and the teacher did not run
                objective.noted.clear()
                values.append(None)
                continue
            if objective.reads_divisor:
                objective.divisor = divisor
            if objective.counts_labels:
                objective.label_divisor = labels[name]
            value, beside = _sides(objective, self._alongside.ask(name, objective, student, teacher, batch))
            total = _plus(total, self.weights.part(name, value, divisor, counts.batches))
            if beside is not None:
                auxiliary.append(beside / divisor)
                total = _plus(total, auxiliary[-1])
            values.append(value)
        if total is None:
            raise DistillationError("every term compares with a teacher, and nothing of a teacher is shown.")
        with torch.no_grad():
            return Losses(total, self._columns.values(total, values, auxiliary, counts.divisors, counts.batches))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names under which the values of `Losses` are logged."""
        return self._columns.names


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total + part


def _sides(objective: Objective, found: Tensor | Loss) -> tuple[Tensor, Tensor | None]:
    """The main part of what an objective returned, and the auxiliary one."""
    main, auxiliary = found if isinstance(found, Loss) else (found, None)
    if objective.two_sided != isinstance(found, Loss):
        raise DistillationError(
            f"objective {objective.name!r} says two_sided = {objective.two_sided}, and its forward returns a "
            f"{type(found).__name__}; a two-sided one returns a Loss, and no other does."
        )
    return main, auxiliary


def _parts(student: nn.Module) -> list[nn.Module | nn.Parameter]:
    return [*student.modules(), *student.parameters()]


def _bind_again(objective: Objective, pair: Pair) -> None:
    """Binds an objective that is bound, and gives it back what it learned if that still fits."""
    learned = objective.state_dict()
    objective.bind(pair.of_member(objective.pair.member))
    shapes, wanted = ({n: t.shape for n, t in each.items()} for each in (learned, objective.state_dict()))
    if shapes == wanted:
        objective.load_state_dict(learned)
    elif shapes:
        logger.warning("%s: the student has changed, and what was learned for it begins anew", objective.name)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _outside_graph(function: Callable[..., Any], *given: Any) -> Any:
    """Calls a function that forms gradients itself; `torch.compile` would break in the middle of it."""
    return function(*given)
