"""Several teachers: what they answer together, which of them a term reads, and how they are weighed and routed."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hf_distill import (
    DistillationTrainer,
    HiddenMSE,
    Labels,
    MiniLMv2,
    SoftTargets,
    VotedTriplets,
)
from hf_distill.activations import Activations, EnsembleActivations
from hf_distill.anatomy import Anatomy
from hf_distill.chunks import Sizes
from hf_distill.distillation import Counts, Distillation
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.hub.trained import record_of
from hf_distill.member_logits import Combining, MemberLogits, Tally
from hf_distill.objectives import DKD, Pair, Terms
from hf_distill.tasks import TASKS, task_of
from hf_distill.teachers import Cached, Ensemble, Frozen, MovingAverage, Peers
from hf_distill.teachers.cache import codecs
from tests import tiny
from tests.shapes import shape

NUMBERS = torch.Generator().manual_seed(3)


def drawn(*size: int) -> Tensor:
    return torch.randn(size, generator=NUMBERS, dtype=torch.float64)


def law(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(each / temperature) for each in logits]
    return [each / sum(powers) for each in powers]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def bound(objective: Any, task: str, combining: Combining, classes: int = 4) -> Any:
    ours = shape(num_logits=classes)
    pairs = {f"t{i}": Pair.from_shapes(ours, ours, TASKS[task]) for i in range(combining.members)}
    objective.bind(Pair.together(pairs, combining))
    return objective


def value(objective: Any, student: Tensor, teachers: Tensor, **batch: Tensor) -> Tensor:
    shown = EnsembleActivations({f"t{i}": Activations(logits=each) for i, each in enumerate(teachers)})
    found: Tensor = objective(Activations(logits=student), shown, batch)
    return found


# ---- what they answer together ----


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("combine", ["prob", "logit", "losses"])
def test_soft_targets_of_three_teachers(combine: str, temperature: float) -> None:
    """Row by row in plain Python."""
    student, teachers = drawn(5, 4), drawn(3, 5, 4)
    weights = (0.5, 0.2, 1.3)
    shares = [weight / sum(weights) for weight in weights]
    expected = 0.0
    for row in range(5):
        q = law(student[row].tolist(), temperature)
        z = [each[row].tolist() for each in teachers]
        if combine == "losses":
            expected += sum(w * kl(law(each, temperature), q) for w, each in zip(shares, z, strict=True))
            continue
        if combine == "prob":
            laws = [law(each, temperature) for each in z]
            p = [sum(w * each[c] for w, each in zip(shares, laws, strict=True)) for c in range(4)]
        else:
            p = law([sum(w * each[c] for w, each in zip(shares, z, strict=True)) for c in range(4)], temperature)
        expected += kl(p, q)
    objective = bound(SoftTargets(temperature=temperature), "single_label", Combining(3, combine, weights))
    found = value(objective, student, teachers, labels=torch.zeros(5, dtype=torch.long))
    assert float(found) == pytest.approx(temperature**2 * expected, rel=1e-12)


def test_the_gradients_of_averaged_probabilities_and_of_averaged_losses_are_equal() -> None:
    found = []
    teachers, start = drawn(2, 5, 4), drawn(5, 4)
    for combine in ("prob", "losses"):
        student = start.clone().requires_grad_()
        objective = bound(SoftTargets(temperature=2.0), "single_label", Combining(2, combine))
        value(objective, student, teachers, labels=torch.zeros(5, dtype=torch.long)).backward()
        found.append(student.grad)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("combine", ["prob", "logit"])
def test_labels_of_their_own_have_laws_of_their_own(combine: str) -> None:
    student, teachers, temperature = drawn(3, 4), drawn(2, 3, 4), 2.0
    labels = torch.tensor([[1.0, 0.0, 1.0, -100.0]] * 3, dtype=torch.float64)
    if combine == "prob":
        on = (teachers / temperature).sigmoid().mean(0)
    else:
        on = (teachers.mean(0) / temperature).sigmoid()
    q = (student / temperature).sigmoid()
    each = on * (on / q).log() + (1 - on) * ((1 - on) / (1 - q)).log()
    objective = bound(SoftTargets(temperature=temperature), "multi_label", Combining(2, combine))
    found = value(objective, student, teachers, labels=labels)
    torch.testing.assert_close(found, temperature**2 * each[:, :3].sum(), rtol=1e-12, atol=1e-12)


def test_scores_are_averaged() -> None:
    student, teachers = drawn(3, 1), drawn(2, 3, 1)
    objective = bound(SoftTargets(), "regression", Combining(2, "prob", (1.0, 3.0)), classes=1)
    mean = 0.25 * teachers[0] + 0.75 * teachers[1]
    found = value(objective, student, teachers, labels=torch.zeros(3))
    torch.testing.assert_close(found, (student - mean).square().sum(), rtol=1e-12, atol=1e-12)


def test_spans_have_a_law_over_the_positions_of_the_text() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    fields = ("start_logits", "end_logits")
    sides = [{field: drawn(2, 4) for field in fields} for _ in range(3)]
    objective = bound(SoftTargets(temperature=2.0), "question_answering", Combining(2), classes=2)
    student, *teachers = (Activations(mask=mask, **side) for side in sides)
    found = objective(student, EnsembleActivations({"t0": teachers[0], "t1": teachers[1]}), {"attention_mask": mask})
    expected = 0.0
    for field in fields:
        for row, length in ((0, 3), (1, 4)):
            q, *both = (law(side[field][row, :length].tolist(), 2.0) for side in sides)
            p = [(a + b) / 2 for a, b in zip(*both, strict=True)]
            expected += 4.0 * kl(p, q) / 2
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_an_average_is_taken_at_the_temperature_of_each_term() -> None:
    """What follows from an average at temperature 1 would be something else."""
    teachers = drawn(2, 5, 4)
    logits = MemberLogits({"a": teachers[0], "b": teachers[1]}, Combining(2))
    softened = (logits.at(1.0) / 4.0).softmax(-1)
    assert (softened - (logits.at(4.0) / 4.0).softmax(-1)).abs().max() > 1e-3


def test_one_member_is_the_teacher_itself() -> None:
    student, teacher = drawn(5, 4), drawn(5, 4)
    for combining in (
        Combining(1),
        Combining(1, "losses"),
        Combining(1, "prob", "label_ce"),
        Combining(1, routing="gold"),
    ):
        objective = bound(SoftTargets(temperature=2.0), "single_label", combining)
        found = value(objective, student, teacher.unsqueeze(0), labels=torch.zeros(5, dtype=torch.long))
        alone = SoftTargets(temperature=2.0)
        alone.bind(Pair.from_shapes(shape(num_logits=4), shape(num_logits=4), TASKS["single_label"]))
        expected = alone(Activations(logits=student), Activations(logits=teacher), {"labels": torch.zeros(5)})
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# ---- weights and routes ----


def test_rows_without_a_label_weigh_all_alike() -> None:
    student, teachers = drawn(3, 4), drawn(2, 3, 4)
    labels = torch.tensor([2, -100, 0])
    objective = bound(SoftTargets(temperature=1.0), "single_label", Combining(2, "prob", "label_ce"))
    found = value(objective, student, teachers, labels=labels)
    expected = torch.zeros((), dtype=torch.float64)
    for row, label in enumerate(labels.tolist()):
        laws = teachers[:, row].softmax(-1)
        losses = -laws[:, label].log() if label >= 0 else torch.zeros(2, dtype=torch.float64)
        weights = 1.0 - losses.softmax(0)
        p, log_q = (weights[:, None] * laws).sum(0), student[row].log_softmax(-1)
        expected += (p * (p.log() - log_q)).sum()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_label_out_of_place_is_told() -> None:
    objective = bound(SoftTargets(temperature=1.0), "single_label", Combining(2, "prob", "label_ce"))
    with pytest.raises(DataError, match="the batch has only input_ids"):
        value(objective, drawn(3, 4), drawn(2, 3, 4), input_ids=torch.zeros(3, 1))


def test_rows_go_to_the_teacher_of_their_domain() -> None:
    student, teachers, domain = drawn(4, 4), drawn(2, 4, 4), torch.tensor([1, 0, 0, 1])
    objective = bound(SoftTargets(temperature=2.0), "single_label", Combining(2, routing="domain", column="source"))
    found = value(objective, student, teachers, source=domain, labels=torch.zeros(4, dtype=torch.long))
    chosen = teachers[domain, torch.arange(4)]
    expected = 4 * functional.kl_div((student / 2).log_softmax(-1), (chosen / 2).softmax(-1), reduction="sum")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_member_with_nearly_all_rows_is_told(caplog: pytest.LogCaptureFixture) -> None:
    models = {"sure": tiny.model("single_label", seed=3), "unsure": tiny.model("single_label", seed=5)}
    with torch.no_grad():
        models["unsure"].classifier.weight.zero_()
    teacher = Ensemble(models, routing="max_prob")
    trainer = trained(teacher, SoftTargets() + Labels(), max_steps=4)
    assert "the teacher 'sure' was given 100.0 % of the rows of the last epoch by routing='max_prob'" in caplog.text
    assert trainer.state.global_step == 4


def test_a_tally_counts_rows_that_count() -> None:
    tally = Tally(("a", "b"))
    tally.add(torch.tensor([0, 0, 1, 1]), torch.tensor([True, True, True, False]))
    tally.add(torch.tensor([0]), None)
    assert tally.take() == {"a": 0.75, "b": 0.25}
    assert tally.take() == {}


# ---- in a trainer ----


def test_a_term_stays_on_its_teacher() -> None:
    term = 2.0 * (0.5 * HiddenMSE()).on("a").named("hint")
    terms = term + HiddenMSE().on("b") + Labels()
    assert [(each.name, each.weight, each.member) for each in terms] == [
        ("hint", 1.0, "a"),
        ("hidden_mse", 1.0, "b"),
        ("labels", 1.0, ""),
    ]
    assert repr(terms) == "1 * hint on a + 1 * hidden_mse on b + 1 * labels"


def trainer_of(teacher: Any, objectives: Any, task: str = "single_label", **settings: Any) -> DistillationTrainer:
    arguments = {key: value for key, value in settings.items() if key not in ("student", "rows")}
    return DistillationTrainer(
        model=settings.get("student") or tiny.model(task, seed=4),
        teacher=teacher,
        objectives=objectives,
        args=tiny.arguments(**arguments),
        train_dataset=settings.get("rows") or tiny.rows(task, 32),
        data_collator=tiny.Pad(),
    )


def trained(teacher: Any, objectives: Any, task: str = "single_label", **settings: Any) -> DistillationTrainer:
    trainer = trainer_of(teacher, objectives, task, **settings)
    trainer.train()
    return trainer


def test_terms_read_all_teachers_or_the_one_that_they_name() -> None:
    """Against the same loss written out for both models."""
    models = {"small": tiny.model("single_label", layers=2, seed=3), "wide": tiny.model("single_label", 3, 48, seed=5)}
    terms = SoftTargets(temperature=2.0) + 0.5 * HiddenMSE(layer_map="final", projection="none").on("small")
    trainer = trainer_of(Ensemble(models), terms)
    batch = tiny.Pad()(tiny.rows("single_label", 8))
    found = trainer.compute_loss(trainer.model.eval(), batch)
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        shown = {n: m(**inputs, output_hidden_states=True) for n, m in (*models.items(), ("student", trainer.model))}
    p = sum((shown[name].logits / 2).softmax(-1) for name in models) / 2
    kd = 4 * functional.kl_div((shown["student"].logits / 2).log_softmax(-1), p, reduction="batchmean")
    apart = (shown["student"].hidden_states[-1] - shown["small"].hidden_states[-1]).square().mean(-1)
    mask = inputs["attention_mask"]
    torch.testing.assert_close(found.detach(), kd + 0.5 * (apart * mask).sum() / mask.sum(), rtol=1e-5, atol=1e-6)


def test_a_member_runs_as_far_as_it_is_read_and_not_at_all_where_it_is_not() -> None:
    models = {"read": tiny.model("single_label", seed=3), "idle": tiny.model("single_label", seed=5)}
    ran: list[str] = []
    for name, model in models.items():
        model.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        model.base_model.embeddings.register_forward_pre_hook(lambda *_, name=name: ran.append(f"{name} embeddings"))
    trainer_of(Ensemble(models), Labels() + HiddenMSE(layer_map="final").on("read")).train()
    assert {each.split()[0] for each in ran} == {"read"}


def test_members_keep_their_own_order_of_labels() -> None:
    names = ["bad", "so-so", "good"]
    orders = {"same": [0, 1, 2], "other": [2, 0, 1]}
    student, models = tiny.model("single_label", seed=4), {}
    for model, order in ((student, [0, 1, 2]), *((tiny.model("single_label", seed=3), o) for o in orders.values())):
        model.config.id2label = {column: names[label] for column, label in enumerate(order)}
        model.config.label2id = {name: column for column, name in model.config.id2label.items()}
        with torch.no_grad():
            model.classifier.weight.copy_(model.classifier.weight[order].clone())
            model.classifier.bias.copy_(model.classifier.bias[order].clone())
        if model is not student:
            models["same" if order == [0, 1, 2] else "other"] = model
    batch = tiny.Pad()(tiny.rows("single_label", 8))
    values = []
    for teacher in (Ensemble(models), copy.deepcopy(models["same"])):
        trainer = trainer_of(teacher, SoftTargets(temperature=2.0), student=copy.deepcopy(student))
        values.append(trainer.compute_loss(trainer.model.eval(), batch).detach())
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)


def test_padding_and_accumulation_do_not_matter() -> None:
    def run(extra: int = 0, **settings: Any) -> DistillationTrainer:
        models = {"a": tiny.model("token_classification", seed=3), "b": tiny.model("token_classification", 3, seed=5)}
        terms = SoftTargets(temperature=2.0) + Labels() + MiniLMv2(relation_heads=2).on("b")
        trainer = trainer_of(Ensemble(models, weights="label_ce"), terms, "token_classification", **settings)
        trainer.data_collator = tiny.Pad(extra)
        trainer.train()
        return trainer

    plain = run()
    assert tiny.distance(plain.model, run(37).model) < 1e-6
    parts = run(per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert tiny.distance(plain.model, parts.model) < 1e-6


@pytest.mark.parametrize("how", [{}, {"combine": "losses"}, {"weights": "label_ce"}, {"routing": "domain"}])
def test_a_large_vocabulary_is_compared_in_chunks(how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_distill.objectives.pair.LARGE_VOCABULARY", 1)
    monkeypatch.setattr(Sizes, "of", classmethod(lambda cls, *_: Sizes(chunk=6, block=2)))
    batch = tiny.Pad()(tiny.rows("causal_lm", 4)) | {"domain": torch.tensor([0, 1, 1, 0])}
    found = []
    for in_part in (True, False):
        models = {"a": tiny.model("causal_lm", seed=3).double(), "b": tiny.model("causal_lm", seed=5).double()}
        student, teacher = tiny.model("causal_lm", seed=4).double().train(), Ensemble(models, **how)
        terms = Terms.of(SoftTargets(temperature=2.0) + Labels() + SoftTargets(temperature=1.0).on("b"))
        pair = teacher.pair(Anatomy.of(student), task_of(student))
        distillation = Distillation(student, terms, pair, in_part=in_part)
        assert (distillation._vocabulary is not None) == in_part
        teacher.bind(distillation.reads().teacher)
        counts = Counts(tuple(float(count) for count in distillation.count(batch)))
        losses = distillation(batch, teacher.activations(batch), counts)
        losses.total.backward()
        gradients = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
        found.append((losses.total.detach(), losses.values, gradients))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_members_may_be_read_from_the_disk(tmp_path: Path) -> None:
    def ensemble() -> Ensemble:
        return Ensemble({"a": tiny.model("single_label", seed=3), "b": tiny.model("single_label", 3, seed=5)})

    def terms() -> Any:
        return SoftTargets(temperature=2.0) + Labels() + HiddenMSE(layer_map="final").on("b")

    rows = tiny.rows("single_label", 24, shortest=9, longest=9)
    plain = trained(ensemble(), terms(), rows=rows)
    cached = trainer_of(ensemble(), terms(), rows=rows)
    cached.cache_teacher(tmp_path, codec=codecs.make("float32", {}))
    assert isinstance(cached.teacher, Ensemble)
    held = {
        name: member.facts.signals for name, member in cached.teacher.members.items() if isinstance(member, Cached)
    }
    assert {name: {each.name for each in signals} for name, signals in held.items()} == {
        "a": {"logits"}, "b": {"logits", "hidden[3]"},
    }  # fmt: skip
    cached.train()
    assert tiny.distance(plain.model, cached.model) == 0.0
    mixed = Ensemble({"a": Cached(tmp_path / "a"), "b": tiny.model("single_label", 3, seed=5)})
    assert tiny.distance(plain.model, trained(mixed, terms(), rows=rows).model) == 0.0


def test_triplets_are_voted_on_by_teachers_of_any_width() -> None:
    models = {f"t{i}": tiny.model("single_label", 2 + i, 16 * (i + 2), seed=i + 5) for i in range(3)}
    trainer = trained(Ensemble(models), Labels() + VotedTriplets(), max_steps=2)
    logged = [entry["objective/voted_triplets"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(0.0 < each < 2.0 for each in logged)
    alone = trained(models["t1"], Labels() + VotedTriplets(), max_steps=1)
    assert alone.state.log_history[0]["objective/voted_triplets"] > 0.0


def test_the_record_names_every_teacher() -> None:
    models = {"a": tiny.model("single_label", seed=3), "b": tiny.model("single_label", 3, seed=5)}
    record = record_of(trained(Ensemble(models), SoftTargets(), max_steps=1))
    assert record.teacher is not None
    assert [each.num_hidden_layers for each in (record.teacher, *record.other_teachers)] == [2, 3]


# ---- what is refused ----


def two() -> dict[str, Any]:
    return {"a": tiny.model("single_label", seed=3), "b": tiny.model("single_label", seed=5)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": [1.0, -1.0]}, r"the weight of b is -1\.0; it must be a number at least 0"),
        ({"weights": [0.0, 0.0]}, "all weights are 0"),
        ({"weights": [1.0]}, r"1 weights for 2 members \(a, b\)"),
        ({"weights": "label"}, r"weights is 'label'.*it may be label_ce, entropy, softmax"),
        ({"combine": "mean"}, "combine is 'mean'"),
        ({"routing": "gold", "weights": [1.0, 1.0]}, "routing gives each row to one member"),
        ({"routing": "goal"}, r"routing is 'goal' \(did you mean 'gold'"),
        ({"tau": 0.0}, "tau is 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DistillationError, match=message):
        Ensemble(two(), **settings)


def test_what_is_no_member() -> None:
    for members, message in (
        ({}, "no members"),
        ({"a b": None}, "'a b' is no name"),
        ({"a": "some/model"}, "'some/model'; give a loaded model"),
        ({"a": MovingAverage()}, "a MovingAverage, is made of the student"),
        ({"a": Ensemble(two())}, "is an ensemble; list its members"),
        ({"a": Peers([two()["a"]]), "b": two()["b"]}, "'a' of an ensemble, a Peers, trains with the student"),
    ):
        with pytest.raises(DistillationError, match=message):
            Ensemble(members)
    assert list(Ensemble([Frozen(each) for each in two().values()]).members) == ["teacher_1", "teacher_2"]


def test_states_of_several_teachers_are_not_averaged() -> None:
    with pytest.raises(IncompatiblePair, match=r"'hidden_mse' reads what one model shows.*HiddenMSE\(…\)\.on\('a'\)"):
        trainer_of(Ensemble(two()), HiddenMSE(layer_map="final"))


def test_a_term_on_a_teacher_that_is_not_there() -> None:
    with pytest.raises(IncompatiblePair, match=r"on the teacher 'c', and the teachers are a, b"):
        trainer_of(Ensemble(two()), HiddenMSE(layer_map="final").on("c"))
    with pytest.raises(IncompatiblePair, match=r"on the teacher 'c', and there is one teacher"):
        trainer_of(two()["a"], HiddenMSE(layer_map="final").on("c"))


def test_an_average_of_probabilities_has_no_raw_logits() -> None:
    for objective in (SoftTargets(kind="logit_mse"), DKD(standardize=True)):
        with pytest.raises(
            IncompatiblePair, match="an average of probabilities has none; combine the teachers by 'logit'"
        ):
            bound(objective, "single_label", Combining(2))
    bound(SoftTargets(kind="logit_mse"), "single_label", Combining(2, "logit"))


def test_teachers_of_other_problems_and_labels_are_named() -> None:
    models = {"a": tiny.model("single_label", seed=3), "b": tiny.model("multi_label", seed=5)}
    with pytest.raises(IncompatiblePair, match=r"the teacher 'b': the student .* solves single_label.*multi_label"):
        trainer_of(Ensemble(models), SoftTargets())
    models["b"] = tiny.model("single_label", seed=5)
    models["b"].config.id2label = {0: "x", 1: "y", 2: "z"}
    with pytest.raises(IncompatiblePair, match=r"the teacher 'b': .*one side has no names"):
        trainer_of(Ensemble(models), SoftTargets())


def test_scores_have_no_laws_to_weigh_by() -> None:
    models = {"a": tiny.model("regression", seed=3), "b": tiny.model("regression", seed=5)}
    with pytest.raises(IncompatiblePair, match="the rule 'entropy' weighs teachers by the probability of classes"):
        trainer_of(Ensemble(models, weights="entropy"), SoftTargets(), "regression")


def test_rows_that_belong_to_no_teacher() -> None:
    from datasets import Dataset

    rows = Dataset.from_list([{**row, "domain": i % 3} for i, row in enumerate(tiny.rows("single_label", 16))])
    trainer = trainer_of(Ensemble(two(), routing="domain"), SoftTargets(), rows=rows)
    with pytest.raises(
        DataError, match="the column 'domain' holds 2; it must hold the number of a member, 0 to 1 for a, b"
    ):
        trainer.train()
    trainer = trainer_of(Ensemble(two(), routing="domain"), SoftTargets(), rows=rows.remove_columns("domain"))
    with pytest.raises(DataError, match="reads the column 'domain', and the data have"):
        trainer.train()
    trained(
        Ensemble(two(), routing="domain"), SoftTargets(), rows=rows.filter(lambda row: row["domain"] < 2), max_steps=1
    )


def test_the_largest_logits_alone_are_not_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_distill.teachers.cache import plan

    monkeypatch.setattr(plan, "WIDE_LOGITS", 1)
    models = {"a": tiny.model("causal_lm", seed=3), "b": tiny.model("causal_lm", seed=5)}
    trainer = trainer_of(Ensemble(models), SoftTargets(), "causal_lm")
    with pytest.raises(IncompatiblePair, match=r"largest logits alone \(codec top_k\) of several teachers"):
        trainer.cache_teacher(tmp_path, codec=codecs.make("top_k", {"k": 4, "temperatures": [2.0]}))
