"""The kinds of passes, and what each makes of the batch.

An objective names a pass in its `needs()`, as the source of a signal, and reads it with
`student.in_pass(source)`. Passes that are equal, settings included, are one pass, which runs once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.activations import Pass
from hf_distill.errors import DataError
from hf_distill.losses import at_least_float32, blank
from hf_distill.passes.embeddings import Embeddings
from hf_distill.tasks import IGNORED, Batch, real_tokens

PARTNER = "partner_"
"""How the columns of the partner rows begin in a batch."""

FOUND = f"{PARTNER}found"
"""The column that says which rows have a partner, `[batch]`; the others stand in for their own."""

DISTORTIONS = ("drop_tokens", "mask_tokens", "dropout")

Drawn = Mapping[str, Tensor]


@dataclass(frozen=True)
class Kind(Pass):
    """What the passes beside the main one have in common.

    Random numbers come from torch's own generator of the batch's device, so that a resumed run draws the same ones;
    how many are drawn follows from the batch's shape. What the teacher's pass drew is what the student's has as well.
    """

    embeds: ClassVar[bool] = False
    """Whether it reads or changes what the token embedding gives."""

    def draw(self, batch: Batch, embeddings: Embeddings | None) -> dict[str, Tensor]:
        """What the pass draws at random for this batch."""
        return {}

    def batch(self, batch: Batch, drawn: Drawn) -> Batch:
        """The batch that the model reads in this pass."""
        return batch


@dataclass(frozen=True)
class Alone(Kind):
    """The batch as it came, in a student into whose layers nothing is fed as it may be in the main pass."""

    name: str = "alone"


ALONE = Alone()


@dataclass(frozen=True)
class Partner(Kind):
    """The partner rows, which the data side gave for an objective with `batching = ClassPairs()`; without gradient.

    Errors: `DataError` for a batch without them.
    """

    name: str = "partner"
    gradient: bool = False

    def batch(self, batch: Batch, drawn: Drawn) -> Batch:
        columns = {name: value for name, value in batch.items() if name.startswith(PARTNER) and name != FOUND}
        if not columns:
            raise DataError(
                f"the batch has no partner rows (columns {PARTNER}…), only {', '.join(batch)}. Train with "
                "DistillationTrainer, which pairs the rows of its training data."
            )
        return {name.removeprefix(PARTNER): value for name, value in columns.items()}


@dataclass(frozen=True)
class Beside(Kind):
    """Another text of each row: a passage for the query, a translation. Its columns are those of a text, behind
    `column` and an underscore (`positive_input_ids`).

    Errors: `DataError` for a batch without them.
    """

    name: str = ""
    column: str = "positive"

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.column)

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the text; a model need not take all of them."""
        return frozenset(f"{self.column}_{name}" for name in ("input_ids", "attention_mask", "token_type_ids"))

    def batch(self, batch: Batch, drawn: Drawn) -> Batch:
        start = f"{self.column}_"
        found = {name.removeprefix(start): batch[name] for name in self.columns if name in batch}
        if "input_ids" not in found:
            raise DataError(
                f"the batch has no text {self.column!r} beside each row (columns {start}input_ids, …), only "
                f"{', '.join(batch)}. Tokenise it as well, or take an objective that does not read it."
            )
        return found


@dataclass(frozen=True)
class Distorted(Kind):
    """A copy of the batch, number `copy`, in which each token is hit with the probability `share`.

    `drop_tokens` hides it from every attention and from pooling, `mask_tokens` puts `mask_token_id` in its place;
    special tokens that a column `special_tokens_mask` marks, and the first and the last token of a text, are spared.
    `dropout` changes no token: copies differ by the model's own dropout.
    """

    name: str = "distorted"
    copy: int = 1
    distortion: str = "drop_tokens"
    share: float = 0.1
    mask_token_id: int | None = None

    def draw(self, batch: Batch, embeddings: Embeddings | None) -> dict[str, Tensor]:
        if self.distortion == "dropout":
            return {}
        real = real_tokens(batch)
        number = real.cumsum(1)
        spared = (number == 1) | (number == number[:, -1:])
        if "special_tokens_mask" in batch:
            spared = spared | batch["special_tokens_mask"].bool()
        chosen = torch.rand(real.shape, device=real.device) < self.share
        return {"hit": chosen & real & ~spared}

    def batch(self, batch: Batch, drawn: Drawn) -> Batch:
        if self.distortion == "dropout":
            return batch
        hit = drawn["hit"]
        if self.distortion == "mask_tokens":
            return {**batch, "input_ids": batch["input_ids"].masked_fill(hit, self.mask_token_id or 0)}
        return {**batch, "attention_mask": (real_tokens(batch) & ~hit).long()}


@dataclass(frozen=True)
class Noisy(Kind):
    """The batch with Gaussian noise on the embeddings of its real tokens, the same xi for teacher and student; `draw`s
    of other numbers are other noise. The standard deviation is `sigma` times the root mean square of the entries of
    the embedding table of the model that draws: the teacher's, if it runs this pass as well. The table is read at
    each draw, so that the noise of one that moves (a `MovingAverage`'s) is the same in a resumed run.
    """

    embeds: ClassVar[bool] = True
    name: str = "noise"
    number: int = 1
    sigma: float = 0.1

    def draw(self, batch: Batch, embeddings: Embeddings | None) -> dict[str, Tensor]:
        assert embeddings is not None
        real = real_tokens(batch)
        noise = torch.randn(*real.shape, embeddings.width, device=real.device)
        deviation = self.sigma * embeddings.root_mean_square.to(noise.device)
        return {"noise": blank(noise * deviation, real)}


@dataclass(frozen=True)
class InputGradient(Kind):
    """The gradient of one number of each example with respect to its token embeddings, before positions are added.

    The number is the `logit` of a class or the `cross_entropy` of it; the class is that of the `label`, or the one
    whose logit is largest in the `teacher`, for both models. Classes are the student's; `columns` are the teacher's
    column of each. Examples without a label have the gradient 0. Dropout is off in this pass, and so is mixed
    precision. The student's gradient can be differentiated again, the teacher's cannot.
    """

    embeds: ClassVar[bool] = True
    name: str = "input gradient"
    scalar: str = "logit"
    target: str = "teacher"
    columns: tuple[int, ...] | None = None

    def in_student_order(self, logits: Tensor) -> Tensor:
        """The teacher's logits `[batch, classes]` in the order of the student's classes."""
        if self.columns is None:
            return logits
        return torch.stack([logits[..., column] for column in self.columns], dim=-1)

    def classes(self, logits: Tensor, batch: Batch, drawn: Drawn) -> Tensor:
        """The class of each example, `[batch]`."""
        if self.target == "label":
            return batch["labels"]
        return drawn["classes"] if "classes" in drawn else logits.detach().argmax(-1)

    def value(self, logits: Tensor, classes: Tensor) -> Tensor:
        """The sum over examples of what is differentiated."""
        logits = at_least_float32(logits)
        if self.scalar == "cross_entropy":
            return functional.cross_entropy(logits, classes, ignore_index=IGNORED, reduction="sum")
        picked = logits.gather(-1, classes.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return picked.masked_fill(classes == IGNORED, 0.0).sum()
