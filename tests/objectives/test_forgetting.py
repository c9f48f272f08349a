"""Old labels that are kept while new ones are learned."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_distill import DistillationTrainer, Labels, LearningWithoutForgetting, SoftTargets, students
from hf_distill.activations import Activations
from hf_distill.anatomy import Anatomy
from hf_distill.errors import IncompatiblePair
from hf_distill.objectives import Objective, Pair
from hf_distill.objectives.response import learning_without_forgetting
from hf_distill.tasks import IGNORED, TASKS, task_of
from hf_distill.teachers import Ensemble, Frozen
from tests import tiny
from tests.shapes import shape

OLD, NEW = ("sad", "glad"), ("odd", "even", "mixed")


def randn(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(columns: tuple[int, ...], teacher: int, task: str = "single_label") -> Pair:
    shapes = shape(num_logits=len(columns)), shape(num_logits=teacher)
    return Pair.from_shapes(*shapes, TASKS[task], teacher_columns=columns)


def value(objective: Objective, ours: Tensor, theirs: Tensor, **batch: Tensor) -> Tensor:
    ids = torch.zeros(ours.shape[:2] if ours.dim() == 3 else (len(ours), 1), dtype=torch.long)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **batch}
    loss = objective(Activations(logits=ours), Activations(logits=theirs), given)
    assert isinstance(loss, Tensor)
    return loss / objective.count(given, objective.pair.task)


def classifier(labels: tuple[str, ...], **settings: Any) -> Any:
    found = tiny.model("single_label", **settings)
    config = found.config
    config.id2label, config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    torch.manual_seed(3)
    return type(found)(config)


def trainer_of(student: Any, teacher: Any, objectives: Any, **settings: Any) -> DistillationTrainer:
    rows = [{**row, "labels": 2 + i % 3} for i, row in enumerate(tiny.rows("single_label", 32))]
    return DistillationTrainer(
        model=student,
        teacher=teacher,
        objectives=objectives,
        args=tiny.arguments(**settings),
        train_dataset=rows,
        data_collator=tiny.Pad(),
    )


# ---- the term ----


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_is_that_of_the_old_columns_alone_and_not_multiplied_by_t_squared(temperature: float) -> None:
    """(q - p) / T of a row; the student's columns 0 and 3 are the teacher's 1 and 0."""
    objective = LearningWithoutForgetting(temperature=temperature)
    objective.bind(pair((1, -1, -1, 0), 2))
    ours, theirs = randn(3, 4).requires_grad_(), randn(3, 2, seed=1)
    value(objective, ours, theirs).backward()
    q = (ours.detach()[:, [3, 0]] / temperature).softmax(1)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    expected[:, [3, 0]] = (q - (theirs / temperature).softmax(1)) / temperature / 3
    torch.testing.assert_close(ours.grad, expected, rtol=0, atol=1e-12)


def test_several_labels_an_example_are_kept_whether_the_data_know_them_or_not() -> None:
    """The mean over rows and old labels of the Bernoulli cross-entropy at T, by loops."""
    objective = LearningWithoutForgetting(temperature=2.0)
    objective.bind(pair((-1, 0, 1), 2, "multi_label"))
    ours, theirs = randn(2, 3), randn(2, 2, seed=1)
    labels = torch.tensor([[1.0, IGNORED, IGNORED], [0.0, IGNORED, IGNORED]])
    found = value(objective, ours, theirs, labels=labels)
    total = 0.0
    for row in range(2):
        for old in range(2):
            now, before = (1 / (1 + math.exp(-float(z) / 2)) for z in (ours[row, old + 1], theirs[row, old]))
            total -= before * math.log(now) + (1 - before) * math.log(1 - now)
    assert float(found) == pytest.approx(total / 4, rel=1e-9)


def test_tokens_without_a_label_do_not_count() -> None:
    objective = LearningWithoutForgetting()
    objective.bind(pair((0, 1, -1), 2, "token_classification"))
    ours, theirs = randn(2, 3, 3), randn(2, 3, 2, seed=1)
    labels = torch.tensor([[2, IGNORED, IGNORED], [2, 2, IGNORED]])
    found = value(objective, ours, theirs, labels=labels)
    kept = [(0, 0), (1, 0), (1, 1)]
    laws = [((theirs[at] / 2).softmax(0), (ours[at][:2] / 2).log_softmax(0)) for at in kept]
    torch.testing.assert_close(found, -torch.stack([(p * log_q).sum() for p, log_q in laws]).mean())


@pytest.mark.parametrize("task", ["regression", "question_answering", "masked_lm", "causal_lm"])
def test_what_has_no_law_over_labels_is_refused(task: str) -> None:
    with pytest.raises(IncompatiblePair, match=f"a {task} task has no law over a few of them; use soft_targets"):
        LearningWithoutForgetting().bind(Pair.from_shapes(shape(), shape(), TASKS[task]))


def test_one_old_label_is_refused() -> None:
    with pytest.raises(IncompatiblePair, match="shares one label with its teacher"):
        LearningWithoutForgetting().bind(pair((0, -1, -1), 1))


def test_only_the_first_batches_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches that say nothing, then one that says all: a third one would take the mean below the mark."""
    monkeypatch.setattr(learning_without_forgetting, "ENOUGH", 2)
    objective = LearningWithoutForgetting()
    objective.bind(pair((0, 1, -1), 2))
    for scale in (0.0, 0.0, 99.0):
        value(objective, randn(4, 3), scale * torch.tensor([[1.0, -1.0]] * 4))
    assert len(objective.remarks()) == 1
    other = LearningWithoutForgetting()
    other.bind(pair((0, 1, -1), 2))
    for scale in (99.0, 99.0, 0.0, 0.0):
        value(other, randn(4, 3), scale * torch.tensor([[1.0, -1.0]] * 4))
        assert other.remarks() == []


