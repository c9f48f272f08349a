"""How much nearer a query is to its passage than to another one."""

from __future__ import annotations

import logging

from torch import Tensor

from hf_distill.activations import MAIN, Activations, Needs
from hf_distill.errors import DataError
from hf_distill.losses import at_least_float32, unit
from hf_distill.objectives.base import Objective
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.sentence_vectors import VECTOR, check_vectors
from hf_distill.objectives.settings import check_choice
from hf_distill.passes import Beside
from hf_distill.tasks import Batch, Task

logger = logging.getLogger(__name__)

POSITIVE, NEGATIVE = Beside(column="positive"), Beside(column="negative")
TEXTS = (MAIN, POSITIVE, NEGATIVE)

MARGIN = "margin"
"""The column with the teacher's margins."""

WIDEST = 2.0
"""The largest difference of two cosines."""

FAR = (
    "{}: the teacher has margins beyond 2, and the student's, of two cosines, never are; scale the teacher's, or take "
    "similarity='dot' with a student that does not normalise its vectors."
)

OTHERWISE = (
    "margin_mse has the similarity %r, and the student's vectors are to be compared by %r: it is judged by another "
    "score than it learns. Let both be the same: similarity in the objective, and under data.embeddings of a recipe "
    "(in Python SentenceEmbedding(similarity=…))."
)


@register("margin_mse")
class MarginMSE(Objective):
    """Margin-MSE for rankers (Hofstätter, Althammer, Schröder, Sertkan & Hanbury, 2020, arXiv:2010.02666).

    L = ((s(q, p) - s(q, n)) - (t(q, p) - t(q, n)))^2 of each triplet of a query q, a passage p that answers it and
    one, n, that does not; s is the student's similarity, t the teacher's score. `similarity` is the `dot` product of
    the vectors, as in the paper, or their `cosine`. With `margins="teacher"` the teacher is a sentence encoder, too,
    and t the same similarity of its vectors; with `column` the difference t(q, p) - t(q, n) is the batch's column
    `margin`, as a cross-encoder gave it, and no teacher is read. A cross-encoder's scores are of any size, and those
    of unit vectors at most 1: take `dot` with a student that does not normalise, or scale the margins; margins that
    cosines cannot reach are remarked on. A student whose vectors are to be compared otherwise, and are not all of one
    length, is warned of.

    The passages are texts beside each row: columns `positive_input_ids`, `negative_input_ids` and so on. Each is read
    in a pass of its own.

    Reads: sentence of both on the three texts, [batch, width]; widths may differ.  Counts: triplets.
    Errors: `IncompatiblePair` for models that are no sentence encoders; `DataError` for a batch without the texts or
    the margins.
    """

    citation = """@article{hofstaetter2020improving,
  title = {Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation},
  author = {Hofst{\\"a}tter, Sebastian and Althammer, Sophia and Schr{\\"o}der, Michael and Sertkan, Mete and
    Hanbury, Allan},
  journal = {arXiv preprint},
  year = {2020},
  eprint = {2010.02666},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, margins: str = "teacher", similarity: str = "dot") -> None:
        super().__init__()
        check_choice(self.name, "margins", margins, ("teacher", "column"))
        check_choice(self.name, "similarity", similarity, ("dot", "cosine"))
        self.margins, self.similarity = margins, similarity
        self.needs_teacher = margins == "teacher"
        self._of_cosines = similarity == "cosine"

    @property
    def columns(self) -> frozenset[str]:
        margin = {MARGIN} if self.margins == "column" else set()
        return POSITIVE.columns | NEGATIVE.columns | margin

    @property
    def reaches_zero(self) -> bool:
        return True

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        check_vectors(self.name, pair)
        vectors = pair.student.sentence
        scaled = vectors is not None and vectors.normalize
        self._of_cosines = scaled or self.similarity == "cosine"
        if vectors is not None and not scaled and vectors.similarity != self.similarity:
            logger.warning(OTHERWISE, self.similarity, vectors.similarity)

    def needs(self) -> Needs:
        signals = [VECTOR._replace(source=source) for source in TEXTS]
        return Needs.of(signals, signals if self.needs_teacher else ())

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return task.num_examples(batch)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        ours = self._margin(student)
        theirs = self._given(batch) if teacher is None or not self.needs_teacher else self._margin(teacher).detach()
        if self._of_cosines:
            self.remark((theirs.abs() > WIDEST).any(), FAR.format(self.name))
        return (ours - theirs.to(ours.dtype)).square().sum()

    def _margin(self, shown: Activations) -> Tensor:
        """How much more similar the query is to the positive text, `[batch]`."""
        vectors = [at_least_float32(shown.in_pass(source).sentence) for source in TEXTS]
        query, positive, negative = vectors if self.similarity == "dot" else map(unit, vectors)
        return (query * positive).sum(-1) - (query * negative).sum(-1)

    def _given(self, batch: Batch) -> Tensor:
        if MARGIN not in batch:
            raise DataError(
                f"{self.name}: margins is 'column', and the batch has no column {MARGIN!r}, only {', '.join(batch)}. "
                "Name the column of the teacher's margins (data.embeddings.margin_column), or set margins='teacher'."
            )
        return at_least_float32(batch[MARGIN])
