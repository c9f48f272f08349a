"""Models that train alongside the student."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill.activations import Activations, EnsembleActivations, Needs, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.member_logits import Combining
from hf_distill.objectives.base import Loss, Objective
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.settings import check_number
from hf_distill.parameter_groups import ParameterGroup
from hf_distill.reach import unreached
from hf_distill.tasks import Batch, Task
from hf_distill.teachers.alongside import Alongside
from hf_distill.teachers.base import Teacher

logger = logging.getLogger(__name__)

PEERS = "peers/weights"
"""What peers learned, among the modules whose state is saved beside the student; no term can have that name."""

Models = Mapping[str, PreTrainedModel] | Sequence[PreTrainedModel]


class Peers(Teacher, Alongside):
    """Models that train with the student and learn from it as it does from them, by name (a list calls them `peer_1`,
    `peer_2`, ...).

    They run inside `Distillation`, in one forward and backward pass with the student and under one optimizer; with
    `learning_rate` at a rate of their own. Terms over logits of the batch (labels, soft targets,
    `deep_mutual_learning`) are evaluated for every one of the models, each learning from all others as they are at
    this step, without gradient to those: the loss is the sum over the models. `okddip` trains all of them at once.
    Every other term trains the student alone, and one of a single teacher names the peer that it learns from,
    `HiddenMSE().on("peer_1")`.

    The student is the one that is evaluated, saved and published. Peers lie in each checkpoint's
    `distillation.safetensors`, and are resumed exactly. They share no parameter, must start differently, from other
    seeds or checkpoints, and have the student's labels, or vocabulary, in the same order. Whoever shards parameters
    (FSDP, DeepSpeed) is refused.

    Raises: `DistillationError` for no models, names that are none, and a learning rate that is not above 0.
    """

    def __init__(self, models: Models, *, learning_rate: float | None = None) -> None:
        if learning_rate is not None:
            check_number("peers", "learning_rate", learning_rate, 0.0, 1e4, open_low=True)
        self.learning_rate = learning_rate
        self.members = {name: _checked(name, model) for name, model in _named(models).items()}
        self.anatomies = {name: Anatomy.of(model) for name, model in self.members.items()}
        self.anatomy = next(iter(self.anatomies.values()))
        self._captures: dict[str, Capture] = {}
        self._refuse_shared()

    def _refuse_shared(self) -> None:
        for one, other in combinations(self.members, 2):
            held = {id(parameter) for parameter in self.members[one].parameters()}
            if any(id(parameter) in held for parameter in self.members[other].parameters()):
                raise DistillationError(
                    f"the peers {one!r} and {other!r} share parameters; load each a second time, or use copy.deepcopy."
                )

    @property
    def models(self) -> tuple[nn.Module, ...]:
        return tuple(self.members.values())

    @property
    def alongside(self) -> Alongside:
        return self

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset[str]().union(*(anatomy.accepts for anatomy in self.anatomies.values()))

    def meet(self, student: PreTrainedModel) -> None:
        """Raises: `IncompatiblePair` for two models that are equal and would stay so."""
        everyone = {"the student": student, **{f"the peer {name!r}": each for name, each in self.members.items()}}
        for (one, first), (other, second) in combinations(everyone.items(), 2):
            if _equal(first, second) and not (_has_dropout(first) or _has_dropout(second)):
                raise IncompatiblePair(
                    f"{one} and {other} have equal weights and no dropout: they would stay equal for ever, and have "
                    "nothing to learn from each other. Start them from other seeds or checkpoints."
                )

    def pair(self, student: Anatomy, task: Task, **settings: Any) -> Pair:
        """Raises: `IncompatiblePair` for peers with other labels or another vocabulary, in whatever order, and for
        models without a head."""
        if not task.logit_fields:
            raise IncompatiblePair(
                f"peers learn from each other's answers, and the student ({student.shape.family}) is a model without "
                "a head; load all of them with one (AutoModelFor…)."
            )
        pairs: dict[str, Pair] = {}
        for name, anatomy in self.anatomies.items():
            try:
                found = Pair.of(student, anatomy, task, **settings)
            except IncompatiblePair as error:
                raise IncompatiblePair(f"the peer {name!r}: {error}") from error
            if found.teacher_columns is not None or found.vocabulary is not None:
                raise IncompatiblePair(
                    f"the peer {name!r} has its labels in another order than the student, or another vocabulary; "
                    "models that train together are compared column by column. Give all of them the same id2label, "
                    "and the same tokenizer."
                )
            pairs[name] = found
        return Pair.together(pairs, Combining(len(pairs), "losses"))

    def bind(self, signals: frozenset[Signal]) -> None:
        for capture in self._captures.values():
            capture.close()
        self._captures = {}
        for name, anatomy in self.anatomies.items():
            asked = frozenset(signal._replace(member="") for signal in signals if signal.member in ("", name))
            if asked:
                self._captures[name] = Capture(anatomy, asked, role=f"peer {name!r}")

    def place(self, device: torch.device, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        for model in self.members.values():
            model.to(device)

    def advise(self, objectives: Sequence[Objective]) -> None:
        """Raises: `DistillationError` where no term trains the peers."""
        if not any(objective.for_every_peer or objective.trains_peers for objective in objectives):
            raise DistillationError(
                "no term trains the peers: they would stay as they are. Add labels, deep_mutual_learning or okddip."
            )

    def needs(self, objective: Objective) -> Needs:
        """What trains every peer is read of every peer as it is of the student."""
        found = super().needs(objective)
        return found | Needs(teacher=objective.needs().student) if objective.for_every_peer else found

    def show(self, batch: Batch, teacher: Activations | None) -> Activations:
        return self.activations(batch)

    def ask(
        self, name: str, objective: Objective, student: Activations, teacher: Activations | None, batch: Batch
    ) -> Tensor | Loss:
        if isinstance(teacher, EnsembleActivations) and objective.for_every_peer:
            return mutual(objective, student, teacher, batch, reader=name)
        return super().ask(name, objective, student, teacher, batch)

    def parameter_groups(self) -> list[ParameterGroup]:
        """All that they learn, where they have a learning rate of their own."""
        if self.learning_rate is None:
            return []
        learned = [parameter for model in self.models for parameter in model.parameters()]
        return [ParameterGroup(learned, self.learning_rate)]

    def unreached(self) -> list[nn.Parameter]:
        """Their trainable parameters that nothing they show depends on."""
        found = []
        for name, anatomy in self.anatomies.items():
            shown = self._captures[name].taps.taps if name in self._captures else ()
            found += [parameter for _, parameter in unreached(anatomy, shown)]
        return found

    def learned(self) -> nn.ParameterDict:
        """Their parameters themselves, each once; the names have `/` for the dots."""
        named = ((f"{name}/{path}", p) for name, model in self.members.items() for path, p in model.named_parameters())
        return nn.ParameterDict({name.replace(".", "/"): parameter for name, parameter in named})

    def beside(self) -> dict[str, nn.Module]:
        return {PEERS: self.learned()}

    def go_on_from(self, learned: Mapping[str, Tensor]) -> None:
        """Takes what the peers of an earlier stage learned, by names as in `distillation.safetensors`, where all of
        it fits."""
        ours = {f"{PEERS}.{name}": parameter for name, parameter in self.learned().items()}
        theirs = {name: tensor for name, tensor in learned.items() if name.startswith(f"{PEERS}.")}
        if not theirs:
            return
        if {name: each.shape for name, each in ours.items()} != {name: each.shape for name, each in theirs.items()}:
            logger.warning("the peers are others than those of the stage before, and begin anew")
            return
        with torch.no_grad():
            for name, parameter in ours.items():
                parameter.copy_(theirs[name])

    def activations(self, batch: Batch) -> EnsembleActivations:
        """What the peers show for the batch, with gradient where that is enabled."""
        if not self._captures:
            raise DistillationError("the peers are asked for activations before bind(signals).")
        return EnsembleActivations({name: capture(batch)[1] for name, capture in self._captures.items()})


def mutual(
    objective: Objective, student: Activations, peers: EnsembleActivations, batch: Batch, reader: str = ""
) -> Tensor:
    """The sum of an objective's values for the student and for each of its peers.

    Each learns from all others: for a peer the student stands in its place among them.
    """
    total: Any = objective(student.read_by(reader), peers.read_by(reader), batch)
    for name, peer in peers.members.items():
        others = EnsembleActivations({**peers.members, name: student})
        total = total + objective(peer.read_by(reader), others.read_by(reader), batch)
    found: Tensor = total
    return found


def _named(models: Models) -> Mapping[str, PreTrainedModel]:
    if not isinstance(models, Mapping):
        models = {f"peer_{number}": model for number, model in enumerate(models, start=1)}
    if not models:
        raise DistillationError("a student has no peers to learn with; give one model or more beside it.")
    for name in models:
        if not isinstance(name, str) or not name.isidentifier():
            raise DistillationError(f"{name!r} is no name for a peer; use letters, digits and '_'.")
    return models


def _checked(name: str, model: Any) -> PreTrainedModel:
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise DistillationError(
            f"the peer {name!r} is a {type(model).__name__}; peers train, so they are loaded transformers models."
        )
    checked: Any = model
    if getattr(checked.config, "use_cache", False):
        checked.config.use_cache = False  # a decoder would build a cache that nobody reads
    return checked


def _equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = (list(model.parameters()) for model in (one, other))
    if [each.shape for each in ours] != [each.shape for each in theirs]:
        return False
    if any(a is b or a.is_meta or b.is_meta for a, b in zip(ours, theirs, strict=True)):
        return False  # models that share parameters are refused for that
    return all(torch.equal(a, b.to(a.device, a.dtype)) for a, b in zip(ours, theirs, strict=True))


def _has_dropout(model: nn.Module) -> bool:
    """Whether anything is dropped at random: a rate above 0 in a module, or in the configuration for attention."""
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        return True
    settings: dict[str, Any] = model.config.to_dict()  # type: ignore[operator, union-attr]
    rates = [value for name, value in settings.items() if "dropout" in name or "drop_rate" in name]
    return any(isinstance(rate, int | float) and rate > 0 for rate in rates)
