"""Models that learn together and states that flow into the student: what each formula keeps, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import TrainingArguments

from hf_distill import DistillationTrainer, IncompatiblePair, KnowledgeFlow, Labels, OKDDip, objectives
from hf_distill.activations import Activations, EnsembleActivations
from hf_distill.errors import DistillationError
from hf_distill.member_logits import Combining
from hf_distill.objectives import Objective, Pair
from hf_distill.tasks import TASKS
from hf_distill.teachers import Ensemble, Frozen, Peers
from tests import tiny
from tests.shapes import shape
from tests.test_capture import enable_checkpointing


def among(number: int, task: str = "single_label", widths: tuple[int, ...] = (), **sizes: Any) -> Pair:
    ours = shape(num_logits=3, **sizes)
    pairs = {
        f"peer_{i + 1}": Pair.from_shapes(
            ours, shape(num_logits=3, **{**sizes, "width": widths[i] if widths else 4}), TASKS[task]
        )
        for i in range(number)
    }
    return Pair.together(pairs, Combining(number, "losses"))


def bound(name: str, pair: Pair, **settings: Any) -> Objective:
    objective = objectives.make(name, settings)
    objective.bind(pair)
    return objective.double()


def group(number: int, examples: int = 4, seed: int = 0) -> tuple[Activations, EnsembleActivations, dict[str, Tensor]]:
    """A student and its peers, each with logits and final states."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(5) < torch.tensor([5, 3, 1, 4])[:examples].unsqueeze(1)).long()

    def one() -> Activations:
        logits = torch.randn(examples, 3, generator=generator, dtype=torch.float64).requires_grad_()
        final = torch.randn(examples, 5, 4, generator=generator, dtype=torch.float64).requires_grad_()
        return Activations(mask=mask, logits=logits, final=final)

    batch = {"input_ids": mask, "attention_mask": mask, "labels": torch.tensor([0, 1, 2, 0])[:examples]}
    return one(), EnsembleActivations({f"peer_{i + 1}": one() for i in range(number)}), batch


# ---- deep mutual learning ----


def test_without_the_average_the_sum_over_the_others_counts() -> None:
    student, peers, batch = group(3)
    mean = bound("deep_mutual_learning", among(3), temperature=2.0)(student, peers, batch)
    total = bound("deep_mutual_learning", among(3), temperature=2.0, average=False)(student, peers, batch)
    torch.testing.assert_close(total, 3 * mean)


