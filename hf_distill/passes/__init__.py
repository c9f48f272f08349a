"""Further passes over a batch: other rows, distorted copies, noise on the embeddings, gradients of the input; and what
is put in the place of a layer's output in the main one.
"""

from hf_distill.passes.embeddings import same_table
from hf_distill.passes.feeding import Feeds
from hf_distill.passes.kinds import (
    ALONE,
    DISTORTIONS,
    FOUND,
    PARTNER,
    Alone,
    Beside,
    Distorted,
    InputGradient,
    Kind,
    Noisy,
    Partner,
)
from hf_distill.passes.running import Passes

__all__ = [
    "ALONE",
    "DISTORTIONS",
    "FOUND",
    "PARTNER",
    "Alone",
    "Beside",
    "Distorted",
    "Feeds",
    "InputGradient",
    "Kind",
    "Noisy",
    "Partner",
    "Passes",
    "same_table",
]
