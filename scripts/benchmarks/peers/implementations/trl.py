"""TRL's `GKDTrainer` on given texts (lmbda 0: nothing is generated).

It takes `datasets.Dataset` alone, so its rows are numbers of batches, and the collator asks for the batch.
"""

from __future__ import annotations

from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast
from trl.experimental.gkd import GKDConfig, GKDTrainer

from peers.implementations import hugging_face
from peers.turns import Batches
from peers.workloads import Workload


def no_tokenizer() -> PreTrainedTokenizerFast:
    """The trainer asks for one; the batches are tokens already."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    made = Tokenizer(WordLevel(words, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def run(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches) -> None:
    arguments = hugging_face.arguments(
        data,
        GKDConfig,
        lmbda=0.0,
        beta=workload.beta,
        temperature=workload.temperature,
        disable_dropout=False,
        gradient_checkpointing=False,
        bf16=False,
    )
    given = hugging_face.given(student, data)
    given["train_dataset"] = Dataset.from_dict({"row": range(len(data)), "labels": range(len(data))})
    given["data_collator"] = lambda rows: data[rows[0]["row"]]
    GKDTrainer(args=arguments, teacher_model=teacher, processing_class=no_tokenizer(), **given).train()
