"""One vector a text, as a model for sentences gives it: how it is pooled, projected and normalised.

What sentence-transformers keeps in modules behind the transformer is kept here in the model's own configuration, as
`config.sentence_embedding`, so that it is saved, copied and resumed with the model; dense layers, which have weights,
are a submodule of it (`DENSE`): a teacher's own, or those of its teacher that a student keeps as they are (`fixed`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_distill.errors import IncompatiblePair
from hf_distill.losses import at_least_float32, unit
from hf_distill.pooling import MEAN_BY_ROOT, pooled

logger = logging.getLogger(__name__)

KEY = "sentence_embedding"
"""The attribute of a model's configuration."""

DENSE = "sentence_dense"
"""The submodule of a model with its dense layers, `nn.Sequential`, where it has any."""

POOLINGS = {
    "cls": "first_token",
    "mean": "mean",
    "max": "max",
    "mean_sqrt_len_tokens": MEAN_BY_ROOT,
    "lasttoken": "last_token",
}
"""The ways of pooling by the names of sentence-transformers, and what they are called in `hf_distill.pooling`."""

COSINE, DOT = "cosine", "dot"
SIMILARITIES = (COSINE, DOT)
"""How two vectors are compared, by the names of sentence-transformers: by their angle, or by their product."""


@dataclass(frozen=True)
class SentenceEmbedding:
    """How the vector of a text is made of the last hidden states: `pooling` is one of `POOLINGS`, `normalize` says
    whether it is scaled to the length 1. `width` is that of the dense layers between the two, None without any;
    `max_length` the tokens that texts are cut to, None where nothing says so; `similarity` one of `SIMILARITIES`, by
    which vectors are to be compared.

    Raises: `IncompatiblePair` for a pooling or a similarity that is not known, or values of another kind.
    """

    pooling: str
    normalize: bool
    width: int | None = None
    max_length: int | None = None
    similarity: str = COSINE

    def __post_init__(self) -> None:
        if not isinstance(self.pooling, str) or self.pooling not in POOLINGS:
            raise IncompatiblePair(
                f"sentence embedding: pooling is {str(self.pooling)[:60]!r}; it may be {', '.join(POOLINGS)}."
            )
        if not isinstance(self.normalize, bool):
            raise IncompatiblePair(f"sentence embedding: normalize is {self.normalize!r}; it may be true or false.")
        if self.similarity not in SIMILARITIES:
            raise IncompatiblePair(
                f"sentence embedding: similarity is {str(self.similarity)[:60]!r}; it may be "
                f"{' or '.join(SIMILARITIES)}."
            )
        for name in ("width", "max_length"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise IncompatiblePair(f"sentence embedding: {name} is {value!r}; it must be a whole number above 0.")

    @classmethod
    def of(cls, config: Any) -> Self | None:
        """What a model's configuration says; None where it says nothing.

        Raises: `IncompatiblePair`, as for wrong values.
        """
        told = getattr(config, KEY, None)
        if told is None:
            return None
        if not isinstance(told, Mapping) or not {"pooling", "normalize"} <= set(told) <= set(cls.__annotations__):
            raise IncompatiblePair(
                f"the model's config has {KEY} = {str(told)[:100]!r}; it holds pooling and normalize. Remove it, and "
                "give the pooling anew (hf_distill.sentences.give)."
            )
        return cls(**told)

    def to_dict(self) -> dict[str, Any]:
        """What stands in a configuration."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def give(model: Any, embedding: SentenceEmbedding, dense: nn.Sequential | None = None) -> None:
    """Makes a model without a head one that gives sentence vectors: objectives and evaluations read them of it, and
    it is saved as one. `dense` are layers behind the pooling; those of a student must be `fixed`.

    Raises: `IncompatiblePair` for dense layers that do not fit the model's states, or each other.
    """
    width = getattr(model.config, "hidden_size", None)
    for layer in linear_layers(dense):
        if width not in (None, layer.in_features):
            raise IncompatiblePair(
                f"{type(model).__name__}: a dense layer behind its pooling reads vectors {layer.in_features} wide, "
                f"and those before it are {width}; they are of another model."
            )
        width = int(layer.out_features)
    width = None if dense is None else width
    setattr(model.config, KEY, replace(embedding, width=width).to_dict())
    model._modules.pop(DENSE, None)
    if dense is not None:
        model.add_module(DENSE, dense.to(model.device))


class FixedLinear(nn.Module):
    """A linear layer as it is for good: no parameter, so that nothing trains or shards it, and not in a state dict,
    so that it is not among a student's weights; it is written beside them."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.register_buffer("weight", linear.weight.detach().clone(), persistent=False)
        bias = None if linear.bias is None else linear.bias.detach().clone()
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        return functional.linear(vectors, self.weight, self.bias)


def linear_layers(dense: nn.Sequential | None) -> list[Any]:
    """The linear ones of dense layers, in order."""
    return [layer for layer in dense or () if isinstance(layer, nn.Linear | FixedLinear)]


def fixed(dense: nn.Sequential) -> nn.Sequential:
    """A copy of dense layers that a student can keep: it learns states that they make into vectors, not them."""
    linear = linear_layers(dense)
    return nn.Sequential(*(FixedLinear(each) if each in linear else type(each)() for each in dense))


def keep_vectors(student: Any, teacher: Any) -> None:
    """Has a student make its sentence vectors as its teacher does, if that makes any, with the teacher's dense layers;
    those that do not fit the width of its states are left out, which is said in the log."""
    dense, embedding = teacher._modules.get(DENSE), SentenceEmbedding.of(teacher.config)
    if embedding is None:
        return
    if dense is None:
        setattr(student.config, KEY, embedding.to_dict())  # with the width of layers that were lost, to be asked for
        return
    wanted, width = linear_layers(dense)[0].in_features, student.config.hidden_size
    if wanted != width:
        logger.warning(
            "the teacher's dense layers read vectors %d wide, the student's are %d: it goes without them, and its "
            "vectors are the pooled states",
            wanted,
            width,
        )
    give(student, embedding, fixed(dense) if wanted == width else None)


def is_sentence_model(config: Any) -> bool:
    """Whether a model of this configuration gives sentence vectors."""
    return getattr(config, KEY, None) is not None


class SentenceVectors:
    """Makes the vectors of texts out of a model's last hidden states.

    Raises: `IncompatiblePair` for a model of which no pooling is known, or whose dense layers were lost.
    """

    def __init__(self, base: Any) -> None:
        found = SentenceEmbedding.of(base.config)
        if found is None:
            raise IncompatiblePair(NO_POOLING.format(type(base).__name__))
        self.embedding = found
        self._base = base
        if found.width is not None and not base.__dict__["_modules"].get(DENSE):
            raise IncompatiblePair(
                f"{type(base).__name__}: its config tells of dense layers behind the pooling, {found.width} wide, and "
                "it has none. Load it from its sentence-transformers folder."
            )

    def __call__(self, states: Tensor, mask: Tensor) -> Tensor:
        """`[batch, length, width]` and the mask `[batch, length]` to `[batch, width]`, in at least float32."""
        device = states.device.type
        with torch.autocast(device, enabled=False):
            vectors = pooled(at_least_float32(states), mask, POOLINGS[self.embedding.pooling])
            dense = self._base.__dict__["_modules"].get(DENSE)
            if dense is not None:
                held_in = linear_layers(dense)[0].weight.dtype
                vectors = at_least_float32(dense(vectors.to(held_in)))
            return unit(vectors) if self.embedding.normalize else vectors


NO_POOLING = (
    "{}: how its sentence vectors are pooled is not known: it has no modules.json of sentence-transformers, and its "
    "config no sentence_embedding. Say it: pooling (cls, mean, max) and normalize under data.embeddings of a recipe, "
    "--pooling and --normalize on the command line, or hf_distill.sentences.give(model, SentenceEmbedding('mean', "
    "True))."
)
