"""What logits and labels mean. The one place that knows about shifting, -100, start and end, sigmoid and softmax.

A task turns activations into *rows* (logits with the classes last, aligned with their targets) and says which rows
count. Objectives see rows alone. Questions about counts are answered from the batch, before any forward pass.
"""

from hf_distill.tasks.base import DOCUMENTS, IGNORED, PROMPT_TOKENS, Batch, Task, device_type, real_tokens
from hf_distill.tasks.classes import SingleLabel, TokenClassification
from hf_distill.tasks.ctc import CTC
from hf_distill.tasks.headless import Embeddings, Encoder
from hf_distill.tasks.registry import HEADS, TASKS, task_of
from hf_distill.tasks.spans import QuestionAnswering
from hf_distill.tasks.words import CausalLM, MaskedLM, Seq2SeqLM

__all__ = [
    "CTC",
    "DOCUMENTS",
    "HEADS",
    "IGNORED",
    "PROMPT_TOKENS",
    "TASKS",
    "Batch",
    "CausalLM",
    "Embeddings",
    "Encoder",
    "MaskedLM",
    "QuestionAnswering",
    "Seq2SeqLM",
    "SingleLabel",
    "Task",
    "TokenClassification",
    "device_type",
    "real_tokens",
    "task_of",
]
