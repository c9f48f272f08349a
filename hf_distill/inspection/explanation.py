"""A recipe explained: its loss stage by stage, in plain text."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.errors import DistillationError
from hf_distill.inspection import formula
from hf_distill.inspection.binding import BoundStage, bound_stages
from hf_distill.inspection.blueprint import Blueprint
from hf_distill.inspection.layout import amount, item, listed, number_of, title
from hf_distill.inspection.papers import paper
from hf_distill.inspection.parameters import Trained
from hf_distill.inspection.sizes import signals_of
from hf_distill.layer_map import LayerMap
from hf_distill.objectives import Objective
from hf_distill.objectives.terms import Term
from hf_distill.recipe import Recipe, Stage

COUNTS = re.compile(r"Counts:\s+(.*?)(?:\.(?=\s|$)|$)", re.DOTALL)
"""Where the documentation of an objective says what it counts."""

SHOWN = (
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)
"""Training arguments that are shown."""

OF_THE_STUDENT = {
    "moving_average": "the moving average of the student's own weights",
    "peers": "models that train beside the student, made as it is",
    "adapter_off": "the student without its adapters",
    "cached": "a folder that holds what it showed",
}
"""Teachers that are no models of their own, by their keys in a recipe."""


def explain(recipe: Recipe) -> str:
    """The total loss of every stage as a formula, with its terms: equation, weight, layer pairs, shapes, what is
    learned, paper. Models are those of their configurations; where one cannot be had, or does not fit, the formula
    stands alone, with what is missing. No data and no weights are read.
    """
    try:
        blueprint = Blueprint(recipe)
        bound: list[BoundStage] | None = list(bound_stages(blueprint))
        models = _models(blueprint)
    except DistillationError as error:
        bound = None
        models = item("models", f"not known, so that shapes and layers are left out: {error}")
    lines = [f"{recipe.source}: {_task(recipe)}", "", *models, "", *item("", formula.MEAN, column=0)]
    for number, stage in enumerate(recipe.stages, start=1):
        lines += title(f"Stage {number} of {len(recipe.stages)}: {stage.name}")
        found = None if bound is None else bound[number - 1]
        lines += _stage(stage, found)
    return "\n".join(lines)


def _task(recipe: Recipe) -> str:
    kind = Blueprint(recipe).kind
    return f"{recipe.task} ({kind.name})" if recipe.task else kind.name


def _models(blueprint: Blueprint) -> list[str]:
    section, lines = blueprint.recipe.teacher, []
    members = blueprint.members or ({"": blueprint.teacher} if blueprint.teacher is not None else {})
    for name, model in members.items():
        lines += item(f"teacher {name}".strip(), described(model))
    if section is not None and section.fine_tune is not None:
        lines += item("", "It is trained on the labels first, with a new head.")
    for name, meaning in OF_THE_STUDENT.items():
        if section is not None and getattr(section, name) is not None:
            lines += item("teacher", meaning)
    return [*lines, *item("student", f"{described(blueprint.student)}; {made_how(blueprint.recipe)}")]


def described(model: PreTrainedModel) -> str:
    """Class, depth, width and parameters of a model."""
    stacks = Anatomy.of(model).shape.stacks
    sizes = [
        f"{name}{': ' if name else ''}{number_of(each.num_hidden_layers, 'layer')} of {each.hidden_size}, "
        f"{number_of(each.num_attention_heads, 'head')}"
        for name, each in stacks.items()
    ]
    number = sum(parameter.numel() for parameter in model.parameters())
    return ", ".join([type(model).__name__, *sizes, f"{amount(number)} parameters"])


def made_how(recipe: Recipe) -> str:
    """How the recipe makes its student."""
    given = recipe.student.model_dump()
    if recipe.student.model is not None:
        return f"it is {recipe.student.model}"
    name, settings = next(iter(given.items()))
    said = ", ".join(f"{key} {value}" for key, value in (settings or {}).items())
    return f"made by {name}{f' ({said})' if said else ''}"


def _stage(stage: Stage, found: BoundStage | None) -> list[str]:
    terms = list(stage.terms()) if found is None else [term for term, _ in found.terms]
    lines = item("", formula.total(terms), column=2)
    for said in formula.weights(terms):
        lines += item("", said, column=2)
    for term, problem in found.terms if found is not None else [(term, "") for term in terms]:
        lines += ["", f"  {term.name}"]
        lines += [line for name, text in _term(term, found, problem) for line in item(name, text, indent=4, column=9)]
    lines.append("")
    for text in [] if found is None else found.problems:
        lines += item("unfit", text)
    if found is not None and found.distillation is not None:
        lines += [line for name, text in Trained.of(found).told() for line in item(name, text)]
        found.distillation.close()
    for name, section in (("lora", stage.lora), ("grid", stage.quantize_uniform or stage.quantize_points)):
        if section is not None:
            lines += item(name, _settings(section.model_dump()))
    return lines + item("steps", _arguments(stage))


def _settings(given: Mapping[str, Any]) -> str:
    """Settings that say something."""
    return ", ".join(f"{name} {value}" for name, value in given.items() if value not in (None, ""))


def _term(term: Term, found: BoundStage | None, problem: str) -> Iterator[tuple[str, str]]:
    objective = term.objective
    yield "weight", formula.weight_of(term) + (f", on the teacher {term.member!r}" if term.member else "")
    yield "loss", objective.equation
    if settings := _settings(objective.settings()):
        yield "settings", settings
    if counted := counts(objective):
        yield "counts", counted
    if problem:
        yield "unfit", problem
    elif found is not None and found.pair is not None:
        yield from _bound(objective)
    if source := paper(objective.citation):
        yield "paper", source


def _bound(objective: Objective) -> Iterator[tuple[str, str]]:
    pair, needs = objective.pair, objective.needs()
    if ours := signals_of(needs.student, pair.student, pair.task):
        yield "student", f"reads {ours}"
    if needs.teacher:
        yield "teacher", f"reads {_of_teacher(objective, needs.teacher)}"
    if pairs := pairs_of(objective):
        yield "layers", "student with teacher: " + ", ".join(f"{i} with {j}" for i, j in pairs)
    learned = [f"{name} {list(p.shape)}" for name, p in objective.named_parameters() if name != "log_variance"]
    number = sum(p.numel() for name, p in objective.named_parameters() if name != "log_variance")
    yield "learns", f"{amount(number)} parameters: {listed(learned, 4)}" if learned else "nothing of its own"


def _of_teacher(objective: Objective, signals: Any) -> str:
    pair = objective.pair
    if pair.teacher is None:
        return listed(sorted(map(str, signals)))
    members: dict[str, list[Signal]] = {}
    for signal in signals:
        members.setdefault(signal.member, []).append(signal)
    return ", ".join(signals_of(each, pair.teacher, pair.task) for _, each in sorted(members.items()))


def pairs_of(objective: Objective) -> Sequence[tuple[int, int]]:
    """The layers that a bound objective pairs: those of its map, or the only one of each side."""
    layers = getattr(objective, "layers", None)
    if isinstance(layers, LayerMap):
        return list(layers)
    needs = objective.needs()
    ours, theirs = ({s.layer for s in side if s.layer is not None} for side in (needs.student, needs.teacher))
    if len(ours) == len(theirs) == 1:
        return [(ours.pop(), theirs.pop())]
    return []


def counts(objective: Objective) -> str:
    """What an objective counts, as its documentation says."""
    found = COUNTS.search(inspect.getdoc(type(objective)) or "")
    return "" if found is None else " ".join(found.group(1).split())


def _arguments(stage: Stage) -> str:
    given = [f"{name} {stage.arguments[name]}" for name in SHOWN if name in stage.arguments]
    if stage.tokens_per_batch is not None:
        given.append(f"tokens_per_batch {stage.tokens_per_batch}")
    if stage.on_policy is not None:
        shares = [f"{n} {getattr(stage.on_policy, n):g}" for n in ("student_share", "teacher_share")]
        given.append(f"on_policy ({', '.join(shares)})")
    return ", ".join(given) or "those of the defaults"
