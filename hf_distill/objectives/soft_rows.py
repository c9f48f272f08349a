"""What objectives that compare the answers of both models share: rows that count, labelled or not, and classes."""

from __future__ import annotations

from torch import Tensor

from hf_distill.errors import IncompatiblePair
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.row_wise import RowWise
from hf_distill.objectives.settings import check_choice
from hf_distill.tasks import TASKS, Batch, Task
from hf_distill.top_logits import RECORDED

TOKENS = tuple(sorted({tokens for task in TASKS.values() for tokens in task.tokens}))


class SoftRows(RowWise):
    """A row-wise objective that needs no labels to say something about a row.

    `tokens` picks the positions that count, where rows are positions (`tasks.py`; None is the task's own default).
    Without them examples count or, where every number is a row, numbers. Positions of which a teacher left no record
    (`top_logits.RECORDED`) do not count.
    """

    def __init__(self, *, tokens: str | None) -> None:
        super().__init__()
        if tokens is not None:
            check_choice(self.name, "tokens", tokens, TOKENS)
        self.tokens = tokens

    @property
    def tokens_read(self) -> str:
        return self.tokens or ""

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        task = pair.task
        if self.tokens is not None and self.tokens not in task.tokens:
            allowed = ", ".join(task.tokens) or "nothing: every example counts"
            raise IncompatiblePair(f"{self.name}: tokens is {self.tokens!r}; a {task.name} task has {allowed}.")

    def mask(self, batch: Batch) -> Tensor | None:
        task = self.pair.task
        tokens = self.tokens_read or next(iter(task.tokens), "")
        mask = task.soft_mask(batch, tokens)
        if RECORDED not in batch or not self.needs_teacher:
            return mask
        recorded = task.at_rows(batch[RECORDED], tokens)
        return recorded if mask is None else mask & recorded

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        mask = self.mask(batch)
        if mask is not None:
            return mask.sum()
        return task.num_examples(batch) * (1 if task.form == "softmax" else self.pair.student.num_logits)


def number_of_classes(objective: str, pair: Pair, *, least: int = 2, why: str = "a softmax of one is constant") -> int:
    """The classes that both models choose one of in every row.

    Raises: `IncompatiblePair` for a task whose rows have no such law or whose classes are the positions of a text, and
    for fewer classes than `least`, which would say `why`.
    """
    task = pair.task
    if task.form != "softmax":
        raise IncompatiblePair(
            f"{objective}: a {task.name} task has no single class a row; use soft_targets, which has a form for it."
        )
    if len(task.logit_fields) > 1:
        raise IncompatiblePair(
            f"{objective}: the classes of a {task.name} task are the positions of a text, as many as it has; use "
            "soft_targets."
        )
    found = pair.student.num_logits if pair.vocabulary is None else pair.vocabulary
    if found < least:
        raise IncompatiblePair(
            f"{objective}: the task has {found} {'class' if found == 1 else 'classes'}, and at least {least} are "
            f"needed: {why}. Use soft_targets."
        )
    return found
