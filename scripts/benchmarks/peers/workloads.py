"""The steps that are measured: models, batches and the loss that each step asks for.

Weights are random (seed 0, initializer_range 0.05) and there is no dropout, so that every implementation can be
compared by its first gradient. Six batches are ready-made and cycled: a step is teacher forward, student forward,
loss, backward and optimizer, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

NUMBER_OF_BATCHES = 6
FIRST_TOKEN = 1000
"""Token ids below this one are special in BERT's vocabulary."""
MASK_TOKEN = 103
IGNORED = -100


@dataclass(frozen=True)
class Workload:
    """One kind of step at one size.

    `kind`: `classifier` (0.5 CE + 0.5 T^2 KL), `relations` (MiniLM v2 of the last layers), `masked_lm` (DistilBERT's
    triple loss) or `causal_lm` (generalised JSD at temperature 1 over target tokens; `beta` 0 is the forward KL).
    `threads` and `steps`: threads of a process, and timed steps in a round.
    """

    name: str
    kind: str
    teacher_layers: int
    student_layers: int
    teacher_width: int
    student_width: int
    batch: int
    length: int
    vocabulary: int = 30522
    teacher_heads: int = 12
    student_heads: int = 12
    relation_heads: int = 12
    temperature: float = 2.0
    beta: float = 0.0
    threads: int = 2
    steps: int = 3

    def scaled(self, factor: float) -> Workload:
        """The same kind of step, smaller: width, batch, length and vocabulary shrink, layers and heads stay."""
        if factor == 1.0:
            return self
        return replace(
            self,
            teacher_width=multiple(self.teacher_width * factor, 48),
            student_width=multiple(self.student_width * factor, 48),
            batch=multiple(self.batch * factor, 4),
            length=multiple(self.length * factor, 8),
            vocabulary=multiple(self.vocabulary * factor, 2048),
        )

    def models(self) -> tuple[PreTrainedModel, PreTrainedModel]:
        """Teacher, frozen and in evaluation mode, and student, in training mode."""
        torch.manual_seed(0)
        build = BUILDERS[self.kind]
        teacher = build(self, self.teacher_layers, self.teacher_width, self.teacher_heads)
        student = build(self, self.student_layers, self.student_width, self.student_heads)
        teacher.eval().requires_grad_(False)
        student.train()
        return teacher, student

    def batches(self) -> list[dict[str, Tensor]]:
        return [self._batch(torch.Generator().manual_seed(seed)) for seed in range(NUMBER_OF_BATCHES)]

    def _batch(self, generator: torch.Generator) -> dict[str, Tensor]:
        shape = (self.batch, self.length)
        ids = torch.randint(FIRST_TOKEN, self.vocabulary, shape, generator=generator)
        made = {"input_ids": ids, "attention_mask": torch.ones(shape, dtype=torch.long)}
        if self.kind == "classifier":
            made["labels"] = torch.randint(0, 2, (self.batch,), generator=generator)
        elif self.kind == "relations":
            lengths = torch.full((self.batch,), self.length)
            lengths[::4] = torch.randint(self.length // 4, self.length, lengths[::4].shape, generator=generator)
            made["attention_mask"] = (torch.arange(self.length) < lengths[:, None]).long()
        elif self.kind == "masked_lm":
            chosen = torch.rand(shape, generator=generator) < 0.15
            made["labels"] = ids.masked_fill(~chosen, IGNORED)
            made["input_ids"] = ids.masked_fill(chosen, MASK_TOKEN)
        else:
            made["labels"] = ids.clone()
            made["labels"][:, : self.length // 8] = IGNORED  # the prompt
        return made


def multiple(value: float, unit: int) -> int:
    """The multiple of `unit` next to a value, one at least."""
    return max(1, round(value / unit)) * unit


def bert(workload: Workload, layers: int, width: int, heads: int) -> BertConfig:
    return BertConfig(
        vocab_size=workload.vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
        num_labels=2,
    )


def classifier(workload: Workload, layers: int, width: int, heads: int) -> PreTrainedModel:
    return BertForSequenceClassification(bert(workload, layers, width, heads))


def encoder(workload: Workload, layers: int, width: int, heads: int) -> PreTrainedModel:
    return BertModel(bert(workload, layers, width, heads), add_pooling_layer=False)


def masked_lm(workload: Workload, layers: int, width: int, heads: int) -> PreTrainedModel:
    return BertForMaskedLM(bert(workload, layers, width, heads))


def causal_lm(workload: Workload, layers: int, width: int, heads: int) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=workload.vocabulary,
            hidden_size=width,
            intermediate_size=width * 8 // 3 // 64 * 64,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            tie_word_embeddings=True,
            attention_dropout=0.0,
            initializer_range=0.05,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            use_cache=False,
        )
    )


BUILDERS: dict[str, Callable[[Workload, int, int, int], PreTrainedModel]] = {
    "classifier": classifier,
    "relations": encoder,
    "masked_lm": masked_lm,
    "causal_lm": causal_lm,
}


def on_bert(name: str, kind: str, batch: int, length: int, *, teacher_layers: int = 6, width: int = 384) -> Workload:
    return Workload(name, kind, teacher_layers, 3, width, width, batch, length)


def on_llama(name: str, vocabulary: int, beta: float = 0.0) -> Workload:
    return Workload(
        name,
        "causal_lm",
        teacher_layers=6,
        student_layers=4,
        teacher_width=384,
        student_width=256,
        batch=4,
        length=256,
        vocabulary=vocabulary,
        teacher_heads=6,
        student_heads=4,
        temperature=1.0,
        beta=beta,
    )


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        replace(on_bert("w0", "classifier", 4, 8, width=48), threads=1, steps=20),
        on_bert("w1", "classifier", 32, 64),
        on_bert("w1_12", "classifier", 32, 64, teacher_layers=12),
        on_bert("w2", "relations", 32, 128),
        on_bert("w3", "masked_lm", 16, 128),
        on_llama("w4", 49152),
        on_llama("w4_jsd", 49152, beta=0.5),
        on_llama("w4_152k", 151936),
    )
}
