"""Attention laws and value relations of the last layer."""

from __future__ import annotations

from torch import Tensor

from hf_distill.anatomy import StackShape
from hf_distill.errors import IncompatiblePair
from hf_distill.objectives.attention_relations import AttentionRelations, Relation
from hf_distill.objectives.registry import register
from hf_distill.relations import Sides


@register("minilm")
class MiniLM(AttentionRelations):
    """Deep self-attention distillation (Wang, Wei, Dong, Bao, Yang & Zhou, 2020, arXiv:2002.10957).

    L = 1/(A |x|) sum_a sum_t KL(R_qk^teacher[a, t] || R_qk^student[a, t]) + the same of R_vv, with
    R_qk[a] = softmax(Q_a K_a^T / sqrt(d)) the attention of head a and R_vv[a] = softmax(V_a V_a^T / sqrt(d)) its value
    relation; d is each model's own head size. Padding leaves both softmaxes. Teacher and student need equally many
    heads; grouped keys serve every query head of their group, and grouped values are compared as they are.

    The paper reads the last layer of each, the default of `teacher_layer` and `student_layer`. `causal`: None is as
    the models are. `rope`: queries and keys `before` the rotary embedding hold the content alone, `after` it R_qk is
    the attention that the model computes. Position terms that a model adds to its scores (T5, MPNet, DeBERTa) are left
    out, and the scale is always 1/sqrt(d). `stack` as in `hidden_mse`.

    Reads: queries, or rotated queries, keys, or rotated keys, and values of one layer of each.
    Counts: examples, after a mean over each one's tokens (`example_mean`), or tokens (`token_mean`).
    Errors: `IncompatiblePair` where the numbers of heads differ, a layer does not exist, or the two models show
    different positions; `DataError` for position ids of another shape than the text.
    """

    citation = """@inproceedings{wang2020minilm,
  title = {MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers},
  author = {Wang, Wenhui and Wei, Furu and Dong, Li and Bao, Hangbo and Yang, Nan and Zhou, Ming},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020},
  eprint = {2002.10957},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        teacher_layer: int | None = None,
        student_layer: int | None = None,
        causal: bool | None = None,
        rope: str = "before",
        reduction: str = "example_mean",
        stack: str = "",
    ) -> None:
        super().__init__(
            teacher_layer=teacher_layer,
            student_layer=student_layer,
            causal=causal,
            rope=rope,
            reduction=reduction,
            stack=stack,
        )

    def compared(self, student: StackShape, teacher: StackShape) -> tuple[Relation, ...]:
        ours, theirs = ((stack.num_attention_heads, stack.num_key_value_heads) for stack in (student, teacher))
        if ours != theirs:
            raise IncompatiblePair(
                f"minilm: the student has {ours[0]} attention heads and {ours[1]} value heads, the teacher "
                f"{theirs[0]} and {theirs[1]}, and heads are compared one by one; give the student as many, or use "
                "minilm_v2, whose relation heads are free."
            )
        return Relation("qk", 1.0, ours[0]), Relation("vv", 1.0, ours[1])

    def sides(self, left: Tensor, right: Tensor, heads: int) -> Sides:
        groups = left.shape[-1] // right.shape[-1]
        if groups > 1:
            by_head = right.view(*right.shape[:-1], heads // groups, -1)
            right = by_head.repeat_interleave(groups, dim=-2).flatten(-2)
        return left, right
