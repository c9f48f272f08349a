"""Knowledge distillation for Hugging Face Transformers text models."""

from hf_distill import objectives, students, teachers
from hf_distill.activations import Activations
from hf_distill.errors import (
    BrokenCheckpoint,
    CacheMismatch,
    DataError,
    DistillationError,
    HubError,
    IncompatiblePair,
    NonFiniteLoss,
    RecipeError,
)
from hf_distill.layer_map import LayerMap
from hf_distill.objectives import (
    PKD,
    AttentionKL,
    AttentionMSE,
    FeatureMapTransfer,
    HiddenCosine,
    HiddenMSE,
    Labels,
    MiniLM,
    MiniLMv2,
    NextSentence,
    PretrainingDistillation,
    SoftTargets,
)
from hf_distill.recipe import Recipe
from hf_distill.run import run
from hf_distill.trainer import DistillationTrainer
from hf_distill.version import __version__

__all__ = [
    "PKD",
    "Activations",
    "AttentionKL",
    "AttentionMSE",
    "BrokenCheckpoint",
    "CacheMismatch",
    "DataError",
    "DistillationError",
    "DistillationTrainer",
    "FeatureMapTransfer",
    "HiddenCosine",
    "HiddenMSE",
    "HubError",
    "IncompatiblePair",
    "Labels",
    "LayerMap",
    "MiniLM",
    "MiniLMv2",
    "NextSentence",
    "NonFiniteLoss",
    "PretrainingDistillation",
    "Recipe",
    "RecipeError",
    "SoftTargets",
    "__version__",
    "objectives",
    "run",
    "students",
    "teachers",
]
