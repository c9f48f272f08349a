"""DistillationTrainer as a Trainer: what it keeps of it, what it saves, and what it refuses."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from torch.utils.data import IterableDataset
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_distill import (
    BrokenCheckpoint,
    DataError,
    DistillationError,
    DistillationTrainer,
    HiddenCosine,
    HiddenMSE,
    IncompatiblePair,
    Labels,
    NonFiniteLoss,
    SoftTargets,
    checkpoints,
    checks,
)
from hf_distill.activations import Needs, Signal
from hf_distill.objectives import Objective
from hf_distill.teachers import Frozen
from tests import tiny

PLAIN_HEADS = (
    "single_label",
    "multi_label",
    "regression",
    "token_classification",
    "masked_lm",
    "causal_lm",
    "seq2seq_lm",
)


def trainer_for(task: str = "single_label", **given):
    settings = {
        "model": tiny.model(task, seed=1),
        "teacher": tiny.model(task, layers=4, seed=2),
        "args": tiny.arguments(),
        "train_dataset": tiny.rows(task),
        "data_collator": tiny.Pad(),
    }
    return DistillationTrainer(**{**settings, **given})


def losses(trainer: Trainer) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.detach().numpy().tobytes())
    return digest.hexdigest()


# ---- what a Trainer does, it does ----


@pytest.mark.parametrize(
    ("task", "optimizer"), [(task, "sgd") for task in PLAIN_HEADS] + [("single_label", "adamw_torch_fused")]
)
def test_labels_alone_train_bit_for_bit_like_the_trainer(
    task: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a teacher, language models would go through their heads in chunks.
    monkeypatch.setattr("hf_distill.objectives.pair.LARGE_VOCABULARY", 1)
    rate = 0.1 if optimizer == "sgd" else 1e-3
    arguments = {"optim": optimizer, "learning_rate": rate, "max_grad_norm": 1.0, "train_sampling_strategy": "random"}
    runs = []
    for kind, given in ((Trainer, {}), (DistillationTrainer, {"objectives": Labels()})):
        trainer = kind(
            model=tiny.model(task, seed=1, dropout=0.1),
            args=tiny.arguments(**arguments),
            train_dataset=tiny.rows(task),
            data_collator=tiny.Pad(),
            **given,
        )
        trainer.train()
        runs.append(trainer)
    stock, ours = runs
    assert tiny.distance(stock.model, tiny.model(task, seed=1)) > 1e-4
    if task == "multi_label":  # torch divides the mean's gradient where the sum's is multiplied: the last bit differs
        assert tiny.distance(stock.model, ours.model) < 2e-6
        return
    for (name, expected), parameter in zip(stock.model.named_parameters(), ours.model.parameters(), strict=True):
        assert torch.equal(expected, parameter), name
    assert losses(ours) == pytest.approx(losses(stock), rel=1e-6)


@pytest.mark.parametrize("task", tiny.TASK_NAMES)
def test_every_task_trains_evaluates_and_predicts(task: str) -> None:
    trainer = trainer_for(task, eval_dataset=tiny.rows(task, 10, seed=3))
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert np.isfinite(losses(trainer)).all()
    assert trainer.evaluate()["eval_loss"] != before
    prediction = trainer.predict(tiny.rows(task, 10, seed=3))
    shown = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    assert len(shown) == 10
    assert prediction.metrics["test_loss"] == pytest.approx(trainer.evaluate()["eval_loss"])


def test_the_default_objectives() -> None:
    with_teacher, alone = trainer_for(), trainer_for(teacher=None)
    assert [(t.name, t.weight, t.objective.settings().get("temperature")) for t in with_teacher.terms] == [
        ("soft_targets", 0.5, 2.0),
        ("labels", 0.5, None),
    ]
    assert [(t.name, t.weight) for t in alone.terms] == [("labels", 1.0)]


def test_eval_loss_does_not_depend_on_the_batch_size() -> None:
    data = tiny.rows("token_classification", 21)
    found = [
        trainer_for("token_classification", args=tiny.arguments(per_device_eval_batch_size=size)).evaluate(data)[
            "eval_loss"
        ]
        for size in (1, 4, 21)
    ]
    model = tiny.model("token_classification", seed=1).eval()
    batch = tiny.Pad()(data)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = nn.functional.cross_entropy(logits.flatten(0, 1).double(), batch["labels"].flatten())
    assert found == pytest.approx([float(expected)] * 3, rel=1e-6)


def test_weighted_terms_add_up_to_the_logged_loss() -> None:
    terms = 0.5 * SoftTargets() + 0.25 * Labels() + 2.0 * HiddenCosine().__mul__(1.0)
    trainer = trainer_for(
        objectives=terms, args=tiny.arguments(max_steps=5, logging_steps=2, gradient_accumulation_steps=2)
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 5], "the last steps are logged, too"
    for row in rows:
        assert sum(value for key, value in row.items() if key.startswith("weighted/")) == pytest.approx(
            row["loss"], rel=1e-5
        )
        assert row["weighted/soft_targets"] == pytest.approx(0.5 * row["objective/soft_targets"])
        assert set(row) >= {"objective/soft_targets", "objective/labels", "objective/hidden_cosine"}


def test_predictions_keep_the_order_of_the_data_set_under_length_grouping() -> None:
    data = Dataset.from_list(tiny.rows("single_label", 20, seed=5))
    grouped = trainer_for(args=tiny.arguments(train_sampling_strategy="group_by_length", per_device_eval_batch_size=4))
    plain = trainer_for(args=tiny.arguments(per_device_eval_batch_size=4))
    np.testing.assert_allclose(grouped.predict(data).predictions, plain.predict(data).predictions, atol=1e-6)
    assert grouped.predict(data).label_ids.tolist() == data["labels"]


def test_data_without_labels_are_predicted_without_a_loss() -> None:
    data = [{k: v for k, v in row.items() if k != "labels"} for row in tiny.rows("single_label", 6)]
    prediction = trainer_for().predict(data)
    assert prediction.label_ids is None
    assert "test_loss" not in prediction.metrics
    assert prediction.predictions.shape == (6, 3)


def test_splits_in_place_of_rows_are_refused() -> None:
    splits = DatasetDict(dict.fromkeys(("train", "validation"), Dataset.from_list(tiny.rows("single_label"))))
    with pytest.raises(DataError, match=r"DatasetDict of the splits train, validation; .*train_dataset=…\['train'\]"):
        trainer_for(train_dataset=splits)


def test_label_smoothing_factor_reaches_the_labels() -> None:
    trainer = trainer_for(teacher=None, args=tiny.arguments(label_smoothing_factor=0.2, max_steps=1))
    trainer.train()
    batch = tiny.Pad()(tiny.rows("single_label")[:8])
    with torch.no_grad():
        logits = tiny.model("single_label", seed=1)(batch["input_ids"], batch["attention_mask"]).logits
    log_q = logits.log_softmax(-1)
    picked = -log_q.gather(1, batch["labels"][:, None]).squeeze(1)
    expected = (0.8 * picked - 0.2 * log_q.mean(-1)).mean()
    assert losses(trainer)[0] == pytest.approx(float(expected), rel=1e-5)


def test_the_teacher_sees_columns_that_the_student_does_not_know() -> None:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(
        vocab_size=tiny.VOCABULARY,
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=64,
        max_position_embeddings=128,
        num_labels=3,
    )
    rows = [{**row, "token_type_ids": [0, 0] + [1] * (len(row["input_ids"]) - 2)} for row in tiny.rows("single_label")]
    teacher = tiny.model("single_label", layers=4, seed=2)
    seen = []
    teacher.bert.embeddings.token_type_embeddings.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    trainer = trainer_for(
        model=DistilBertForSequenceClassification(config),
        teacher=teacher,
        train_dataset=Dataset.from_list(rows),
        args=tiny.arguments(max_steps=1),
    )
    trainer.train()
    assert seen
    assert seen[0].sum() > 0


# ---- the teacher ----


def test_the_teacher_is_unchanged_and_never_saved(tmp_path: Path) -> None:
    teacher = tiny.model("single_label", layers=4, hidden=48, seed=2, dropout=0.1).train()
    before = fingerprint(teacher)
    trainer = trainer_for(
        teacher=teacher,
        objectives=SoftTargets() + Labels() + HiddenMSE(),
        args=tiny.arguments(
            output_dir=str(tmp_path), save_strategy="steps", save_steps=2, optim="adamw_torch", weight_decay=0.1
        ),
    )
    teacher.train()  # whoever did it
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert fingerprint(teacher) == before
    assert not teacher.training
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())
    own = set(tiny.model("single_label", seed=1).state_dict())
    for folder in (tmp_path / "checkpoint-4", tmp_path / "final"):
        assert set(load_file(folder / "model.safetensors")) == own
        learned = set(load_file(folder / "distillation.safetensors"))
        assert learned == {f"hidden_mse.projections.{i}.{part}" for i in range(3) for part in ("weight", "bias")}
        assert not [path.name for path in folder.iterdir() if path.suffix == ".bin"]


def test_a_teacher_by_path_is_loaded_in_float32_with_its_head(tmp_path: Path) -> None:
    tiny.model("single_label", layers=4, seed=2).half().save_pretrained(tmp_path / "teacher")
    trainer = trainer_for(teacher=str(tmp_path / "teacher"))
    assert isinstance(trainer.teacher, Frozen)
    assert next(trainer.teacher.model.parameters()).dtype == torch.float32
    tiny.model("masked_lm", layers=4, seed=2).save_pretrained(tmp_path / "headless")
    with pytest.raises(IncompatiblePair, match=r"classifier\.bias.*are random"):
        trainer_for(teacher=str(tmp_path / "headless"))
    with pytest.raises(DistillationError, match=r"teacher '.*nowhere' cannot be loaded"):
        trainer_for(teacher=str(tmp_path / "nowhere"))


def test_a_teacher_that_shares_parameters_is_refused() -> None:
    student = tiny.model("single_label", seed=1)
    teacher = tiny.model("single_label", seed=1)
    teacher.bert.embeddings = student.bert.embeddings
    with pytest.raises(IncompatiblePair, match=r"share the parameter 'bert\.embeddings"):
        trainer_for(model=student, teacher=teacher)


# ---- precision, engines, memory ----


def dtypes_of_queries(**models: nn.Module) -> dict[str, torch.dtype]:
    """The dtype of each model's first query projection, as it runs."""
    seen: dict[str, torch.dtype] = {}
    for name, model in models.items():
        query = model.bert.encoder.layer[0].attention.self.query
        query.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output.dtype}))
    return seen


