"""Tiny random models and rows, made in milliseconds."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    TrainingArguments,
)

VOCABULARY = 96

BERT_HEADS = {
    "single_label": BertForSequenceClassification,
    "multi_label": BertForSequenceClassification,
    "regression": BertForSequenceClassification,
    "token_classification": BertForTokenClassification,
    "question_answering": BertForQuestionAnswering,
    "masked_lm": BertForMaskedLM,
}

TASK_NAMES = (*BERT_HEADS, "causal_lm", "seq2seq_lm")


def model(task: str, layers: int = 2, hidden: int = 32, seed: int = 0, dropout: float = 0.0) -> PreTrainedModel:
    """A random model for a task: BERT, or Llama for `causal_lm`, T5 for `seq2seq_lm`."""
    torch.manual_seed(seed)
    if task == "causal_lm":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=2,
                num_key_value_heads=1,
                intermediate_size=64,
                max_position_embeddings=128,
                attention_dropout=dropout,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
                initializer_range=0.2,
            )
        )
    if task == "seq2seq_lm":
        return T5ForConditionalGeneration(
            T5Config(
                vocab_size=VOCABULARY,
                d_model=hidden,
                d_kv=16,
                d_ff=64,
                num_layers=layers,
                num_decoder_layers=layers,
                num_heads=2,
                dropout_rate=dropout,
                decoder_start_token_id=0,
                initializer_factor=0.5,
            )
        )
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,
        num_labels={"regression": 1, "question_answering": 2}.get(task, 3),
    )
    if task == "multi_label":
        config.problem_type = "multi_label_classification"
    return BERT_HEADS[task](config)


def rows(task: str, number: int = 32, seed: int = 1, shortest: int = 5, longest: int = 12) -> list[dict[str, Any]]:
    """Rows of unequal lengths with labels of the task."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, size: int) -> list[int]:
        return torch.randint(low, high, (size,), generator=generator).tolist()

    made = []
    for _ in range(number):
        length = integers(shortest, longest + 1, 1)[0]
        row: dict[str, Any] = {"input_ids": integers(4, VOCABULARY, length), "attention_mask": [1] * length}
        row.update(_labels(task, length, integers))
        made.append(row)
    return made


def _labels(task: str, length: int, integers: Any) -> dict[str, Any]:
    if task == "single_label":
        return {"labels": integers(0, 3, 1)[0]}
    if task == "multi_label":
        return {"labels": [float(value) for value in integers(0, 2, 3)]}
    if task == "regression":
        return {"labels": integers(0, 50, 1)[0] / 10}
    if task == "question_answering":
        start = integers(0, length, 1)[0]
        return {"start_positions": start, "end_positions": integers(start, length, 1)[0]}
    kinds = 3 if task == "token_classification" else VOCABULARY
    labels = integers(0, kinds, length)
    ignored = integers(0, 4, length)
    return {
        "labels": [
            -100 if skip == 0 and i else label for i, (label, skip) in enumerate(zip(labels, ignored, strict=True))
        ]
    }


class Pad:
    """A collator that pads every column to the longest row, and `extra` columns further."""

    def __init__(self, extra: int = 0) -> None:
        self.extra = extra

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        per_token = self._per_token(items)
        batch = {}
        for name in items[0]:
            values = [item[name] for item in items]
            if isinstance(values[0], list) and (name != "labels" or per_token):
                length = max(map(len, values)) + self.extra
                fill = -100 if name == "labels" else 0
                values = [value + [fill] * (length - len(value)) for value in values]
            batch[name] = torch.tensor(values)
        return batch

    @staticmethod
    def _per_token(items: list[dict[str, Any]]) -> bool:
        labels = items[0].get("labels")
        return isinstance(labels, list) and isinstance(labels[0], int)


def arguments(**settings: Any) -> TrainingArguments:
    """Quiet arguments on the CPU, plain SGD so that gradients show in the weights."""
    defaults: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(prefix="hf_distill_test_"),
        "use_cpu": True,
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
    }
    return TrainingArguments(**{**defaults, **settings})


def distance(left: torch.nn.Module, right: torch.nn.Module) -> float:
    """The largest absolute difference of any parameter."""
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in pairs)
