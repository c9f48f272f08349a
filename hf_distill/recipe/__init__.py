"""Recipes: what a distillation consists of, in a strictly checked YAML file.

The JSON schema for editors is made by `python -m hf_distill.recipe > recipes/schema.json`.
"""

from hf_distill.recipe.loading import shipped
from hf_distill.recipe.recipe import Recipe
from hf_distill.recipe.schema import (
    Augmentation,
    Bottlenecks,
    Data,
    DistilBert,
    Files,
    FineTune,
    FromLayers,
    FromShape,
    Masks,
    MaxSamples,
    MobileBert,
    PackagedFile,
    PackagedModel,
    Progressive,
    Split,
    Stage,
    Student,
    Teacher,
    TextSource,
    TrainGroup,
    UnlabelledText,
    WeightedObjective,
)

__all__ = [
    "Augmentation",
    "Bottlenecks",
    "Data",
    "DistilBert",
    "Files",
    "FineTune",
    "FromLayers",
    "FromShape",
    "Masks",
    "MaxSamples",
    "MobileBert",
    "PackagedFile",
    "PackagedModel",
    "Progressive",
    "Recipe",
    "Split",
    "Stage",
    "Student",
    "Teacher",
    "TextSource",
    "TrainGroup",
    "UnlabelledText",
    "WeightedObjective",
    "shipped",
]
