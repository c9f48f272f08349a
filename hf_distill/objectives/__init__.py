"""The objectives, one file a method, and their registry: `names()`, `get(name)`, `make(name, settings)`."""

import importlib
import pkgutil

from hf_distill.objectives.base import Objective, RowWise, get, make, names, register
from hf_distill.objectives.feature.feature_map_transfer import FeatureMapTransfer
from hf_distill.objectives.feature.hidden_cosine import HiddenCosine
from hf_distill.objectives.feature.hidden_mse import HiddenMSE
from hf_distill.objectives.feature.pkd import PKD
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.relation.attention_kl import AttentionKL
from hf_distill.objectives.relation.attention_mse import AttentionMSE
from hf_distill.objectives.relation.minilm import MiniLM
from hf_distill.objectives.relation.minilm_v2 import MiniLMv2
from hf_distill.objectives.response.labels import Labels
from hf_distill.objectives.response.next_sentence import NextSentence
from hf_distill.objectives.response.pretraining_distillation import PretrainingDistillation
from hf_distill.objectives.response.soft_targets import SoftTargets
from hf_distill.objectives.terms import Term, Terms

__all__ = [
    "PKD",
    "AttentionKL",
    "AttentionMSE",
    "FeatureMapTransfer",
    "HiddenCosine",
    "HiddenMSE",
    "Labels",
    "MiniLM",
    "MiniLMv2",
    "NextSentence",
    "Objective",
    "Pair",
    "PretrainingDistillation",
    "RowWise",
    "SoftTargets",
    "Term",
    "Terms",
    "get",
    "make",
    "names",
    "register",
]

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)  # a file with a @register line is registered by lying here
