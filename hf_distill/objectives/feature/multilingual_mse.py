"""The vectors of sentences and of their translations, near the teacher's of the sentences."""

from __future__ import annotations

from torch import Tensor

from hf_distill.activations import Activations, Needs
from hf_distill.losses import mean_squared_difference
from hf_distill.objectives.registry import register
from hf_distill.objectives.sentence_vectors import MULTILINGUAL, VECTOR, VECTORS, SentencePairs
from hf_distill.passes import Beside
from hf_distill.tasks import Batch

TRANSLATION = Beside(column="translation")


@register("multilingual_mse")
class MultilingualMSE(SentencePairs):
    """Multilingual distillation of sentence vectors (Reimers & Gurevych, 2020, arXiv:2004.09813).

    L = (1/2D) sum_d ((u_d - v_d)^2 + (w_d - v_d)^2) of each pair of texts, v the teacher's vector of the source, u
    the student's of the source, w the student's of the translation, of width D. The teacher reads the source alone.
    The paper's sum of the two squares is halved, so that the value is the mean over texts, as the authors' code has
    it. `projection` and `pca_texts` are those of `embedding_mse`.

    The translation is a text beside each row: columns `translation_input_ids`, `translation_attention_mask`. It is
    read in a pass of its own. Both models read the same tokens: a student of another tokenisation is refused, as
    everywhere.

    Reads: sentence of both, [batch, width], and of the student on the translation.  Counts: pairs of texts.
    Errors: as `embedding_mse`; `DataError` for a batch without translations.
    """

    citation = MULTILINGUAL

    @property
    def columns(self) -> frozenset[str]:
        return TRANSLATION.columns

    def needs(self) -> Needs:
        return VECTORS | Needs.of([VECTOR._replace(source=TRANSLATION)])

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        source = mean_squared_difference(*self.matched(student, teacher))
        translation = mean_squared_difference(*self.matched(student, teacher, TRANSLATION))
        return 0.5 * (source + translation).sum()
