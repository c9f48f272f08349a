"""Teachers of another vocabulary, tokenizer, length, dtype, with grids or adapters: handled, or refused at
construction. Other labels and problem types are in `tests/test_trainer.py`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerFast, TorchAoConfig

from hf_distill import HiddenMSE, Labels, SoftTargets
from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.teachers import Frozen
from tests import tiny
from tests.faults.tiny_faults import trainer_for


def words(number: int, swapped: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of so many words."""
    names = ["[PAD]", "[UNK]", *(f"w{i}" for i in range(2, number))]
    if swapped:
        names[2], names[3] = names[3], names[2]
    made = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")


def widened(model: PreTrainedModel, vocabulary: int) -> PreTrainedModel:
    """The same model with a table, and a head, that are longer than the tokenizer."""
    made = copy.deepcopy(model)
    made.resize_token_embeddings(vocabulary, mean_resizing=False)
    return made


def trained(**given: Any) -> nn.Module:
    trainer = trainer_for("causal_lm", objectives=SoftTargets() + Labels(), processing_class=words(96), **given)
    trainer.train()
    model: nn.Module = trainer.model
    return model


def test_a_vocabulary_padded_to_a_multiple_of_64_teaches_what_the_plain_one_does() -> None:
    teacher = tiny.model("causal_lm", seed=2)
    wide = widened(teacher, 128)
    with torch.no_grad():
        wide.lm_head.weight[96:] = 30.0  # columns that would win, if they were looked at
    assert tiny.distance(trained(teacher=teacher), trained(teacher=wide)) < 1e-6


def test_a_vocabulary_of_other_words_is_refused() -> None:
    wide = widened(tiny.model("causal_lm", seed=2), 128)
    with pytest.raises(IncompatiblePair, match="vocabulary has 96 entries, the teacher's 128, and the tokenizer 120"):
        trainer_for("causal_lm", teacher=wide, processing_class=words(120))
    with pytest.raises(IncompatiblePair, match=r"the tokenizer is not given \(pass processing_class\)"):
        trainer_for("causal_lm", teacher=wide)


def test_a_tokenizer_with_two_words_exchanged_is_refused(tmp_path: Path) -> None:
    tiny.model("single_label", seed=2).save_pretrained(tmp_path)
    words(96, swapped=True).save_pretrained(tmp_path)
    with pytest.raises(IncompatiblePair, match=r"the tokenizers differ: 'w2' is 2 for the student and 3 .*2 such"):
        trainer_for(teacher=str(tmp_path), processing_class=words(96))


def test_a_teacher_that_reads_less_than_the_rows_hold_is_refused() -> None:
    config = copy.deepcopy(tiny.model("single_label", seed=2).config)
    config.max_position_embeddings = 16
    rows = [{"input_ids": [5] * 17, "attention_mask": [1] * 17, "labels": 1}] * 4
    known = Dataset.from_list([{**row, "length": 17} for row in rows])
    teacher = type(tiny.model("single_label"))(config)
    with pytest.raises(DataError, match=r"a row has 17 tokens, and the teacher \(bert\) reads 16 at most"):
        trainer_for(teacher=teacher, train_dataset=known)  # where lengths are known, before anything runs
    with pytest.raises(DataError, match=r"a row has 17 tokens, and the teacher \(bert\) reads 16 at most"):
        trainer_for(teacher=teacher, train_dataset=rows).train()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_teacher_of_another_type_teaches_in_it_and_losses_are_wide(dtype: torch.dtype) -> None:
    teacher = tiny.model("single_label", seed=2).to(dtype)
    trainer = trainer_for(teacher=teacher, objectives=SoftTargets() + HiddenMSE(layer_map="final"))
    trainer.train()
    assert {p.dtype for p in teacher.parameters()} == {dtype}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    plain = trainer_for(objectives=SoftTargets() + HiddenMSE(layer_map="final"))
    plain.train()
    near = 1e-5 if dtype == torch.float64 else 2e-2
    assert trainer.state.log_history[0]["loss"] == pytest.approx(plain.state.log_history[0]["loss"], rel=near)


def torchao_grids() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(quant_type=Int8WeightOnlyConfig())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:MatMul8bitLt. inputs will be cast:UserWarning")  # of bitsandbytes, at each layer
@pytest.mark.parametrize(
    ("made", "near"),
    [
        (torchao_grids, 0.02),
        (lambda: BitsAndBytesConfig(load_in_8bit=True), 0.02),
        (lambda: BitsAndBytesConfig(load_in_4bit=True), 0.1),
    ],
    ids=["torchao", "bitsandbytes-8", "bitsandbytes-4"],
)
def test_a_quantized_teacher_teaches_nearly_what_the_plain_one_does(
    made: Callable[[], Any], near: float, tmp_path: Path
) -> None:
    """It needs the extra `quant`."""
    plain = tiny.model("single_label", seed=2)
    plain.save_pretrained(tmp_path)
    quantized = type(plain).from_pretrained(tmp_path, quantization_config=made())
    losses = []
    for teacher in (plain, quantized, Frozen(quantized)):
        trainer = trainer_for(teacher=teacher, objectives=SoftTargets() + HiddenMSE(layer_map="final"))
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=near)
    assert losses[2] == losses[1] != losses[0]


def test_a_teacher_with_adapters_teaches_what_the_merged_one_does() -> None:
    torch.manual_seed(0)
    adapted = get_peft_model(
        tiny.model("single_label", seed=2), LoraConfig(target_modules=["query", "value"], init_lora_weights=False)
    )
    merged = copy.deepcopy(adapted).merge_and_unload()
    students = []
    for teacher in (adapted, merged, tiny.model("single_label", seed=2)):
        trainer = trainer_for(teacher=teacher, objectives=SoftTargets() + HiddenMSE(layer_map="final"))
        trainer.train()
        students.append(trainer.model)
    assert tiny.distance(students[0], students[1]) < 1e-5
    assert tiny.distance(students[0], students[2]) > 1e-4
    assert not any(parameter.requires_grad for parameter in adapted.parameters())
