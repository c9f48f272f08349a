"""The direction in which a text would have to move for a class to gain."""

from __future__ import annotations

from torch import Tensor

from hf_distill.objectives.input_gradients import SENTENCES, InputGradients
from hf_distill.objectives.registry import register


@register("jacobian_matching")
class JacobianMatching(InputGradients):
    """Jacobian matching (Srinivas & Fleuret, 2018, arXiv:1803.00443).

    L = |unit(J_s) - unit(J_t)|^2 of each example, with J = d z_c / d token embeddings, before positions are added, and
    c the class whose logit is largest in the teacher, the same in both models; `target="label"` takes the label's. In
    a regression of one score J is that of the score. The unit vector is that of the example, not of the batch.

    `space="token"` compares |J_k| over the real tokens k of the example: the form for text, since embedding
    coordinates of two models rarely correspond; `space="shared"` is the paper's, over all entries of J, for a student
    that looks tokens up in its teacher's table. The paper's equation 10 in the form that three public
    re-implementations agree on; there the scalar is the largest entry of an attention map, for transfer between tasks
    whose classes differ, and is left out: student and teacher have one task here, of whose classes J is.

    Unstable by itself: add soft targets or labels. The paper weighs the two (1 - a) and a; its a is not known here
    (unconfirmed).

    A step takes 3.7 times the CPU time of one of soft targets (SST-2, three layers from six; docs/comparisons.md):
    both models make a pass of their own, and that of the student, with its backward pass, is differentiated once
    more. `jacobian_matching_noise` does without that.

    Reads: input_gradient of both, [batch, length, width], in a pass without dropout and outside of mixed precision.
    Counts: examples with text, and with `target="label"` a label.
    Errors: `IncompatiblePair` for a task with other answers than one a text, for `label` where a text has no single
    class, for `shared` with other embedding tables, and for an attention without a second derivative; `DataError`
    where labels are asked for and missing.
    """

    scalar = "logit"
    tasks = SENTENCES
    citation = """@inproceedings{srinivas2018knowledge,
  title = {Knowledge Transfer with Jacobian Matching},
  author = {Srinivas, Suraj and Fleuret, Fran{\\c{c}}ois},
  booktitle = {ICML},
  year = {2018},
  eprint = {1803.00443},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, space: str = "token", target: str = "teacher") -> None:
        super().__init__(space=space, target=target)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().sum(-1)
