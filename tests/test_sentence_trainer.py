"""`DistillationTrainer` with sentence encoders, as in a notebook."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from hf_distill import DistillationTrainer, EmbeddingCosine, students
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.sentence_modules import load_encoder, read_modules
from hf_distill.sentences import SentenceEmbedding
from tests import tiny_runs, tiny_sentences


def arguments(folder: Path) -> TrainingArguments:
    return TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=4, use_cpu=True, report_to="none", disable_tqdm=True,
        save_strategy="no", learning_rate=1e-2,
    )  # fmt: skip


def rows() -> Dataset:
    tokenizer = tiny_runs.tokenizer()
    return Dataset.from_list([dict(tokenizer(tiny_sentences.text(i))) for i in range(8)])


def test_an_encoder_learns_from_a_folder_and_is_saved_with_its_modules(tmp_path: Path) -> None:
    """Without objectives it is the error of the vectors; an evaluation gives the student's own."""
    tiny_sentences.save_encoder(tmp_path / "teacher", pooling="cls", dropout=0.0)
    teacher = load_encoder(str(tmp_path / "teacher"))
    student = students.from_layers(teacher, layers=1)
    trainer = DistillationTrainer(
        model=student, teacher=str(tmp_path / "teacher"), args=arguments(tmp_path / "out"), train_dataset=rows(),
        processing_class=tiny_runs.tokenizer(),
    )  # fmt: skip
    assert [term.name for term in trainer.terms] == ["embedding_mse"]
    trainer.train()
    trainer.save_model()
    found = read_modules(str(tmp_path / "out"), "student")
    assert found is not None
    assert found.embedding == SentenceEmbedding("cls", True)
    vectors = torch.as_tensor(trainer.predict(rows()).predictions)
    batch = tiny_runs.tokenizer()([tiny_sentences.text(0)], return_tensors="pt")
    with torch.no_grad():
        expected = trainer.model.eval()(**batch).last_hidden_state[0, 0]
    torch.testing.assert_close(vectors[0], expected / expected.norm())


def test_what_a_trainer_of_encoders_lacks_is_said(tmp_path: Path) -> None:
    tiny_sentences.save_encoder(tmp_path / "teacher")
    tiny_runs.save_base(tmp_path / "bare")
    student = students.from_layers(load_encoder(str(tmp_path / "teacher")), layers=1)
    alone = DistillationTrainer(model=student, args=arguments(tmp_path), train_dataset=rows())
    with pytest.raises(DistillationError, match=r"there is no objective to train with: a sentence encoder"):
        alone.train()
    with pytest.raises(IncompatiblePair, match=r"teacher .*bare.*: how its sentence vectors are pooled is not known"):
        DistillationTrainer(
            model=student, teacher=str(tmp_path / "bare"), args=arguments(tmp_path), train_dataset=rows(),
            processing_class=tiny_runs.tokenizer(),
        )  # fmt: skip
    plain = tiny_runs.BertModel.from_pretrained(tmp_path / "bare")
    with pytest.raises(IncompatiblePair, match=r"solves embeddings, the teacher .BertModel. encoder;"):
        DistillationTrainer(
            model=student, teacher=plain, objectives=EmbeddingCosine(), args=arguments(tmp_path), train_dataset=rows()
        )