@pytest.mark.parametrize(("scale", "is_told"), [(0.01, True), (9.0, False)])
def test_answers_that_say_nothing_are_told(scale: float, is_told: bool) -> None:
    """A mean entropy above 0.9 of log C, over all that was seen, once."""
    objective = LearningWithoutForgetting()
    objective.bind(pair((0, 1, -1), 2))
    for seed in range(3):
        value(objective, randn(4, 3), scale * torch.tensor([[1.0, -1.0]] * 4) + 0.0 * randn(4, 2, seed=seed))
    told = objective.remarks()
    assert len(told) == is_told
    assert all("over its 2 labels is 100% of the largest" in text for text in told)
    assert objective.remarks() == []


# ---- labels of the new classes ----


def test_labels_of_new_classes_alone() -> None:
    """-log softmax over columns 0 and 2; a row of an old class does not count."""
    objective = Labels(classes="new")
    objective.bind(pair((-1, 0, -1, 1), 2))
    ours = randn(3, 4).requires_grad_()
    found = value(objective, ours, randn(3, 2), labels=torch.tensor([2, 1, 0]))
    among = ours.detach()[:, [0, 2]].log_softmax(1)
    torch.testing.assert_close(found, -(among[0, 1] + among[2, 0]) / 2)
    found.backward()
    assert ours.grad is not None
    assert not ours.grad[:, [1, 3]].any()
    assert not ours.grad[1].any()
    assert ours.grad[0, [0, 2]].all()