def test_several_labels_are_laws_of_their_own() -> None:
    student, peers, batch = group(2)
    batch = {**batch, "labels": torch.ones(4, 3)}
    value = bound("deep_mutual_learning", among(2, "multi_label"))(student, peers, batch)
    expected = torch.zeros((), dtype=torch.float64)
    for peer in peers.members.values():
        p, q = peer.logits.detach().sigmoid(), student.logits.sigmoid()
        expected = expected + (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum() / 2
    torch.testing.assert_close(value, expected)


def test_scores_are_no_laws() -> None:
    with pytest.raises(IncompatiblePair, match="scores of a regression task are none"):
        bound("deep_mutual_learning", among(2, "regression"))


# ---- okddip ----


def test_peers_that_are_constant_in_targets_train_the_attention_alone() -> None:
    student, peers, batch = group(3)
    gradients = {}
    for detach in ("none", "peers"):
        torch.manual_seed(0)
        objective = bound("okddip", among(3), detach=detach)
        value = objective(student, peers, batch)
        leaves = [objective.leading.weight, peers.members["peer_1"].logits, student.logits]
        gradients[detach] = (value, *torch.autograd.grad(value, leaves, retain_graph=True))
        reached = torch.autograd.grad(value, peers.members["peer_1"].final, allow_unused=True)[0]
        assert (reached is not None and bool(reached.any())) == (detach == "none")
    torch.testing.assert_close(gradients["none"][0], gradients["peers"][0])
    torch.testing.assert_close(gradients["none"][1], gradients["peers"][1])
    torch.testing.assert_close(gradients["none"][3], gradients["peers"][3])
    assert not torch.allclose(gradients["none"][2], gradients["peers"][2])


def test_the_leader_has_no_part_in_the_attention() -> None:
    torch.manual_seed(0)
    student, peers, batch = group(2)
    objective = bound("okddip", among(2), projection_size=3)
    other, _, _ = group(2, seed=5)
    ours = torch.autograd.grad(objective(student, peers, batch), objective.leading.weight)
    theirs = torch.autograd.grad(objective(other, peers, batch), objective.leading.weight)
    torch.testing.assert_close(ours, theirs)


def test_collapsed_peers_are_told() -> None:
    student, peers, batch = group(2)
    objective = bound("okddip", among(2))
    objective(student, peers, batch)
    assert objective.remarks() == []
    same = peers.members["peer_1"]
    objective(student, EnsembleActivations({"peer_1": same, "peer_2": same}), batch)
    (remark,) = objective.remarks()
    assert "less than 0.0001 apart" in remark


@pytest.mark.parametrize(
    ("pair", "settings", "message"),
    [
        (among(1), {}, "there is 1 peer beside the student"),
        (among(2, widths=(4, 6)), {}, r"the peers are 4 \(peer_1\), 6 \(peer_2\) wide"),
        (among(2, "masked_lm"), {}, "answers token by token"),
        (among(2, "regression"), {}, "no single class"),
        (among(2, causal=True), {"pool": "first_token"}, "'peer_1' is causal"),
    ],
)
def test_peers_that_the_attention_cannot_serve(pair: Pair, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(IncompatiblePair, match=message):
        bound("okddip", pair, **settings)


def test_targets_without_any_gradient() -> None:
    with pytest.raises(DistillationError, match="detach is 'all', and the attention"):
        OKDDip(detach="all")


# ---- knowledge flow ----


def flow_trainer(teacher: Any, term: Any = None, student: Any = None, **settings: Any) -> DistillationTrainer:
    return DistillationTrainer(
        model=tiny.model("single_label", seed=4) if student is None else student,
        teacher=teacher,
        objectives=Labels() + (KnowledgeFlow() if term is None else term),
        args=tiny.arguments(**settings),
        train_dataset=tiny.rows("single_label", 32),
        eval_dataset=tiny.rows("single_label", 16),
        data_collator=tiny.Pad(),
    )


def test_what_flows_is_what_the_next_layer_reads() -> None:
    """A share of 0 of everything else: the student is as it is alone; a share of 1 of the teacher's last layer behind
    the identity: it answers as its own head does on the teacher's states."""
    teacher = tiny.model("single_label", seed=2)
    trainer = flow_trainer(teacher, KnowledgeFlow(layer_map=[[2, 2]], kl=0.0))
    objective = trainer.distillation.objectives["knowledge_flow"]
    batch = tiny.Pad()(tiny.rows("single_label", 6))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    trainer.model.train()
    trainer.distillation.train()
    for own, states in ((60.0, trainer.model), (-60.0, teacher)):
        with torch.no_grad():
            objective.weights[0].copy_(torch.tensor([own, 0.0]))
            states = states.base_model(**inputs).last_hidden_state
            logits = trainer.model.classifier(trainer.model.bert.pooler(states))
        labels = functional.cross_entropy(logits, batch["labels"])
        found = trainer.compute_loss(trainer.model, batch)
        torch.testing.assert_close(found, labels - objective.student_shares().log().sum(), rtol=1e-5, atol=1e-5)
    alone = trainer.model(**inputs).logits
    trainer.distillation.eval()
    evaluated = trainer.distillation(batch)
    torch.testing.assert_close(evaluated.outputs.logits, alone)
    assert trainer.evaluate()["eval_loss"] > 0.0


def test_the_second_pass_is_without_the_flow() -> None:
    teacher = tiny.model("single_label", seed=2, hidden=48)
    trainer = flow_trainer(Ensemble({"a": teacher, "b": tiny.model("single_label", seed=3, layers=4)}))
    batch = tiny.Pad()(tiny.rows("single_label", 6))
    trainer.distillation.train()
    objective = trainer.distillation.objectives["knowledge_flow"]
    assert objective.sources == {1: [("a", 1), ("b", 2)], 2: [("a", 2), ("b", 4)]}
    with torch.no_grad():
        _, shown = trainer.distillation._show(batch, trainer.teacher.activations(batch))
        alone = trainer.model(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits
    (other,) = shown.passes.values()
    torch.testing.assert_close(other.logits, alone)
    assert not torch.allclose(shown.logits, alone)
    value = objective(shown, None, batch)
    before, now = shown.logits.softmax(-1), alone.softmax(-1)
    kl = (before * (before / now).log()).sum(-1)
    dependency = 2 * torch.log(torch.tensor(3.0))
    torch.testing.assert_close(value, 6 * dependency + 0.1 * kl.sum(), rtol=1e-4, atol=1e-4)


def test_the_student_becomes_independent_or_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    settings = {"max_steps": 30, "logging_steps": 10}
    teacher = Frozen(tiny.model("single_label", seed=2))
    with caplog.at_level(logging.WARNING):
        trainer = flow_trainer(teacher, 5.0 * KnowledgeFlow(learning_rate=0.5), **settings)
        trainer.train()
    shares = [entry["knowledge_flow/student_share"] for entry in trainer.state.log_history if "loss" in entry]
    assert 0.5 < shares[0] < shares[1] < shares[2]
    assert float(trainer.distillation.objectives["knowledge_flow"].student_shares().detach().min()) > 0.99
    assert "own states have a share" not in caplog.text
    with caplog.at_level(logging.WARNING):
        flow_trainer(teacher, 0.1 * KnowledgeFlow(learning_rate=1e-3), **settings).train()
    assert "knowledge_flow: the student's own states have a share of 0.5" in caplog.text


def test_transforms_are_learned_and_resumed(tmp_path: Path) -> None:
    def run(resume: bool = False, **settings: Any) -> DistillationTrainer:
        torch.manual_seed(0)
        teacher = tiny.model("single_label", seed=2, hidden=48)
        given = {"output_dir": str(tmp_path), "save_strategy": "steps", "save_steps": 2, **settings}
        trainer = flow_trainer(teacher, student=tiny.model("single_label", seed=4, dropout=0.2), **given)
        trainer.train(resume_from_checkpoint=resume or None)
        return trainer

    start = flow_trainer(tiny.model("single_label", seed=2, hidden=48)).distillation.objectives["knowledge_flow"]
    whole = run(max_steps=4, output_dir=str(tmp_path / "whole"))
    run(max_steps=2)
    parts = run(resume=True, max_steps=4)
    assert tiny.distance(whole.model, parts.model) == 0.0
    ends = [each.distillation.objectives["knowledge_flow"] for each in (whole, parts)]
    assert tiny.distance(*ends) == 0.0
    assert tiny.distance(start, ends[0]) > 1e-3


def test_accumulated_micro_batches_are_the_whole_batch() -> None:
    ends = []
    for size, steps in ((8, 1), (2, 4)):
        trainer = flow_trainer(
            tiny.model("single_label", seed=2),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=3,
        )
        trainer.train()
        ends.append(trainer)
    assert tiny.distance(ends[0].model, ends[1].model) < 1e-5
    assert tiny.distance(*(each.distillation.objectives for each in ends)) < 1e-5


@pytest.mark.parametrize(
    ("task", "stack"),
    [
        ("multi_label", ""),
        ("token_classification", ""),
        ("question_answering", ""),
        ("masked_lm", ""),
        ("causal_lm", ""),
        ("seq2seq_lm", "encoder"),
        ("seq2seq_lm", "decoder"),
    ],
)
def test_padding_changes_nothing_that_flows(task: str, stack: str) -> None:
    found = []
    for extra in (0, 5):
        torch.manual_seed(0)
        trainer = DistillationTrainer(
            model=tiny.model(task, seed=4),
            teacher=tiny.model(task, seed=2, layers=4, hidden=48),
            objectives=Labels() + KnowledgeFlow(stack=stack, kl=0.5),
            args=tiny.arguments(),
            train_dataset=tiny.rows(task, 32),
            data_collator=tiny.Pad(),
        )
        trainer.distillation.train()
        loss = trainer.compute_loss(trainer.model, tiny.Pad(extra)(tiny.rows(task, 6)))
        loss.backward()
        found.append((loss.detach(), [p.grad for p in trainer.distillation.parameters()]))
    (loss, gradients), (again, others) = found
    torch.testing.assert_close(again, loss)
    for one, other in zip(gradients, others, strict=True):
        assert one is not None
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "has"), [("regression", "a regression task has scores"), ("encoder", "an? encoder task has no logits")]
)
def test_models_without_laws(task: str, has: str) -> None:
    pair = Pair.from_shapes(shape(), shape(), TASKS[task])
    with pytest.raises(IncompatiblePair, match=has):
        bound("knowledge_flow", pair)
    assert not bound("knowledge_flow", pair, kl=0.0).needs().student


def test_a_teacher_with_other_positions() -> None:
    pair = Pair.from_shapes(shape(), shape(), TASKS["single_label"])
    objective = bound("knowledge_flow", pair)
    teacher = Activations(mask=torch.ones(2, 6), hidden={1: torch.zeros(2, 6, 4), 2: torch.zeros(2, 6, 4)})
    with pytest.raises(IncompatiblePair, match="2 texts of 5 positions, the teacher 2 of 6"):
        objective.feed("", 1, torch.zeros(2, 5, 4), teacher)


def test_a_teacher_of_another_vocabulary() -> None:
    teacher = tiny.model("single_label", seed=2)
    teacher.resize_token_embeddings(tiny.VOCABULARY + 4)
    with pytest.raises(IncompatiblePair, match="both models must read the same tokens"):
        flow_trainer(teacher)


def test_padding_of_the_teacher_flows_nowhere() -> None:
    pair = Pair.from_shapes(shape(), shape(), TASKS["single_label"])
    objective = bound("knowledge_flow", pair)
    mask = torch.tensor([[1, 1, 0]])
    shown = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    hidden = torch.where(mask.bool().unsqueeze(-1), shown.detach(), torch.nan)
    mixed = objective.feed("", 1, shown, Activations(mask=mask, hidden={1: hidden, 2: hidden}))
    assert mixed.isfinite().all()
    mixed.sum().backward()
    assert shown.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())


