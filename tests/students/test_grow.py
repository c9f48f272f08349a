"""Students with further labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import RobertaConfig, RobertaForSequenceClassification

from hf_distill import students
from hf_distill.errors import IncompatiblePair
from tests import tiny

NEW = ("x", "y")


def roberta() -> Any:
    """A head of two layers."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=tiny.VOCABULARY, max_position_embeddings=40, num_labels=3, **sizes)
    return RobertaForSequenceClassification(config)


MADE = {
    "single_label": lambda: tiny.model("single_label"),
    "multi_label": lambda: tiny.model("multi_label"),
    "token_classification": lambda: tiny.model("token_classification"),
    "roberta": roberta,
}


@pytest.mark.parametrize("name", MADE)
def test_old_labels_are_answered_as_before(name: str) -> None:
    model = MADE[name]().eval()
    old = [model.config.id2label[i] for i in range(model.config.num_labels)]
    grown = students.grow_labels(model, NEW)
    ids = torch.randint(5, 20, (3, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, after = (each(input_ids=ids).logits for each in (model, grown))
    torch.testing.assert_close(after[..., : len(old)], before, rtol=0, atol=1e-6)
    assert after.shape[-1] == len(old) + 2
    assert after[..., len(old) :].std() > 0
    config = grown.config
    assert [config.id2label[i] for i in range(config.num_labels)] == [*old, *NEW]
    assert config.label2id == {name: i for i, name in config.id2label.items()}
    assert config.problem_type == model.config.problem_type
    assert model.config.num_labels == len(old)
    kept = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not kept & {tensor.data_ptr() for tensor in grown.state_dict().values()}


def test_an_adapter_is_merged_into_a_copy() -> None:
    adapted = get_peft_model(
        tiny.model("single_label"), LoraConfig(target_modules=["query"], init_lora_weights=False)
    ).eval()
    grown = students.grow_labels(adapted, NEW)
    ids = torch.randint(5, 20, (2, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            grown(input_ids=ids).logits[:, :3], adapted(input_ids=ids).logits, rtol=0, atol=1e-5
        )
    assert hasattr(adapted, "peft_config")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"the new labels are \[\]; give a list of names"),
        ("word", "the new labels are 'word'; give a list of names"),
        (["x", 1], "give a list of names"),
        (["x", "x"], "the label 'x' is there twice"),
        (["LABEL_1"], "the label 'LABEL_1' is there twice; the model has LABEL_0, LABEL_1, LABEL_2, and LABEL_1"),
    ],
)
def test_names_that_are_refused(names: Any, message: str) -> None:
    with pytest.raises(IncompatiblePair, match=message):
        students.grow_labels(tiny.model("single_label"), names)


@pytest.mark.parametrize("task", ["regression", "question_answering", "masked_lm"])
def test_models_without_labels_are_refused(task: str) -> None:
    with pytest.raises(IncompatiblePair, match=f"has no labels: it solves {task}"):
        students.grow_labels(tiny.model(task), NEW)


def test_a_head_that_was_replaced_is_refused() -> None:
    model = tiny.model("single_label")
    model.classifier = torch.nn.Linear(32, 5)
    with pytest.raises(IncompatiblePair, match=r"classifier\.weight is \(5, 32\) and would be \(5, 32\)|\(5, 32\)"):
        students.grow_labels(model, ["x"])
