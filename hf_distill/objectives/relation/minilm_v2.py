"""Relations between queries, between keys and between values of one layer."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from hf_distill.anatomy import StackShape
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives.attention_relations import AttentionRelations, Relation, check_whole, widths
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_number

NAMES = tuple(left + right for left in "qkv" for right in "qkv")


@register("minilm_v2")
class MiniLMv2(AttentionRelations):
    """Self-attention relation distillation (Wang, Bao, Huang, Dong & Wei, 2021, arXiv:2012.15828).

    L = sum_i w_i 1/(A |x|) sum_a sum_t KL(R_i^teacher[a, t] || R_i^student[a, t]), with
    R_i[a] = softmax(X_a Y_a^T / sqrt(d)), where X and Y are queries, keys or values of one layer over all heads, cut
    into A relation heads of width d. `relations` maps pairs (`qq`, `kk`, `vv`, `qk`, ...) to weights w_i; the default
    is 1 for `qq`, `kk` and `vv`. `relation_heads` must divide every width that is compared, on both sides; it need
    not be the number of attention heads, nor need the two models agree in these. None: the largest that leaves the
    teacher's relation heads at least 16 wide, which gives the paper's 48 for a width of 768 and 64 for 1024, else 1.
    Grouped keys and values are not repeated.

    `teacher_layer`: the paper takes the last layer of base-size teachers and an upper-middle one of large ones (21 of
    24 for BERT-large). `causal`: None is as the models are; false shows a causal student pairs that its own attention
    never uses. `rope`: queries and keys `before` the rotary embedding, or `after` it, where a relation head must be a
    union of whole heads, lest it cut a rotated pair in two. `stack` as in `hidden_mse`. DeBERTa's relations are those
    of its content projections; its position terms are left out.

    Reads: queries, keys and values, or the rotated queries and keys, of one layer of each, as `relations` asks.
    Counts: examples, after a mean over each one's tokens (`example_mean`), or tokens (`token_mean`).
    Errors: `IncompatiblePair` where the relation heads do not divide a width, the projections of one relation differ
    in width, a layer does not exist, or the two models show different positions; `DataError` for position ids of
    another shape than the text.
    """

    citation = """@inproceedings{wang2021minilmv2,
  title = {MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers},
  author = {Wang, Wenhui and Bao, Hangbo and Huang, Shaohan and Dong, Li and Wei, Furu},
  booktitle = {Findings of ACL-IJCNLP},
  year = {2021},
  eprint = {2012.15828},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        relation_heads: int | None = None,
        relations: Mapping[str, float] | None = None,
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
        check_whole("minilm_v2", "relation_heads", relation_heads)
        self.relation_heads = relation_heads
        self.relations = _checked({"qq": 1.0, "kk": 1.0, "vv": 1.0} if relations is None else relations)

    def compared(self, student: StackShape, teacher: StackShape) -> tuple[Relation, ...]:
        sizes = {"student": widths(student), "teacher": widths(teacher)}
        for name in self.relations:
            for model, size in sizes.items():
                if size[name[0]] != size[name[1]]:
                    raise IncompatiblePair(
                        f"minilm_v2: relation {name!r} pairs a {_WORDS[name[0]]} of {size[name[0]]} with a "
                        f"{_WORDS[name[1]]} of {size[name[1]]} in the {model}, whose heads are grouped; leave it out, "
                        "or use minilm."
                    )
        read = sorted({projection for name in self.relations for projection in name})
        divided = {f"{model} {_WORDS[side]}": size[side] for model, size in sizes.items() for side in read}
        if self.rope == "after":
            divided |= _whole_heads(student, teacher, read)
        heads = self._relation_heads(divided, min(sizes["teacher"][side] for side in read))
        return tuple(Relation(name, weight, heads) for name, weight in self.relations.items())

    def _relation_heads(self, divided: dict[str, int], teacher_width: int) -> int:
        """The number of relation heads; it divides each of the named numbers."""
        common = math.gcd(*divided.values())
        divisors = [number for number in range(1, common + 1) if common % number == 0]
        if self.relation_heads is None:
            return max(number for number in divisors if number <= max(1, teacher_width // 16))
        if self.relation_heads not in divisors:
            found = ", ".join(f"{name} {number}" for name, number in divided.items())
            raise IncompatiblePair(
                f"minilm_v2: relation_heads is {self.relation_heads}, which does not divide all of {found}; it may be "
                f"{', '.join(map(str, divisors))}."
            )
        return self.relation_heads


_WORDS = {"q": "query width", "k": "key width", "v": "value width"}


def _whole_heads(student: StackShape, teacher: StackShape, read: list[str]) -> dict[str, int]:
    """Heads that relation heads must not cut: those of the projections that are rotated."""
    counts = {}
    for model, stack in (("student", student), ("teacher", teacher)):
        if "q" in read:
            counts[f"{model} attention heads"] = stack.num_attention_heads
        if "k" in read:
            counts[f"{model} key heads"] = stack.num_key_value_heads
    return counts


def _checked(relations: object) -> dict[str, float]:
    if not isinstance(relations, Mapping) or not relations:
        raise DistillationError(
            f"minilm_v2: relations is {relations!r}; it must map pairs such as qq, kk or vv to weights."
        )
    for name, weight in relations.items():
        check_choice("minilm_v2", "a name in relations", name, NAMES)
        check_number("minilm_v2", f"the weight of {name} in relations", weight, 0.0, sys.float_info.max, open_low=True)
    return dict(relations)