def test_bf16_reaches_student_and_teacher_and_losses_stay_float32() -> None:
    student, teacher = tiny.model("single_label", seed=1), tiny.model("single_label", layers=4, hidden=48, seed=2)
    seen = dtypes_of_queries(student=student, teacher=teacher)
    trainer = trainer_for(
        model=student,
        teacher=teacher,
        args=tiny.arguments(bf16=True),
        objectives=SoftTargets() + HiddenMSE(projection="shared"),
        eval_dataset=tiny.rows("single_label", 6),
    )
    trainer.evaluate()
    assert seen == {"student": torch.bfloat16}, "evaluation takes the precision of the training, and no teacher"
    values = []
    objectives = trainer.distillation.objectives
    for module in (objectives["soft_targets"], objectives["hidden_mse"].projections[0]):
        module.register_forward_hook(lambda _, __, output: values.append(output.dtype))
    trainer.train()
    assert seen == {"student": torch.bfloat16, "teacher": torch.bfloat16}
    assert set(values) == {torch.float32}
    assert next(trainer.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(("dtype", "bf16"), [(torch.bfloat16, False), (torch.float32, True)])
def test_a_teacher_keeps_a_dtype_of_its_own(dtype: torch.dtype, bf16: bool) -> None:
    teacher = Frozen(tiny.model("single_label", layers=4, seed=2), dtype=dtype)
    seen = dtypes_of_queries(teacher=teacher.model)
    trainer = trainer_for(teacher=teacher, args=tiny.arguments(bf16=bf16))
    trainer.train()
    assert seen == {"teacher": dtype}
    assert next(teacher.model.parameters()).dtype == dtype
    assert np.isfinite(losses(trainer)).all()


def test_a_teacher_that_no_term_reads_does_not_run() -> None:
    teacher = tiny.model("single_label", layers=4, seed=2)
    seen = dtypes_of_queries(teacher=teacher)
    trainer_for(teacher=teacher, objectives=Labels()).train()
    assert not seen


def test_fp16_without_a_gpu_is_refused() -> None:
    with pytest.raises(DistillationError, match="needs a GPU"):
        trainer_for(args=tiny.arguments(fp16=True))


def test_activation_checkpointing_changes_nothing() -> None:
    name = (
        "activation_checkpointing"
        if hasattr(TrainingArguments, "activation_checkpointing")
        else "gradient_checkpointing"
    )
    runs = []
    for checkpointing in (False, True):
        trainer = trainer_for(objectives=SoftTargets() + HiddenMSE(), args=tiny.arguments(**{name: checkpointing}))
        trainer.train()
        runs.append(trainer.model)
    assert tiny.distance(*runs) < 1e-7


def test_student_parameters_that_no_term_reaches_are_frozen_for_the_run() -> None:
    """DDP would wait for their gradients."""
    student = tiny.model("single_label", seed=1)
    trained: set[str] = set()

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            trained.update(name for name, parameter in model.named_parameters() if parameter.requires_grad)

    trainer = trainer_for(model=student, objectives=HiddenMSE(layer_map=[[1, 2]]), callbacks=[Look()])
    trainer.train()
    below = ("bert.embeddings.", "bert.encoder.layer.0.")
    assert trained == {name for name, _ in student.named_parameters() if name.startswith(below)}
    assert all(parameter.requires_grad for parameter in student.parameters()), "and they can be trained afterwards"


def test_training_twice_and_evaluating_first_is_safe() -> None:
    trainer = trainer_for(args=tiny.arguments(bf16=True), eval_dataset=tiny.rows("single_label", 6))
    trainer.evaluate()
    trainer.train()
    first = losses(trainer)
    trainer.train()
    assert losses(trainer)[0] < first[0]
    assert trainer.model_wrapped is trainer.distillation


# ---- NaN ----


class Poison(Objective):
    """NaN, infinity or a NaN gradient from a given call on."""

    name = "poison"
    needs_teacher = False

    def __init__(self, *, at: int = 3, kind: str = "nan") -> None:
        super().__init__()
        self.at, self.kind, self.calls = at, kind, 0

    def needs(self) -> Needs:
        return Needs.of([Signal("logits")])

    def count(self, batch, task):
        return task.num_examples(batch)

    def forward(self, student, teacher, batch):
        self.calls += 1
        value = student.logits.square().sum()
        if self.calls != self.at:
            return value
        if self.kind == "gradient":
            return torch.sqrt(value * 0.0)  # 0, and its derivative is infinity times 0
        return value * float(self.kind)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw_torch_fused"])
@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
def test_a_loss_that_is_not_finite_moves_nothing_and_names_term_and_step(kind: str, optimizer: str) -> None:
    given = {"optim": optimizer, "learning_rate": 1e-3}
    healthy = trainer_for(objectives=Labels() + Poison(at=0), args=tiny.arguments(max_steps=2, **given))
    healthy.train()
    trainer = trainer_for(
        objectives=Labels() + Poison(at=3, kind=kind), args=tiny.arguments(max_steps=8, logging_steps=5, **given)
    )
    with pytest.raises(NonFiniteLoss) as caught:
        trainer.train()
    assert "step 3:" in str(caught.value)
    assert ("gradient norm" if kind == "gradient" else "'poison'") in str(caught.value)
    assert "'labels'" not in str(caught.value)
    assert tiny.distance(trainer.model, healthy.model) == 0.0, "the weights are those of step 2"


def test_no_checkpoint_is_written_after_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    settings = {
        "max_steps": 8,
        "logging_steps": 100,
        "save_strategy": "steps",
        "save_steps": 2,
        "optim": "adamw_torch_fused",
    }
    trainer = trainer_for(objectives=Poison(at=3), args=tiny.arguments(output_dir=str(tmp_path), **settings))
    with pytest.raises(NonFiniteLoss):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


# ---- checkpoints ----


@pytest.mark.slow
def test_a_checkpoint_loads_where_the_package_is_not_installed(tmp_path: Path) -> None:
    trainer = trainer_for(objectives=SoftTargets() + HiddenMSE(layer_map="last"), args=tiny.arguments(max_steps=1))
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    code = (
        "import sys; sys.modules['hf_distill'] = None\n"
        "from transformers import AutoModelForSequenceClassification as A\n"
        "m, info = A.from_pretrained(sys.argv[1], output_loading_info=True)\n"
        "assert not info['missing_keys'] and not info['unexpected_keys'], info\n"
        "print(type(m).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path / "student")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    assert done.stdout.strip() == "BertForSequenceClassification", done.stderr


def resumable(folder: Path, steps: int = 8, **settings):
    arguments = {
        "output_dir": str(folder),
        "max_steps": steps,
        "save_strategy": "steps",
        "save_steps": 3,
        "optim": "adamw_torch_fused",
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "train_sampling_strategy": "group_by_length",
    }
    return trainer_for(
        model=tiny.model("single_label", seed=1, dropout=0.1),
        teacher=tiny.model("single_label", layers=4, hidden=48, seed=2),
        objectives=SoftTargets() + Labels() + HiddenMSE(),
        train_dataset=Dataset.from_list(tiny.rows("single_label")),
        eval_dataset=tiny.rows("single_label", 10, seed=9),
        args=tiny.arguments(**{**arguments, **settings}),
    )


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path: Path) -> None:
    """Dropout, accumulation, length groups, the second epoch (8 steps of 4), and the projections."""
    whole = resumable(tmp_path / "whole")
    whole.train()
    for step in (3, 6):
        again = resumable(tmp_path / "whole")
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert tiny.distance(whole.distillation, again.distillation) == 0.0, step
        assert losses(again)[-1] == losses(whole)[-1]


def test_a_checkpoint_without_the_learned_projections_is_refused(tmp_path: Path) -> None:
    resumable(tmp_path).train()
    (tmp_path / "checkpoint-6" / "distillation.safetensors").unlink()
    with pytest.raises(BrokenCheckpoint, match=r"distillation\.safetensors is missing"):
        resumable(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


@pytest.fixture(scope="module")
def six_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("six_steps")
    resumable(folder, steps=6).train()
    return folder


@pytest.mark.parametrize(
    "lost", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"]
)
def test_a_torn_checkpoint_is_skipped_and_refused_by_name(six_steps: Path, tmp_path: Path, lost: str) -> None:
    shutil.copytree(six_steps, tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoint-6" / lost).unlink()
    assert checkpoints.last_whole(tmp_path) == tmp_path / "checkpoint-3"
    with pytest.raises(BrokenCheckpoint, match="is not whole"):
        resumable(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    trainer = resumable(tmp_path, steps=4)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4
    with pytest.raises(BrokenCheckpoint, match="no whole checkpoint"):
        resumable(tmp_path / "empty").train(resume_from_checkpoint=True)


def test_projections_of_another_run_are_refused(tmp_path: Path) -> None:
    resumable(tmp_path, steps=3).train()
    other = resumable(tmp_path)
    objectives = SoftTargets() + HiddenMSE(projection="shared")
    given = {"teacher": other.teacher, "objectives": objectives, "args": other.args}
    other = trainer_for(model=other.model, resume_despite=["objectives", "data"], **given)
    with pytest.raises(BrokenCheckpoint, match=r"distillation\.safetensors holds .* it is of another run"):
        other.train(resume_from_checkpoint=True)


def test_a_checkpoint_under_the_name_of_another_step_is_refused(tmp_path: Path) -> None:
    resumable(tmp_path, steps=3).train()
    (tmp_path / "checkpoint-3").rename(tmp_path / "checkpoint-5")
    assert checkpoints.last_whole(tmp_path) is None
    with pytest.raises(BrokenCheckpoint, match="of another step"):
        resumable(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_the_best_model_comes_back_with_its_projections(tmp_path: Path) -> None:
    trainer = resumable(
        tmp_path,
        steps=9,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        eval_strategy="steps",
        eval_steps=3,
        learning_rate=0.05,
    )
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name != "checkpoint-9", "this run is made to get worse"
    for name, tensor in load_file(best / "model.safetensors").items():
        assert torch.equal(trainer.model.state_dict()[name], tensor), name
    for name, tensor in load_file(best / "distillation.safetensors").items():
        assert torch.equal(trainer.distillation.objectives.state_dict()[name], tensor), name


def test_no_token_is_written(tmp_path: Path) -> None:
    secret = "hf_" + "A1b2C3d4E5" * 3
    trainer = trainer_for(args=tiny.arguments(output_dir=str(tmp_path), hub_token=secret, max_steps=1))
    trainer.train()
    trainer.save_model()
    assert json.loads((tmp_path / "training_arguments.json").read_text())["learning_rate"] == 0.1
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


# ---- other ways in ----


def test_a_peft_student_trains_its_adapter_alone(tmp_path: Path) -> None:
    base = tiny.model("single_label", seed=1)
    before = fingerprint(base)
    student = get_peft_model(
        base, LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"], lora_dropout=0.0)
    )
    trainer = trainer_for(
        model=student, objectives=SoftTargets() + Labels() + HiddenMSE(), args=tiny.arguments(learning_rate=0.5)
    )
    trainer.train()
    trainer.save_model(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
    assert not (tmp_path / "model.safetensors").exists()
    fresh = tiny.model("single_label", seed=1)
    for name, parameter in fresh.named_parameters():
        if "query.weight" in name:
            kept = student.get_parameter("base_model.model." + name.replace("query.weight", "query.base_layer.weight"))
            assert torch.equal(parameter, kept)
    moved = [name for name, p in student.named_parameters() if "lora_B" in name and p.abs().max() > 0]
    assert len(moved) == 4
    assert before == fingerprint(fresh)


def test_model_init_binds_anew() -> None:
    made = []

    def model_init() -> BertForSequenceClassification:
        made.append(tiny.model("single_label", seed=1))
        return made[-1]

    trainer = trainer_for(model=None, model_init=model_init, objectives=SoftTargets() + HiddenMSE(projection="shared"))
    trainer.train()
    assert trainer.model is made[-1]
    assert trainer.distillation.student is made[-1]
    assert len(made) >= 2
    assert tiny.distance(made[0], tiny.model("single_label", seed=1)) == 0.0, "the first model was not trained"
    assert tiny.distance(made[-1], tiny.model("single_label", seed=1)) > 1e-3


def test_hyperparameter_search(tmp_path: Path) -> None:
    trainer = trainer_for(
        model=None,
        model_init=lambda: tiny.model("single_label", seed=1),
        args=tiny.arguments(output_dir=str(tmp_path), max_steps=2, eval_strategy="steps", eval_steps=2),
        eval_dataset=tiny.rows("single_label", 8, seed=3),
    )
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [1e-6, 0.3])},
        n_trials=3,
        direction="minimize",
        backend="optuna",
    )
    assert best.hyperparameters["learning_rate"] in (1e-6, 0.3)
    assert np.isfinite(best.objective)


def test_callbacks_see_the_student() -> None:
    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen.append(model)

    trainer = trainer_for(callbacks=[Look()])
    trainer.train()
    assert all(model is trainer.model for model in seen)
    assert len(seen) == 4


def test_compute_loss_can_be_called_on_its_own() -> None:
    trainer = trainer_for(objectives=SoftTargets() + Labels())
    batch = tiny.Pad()(tiny.rows("single_label", 6))
    loss = trainer.compute_loss(trainer.distillation.eval(), batch)
    loss.backward()
    assert trainer.model.classifier.weight.grad is not None


# ---- what a notebook does ----


def without_labels(task: str) -> Dataset:
    return Dataset.from_list([{k: v for k, v in row.items() if k != "labels"} for row in tiny.rows(task)])


@pytest.mark.parametrize("task", ["masked_lm", "causal_lm"])
def test_labels_may_come_from_the_collator_of_a_language_model(task: str) -> None:
    def collate(items):
        batch = tiny.Pad()(items)
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    trainer = trainer_for(task, train_dataset=without_labels(task), data_collator=collate)
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]


def test_labels_may_come_from_a_collator_that_reads_other_columns() -> None:
    rows = [{**row, "stars": row["labels"]} for row in tiny.rows("single_label")]
    data = Dataset.from_list(rows).remove_columns("labels")

    def collate(items):
        batch = tiny.Pad()(items)
        return {"labels": batch.pop("stars"), **batch}

    trainer = trainer_for(
        train_dataset=data, data_collator=collate, args=tiny.arguments(remove_unused_columns=False, max_steps=2)
    )
    plain = trainer_for(args=tiny.arguments(max_steps=2))
    trainer.train()
    plain.train()
    assert tiny.distance(trainer.model, plain.model) == 0.0


def test_a_smaller_batch_after_a_lack_of_memory_leaves_nothing_frozen() -> None:
    trainer = trainer_for(
        objectives=HiddenMSE(layer_map=[[1, 2]]), args=tiny.arguments(auto_find_batch_size=True, max_steps=2)
    )
    calls = []
    compute_loss = trainer.compute_loss

    def lacking_memory(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("CUDA out of memory.")
        return compute_loss(*args, **kwargs)

    trainer.compute_loss = lacking_memory
    trainer.train()
    assert len(calls) == 4, "one step, the lack of memory, two steps"
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


def test_a_student_that_is_its_own_teacher_is_refused_and_stays_trainable() -> None:
    student = tiny.model("single_label", seed=1).train()
    with pytest.raises(IncompatiblePair, match="share the parameter"):
        trainer_for(model=student, teacher=student)
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert student.training


@pytest.mark.parametrize("training", [True, False])
def test_compute_loss_takes_the_bare_student_too(training: bool) -> None:
    trainer = trainer_for(objectives=SoftTargets() + Labels())
    batch = tiny.Pad()(tiny.rows("single_label")[:8])
    bare = trainer.compute_loss(trainer.model.train(training), batch)
    whole = trainer.compute_loss(trainer.distillation.train(training), batch)
    trainer.train()
    assert bare.item() == whole.item() == pytest.approx(losses(trainer)[0])


def test_an_optimizer_that_lacks_the_projections_is_refused() -> None:
    student = tiny.model("single_label", seed=1)
    teacher = tiny.model("single_label", layers=4, hidden=48, seed=2)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    trainer = trainer_for(
        model=student, teacher=teacher, objectives=HiddenMSE(projection="shared"), optimizers=(optimizer, None)
    )
    with pytest.raises(DistillationError, match=r"optimizer .* lacks 'hidden_mse\.projections\.0\.weight'"):
        trainer.train()
    optimizer.add_param_group({"params": list(trainer.distillation.objectives.parameters())})
    before = copy.deepcopy(trainer.distillation.objectives)
    trainer.train()
    assert tiny.distance(before, trainer.distillation.objectives) > 1e-3


def test_a_window_without_any_label_trains_on_the_rest() -> None:
    rows = tiny.rows("token_classification", 16)
    rows = [{**row, "labels": [-100] * len(row["labels"])} for row in rows[:8]] + rows[8:]
    trainer = trainer_for("token_classification", train_dataset=rows, args=tiny.arguments(max_steps=2))
    trainer.train()
    silent, heard = (row for row in trainer.state.log_history if "loss" in row)
    assert (silent["loss"], silent["grad_norm"]) == (0.0, 0.0)
    assert heard["objective/labels"] > 0


class Undeclared(Objective):
    """Reads what it did not ask for."""

    name = "undeclared"

    def __init__(self, *, side: str = "student") -> None:
        super().__init__()
        self.side = side

    def needs(self) -> Needs:
        return Needs.of([Signal("logits")], [Signal("logits")])

    def count(self, batch, task):
        return 1

    def forward(self, student, teacher, batch):
        return student.logits.sum() + {"student": student, "teacher": teacher}[self.side].hidden[1].sum()


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_reading_what_was_not_asked_for_names_the_term(side: str) -> None:
    trainer = trainer_for(objectives=Labels() + Undeclared(side=side) * 1.0)
    with pytest.raises(DistillationError, match=r"objective 'undeclared' reads hidden\[1\]"):
        trainer.train()


def test_an_evaluation_without_any_label_has_no_loss_of_zero() -> None:
    rows = [{**row, "labels": [-100] * len(row["labels"])} for row in tiny.rows("token_classification", 6)]
    assert np.isnan(trainer_for("token_classification").evaluate(rows)["eval_loss"])


def test_the_steps_before_an_early_stop_are_logged() -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    trainer = trainer_for(args=tiny.arguments(max_steps=20, logging_steps=7), callbacks=[Stop()])
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["step"] for row in rows] == [3]
    every = trainer_for(args=tiny.arguments(max_steps=3))
    every.train()
    assert rows[0]["objective/labels"] == pytest.approx(
        np.mean([row["objective/labels"] for row in every.state.log_history if "loss" in row]), rel=1e-6
    )


def test_a_teacher_folder_without_a_tokenizer_is_refused_as_such(tmp_path: Path) -> None:
    words = {"[PAD]": 0, "[UNK]": 1, **{f"w{i}": i for i in range(2, tiny.VOCABULARY)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="[UNK]")), pad_token="[PAD]", unk_token="[UNK]"
    )
    tiny.model("single_label", layers=4, seed=2).save_pretrained(tmp_path)
    with pytest.raises(DistillationError, match="has no tokenizer"):
        trainer_for(teacher=str(tmp_path), processing_class=tokenizer)
    tokenizer.save_pretrained(tmp_path)
    trainer_for(teacher=str(tmp_path), processing_class=tokenizer)


@pytest.mark.parametrize(("task", "settings"), [("masked_lm", {}), ("single_label", {"teacher": None})])
def test_a_label_map_that_nothing_reads_is_refused(task: str, settings: dict) -> None:
    with pytest.raises(IncompatiblePair, match="label_map"):
        trainer_for(task, label_map={"a": "b"}, **settings)


# ---- refusals ----


def test_data_parallel_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    args = tiny.arguments()
    monkeypatch.setattr(type(args), "n_gpu", property(lambda self: 2))
    monkeypatch.setattr(args, "_n_gpu", 2)
    with pytest.raises(DistillationError, match="one process a GPU"):
        trainer_for(args=args)


def test_a_loss_function_beside_objectives_is_refused() -> None:
    with pytest.raises(DistillationError, match=r"compute_loss_func.*LossFunction"):
        trainer_for(compute_loss_func=lambda *a, **k: None, objectives=Labels())


def test_a_launch_that_would_train_ranks_apart_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_for()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DistillationError, match="WORLD_SIZE is 2"):
        checks.before_training(trainer)


