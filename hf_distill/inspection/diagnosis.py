"""What there is to know of a recipe and its models before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from hf_distill.anatomy import Anatomy
from hf_distill.errors import DistillationError
from hf_distill.inspection.applicable import Verdict, verdicts
from hf_distill.inspection.binding import BoundStage, bound_stages
from hf_distill.inspection.blueprint import Blueprint
from hf_distill.inspection.cost import Expected, TooLittleMemory, expected_costs, is_on_cpu
from hf_distill.inspection.explanation import pairs_of
from hf_distill.inspection.fitting import Comparison, Tokenizers, check_tasks, comparisons
from hf_distill.inspection.memory import accelerator_memory, free_bytes
from hf_distill.inspection.parameters import Trained
from hf_distill.inspection.weights import built_bytes, is_built_larger, is_spread, least_bytes
from hf_distill.layer_map import LayerMap
from hf_distill.objectives import Pair
from hf_distill.recipe import Recipe
from hf_distill.runs.folder import RunFolder
from hf_distill.runs.preparation import plan
from hf_distill.tasks import CTC

MOST = 4
"""Stages whose steps are all measured; of more, the first and the last."""


@dataclass
class Diagnosis:
    """What was found. `problems` are all that keep a recipe from running; `unmeasured` says why there are no costs."""

    recipe: Recipe
    blueprint: Blueprint
    comparisons: list[Comparison]
    stages: list[BoundStage]
    trained: dict[str, Trained] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    costs: dict[str, Expected] = field(default_factory=dict)
    unmeasured: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def pair(self) -> Pair | None:
        """The first pair of a student with its teacher."""
        return next((stage.pair for stage in self.stages if stage.pair is not None), None)

    def learning(self) -> list[tuple[BoundStage, Trained]]:
        """The stages whose terms are bound, with how many parameters each trains."""
        return [(each, self.trained[each.stage.name]) for each in self.stages if each.stage.name in self.trained]

    def layer_maps(self) -> Iterator[tuple[str, Sequence[tuple[int, int]]]]:
        """The layers that terms pair, each map once, with the names of its terms; without any, `spread`."""
        found: dict[tuple[tuple[int, int], ...], list[str]] = {}
        for stage in self.stages:
            for term, problem in stage.terms:
                pairs = () if problem or stage.distillation is None else tuple(pairs_of(term.objective))
                if pairs and term.name not in found.setdefault(pairs, []):
                    found[pairs].append(term.name)
        for pairs, names in found.items():
            yield ", ".join(names), pairs
        if not found and self.depths is not None:
            yield "no term pairs layers; `spread` would be", list(LayerMap.resolve("spread", *self.depths))

    @property
    def depths(self) -> tuple[int, int] | None:
        """Layers of student and teacher where both have a single stack, or those of their last ones."""
        models = (self.blueprint.student, self.blueprint.teacher)
        stacks = [list(Anatomy.of(model).shape.stacks.values()) for model in models if model is not None]
        if len(stacks) < 2 or not all(stacks):
            return None
        ours, theirs = (stack[-1].num_hidden_layers for stack in stacks)
        return ours, theirs


def diagnose(
    recipe: Recipe, *, batch: int | None = None, length: int | None = None, measure: bool = True
) -> Diagnosis:
    """Whether a recipe's models fit each other and its task, what each stage trains, which objectives apply, and,
    with `measure`, what a step costs here. No data and no weights are read.

    Raises: `DistillationError` and its kinds for models that cannot be had or made, and for those of other tasks;
    whatever else does not fit is kept among the problems.
    """
    blueprint = Blueprint(recipe)
    check_tasks(blueprint)
    tokenizers = Tokenizers.of(recipe)
    compared = list(comparisons(blueprint, tokenizers))
    found = Diagnosis(recipe, blueprint, compared, list(bound_stages(blueprint, tokenizers.size)))
    found.problems += [comparison.problem for comparison in compared if comparison.problem]
    found.problems += list(dict.fromkeys(text for stage in found.stages for text in stage.all_problems))
    found.problems += _arguments(recipe)
    for stage in found.stages:
        if stage.distillation is not None:
            found.trained[stage.stage.name] = Trained.of(stage)
            stage.distillation.close()
    if found.pair is not None and found.pair.teacher is not None:
        found.verdicts = verdicts(found.pair)
    found.unmeasured = _unmeasured(found, measure)
    if not found.unmeasured:
        _measure(found, tokenizers.of_student, batch, length)
    return found


def _arguments(recipe: Recipe) -> Iterator[str]:
    """What is against the training arguments of the recipe."""
    for job in plan(recipe, RunFolder("doctor")).all:
        try:
            job.arguments()
        except DistillationError as error:
            yield str(error)


def _unmeasured(found: Diagnosis, measure: bool) -> str:
    """Why no step is measured; empty where steps are."""
    if not measure:
        return "it was left out"
    if found.problems:
        return "the recipe does not run as it is"
    if found.pair is not None and isinstance(found.pair.task, CTC):
        return "there are no made-up sounds"
    columns = {c for stage in found.recipe.stages for term in stage.terms() for c in term.objective.columns}
    if columns or any(stage.targets != "reference" for stage in found.recipe.stages):
        return "the rows have what a teacher writes"
    return _too_little(found)


def _too_little(found: Diagnosis) -> str:
    """Why models are not built here; empty where there is room. It is a problem where a run would have none either."""
    least, (free, kind) = least_bytes(found.blueprint, found.learning()), _room(found.recipe)
    if least > free and not is_spread(found.recipe):
        found.problems.append(
            f"weights, gradients and the optimizer's averages alone take {least / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB of {kind} are free. Take a smaller student, or a machine with more."
        )
        return "there is too little memory for it"
    built = built_bytes(found.blueprint, found.learning())
    if built > free:
        return (
            f"models are built in float32 and in one place for it, where weights, gradients and averages take "
            f"{built / 1e9:.1f} GB, and {free / 1e9:.1f} GB of {kind} are free"
        )
    return ""


def _room(recipe: Recipe) -> tuple[int, str]:
    """Free bytes where a recipe trains, and of what."""
    accelerator = None if is_on_cpu(recipe) else accelerator_memory()
    return (free_bytes(), "memory") if accelerator is None else (accelerator[0], "the accelerator's memory")


def _measure(
    found: Diagnosis, tokenizer: PreTrainedTokenizerBase | None, batch: int | None, length: int | None
) -> None:
    names = [stage.name for stage in found.recipe.stages]
    chosen = names if len(names) <= MOST else [names[0], names[-1]]
    try:
        found.costs.update(expected_costs(found.recipe, chosen, tokenizer=tokenizer, batch=batch, length=length))
    except TooLittleMemory as error:
        if is_built_larger(found.blueprint, found.learning()):
            found.unmeasured = f"built in float32 and in one place, {error}"
        else:
            _refuse(found, error)
    except DistillationError as error:
        _refuse(found, error)


def _refuse(found: Diagnosis, error: DistillationError) -> None:
    found.problems.append(str(error))
    found.unmeasured = "the recipe does not run as it is"
