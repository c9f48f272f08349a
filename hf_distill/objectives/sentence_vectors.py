"""What objectives over the vectors of sentence encoders share: reading them, and a projection between two widths."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.activations import MAIN, Activations, Needs, Pass, Signal
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.losses import at_least_float32, unit
from hf_distill.objectives.base import Objective
from hf_distill.objectives.hidden_states import Projection
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.settings import check_choice, check_count
from hf_distill.tasks import Batch, Embeddings, Task

VECTOR = Signal("sentence")
VECTORS = Needs.of([VECTOR], [VECTOR])
"""The vector of each text, of both models."""

MULTILINGUAL = """@inproceedings{reimers2020making,
  title = {Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation},
  author = {Reimers, Nils and Gurevych, Iryna},
  booktitle = {EMNLP},
  year = {2020},
  eprint = {2004.09813},
  archivePrefix = {arXiv}
}"""
"""What the mean squared error of sentence vectors is cited by."""


def check_vectors(objective: str, pair: Pair) -> None:
    """Raises: `IncompatiblePair` for models that give no sentence vectors."""
    if pair.task.name != Embeddings.name:
        raise IncompatiblePair(
            f"{objective}: reads the vectors of sentence encoders, and the models solve {pair.task.name}. Load both "
            "without a head (AutoModel), and say how they are pooled (hf_distill.sentences.give)."
        )


def vectors_of(
    objective: str, student: Activations, teacher: Activations | None, source: Pass = MAIN
) -> tuple[Tensor, Tensor]:
    """The vectors of both models, `[batch, width]`, in at least float32; the teacher's without gradient, and of the
    main pass."""
    if teacher is None:
        raise DistillationError(f"objective {objective!r} got no teacher.")
    return at_least_float32(student.in_pass(source).sentence), at_least_float32(teacher.sentence.detach())


class SentencePairs(Objective):
    """Compares the vector of each text in the student, u, with the teacher's, v; counts texts.

    Where the widths differ, `projection` makes them comparable:

    - `pca`: the teacher's vectors onto their own first principal components, as many as the student's vectors are
      wide, V of the teacher's vectors of `pca_texts` training texts: v V in place of v, scaled to the length 1 where
      the student's vectors are. Nothing is added to the student, whose vectors keep its own width. So does the model
      distillation of sentence-transformers: no centring, no bias.
    - `learned`: W u + b in place of u, learned with the student and dropped after the training; W starts as V, where
      the student is the narrower one.
    - `none`: other widths are refused.
    """

    def __init__(self, *, projection: str = "pca", pca_texts: int = 20_000) -> None:
        super().__init__()
        check_choice(self.name, "projection", projection, ("pca", "learned", "none"))
        check_count(self.name, "pca_texts", pca_texts, 2)
        self.projection, self.pca_texts = projection, pca_texts
        self.directions: Tensor | None
        self.register_buffer("directions", None)
        self.projected: Projection | None = None
        self._unit = False

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        check_vectors(self.name, pair)
        assert pair.teacher is not None
        ours, theirs = pair.student.sentence_width, pair.teacher.sentence_width
        self.directions, self.projected = None, None
        self._unit = pair.student.sentence is not None and pair.student.sentence.normalize
        if ours == theirs:
            return
        widths = f"{self.name}: the student's sentence vectors are {ours} wide, the teacher's {theirs}"
        if self.projection == "none":
            raise IncompatiblePair(f"{widths}; set projection='pca' or 'learned'.")
        if self.projection == "learned":
            self.projected = Projection(ours, theirs)
        elif ours > theirs:
            raise IncompatiblePair(
                f"{widths}: principal components make vectors narrower, not wider. Set projection='learned', take a "
                "narrower student, or compare how texts are related (similarity_distribution with pool='sentence')."
            )
        else:
            start = torch.nn.init.orthogonal_(torch.empty(theirs, ours))
            self.register_buffer("directions", start)

    @property
    def asks_vectors(self) -> int:
        narrower = self.projected is not None and self.projected.in_features <= self.projected.out_features
        return self.pca_texts if self.directions is not None or narrower else 0

    def take_vectors(self, vectors: Tensor) -> None:
        place = self.directions if self.projected is None else self.projected.weight
        assert place is not None
        wanted = place.shape[1]
        if len(vectors) <= wanted:
            raise DataError(
                f"{self.name}: {len(vectors)} training texts have {max(len(vectors) - 1, 0)} principal components at "
                f"most, and the student's vectors are {wanted} wide. Give more texts, or set projection='none' with a "
                "student of the teacher's width."
            )
        with torch.no_grad():
            place.copy_(principal_directions(vectors, wanted))

    def needs(self) -> Needs:
        return VECTORS

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return task.num_examples(batch)

    def matched(self, student: Activations, teacher: Activations | None, source: Pass = MAIN) -> tuple[Tensor, Tensor]:
        """u of a pass of the student and v of the teacher, `[batch, width]`, of one width."""
        ours, theirs = vectors_of(self.name, student, teacher, source)
        if self.projected is not None:
            ours = self.projected(ours)
        if self.directions is not None:
            theirs = theirs @ self.directions.to(theirs.dtype)
            theirs = unit(theirs) if self._unit else theirs
        if ours.shape != theirs.shape:
            raise IncompatiblePair(
                f"{self.name}: the student shows vectors of shape {tuple(ours.shape)}, the teacher "
                f"{tuple(theirs.shape)}; both models must read the same texts."
            )
        return ours, theirs


def principal_directions(vectors: Tensor, number: int) -> Tensor:
    """The first `number` principal components of some vectors `[texts, width]`, as columns `[width, number]`: the
    eigenvectors of the largest eigenvalues of their covariance, in float64 on the CPU, the largest entry of each
    above 0.
    """
    rows = vectors.double().cpu()
    rows = rows - rows.mean(0)
    found: Tensor = torch.linalg.eigh(rows.mT @ rows).eigenvectors.flip(-1)[:, :number]
    largest = found.gather(0, found.abs().argmax(0, keepdim=True))
    return found * largest.sign()
