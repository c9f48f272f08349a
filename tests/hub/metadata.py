"""What the Hub asks of the metadata of a model card, as its documentation says; a second reading of the rules."""

from __future__ import annotations

import re
from typing import Any

import yaml

TEXTS = ("license", "library_name", "pipeline_tag", "base_model_relation")
TEXTS_OR_LISTS = ("language", "base_model", "datasets", "metrics", "tags")
RELATIONS = {"adapter", "merge", "quantized", "finetune"}


def problems_of(content: str) -> list[str]:
    """Everything that is wrong with the block on top of a `README.md`."""
    parts = content.split("\n---\n", 1)
    if not content.startswith("---\n") or len(parts) < 2:
        return ["no metadata"]
    found = yaml.safe_load(parts[0][4:])
    if not isinstance(found, dict):
        return ["metadata is not an object"]
    problems = [f'"{key}" must be a string' for key in TEXTS if not isinstance(found.get(key, ""), str)]
    for key in TEXTS_OR_LISTS:
        values = found.get(key, [])
        if not all(isinstance(value, str) for value in (values if isinstance(values, list) else [values])):
            problems.append(f'"{key}" must be a string or a list of strings')
    if found.get("base_model_relation", "finetune") not in RELATIONS:
        problems.append('"base_model_relation" must be one of adapter, merge, quantized, finetune')
    if not re.fullmatch(r"[\w .+-]{0,64}", str(found.get("license", ""))):
        problems.append('"license" is not a licence')
    return problems + [problem for model in found.get("model-index", []) for problem in _of_model(model)]


def _of_model(model: Any) -> list[str]:
    missing = [f'"model-index" needs "{key}"' for key in ("name", "results") if not model.get(key)]
    for result in model.get("results", []):
        missing += ['a result needs "task.type"'] * (not result.get("task", {}).get("type"))
        missing += [f'a result needs "dataset.{key}"' for key in ("type", "name") if not result["dataset"].get(key)]
        for metric in result["metrics"]:
            missing += [f'a metric needs "{key}"' for key in ("type", "value") if metric.get(key) is None]
    return missing