def test_liger_kernels_are_refused_by_what_reads_logits() -> None:
    """They compute the loss without making logits. What reads hidden states alone does not mind; the plain Trainer
    asks no one."""
    arguments = tiny.arguments(use_liger_kernel=True)
    Trainer(tiny.model("single_label"), arguments, train_dataset=tiny.rows("single_label", 8))
    for objective in (SoftTargets(), Labels()):
        with pytest.raises(DistillationError, match="use_liger_kernel hides the logits"):
            trainer_for(objectives=objective, args=arguments)
    trainer_for(objectives=HiddenMSE(), args=arguments)


def test_neftune_noise_beside_an_embedding_loss_is_refused() -> None:
    with pytest.raises(DistillationError, match="neftune"):
        trainer_for(objectives=HiddenMSE(layer_map="spread"), args=tiny.arguments(neftune_noise_alpha=5.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teacher": ("single_label", {"vocab_size": 97})}, "vocabulary has 96 entries, the teacher's 97"),
        ({"teacher": ("single_label", {"num_labels": 4})}, "the student has 3 labels, the teacher 4"),
        ({"teacher": ("token_classification", {})}, "solves single_label, the teacher .* token_classification"),
        ({"teacher": ("multi_label", {})}, "solves single_label, the teacher .* multi_label"),
        ({"objectives": lambda: HiddenCosine()}, "states are 32 wide, the teacher's 48"),
        ({"objectives": lambda: HiddenMSE(layer_map=[[1, 9]])}, "teacher layer 9"),
        ({"objectives": lambda: HiddenMSE(stack="encoder")}, "no stack 'encoder'"),
    ],
)
def test_what_does_not_fit_is_refused_at_construction(change, words: str) -> None:
    task, settings = change.get("teacher", ("single_label", {}))
    teacher = tiny.model(task, layers=4, hidden=48, seed=2)
    config = copy.deepcopy(teacher.config)
    for name, value in settings.items():
        setattr(config, name, value)
    teacher = type(teacher)(config)
    objectives = change["objectives"]() if "objectives" in change else SoftTargets()
    with pytest.raises(IncompatiblePair, match=words):
        trainer_for(teacher=teacher, objectives=objectives)


