"""What the report shows of a finished run beside its table: of the answers, and of the models themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.anatomy import Anatomy
from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.evaluation import looking, parting
from hf_distill.evaluation.findings import Findings, Likeness, Sample
from hf_distill.evaluation.language_models import samples
from hf_distill.evaluation.looking import Pairs, Texts
from hf_distill.layer_map import LayerMap
from hf_distill.runs.abilities import Showing
from hf_distill.runs.measuring import Answers, Role
from hf_distill.runs.preparation import Setup, start_of
from hf_distill.runs.workload import Workload

logger = logging.getLogger(__name__)

Found = TypeVar("Found")


def of_run(setup: Setup, answers: Mapping[Role, Answers], student: PreTrainedModel) -> Findings:
    """What the report shows beside the table."""
    found = of_answers(setup.workload, answers).model_copy(update={"samples": _samples(setup, student)})
    if setup.teacher is None or setup.workload.teachers_tokenizer is not None:
        return found  # layers are compared, and attention is drawn, token by token
    seen = of_models(
        student,
        setup.teacher,
        setup.tokenizer,
        setup.workload.texts(),
        setup.recipe.max_length,
        setup.losses.layer_maps,
    )
    shown = {"likeness": seen.likeness, "likeness_before": _before(setup, seen), "attention": seen.attention}
    return found.model_copy(update=shown)


def _before(setup: Setup, seen: Findings) -> Likeness | None:
    """How alike the layers were before training. The student is made once more, which is not worth it where it was cut
    by what had to be measured."""
    if seen.likeness is None or setup.teacher is None or setup.cuts:
        return None
    start, texts = setup.student(start_of(setup.jobs.student)), setup.workload.texts()
    return looking.likeness(start, setup.teacher, setup.tokenizer, texts, setup.recipe.max_length)


def _samples(setup: Setup, student: PreTrainedModel) -> list[Sample]:
    """What teacher and student write to the same prompts, where they write."""
    prompts, own = setup.workload.prompts(setup.tokenizer, setup.limits), setup.workload.teachers_tokenizer
    models: dict[Role, PreTrainedModel] = {} if setup.teacher is None else {"teacher": setup.teacher}
    return samples({**models, "student": student}, setup.tokenizer, prompts, own) if prompts else []


def of_answers(workload: Workload, answers: Mapping[Role, Answers]) -> Findings:
    """Where the models' answers to the reported split part, and how sure they are; empty for a task of which nothing
    is shown."""
    split = workload.reported_split
    if not answers or not isinstance(workload, Showing):
        return Findings()
    asked = workload.asked(split)
    if asked is None:
        return Findings()
    return parting.found(asked, {role: workload.answered(split, given.kept[split]) for role, given in answers.items()})


def of_models(
    student: nn.Module,
    teacher: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Texts,
    max_length: int,
    layer_maps: Mapping[str, Pairs],
) -> Findings:
    """How alike their layers are, and where their heads look, on a few texts. What a family does not show is left out
    with a message."""
    if not len(texts):
        return Findings()
    likeness = _if_shown(lambda: looking.likeness(student, teacher, tokenizer, texts, max_length))
    attention = _if_shown(
        lambda: looking.attention(student, teacher, tokenizer, texts, matched(student, teacher, layer_maps))
    )
    return Findings(likeness=likeness, attention=attention)


def matched(student: nn.Module, teacher: nn.Module, layer_maps: Mapping[str, Pairs]) -> Pairs:
    """The layers that the objectives pair, of several maps the one with most pairs; else layers at the same share of
    the depth (`spread`)."""
    ours, theirs = (Anatomy.of(model).shape.stack().num_hidden_layers for model in (student, teacher))
    paired = [[(s, t) for s, t in pairs if 1 <= s <= ours and 1 <= t <= theirs] for pairs in layer_maps.values()]
    longest = max(paired, key=len, default=[])
    return sorted(set(longest)) or list(LayerMap.resolve("spread", ours, theirs))


def _if_shown(look: Callable[[], Found]) -> Found | None:
    try:
        return look()
    except (IncompatiblePair, DataError) as error:
        logger.info("the report leaves something out: %s", error)
        return None
