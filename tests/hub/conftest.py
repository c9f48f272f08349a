"""A tiny student, its teacher's facts, and the record of a run that never was."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from hf_distill.hub import publish as publishing
from hf_distill.hub.card import Card
from hf_distill.hub.record import DataFacts, Export, Hardware, ModelFacts, ObjectiveFacts, Record, SourceFacts, Speed

from .server import WRITER, Hub

HINTON = "@article{hinton2015,\n  title={Distilling the knowledge in a neural network},\n  year={2015}\n}"


def tiny_student() -> BertForSequenceClassification:
    """One block, eight wide."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        num_labels=2,
    )
    return BertForSequenceClassification(config).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words split at blanks."""
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "An", "example", "text", ".", "good", "bad"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def make_record(**changes: object) -> Record:
    """A complete record; `changes` replace fields."""
    teacher = ModelFacts(
        id="someone/bert-base-sst2",
        revision="0" * 40,
        class_name="BertForSequenceClassification",
        model_type="bert",
        num_parameters=4000,
        num_bytes=16000,
        num_hidden_layers=4,
    )
    student = ModelFacts(
        class_name="BertForSequenceClassification",
        model_type="bert",
        num_parameters=1000,
        num_bytes=4000,
        num_hidden_layers=1,
    )
    fields = {
        "command": ["hf-distill", "run", "quickstart"],
        "teacher": teacher,
        "student": student,
        "task": "single_label",
        "objectives": [
            ObjectiveFacts(
                name="soft_targets",
                objective="soft_targets",
                weight=5.0,
                settings={"temperature": 2.0},
                citation=HINTON,
            ),
            ObjectiveFacts(name="labels", objective="labels", weight=2.0),
        ],
        "layer_maps": {"hidden_cosine": [(0, 0), (1, 4)]},
        "training_arguments": {"learning_rate": 5e-5, "num_train_epochs": 3.0},
        "data": DataFacts(
            name="GLUE SST-2",
            id="nyu-mll/glue",
            config="sst2",
            sources={"train": SourceFacts(name="train.parquet", sha256="a" * 64)},
            sizes={"train": 67349, "validation": 872},
        ),
        "seeds": {"seed": 42},
        "versions": {"python": "3.11.7", "torch": "2.13.0", "hf_distill": "0.1.0"},
        "hardware": Hardware(machine="x86_64", processor="A processor", cores=2),
        "steps": 100,
        "epochs": 3.0,
        "metrics": {"eval_accuracy": 0.91, "eval_loss": 0.3, "eval_runtime": 1.5},
        "teacher_metrics": {"eval_accuracy": 0.93},
        "control_metrics": {"eval_accuracy": 0.88},
        "intervals": {"student": {"eval_accuracy": (0.89, 0.93)}},
    }
    return Record(**{**fields, **changes})


def make_export(**changes: object) -> Export:
    """A graph in 8 bits, three times as fast."""
    speeds = [
        Speed(
            milliseconds_per_sentence=median,
            low=0.9 * median,
            high=1.5 * median,
            sentences_per_second=2000 / median,
            threads=1,
            device="cpu",
            sentences=256,
        )
        for median in (6.0, 2.0)
    ]
    facts = {
        "scheme": "onnx-int8",
        "sha256": "e" * 64,
        "bytes": 1_500_000,
        "rows": 872,
        "texts": "GLUE SST-2, validation",
        "agreement": 0.9931,
        "largest_difference": 0.0213,
        "accuracy": 0.909,
        "original_accuracy": 0.91,
        "original_speed": speeds[0],
        "speed": speeds[1],
    }
    return Export(**{**facts, **changes})


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves: model, tokenizer, record, card, and much that is not for the Hub."""
    folder = tmp_path_factory.mktemp("run") / "student"
    model = tiny_student()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)  # as in a run, where it came from a folder
    record = make_record(student=ModelFacts.of(model))
    record.write(folder)
    Card.from_record(record, repo_id="me/student").write(folder)
    (folder / "distillation.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    for stray in (
        "notes.txt",
        "training_args.bin",
        "optimizer.pt",
        "pytorch_model.bin",
        "all_results.json",
        "log.pkl",
    ):
        (folder / stray).write_text("hf_" + "s" * 30)
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "model.safetensors").write_bytes(b"no")
    (folder / "elsewhere.txt").symlink_to("/etc/hostname")
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub that takes large files, and no other for the client of this process, which waits for nothing and has a
    cache of its own.
    """
    with Hub(large=True) as served, pytest.MonkeyPatch.context() as patch:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, served.url)
        known = {"ENDPOINT": served.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_OFFLINE": False}
        known |= {"HF_HUB_DISABLE_XET": True, "HF_HUB_CACHE": str(tmp_path_factory.mktemp("cache"))}
        for name, value in known.items():
            patch.setattr(constants, name, value)
        api = huggingface_hub.HfApi(endpoint=served.url)
        patch.setattr(publishing, "HfApi", lambda **settings: huggingface_hub.HfApi(endpoint=served.url, **settings))
        patch.setattr(publishing, "whoami", api.whoami)
        patch.setattr(time, "sleep", lambda seconds: None)
        patch.setenv("HF_TOKEN", WRITER)
        huggingface_hub.utils.disable_progress_bars()
        yield served
        huggingface_hub.utils.enable_progress_bars()