def test_data_without_the_labels_that_are_read_are_refused() -> None:
    rows = Dataset.from_list([{"input_ids": [5, 6], "attention_mask": [1, 1]}] * 8)
    with pytest.raises(DataError, match=r"no column 'labels'.*input_ids, attention_mask"):
        trainer_for(train_dataset=rows)
    trainer_for(train_dataset=rows, objectives=SoftTargets()).train()


def short_sighted(model: BertForSequenceClassification) -> BertForSequenceClassification:
    config = copy.deepcopy(model.config)
    config.max_position_embeddings = 64
    return type(model)(config)


@pytest.mark.parametrize("with_lengths", [True, False])
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_rows_longer_than_a_position_table_are_refused(with_lengths: bool, role: str) -> None:
    models = {"model": tiny.model("single_label", seed=1), "teacher": tiny.model("single_label", layers=4, seed=2)}
    key = "model" if role == "student" else role
    models[key] = short_sighted(models[key])
    row = {"input_ids": [5] * 70, "attention_mask": [1] * 70, "labels": 1}
    rows = Dataset.from_list([{**row, "length": 70} if with_lengths else row] * 8)
    with pytest.raises(DataError, match=rf"70 tokens, and the {role} \(bert\) reads 64"):
        trainer_for(train_dataset=rows, **models).train()


