"""Models that train with the student: what each learns, what is saved and resumed, and what is refused."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hf_distill import (
    DeepMutualLearning,
    DistillationTrainer,
    HiddenMSE,
    IncompatiblePair,
    Labels,
    OKDDip,
    SoftTargets,
)
from hf_distill.checks import has_whole_student
from hf_distill.errors import DistillationError
from hf_distill.teachers import Peers
from tests import tiny


def peers_of(number: int = 2, dropout: float = 0.0, **settings: Any) -> Peers:
    return Peers([tiny.model("single_label", seed=10 + i, dropout=dropout) for i in range(number)], **settings)


def trainer_of(
    peers: Peers, terms: Any = None, student: PreTrainedModel | None = None, dropout: float = 0.0, **settings: Any
) -> DistillationTrainer:
    return DistillationTrainer(
        model=tiny.model("single_label", seed=4, dropout=dropout) if student is None else student,
        teacher=peers,
        objectives=Labels() + DeepMutualLearning() if terms is None else terms,
        args=tiny.arguments(**settings),
        train_dataset=tiny.rows("single_label", 48),
        eval_dataset=tiny.rows("single_label", 16),
        data_collator=tiny.Pad(),
    )


def without_labels(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def by_hand(models: list[PreTrainedModel], batch: dict[str, Tensor]) -> Tensor:
    """Labels and mutual learning for every model."""
    logits = [model(**without_labels(batch)).logits for model in models]
    total = torch.zeros(())
    for k, ours in enumerate(logits):
        total = total + functional.cross_entropy(ours, batch["labels"])
        for other in logits[:k] + logits[k + 1 :]:
            law = other.detach().softmax(-1)
            total = total + functional.kl_div(ours.log_softmax(-1), law, reduction="batchmean") / (len(models) - 1)
    return total


def test_parameters_of_peers_that_nothing_reads_are_found_where_answers_are_read() -> None:
    """An engine would wait for their gradients."""
    peers = peers_of()
    peers.members["peer_2"].register_parameter("idle", torch.nn.Parameter(torch.zeros(2)))
    found = trainer_of(peers).distillation.unreached()
    assert [id(parameter) for parameter in found] == [id(peers.members["peer_2"].idle)]


def test_every_model_has_the_gradient_of_its_own_loss() -> None:
    peers = peers_of()
    trainer = trainer_of(peers)
    batch = tiny.Pad()(tiny.rows("single_label", 6))
    models = [trainer.model, *peers.members.values()]
    copies = [copy.deepcopy(model) for model in models]
    loss = trainer.compute_loss(trainer.model, batch)
    expected = by_hand(copies, batch)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for model, plain in zip(models, copies, strict=True):
        for (name, found), wanted in zip(model.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-6, msg=name)
            assert found.grad.any()


@pytest.mark.parametrize("terms", ["mutual", "okddip"])
def test_accumulated_micro_batches_are_the_whole_batch(terms: str) -> None:
    ends = []
    for size, steps in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        made = Labels() + (0.7 * OKDDip() if terms == "okddip" else DeepMutualLearning(temperature=2.0))
        peers = peers_of()
        trainer = trainer_of(
            peers, made, per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_steps=3
        )
        trainer.train()
        ends.append([trainer.model, *peers.members.values()])
    for one, other in zip(*ends, strict=True):
        assert tiny.distance(one, other) < 1e-5


def test_the_student_alone_is_evaluated_saved_and_published(tmp_path: Path) -> None:
    peers = peers_of()
    trainer = trainer_of(peers, max_steps=2, output_dir=str(tmp_path))
    before = copy.deepcopy(peers.members["peer_1"])
    trainer.train()
    assert tiny.distance(before, peers.members["peer_1"]) > 1e-4
    found = trainer.evaluate()["eval_loss"]
    trainer.save_model(str(tmp_path / "student"))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").eval()
    assert tiny.distance(again, trainer.model) == 0.0
    batch = tiny.Pad()(tiny.rows("single_label", 16))
    with torch.no_grad():
        logits = again(**without_labels(batch)).logits
    assert found == pytest.approx(float(functional.cross_entropy(logits, batch["labels"])), rel=1e-5)
    held = load_file(tmp_path / "student" / "model.safetensors")
    assert held.keys() == again.state_dict().keys()


@pytest.mark.parametrize("terms", ["mutual", "okddip"])
def test_a_resumed_run_is_the_uninterrupted_one(terms: str, tmp_path: Path) -> None:
    def run(folder: Path, resume: bool = False) -> tuple[DistillationTrainer, Peers]:
        torch.manual_seed(0)
        peers = peers_of(dropout=0.2, learning_rate=3e-3)
        made = Labels() + (OKDDip() if terms == "okddip" else DeepMutualLearning())
        given = {"output_dir": str(folder), "save_strategy": "steps", "save_steps": 2, "seed": 7, "max_steps": 4}
        trainer = trainer_of(peers, made, dropout=0.2, **given)
        trainer.train(resume_from_checkpoint=resume or None)
        return trainer, peers

    whole, together = run(tmp_path / "whole")
    run(tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoint-4")
    parts, again = run(tmp_path / "parts", resume=True)
    assert tiny.distance(whole.model, parts.model) == 0.0
    for name, tensor in whole.distillation.learned.state_dict().items():
        assert torch.equal(tensor, parts.distillation.learned.state_dict()[name]), name
    for name, model in together.members.items():
        assert tiny.distance(model, again.members[name]) == 0.0
        assert tiny.distance(model, whole.model) > 1e-3
    held = load_file(tmp_path / "parts" / "checkpoint-2" / "distillation.safetensors")
    assert any(name.startswith("peers/weights.peer_2/") for name in held)


def test_peers_may_have_a_learning_rate_of_their_own() -> None:
    trainer = trainer_of(peers_of(learning_rate=7e-3), max_steps=1)
    trainer.train()
    rates = {group["lr"] for group in trainer.optimizer.param_groups if group["params"]}
    assert len(rates) == 2
    still = peers_of(learning_rate=1e-12)
    before = copy.deepcopy(still.members["peer_1"])
    trainer = trainer_of(still, max_steps=2, weight_decay=0.0)
    trainer.train()
    assert tiny.distance(before, still.members["peer_1"]) < 1e-9


def test_soft_targets_learn_from_all_others_and_hidden_states_from_one() -> None:
    peers = peers_of()
    terms = Labels() + SoftTargets(temperature=1.0) + HiddenMSE(layer_map="final").on("peer_2")
    trainer = trainer_of(peers, terms)
    batch = tiny.Pad()(tiny.rows("single_label", 6))
    mutual = trainer_of(peers_of())
    found, expected = (each.compute_loss(each.model, batch) for each in (trainer, mutual))
    with torch.no_grad():
        teacher = trainer.teacher.activations(batch)
        apart = (
            trainer.model.base_model(**without_labels(batch)).last_hidden_state - teacher.member("peer_2").hidden[2]
        )
        real = batch["attention_mask"].bool()
    expected = expected + apart.square().mean(-1)[real].mean()
    torch.testing.assert_close(found, expected)
    found.backward()
    hidden = [p.grad for p in trainer.teacher.members["peer_2"].parameters()]
    expected.backward()
    for ours, theirs in zip(hidden, mutual.teacher.members["peer_2"].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad)


def test_terms_are_logged_as_sums_over_the_models() -> None:
    trainer = trainer_of(peers_of(), max_steps=2, logging_steps=1)
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(first["weighted/labels"] + first["weighted/deep_mutual_learning"], rel=1e-3)
    assert 0.0 < first["deep_mutual_learning/diversity"] < 2.0**0.5


# ---- what is refused ----


def test_no_peers() -> None:
    with pytest.raises(DistillationError, match="no peers to learn with"):
        Peers([])
    with pytest.raises(DistillationError, match="between models that train together"):
        DistillationTrainer(
            model=tiny.model("single_label"),
            teacher=tiny.model("single_label", seed=2),
            objectives=Labels() + DeepMutualLearning(),
            args=tiny.arguments(),
            train_dataset=tiny.rows("single_label", 8),
            data_collator=tiny.Pad(),
        )


def test_models_that_would_stay_equal() -> None:
    one = tiny.model("single_label", seed=4)
    with pytest.raises(IncompatiblePair, match="the student and the peer 'peer_1' have equal weights and no dropout"):
        trainer_of(Peers([one]))
    with pytest.raises(IncompatiblePair, match="'a' and the peer 'b' have equal weights"):
        trainer_of(Peers({"a": tiny.model("single_label", seed=5), "b": tiny.model("single_label", seed=5)}))
    dropping = [tiny.model("single_label", seed=4, dropout=0.1) for _ in range(2)]
    trainer_of(Peers([dropping[0]]), student=dropping[1])


def test_labels_in_another_order() -> None:
    student, peer = (tiny.model("single_label", seed=i) for i in (1, 2))
    student.config.id2label, peer.config.id2label = {0: "a", 1: "b", 2: "c"}, {0: "b", 1: "a", 2: "c"}
    with pytest.raises(IncompatiblePair, match="'peer_1' has its labels in another order"):
        trainer_of(Peers([peer]), student=student)


def test_nothing_would_train_the_peers() -> None:
    with pytest.raises(DistillationError, match="no term trains the peers"):
        trainer_of(peers_of(), HiddenMSE().on("peer_1"))


def test_shared_parameters_names_and_rates() -> None:
    one = tiny.model("single_label", seed=5)
    with pytest.raises(DistillationError, match="'peer_1' and 'peer_2' share parameters"):
        Peers([one, one])
    with pytest.raises(IncompatiblePair, match="share the parameter"):
        trainer_of(Peers([one]), student=one)
    with pytest.raises(DistillationError, match="no name for a peer"):
        Peers({"peer.1": one})
    with pytest.raises(DistillationError, match="learning_rate is 0"):
        Peers([one], learning_rate=0)
    with pytest.raises(DistillationError, match="is a str"):
        Peers(["bert"])  # type: ignore[list-item]
    with pytest.raises(DistillationError, match="train with the student"):
        has_whole_student(Peers([one]), sharded=True)


def test_models_without_a_head() -> None:
    encoder = tiny.model("single_label").base_model
    with pytest.raises(IncompatiblePair, match="without a head"):
        trainer_of(peers_of(), student=encoder)


def test_an_optimizer_that_leaves_the_peers_out() -> None:
    trainer = trainer_of(peers_of())
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    with pytest.raises(DistillationError, match=r"lacks 'peers/weights\.peer_1/"):
        trainer.train()


# ---- other tasks and precisions ----


TASKS = [task for task in tiny.TASK_NAMES if task != "regression"]


def of_task(task: str, **settings: Any) -> DistillationTrainer:
    return DistillationTrainer(
        model=tiny.model(task, seed=4),
        teacher=Peers([tiny.model(task, seed=10), tiny.model(task, seed=11, layers=3, hidden=48)]),
        objectives=Labels() + DeepMutualLearning(),
        args=tiny.arguments(**settings),
        train_dataset=tiny.rows(task, 32),
        data_collator=tiny.Pad(),
    )


@pytest.mark.parametrize("task", TASKS)
def test_padding_changes_nothing_in_any_model(task: str) -> None:
    found = []
    for extra in (0, 5):
        trainer = of_task(task)
        loss = trainer.compute_loss(trainer.model, tiny.Pad(extra)(tiny.rows(task, 6)))
        loss.backward()
        found.append((loss.detach(), [p.grad for p in trainer.distillation.parameters()]))
    (loss, gradients), (again, others) = found
    torch.testing.assert_close(again, loss)
    for one, other in zip(gradients, others, strict=True):
        assert one is not None
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_tied_weights_are_saved_once_and_resumed(tmp_path: Path) -> None:
    def run(folder: Path, steps: int, resume: bool = False) -> DistillationTrainer:
        given = {"output_dir": str(folder), "save_strategy": "steps", "save_steps": 2, "max_steps": steps}
        trainer = of_task("masked_lm", **given)
        trainer.train(resume_from_checkpoint=resume or None)
        return trainer

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "parts", 2)
    parts = run(tmp_path / "parts", 4, resume=True)
    assert tiny.distance(whole.distillation, parts.distillation) == 0.0
    held = load_file(tmp_path / "parts" / "checkpoint-2" / "distillation.safetensors")
    names = {name for name in held if name.startswith("peers/weights.peer_1/")}
    assert len(names) == len(list(whole.teacher.members["peer_1"].parameters()))


def test_mixed_precision_reaches_the_peers() -> None:
    trainer = trainer_of(peers_of(), Labels() + OKDDip(), bf16=True, max_steps=2)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["loss"] > 0.0
    assert all(p.dtype == torch.float32 for model in trainer.teacher.models for p in model.parameters())
