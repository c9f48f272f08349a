"""Recipes: what a distillation consists of, in a strictly checked YAML file.

The JSON schema for editors is made by `python -m hf_distill.recipe > recipes/schema.json`.
"""

from hf_distill.recipe.loading import shipped
from hf_distill.recipe.recipe import Recipe
from hf_distill.recipe.schema import (
    Data,
    Files,
    FineTune,
    FromLayers,
    MaxSamples,
    PackagedFile,
    PackagedModel,
    Split,
    Stage,
    Student,
    Teacher,
    TrainGroup,
    WeightedObjective,
)

__all__ = [
    "Data",
    "Files",
    "FineTune",
    "FromLayers",
    "MaxSamples",
    "PackagedFile",
    "PackagedModel",
    "Recipe",
    "Split",
    "Stage",
    "Student",
    "Teacher",
    "TrainGroup",
    "WeightedObjective",
    "shipped",
]