class Stream(IterableDataset):  # type: ignore[type-arg]
    """Rows without a length."""

    def __init__(self, number: int) -> None:
        self.rows = tiny.rows("single_label", number)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


def test_what_a_stream_has_left_for_less_than_a_step_is_left_out() -> None:
    """The Trainer makes no step of it, and adds its gradient to that of the next step: 4.2, 11.6, 11.6."""
    arguments = {"max_steps": 3, "learning_rate": 0.0, "per_device_train_batch_size": 2}
    arguments |= {"gradient_accumulation_steps": 2, "logging_steps": 1}
    norms = []
    for number in (4, 6):
        trainer = trainer_for(train_dataset=Stream(number), args=tiny.arguments(**arguments))
        trainer.train()
        norms += [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    assert norms == pytest.approx([norms[0]] * 6, rel=1e-6)
    with pytest.raises(DataError, match=r"ended after 1 batches, and a step takes 2; lower gradient_accumulation"):
        trainer_for(train_dataset=Stream(2), args=tiny.arguments(**arguments)).train()


@pytest.mark.parametrize(
    ("dtype", "capability", "is_told"),
    [(torch.float16, "AVX2", True), (torch.float32, "AVX2", False), (torch.float16, "AVX512", False)],
)
def test_a_teacher_in_half_precision_is_warned_about_where_it_is_slow(
    dtype: torch.dtype,
    capability: str,
    is_told: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    trainer_for(teacher=tiny.model("single_label", layers=4, hidden=48, seed=2).to(dtype))
    told = [each for each in caplog.messages if "the teacher is in torch.float16, for which this CPU" in each]
    assert len(told) == is_told


def test_a_half_precision_student_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    trainer_for(model=tiny.model("single_label", seed=1).bfloat16())
    assert "lost in rounding" in caplog.text


def test_labels_are_reordered_by_name_and_refused_when_they_differ(caplog: pytest.LogCaptureFixture) -> None:
    def named(model, names):
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: i for i, name in enumerate(names)}
        return model

    student = named(tiny.model("single_label", seed=1), ["a", "b", "c"])
    permuted = [2, 0, 1]  # the teacher's class i is the student's class permuted[i]
    straight = tiny.model("single_label", layers=4, seed=2)
    teacher = copy.deepcopy(straight)
    with torch.no_grad():
        teacher.classifier.weight.copy_(straight.classifier.weight[permuted])
        teacher.classifier.bias.copy_(straight.classifier.bias[permuted])
    runs = []
    for pair_teacher in (named(straight, ["a", "b", "c"]), named(teacher, ["c", "a", "b"])):
        trainer = trainer_for(model=copy.deepcopy(student), teacher=pair_teacher, objectives=SoftTargets())
        trainer.train()
        runs.append(trainer.model)
    assert tiny.distance(*runs) < 1e-7
    assert "reordered" in caplog.text
    with pytest.raises(IncompatiblePair, match=r"\['a', 'b', 'c'\].*\['x', 'y', 'z'\]"):
        trainer_for(model=student, teacher=named(copy.deepcopy(straight), ["x", "y", "z"]))
    with pytest.raises(IncompatiblePair, match="one side has no names"):
        trainer_for(model=student, teacher=tiny.model("single_label", layers=4, seed=2))
    mapped = {"a": "x", "b": "y", "c": "z"}
    trainer_for(model=student, teacher=named(copy.deepcopy(straight), ["x", "y", "z"]), label_map=mapped)


def test_auto_model_reads_the_saved_student(tmp_path: Path) -> None:
    trainer = trainer_for()
    trainer.train()
    trainer.save_model(str(tmp_path))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert tiny.distance(loaded, trainer.model) == 0.0


@pytest.mark.parametrize("task", ["single_label", "masked_lm"])
def test_an_objective_of_ones_own_may_multiply_with_the_teacher(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a teacher shows can be saved for backward, with a small head and with a vocabulary."""

    class Product(Objective):
        name = "product"

        def needs(self) -> Needs:
            return Needs.of([Signal("logits"), Signal("hidden", 1)], [Signal("logits"), Signal("hidden", 1)])

        def count(self, batch, task):
            return task.num_examples(batch)

        def forward(self, student, teacher, batch):
            return (student.logits * teacher.logits).sum() + (student.hidden[1] * teacher.hidden[1]).sum()

    monkeypatch.setattr("hf_distill.teachers.frozen.WIDE_LOGITS", 50)
    trainer = trainer_for(task, objectives=Product(), args=tiny.arguments(max_steps=1, learning_rate=1e-4))
    trainer.train()
    assert np.isfinite(losses(trainer)).all()


def test_length_groups_follow_the_epoch_of_a_resumed_run() -> None:
    trainer = trainer_for(
        train_dataset=Dataset.from_list(tiny.rows("single_label", 64)),
        args=tiny.arguments(train_sampling_strategy="group_by_length"),
    )
    sampler = trainer._get_train_sampler()
    first = list(sampler)
    trainer.state.epoch = 1.5
    trainer.callback_handler.on_epoch_begin(trainer.args, trainer.state, trainer.control)
    second = list(sampler)
    sampler.set_epoch(1)
    assert second == list(sampler) != first
