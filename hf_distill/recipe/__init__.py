"""Recipes: what a distillation consists of, in a strictly checked YAML file.

The JSON schema for editors is made by `python -m hf_distill.recipe > recipes/schema.json`.
"""

from hf_distill.recipe.loading import shipped
from hf_distill.recipe.recipe import Recipe
from hf_distill.recipe.sections.data import Augmentation, Data
from hf_distill.recipe.sections.kinds_of_teacher import Member, PackagedModel, Several
from hf_distill.recipe.sections.objective import WeightedObjective
from hf_distill.recipe.sections.sources import Files, MaxSamples, PackagedFile, Split
from hf_distill.recipe.sections.stage import Stage
from hf_distill.recipe.sections.student import (
    Bottlenecks,
    DistilBert,
    FewSample,
    FromLayers,
    FromShape,
    MobileBert,
    Student,
)
from hf_distill.recipe.sections.teacher import FineTune, Teacher
from hf_distill.recipe.sections.text import Masks, TextSource, UnlabelledText
from hf_distill.recipe.sections.trained import Lora, Progressive, QuantizePoints, QuantizeUniform, TrainGroup

__all__ = [
    "Augmentation",
    "Bottlenecks",
    "Data",
    "DistilBert",
    "FewSample",
    "Files",
    "FineTune",
    "FromLayers",
    "FromShape",
    "Lora",
    "Masks",
    "MaxSamples",
    "Member",
    "MobileBert",
    "PackagedFile",
    "PackagedModel",
    "Progressive",
    "QuantizePoints",
    "QuantizeUniform",
    "Recipe",
    "Several",
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
