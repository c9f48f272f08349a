"""What objectives share that read a layer through maps of their own: maps that an earlier stage learned, and the
logits of a head on a layer, aligned with the task's rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_distill.activations import Activations
from hf_distill.errors import IncompatiblePair
from hf_distill.losses import label_loss, masked_sum
from hf_distill.objectives.pair import Pair
from hf_distill.pooling import pooled
from hf_distill.tasks import Batch, Task

POOLS = ("mean", "first_token", "last_token")


class Map(nn.Module):
    """W h + b, computed in the dtype of h. W and b are parameters if it `trains`, else the same tensors as buffers,
    which come from the stage that trained them. W starts as an isometry where it widens, else with small normal
    numbers; b with 0. Whether it was `learned` is a buffer that goes with them wherever they are saved.
    """

    weight: Tensor
    bias: Tensor
    learned: Tensor

    def __init__(self, width: int, out_width: int, *, trains: bool) -> None:
        super().__init__()
        self.register_buffer("learned", torch.tensor(trains))
        weight = torch.empty(out_width, width, dtype=torch.float32)
        if width <= out_width:
            nn.init.orthogonal_(weight)
        else:
            nn.init.normal_(weight, std=0.02)
        tensors = {"weight": weight, "bias": torch.zeros(out_width, dtype=torch.float32)}
        for name, tensor in tensors.items():
            if trains:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    def forward(self, state: Tensor) -> Tensor:
        return functional.linear(state, self.weight.to(state.dtype), self.bias.to(state.dtype))


class TwoMaps(nn.Module):
    """Two linear maps with a leaky ReLU of slope 0.1 between; learned as `Map` says."""

    def __init__(self, width: int, inner_width: int, out_width: int, *, trains: bool) -> None:
        super().__init__()
        self.first, self.second = Map(width, inner_width, trains=trains), Map(inner_width, out_width, trains=trains)

    @property
    def learned(self) -> Tensor:
        """Whether it trains, or was given what did."""
        return self.first.learned & self.second.learned

    def forward(self, state: Tensor) -> Tensor:
        made: Tensor = self.second(functional.leaky_relu(self.first(state), 0.1))
        return made


def unlearned(maps: nn.ModuleList) -> Tensor:
    """Whether some of these maps neither train nor were given what did."""
    return ~torch.stack([each.learned for each in maps]).all()  # type: ignore[misc]


class LayerHead:
    """How the logits of a head on a layer of one stack are aligned with the rows of a task.

    Tasks of one answer a text read its vector, pooled by `pool`; all others read every token.
    """

    def __init__(self, name: str, pair: Pair, pool: str, stack: str) -> None:
        self.task: Task = pair.task
        self.pools = not pair.task.tokens
        self.pool = pool
        self.label_smoothing = pair.label_smoothing
        if not pair.task.logit_fields:
            raise IncompatiblePair(f"{name}: the models have no head, and so no classes; load them with one.")
        if stack == "encoder" and pair.task.name in ("causal_lm", "seq2seq_lm"):
            raise IncompatiblePair(
                f"{name}: stack is 'encoder', and the words of a {pair.task.name} task are the decoder's; set "
                "stack='decoder'."
            )
        for side, shape in (("student", pair.student), ("teacher", pair.teacher)):
            if shape is not None and self.pools and pool == "first_token" and shape.stack(stack).causal:
                raise IncompatiblePair(
                    f"{name}: the {side} is causal, so its first token has seen nothing but itself; set "
                    "pool='last_token'."
                )

    def rows(self, head: nn.Module, state: Tensor, mask: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """The logits of a head for `state` `[batch, length, width]`, whose padding does not count:
        one tensor, or start and end."""
        logits: Tensor = head(pooled(state, mask, self.pool) if self.pools else state)
        if len(self.task.logit_fields) == 1:
            shown = Activations(mask=mask, logits=logits)
        else:
            start, end = logits.unbind(-1)
            shown = Activations(mask=mask, start_logits=start, end_logits=end)
        return self.task.rows(shown, batch, next(iter(self.task.tokens), ""))

    def label_loss(self, head: nn.Module, state: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        """The loss of a head by the labels, smoothed as the arguments ask, summed over those that count."""
        sides = zip(self.rows(head, state, mask, batch), self.task.targets(batch), strict=True)
        form, smoothing = self.task.form, self.label_smoothing
        losses = [label_loss(logits, labels, form, label_smoothing=smoothing) for logits, labels in sides]
        return masked_sum(sum(losses[1:], losses[0]) / len(losses), self.task.label_mask(batch))


def check_smoothing(name: str, pair: Pair) -> None:
    """Raises: `IncompatiblePair` for label smoothing where the task has no single class a row."""
    if pair.label_smoothing and (pair.task.form != "softmax" or len(pair.task.logit_fields) > 1):
        raise IncompatiblePair(
            f"{name}: label smoothing of {pair.label_smoothing:g} on a {pair.task.name} task: there is no single "
            "class to smooth. Set label_smoothing_factor=0."
        )


def check_classes(name: str, pair: Pair) -> None:
    """Raises: `IncompatiblePair` for a task that is no softmax over two classes or more."""
    task, classes = pair.task, pair.student.num_logits
    if task.form != "softmax" or len(task.logit_fields) != 1 or classes < 2:
        raise IncompatiblePair(
            f"{name}: a {task.name} task of {classes} outputs has no softmax over two classes or more, which the "
            "heads foretell; set form='channel' in knowledge_preregression, which needs no heads."
        )


FACTOR_SHARE = 0.5
"""The width of factors (factor transfer), in that of the teacher."""


def factor_width(teacher_width: int) -> int:
    """The width of the factors of a teacher's states."""
    return max(int(teacher_width * FACTOR_SHARE), 1)