def test_gradient_checkpointing_would_run_layers_without_the_flow() -> None:
    kind = "activation" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient"
    with pytest.raises(DistillationError, match="checkpointing would run them once more"):
        flow_trainer(tiny.model("single_label", seed=2), **{f"{kind}_checkpointing": True})


def test_a_student_that_was_told_to_checkpoint_itself() -> None:
    student = tiny.model("single_label", layers=2, hidden=16, seed=1)
    enable_checkpointing(student, use_reentrant=False)
    with pytest.raises(DistillationError, match="checkpointing would run them once more"):
        DistillationTrainer(
            model=student,
            teacher=tiny.model("single_label", layers=2, hidden=16, seed=2),
            objectives=Labels() + KnowledgeFlow(),
            args=tiny.arguments(),
            train_dataset=tiny.rows("single_label", 8),
            data_collator=tiny.Pad(),
        )


def test_a_cache_without_hidden_states(tmp_path: Path) -> None:
    trainer = flow_trainer(tiny.model("single_label", seed=2))
    with_logits = DistillationTrainer(
        model=tiny.model("single_label", seed=4),
        teacher=tiny.model("single_label", seed=2),
        args=tiny.arguments(),
        train_dataset=tiny.rows("single_label", 8),
        data_collator=tiny.Pad(),
    )
    with_logits.cache_teacher(tmp_path)
    with pytest.raises(DistillationError, match="hidden"):
        flow_trainer(with_logits.teacher)
    assert trainer.distillation.needs().teacher


def test_peers_may_be_more_than_two_with_a_leader() -> None:
    peers = Peers([tiny.model("single_label", seed=i) for i in (7, 8, 9)])
    trainer = flow_trainer(peers, OKDDip(), max_steps=2)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["okddip/diversity"] > 0.01
    assert logged["objective/okddip"] > 0.0
