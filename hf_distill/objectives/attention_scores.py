"""What objectives over attention scores share: heads that pair up, and the pairs of tokens that attend."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hf_distill.errors import IncompatiblePair
from hf_distill.objectives.layer_pairs import LayerPairs, Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.settings import check_choice
from hf_distill.relations import visible_pairs
from hf_distill.tasks import Batch


class AttentionScores(LayerPairs):
    """Compares `scores[i]` of the student with `scores[j]` of the teacher, head a with head a.

    Scores are taken before mask and softmax, recomputed from queries and keys, so they know neither padding nor
    dropout nor the attention implementation. A query sees a key where both are real tokens of one document and, if
    either model is causal, the key does not come later; a model's sliding window is not looked at.
    """

    field = "scores"
    first_layer = 1
    default_layer_map: ClassVar[str] = "uniform"

    def __init__(self, *, layer_map: Layers | None, reduction: str, layer_reduction: str, stack: str) -> None:
        super().__init__(layer_map=layer_map, stack=stack)
        check_choice(self.name, "reduction", reduction, ("token_mean", "example_mean"))
        check_choice(self.name, "layer_reduction", layer_reduction, ("mean", "sum"))
        self.reduction = reduction
        self.layer_reduction = layer_reduction
        self._causal = False

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        student, teacher = self.shapes(pair)
        if student.num_attention_heads != teacher.num_attention_heads:
            raise IncompatiblePair(
                f"{self.name}: the student has {student.num_attention_heads} attention heads, the teacher "
                f"{teacher.num_attention_heads}, and heads are compared one by one; give the student as many heads, "
                "or use minilm_v2, whose relation heads are free."
            )
        self._causal = student.causal or teacher.causal

    def visible(self, mask: Tensor, batch: Batch) -> Tensor:
        """Which keys (last axis) each query sees, boolean `[batch, length, length]`."""
        positions = None if self.stack == "decoder" else batch.get("position_ids")
        return visible_pairs(mask, self._causal, positions)
