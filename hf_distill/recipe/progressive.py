"""Progressive knowledge transfer: one entry of `stages` that stands for a stage a layer.

MobileBERT learns block by block, from the first one up, while the blocks below are frozen or train at a small rate
(Sun et al., 2020, arXiv:2004.02984). The default is a tenth, as in the authors' TensorFlow 1 code, whose objectives
also compare one block at each stage. The embeddings train with the first block and then count among the layers below;
the head does not train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hf_distill.recipe.problems import Path
from hf_distill.recipe.rules.progressive import numbered
from hf_distill.recipe.sections.stage import Stage
from hf_distill.recipe.sections.trained import Progressive, TrainGroup


def stages_of(stage: Stage) -> list[Stage]:
    """The plain stages that an entry of `stages` stands for: itself, or one a layer."""
    plan = stage.progressive
    if plan is None:
        return [stage]
    names = numbered(stage.name, plan.layers)
    return [_stage_of_layer(stage, plan, layer, name) for layer, name in enumerate(names, start=1)]


def _stage_of_layer(stage: Stage, plan: Progressive, layer: int, name: str) -> Stage:
    against = layer if plan.teacher_layers is None else plan.teacher_layers[layer - 1]
    objectives = [
        entry.model_copy(update={"settings": {**entry.settings, "layer_map": [[layer, against]]}})
        for entry in stage.objectives
    ]
    train = [TrainGroup(layers=[0, 1] if layer == 1 else [layer])]
    if layer > 1 and plan.below != "frozen":
        train.append(TrainGroup(layers=list(range(layer)), learning_rate_scale=plan.below))
    return stage.model_copy(update={"name": name, "objectives": objectives, "train": train, "progressive": None})


def places(written: Mapping[Path, str], numbers: Sequence[int]) -> dict[Path, str]:
    """Where the plain stages were written; `numbers`: how many of them each entry stands for."""
    by_entry: dict[int, list[tuple[Path, str]]] = {}
    found: dict[Path, str] = {}
    for path, place in written.items():
        if len(path) > 1 and path[0] == "stages" and isinstance(path[1], int):
            by_entry.setdefault(path[1], []).append((path[2:], place))
        else:
            found[path] = place
    position = 0
    for entry, number in enumerate(numbers):
        for _ in range(number):
            found |= {("stages", position, *rest): place for rest, place in by_entry.get(entry, [])}
            position += 1
    return found