def test_labels_of_new_classes_where_several_go_with_an_example() -> None:
    objective = Labels(classes="new")
    objective.bind(pair((0, -1, -1), 1, "multi_label"))
    ours, labels = randn(2, 3), torch.tensor([[1.0, 1.0, 0.0], [0.0, IGNORED, 1.0]])
    known = [(0, 1, 1.0), (0, 2, 0.0), (1, 2, 1.0)]
    expected = -sum(math.log(1 / (1 + math.exp(-float(ours[r, c]) * (2 * y - 1)))) for r, c, y in known) / 3
    assert float(value(objective, ours, ours, labels=labels)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("teacher", [(0, 1, 2), None])
def test_new_classes_where_there_are_none(teacher: tuple[int, ...] | None) -> None:
    with pytest.raises(IncompatiblePair, match=r"classes is 'new'.*and there are none"):
        Labels(classes="new").bind(
            Pair.from_shapes(shape(num_logits=3), shape(num_logits=3), TASKS["single_label"], teacher_columns=teacher)
        )


# ---- models ----


def test_a_student_with_further_labels_pairs_with_the_model_before() -> None:
    teacher = classifier(OLD)
    student = students.grow_labels(teacher, NEW)
    found = Pair.of(Anatomy.of(student), Anatomy.of(teacher), task_of(student))
    assert (found.teacher_columns, found.lacking) == ((0, 1, -1, -1, -1), NEW)
    assert found.among_shared().lacking == ()
    renamed = classifier(("gloomy", "glad"))
    mapped = Pair.of(Anatomy.of(student), Anatomy.of(renamed), task_of(student), label_map={"sad": "gloomy"})
    assert mapped.teacher_columns == (0, 1, -1, -1, -1)


def test_labels_without_names_are_to_be_renamed() -> None:
    """A position says nothing of what a label means, also where the student was grown from its teacher."""
    teacher = classifier(("LABEL_0", "LABEL_1"))
    student = students.grow_labels(teacher, ["LABEL_2"])
    with pytest.raises(IncompatiblePair, match=r"These are no names: rename them in id2label and label2id of both"):
        Pair.of(Anatomy.of(student), Anatomy.of(teacher), task_of(student))
    named = students.grow_labels(teacher, ["odd"])
    assert Pair.of(Anatomy.of(named), Anatomy.of(teacher), task_of(named)).lacking == ("odd",)


@pytest.mark.parametrize(
    ("ours", "theirs"), [((*OLD, *NEW), ("sad", "even", "other")), (OLD, (*OLD, *NEW)), ((*OLD, "x"), OLD[:1] * 2)]
)
def test_labels_that_are_not_all_there_are_refused(ours: tuple[str, ...], theirs: tuple[str, ...]) -> None:
    student, teacher = classifier(ours), classifier(theirs)
    with pytest.raises(IncompatiblePair, match=f"has {len(ours)} labels, the teacher {len(theirs)}; they must agree"):
        Pair.of(Anatomy.of(student), Anatomy.of(teacher), task_of(student))


def test_other_terms_over_answers_refuse_a_teacher_that_lacks_labels() -> None:
    teacher = classifier(OLD)
    student = students.grow_labels(teacher, NEW)
    with pytest.raises(IncompatiblePair, match=r"'soft_targets' compares.*its teacher has no 'odd', 'even', 'mixed'"):
        trainer_of(student, teacher, SoftTargets() + Labels()).train()
    several = Ensemble({"one": classifier(OLD), "two": teacher})
    with pytest.raises(IncompatiblePair, match=r"'soft_targets' compares"):
        trainer_of(student, several, SoftTargets() + Labels()).train()


def test_two_stages_in_a_trainer_of_ones_own() -> None:
    """In the first, old rows of the head and all else stay bit by bit; in the second all moves."""
    teacher = classifier(OLD)
    student = students.grow_labels(teacher, NEW)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name.startswith("classifier"))
    trainer_of(student, teacher, Labels(classes="new"), learning_rate=0.1, max_steps=1).train()
    theirs, ours = teacher.state_dict(), student.state_dict()
    assert all(torch.equal(tensor, ours[name][: len(tensor)]) for name, tensor in theirs.items())
    assert ours["classifier.bias"][2:].any()
    student.requires_grad_(True)
    trainer = trainer_of(student, teacher, Labels() + LearningWithoutForgetting(), learning_rate=0.1, max_steps=1)
    trainer.train()
    assert not torch.equal(student.state_dict()["classifier.weight"][:2], theirs["classifier.weight"])


def test_the_teacher_answers_without_dropout() -> None:
    teacher = classifier(OLD, dropout=0.5)
    teacher.train()
    frozen = Frozen(teacher)
    trainer = trainer_of(students.grow_labels(teacher, NEW), frozen, Labels() + LearningWithoutForgetting())
    batch = tiny.Pad()(tiny.rows("single_label", 4))
    trainer.distillation.eval()
    shown = [frozen.activations(batch).logits for _ in range(2)]
    assert torch.equal(*shown)


# ---- two teachers ----


def test_an_expert_and_the_model_before_teach_a_part_of_the_labels_each() -> None:
    """Without labels. In the first step the student answers as before over the old ones: the expert alone moves it."""
    before, expert = classifier(OLD), classifier(NEW[::-1])
    student = students.grow_labels(before, NEW)
    term = LearningWithoutForgetting
    trainer = trainer_of(
        student,
        Ensemble({"previous": before, "expert": expert}),
        term().on("expert") + term().on("previous"),
        max_steps=1,
    )
    parts = [objective.pair.student_columns for objective in trainer.distillation.terms()]
    assert parts == [(2, 3, 4), (0, 1)]
    assert trainer.distillation.terms()[0].pair.teacher_columns == (2, 1, 0)
    start = student.classifier.weight.detach().clone()
    trainer.train()
    moved = (student.classifier.weight.detach() - start).abs().amax(1)
    assert moved[:2].max() < 1e-7
    assert moved[2:].min() > 1e-4


def test_teachers_whose_labels_are_not_the_students_together_are_refused() -> None:
    before, expert = classifier(OLD), classifier(NEW[:2])
    student = students.grow_labels(before, NEW)
    teachers = Ensemble({"previous": before, "expert": expert})
    terms = LearningWithoutForgetting().on("expert") + LearningWithoutForgetting().on("previous")
    with pytest.raises(IncompatiblePair, match="labels 'mixed' are learned from no teacher, and no term reads labels"):
        trainer_of(student, teachers, terms).train()
    terms = LearningWithoutForgetting().on("expert") + LearningWithoutForgetting().on("previous") + Labels()
    assert len(trainer_of(student, teachers, terms).distillation.terms()) == 3
