"""To which texts of the batch a text is similar, as a law."""

from __future__ import annotations

import sys

from torch import Tensor

from hf_distill.errors import DistillationError
from hf_distill.losses import forward_kl
from hf_distill.objectives.batch_relations import BatchRelation, cosines, off_diagonal
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_flag, check_number
from hf_distill.tasks import Batch


@register("similarity_distribution")
class SimilarityDistribution(BatchRelation):
    """Similarity distributions (Fang, Wang, Wang, Zhang, Yang & Liu, 2021, arXiv:2101.04731), over the batch.

    L = mean_i KL(p_i || q_i), p_i = softmax over j != i of cos(x_i, x_j) / `teacher_temperature` of the teacher's
    vectors, q_i the same of the student's at `student_temperature`. The paper compares with a queue of earlier
    examples, at 0.01 for the teacher and 0.2 for the student, and keeps the example itself in it; here the other texts
    of the batch are taken, and one temperature for both, so that a student like its teacher is at the minimum.
    `center` takes the batch's mean off the vectors of each model first (no part of the paper).

    Reads: hidden[i] of both, pooled to [batch, width] (`pool`); widths may differ.  Counts: batches, of 3 examples or
    more; a gradient is of the examples of a micro-batch alone, or with `gather` of those of all processes.
    Errors: `IncompatiblePair` where the layer map does not fit, or where a causal model would be pooled at its first
    token; `DistillationError` for a teacher that is taken at a higher temperature than the student.
    """

    smallest_batch = 3
    advised_batch = 16
    citation = """@inproceedings{fang2021seed,
  title = {SEED: Self-supervised Distillation For Visual Representation},
  author = {Fang, Zhiyuan and Wang, Jianfeng and Wang, Lijuan and Zhang, Lei and Yang, Yezhou and Liu, Zicheng},
  booktitle = {ICLR},
  year = {2021},
  eprint = {2101.04731},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        pool: str = "mean",
        student_temperature: float = 0.05,
        teacher_temperature: float = 0.05,
        center: bool = False,
        gather: bool = False,
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, pool=pool, gather=gather, stack=stack)
        check_number(self.name, "student_temperature", student_temperature, 0.0, sys.float_info.max, open_low=True)
        check_number(self.name, "teacher_temperature", teacher_temperature, 0.0, sys.float_info.max, open_low=True)
        check_flag(self.name, "center", center)
        if teacher_temperature > student_temperature:
            raise DistillationError(
                f"{self.name}: teacher_temperature is {teacher_temperature}, above the student_temperature of "
                f"{student_temperature}; the teacher's law must be at least as sharp."
            )
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.center = center

    def relation(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        ours, theirs = (off_diagonal(cosines(each, center=self.center)) for each in (student, teacher))
        return forward_kl(ours / self.student_temperature, theirs / self.teacher_temperature).mean()
