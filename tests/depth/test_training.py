"""Training with a student in part against the whole student, through the trainer."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from torch._dynamo.utils import counters
from transformers import PreTrainedModel

import hf_distill.distillation
import hf_distill.teachers.frozen
from hf_distill import (
    DistillationError,
    DistillationTrainer,
    HiddenCosine,
    HiddenMSE,
    Labels,
    MiniLMv2,
    SoftTargets,
)
from hf_distill.depth import Run
from tests import tiny
from tests.tiny_models import CLASSIFIER, TOKENS
from tests.tiny_models import tiny as family_model

TERMS = {
    "logits": lambda: SoftTargets(temperature=2.0) + Labels(),
    "logits and a middle layer": lambda: SoftTargets() + HiddenMSE(layer_map=[(1, 2)]),
    "relations": lambda: MiniLMv2(relation_heads=2),
    "two depths": lambda: (
        0.5 * MiniLMv2(relation_heads=2, student_layer=2, teacher_layer=3) + HiddenMSE(layer_map=[(1, 4)])
    ),
    "all of the last layer": lambda: Labels() + HiddenCosine(layer_map="final"),
}


def classifiers(family: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout"), 0.0)
    dropout |= dict.fromkeys(("dropout", "seq_classif_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    student, teacher = (family_model(family, CLASSIFIER, layers=n, seed=n, **dropout) for n in (3, 4))
    for made in (student, teacher):
        made.set_attn_implementation("sdpa")
        for parameter in made.parameters():  # less wild, so that four steps stay in the same region
            parameter.data.mul_(0.5)
    return student, teacher


def trained(student: nn.Module, teacher: nn.Module, terms: str, **settings) -> DistillationTrainer:
    trainer = DistillationTrainer(
        model=copy.deepcopy(student),
        teacher=copy.deepcopy(teacher),
        objectives=TERMS[terms](),
        args=tiny.arguments(**{"learning_rate": 0.02, **settings}),
        train_dataset=tiny.rows("single_label"),
        eval_dataset=tiny.rows("single_label", number=8, seed=2),
        data_collator=tiny.Pad(),
    )
    trainer.train()
    return trainer


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch):
    """Makes everything run whole from then on."""

    def apply() -> None:
        for module in (hf_distill.distillation, hf_distill.teachers.frozen):
            monkeypatch.setattr(module, "shallow", lambda anatomy, signals: Run.whole(anatomy))

    return apply


def assert_same(part: DistillationTrainer, complete: DistillationTrainer) -> None:
    assert tiny.distance(part.model, complete.model) < 1e-6
    for ours, theirs in zip(part.state.log_history, complete.state.log_history, strict=True):
        shared = [key for key in ours if "runtime" not in key and "per_second" not in key]
        expected = {key: theirs[key] for key in shared}
        assert {key: ours[key] for key in shared} == pytest.approx(expected, rel=2e-5, abs=1e-6)
    assert part.evaluate()["eval_loss"] == pytest.approx(complete.evaluate()["eval_loss"], rel=1e-5)
    rows = part.eval_dataset
    torch.testing.assert_close(
        torch.tensor(part.predict(rows).predictions), torch.tensor(complete.predict(rows).predictions)
    )


@pytest.mark.parametrize("terms", TERMS)
def test_a_student_in_part_trains_as_the_whole_one(terms: str, whole) -> None:
    student, teacher = classifiers("bert")
    part = trained(student, teacher, terms, gradient_accumulation_steps=2)
    assert tiny.distance(part.model, student) > 1e-4
    whole()
    assert_same(part, trained(student, teacher, terms, gradient_accumulation_steps=2))


@pytest.mark.parametrize("family", ["distilbert", "albert", "modernbert", "deberta-v2", "gpt2", "llama"])
def test_students_of_other_families_do(family: str, whole) -> None:
    student, teacher = classifiers(family)
    terms = "logits and a middle layer"
    part = trained(student, teacher, terms)
    assert tiny.distance(part.model, student) > 1e-4
    whole()
    assert_same(part, trained(student, teacher, terms))


def test_an_adapted_student_does(whole) -> None:
    student, teacher = classifiers("bert")
    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules=["query", "value"], lora_dropout=0.0, task_type=TaskType.SEQ_CLS)
    adapted = get_peft_model(student, settings)
    part = trained(adapted, teacher, "logits", learning_rate=0.5)
    moved = {
        n
        for (n, a), b in zip(part.model.named_parameters(), adapted.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert any("lora_B" in name and "layer.2" in name for name in moved)
    assert all("lora" in name or "classifier" in name for name in moved)
    whole()
    assert_same(part, trained(adapted, teacher, "logits", learning_rate=0.5))


@pytest.mark.slow
def test_a_compiled_student_in_part_is_one_graph() -> None:
    student, teacher = classifiers("bert")
    expected = trained(student, teacher, "logits")
    torch._dynamo.reset()
    counters.clear()
    compiled = trained(student, teacher, "logits", torch_compile=True, torch_compile_backend="eager")
    assert tiny.distance(compiled.model, expected.model) < 1e-6
    assert not counters["graph_break"]


def test_evaluation_and_prediction_run_the_whole_student() -> None:
    student, teacher = classifiers("bert")
    trainer = trained(student, teacher, "relations")
    ran: list[str] = []
    for name, module in trainer.model.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    trainer.evaluate()
    whole_pass = set(ran)
    ran.clear()
    trainer.model(**{n: v for n, v in tiny.Pad()(tiny.rows("single_label", 2)).items() if n != "labels"})
    assert whole_pass == set(ran)


@pytest.mark.parametrize("terms", TERMS)
def test_what_gets_no_gradient_is_what_is_frozen(terms: str) -> None:
    """Engines wait for the gradients of all that is trained."""
    student, teacher = classifiers("bert")
    trainer = DistillationTrainer(model=student, teacher=teacher, objectives=TERMS[terms](), args=tiny.arguments())
    unreached = {id(parameter) for parameter in trainer.distillation.unreached()}
    trainer.compute_loss(trainer.model.train(), tiny.Pad()(tiny.rows("single_label", 3))).backward()
    assert unreached == {id(parameter) for parameter in student.parameters() if parameter.grad is None}


def test_a_whole_student_is_saved() -> None:
    student, teacher = classifiers("bert")
    trainer = trained(student, teacher, "relations")
    trainer.save_model()
    loaded = type(student).from_pretrained(trainer.args.output_dir)
    assert list(loaded.state_dict()) == list(student.state_dict())
    assert tiny.distance(loaded, trainer.model) == 0.0


def test_it_is_logged_what_runs(caplog: pytest.LogCaptureFixture) -> None:
    student, teacher = classifiers("bert")
    with caplog.at_level(logging.INFO, logger="hf_distill"):
        DistillationTrainer(model=student, teacher=teacher, objectives=TERMS["two depths"](), args=tiny.arguments())
    said = [record.getMessage() for record in caplog.records if " runs " in record.getMessage()]
    assert said == [
        "the student runs 2 of 3 layers, the last one as far as its projections, without a head while it trains",
        "the teacher runs 4 of 4 layers, without a head",
    ]


def test_a_model_read_at_every_position_is_called_as_it_is() -> None:
    student = family_model("bert", TOKENS, layers=2)
    trainer = DistillationTrainer(model=student, objectives=Labels(), args=tiny.arguments())
    assert trainer.distillation._capture.run.module is student


# ---- a student that is changed between the making of the trainer and the training ----


def language_model(terms=None, student: PreTrainedModel | None = None, **settings) -> DistillationTrainer:
    return DistillationTrainer(
        model=tiny.model("causal_lm", seed=1) if student is None else student,
        teacher=None if terms is None else tiny.model("causal_lm", hidden=48, seed=2),
        objectives=Labels() if terms is None else terms,
        args=tiny.arguments(max_steps=1),
        train_dataset=tiny.rows("causal_lm"),
        data_collator=tiny.Pad(),
        **settings,
    )


def still(model: nn.Module, trainer: DistillationTrainer) -> set[str]:
    """The parameters that a training leaves as they are."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer.train()
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    return {name for name, parameter in before.items() if torch.equal(parameter, after[name])}


def assign(model: nn.Module) -> None:
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)


def another_head(model: nn.Module) -> None:
    torch.manual_seed(7)
    model.lm_head = nn.Linear(32, 96, bias=False)


CHANGES = {
    "weights assigned": assign,
    "another head": another_head,
    "a larger vocabulary": lambda model: model.resize_token_embeddings(104, mean_resizing=False),
}


@pytest.mark.parametrize("large", [1, 4096])
@pytest.mark.parametrize("change", CHANGES)
def test_a_language_model_changed_before_training_trains(change: str, large: int, monkeypatch) -> None:
    monkeypatch.setattr("hf_distill.objectives.pair.LARGE_VOCABULARY", large)
    trainer = language_model()
    CHANGES[change](trainer.model)
    changed = copy.deepcopy(trainer.model)
    assert not still(trainer.model, trainer)
    expected = language_model(student=changed)
    expected.train()
    assert tiny.distance(trainer.model, expected.model) < 1e-6


def fewer_layers(model: nn.Module) -> None:
    model.bert.encoder.layer = nn.ModuleList(copy.deepcopy(layer) for layer in model.bert.encoder.layer[:2])
    model.config.num_hidden_layers = 2


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_classifier_changed_before_training_trains(family: str) -> None:
    student, teacher = classifiers(family)

    def made(model: nn.Module) -> DistillationTrainer:
        return DistillationTrainer(
            model=model,
            teacher=copy.deepcopy(teacher),
            objectives=SoftTargets() + Labels() + HiddenMSE(layer_map="last"),
            args=tiny.arguments(max_steps=1),
            train_dataset=tiny.rows("single_label"),
            data_collator=tiny.Pad(),
        )

    trainer = made(student)
    if family == "bert":
        fewer_layers(student)
    else:
        student.score = nn.Linear(32, 3, bias=False)
    expected = made(copy.deepcopy(student))
    expected.train()
    trainer.train()
    assert tiny.distance(trainer.model, expected.model) < 1e-6


def test_what_objectives_learned_stays_when_the_student_is_changed(monkeypatch) -> None:
    """Also where the terms are bound anew, to a student of another size."""
    monkeypatch.setattr("hf_distill.objectives.pair.LARGE_VOCABULARY", 1)
    for change in CHANGES:
        terms = HiddenMSE(layer_map="final") + Labels()
        trainer = language_model(terms)
        learned = trainer.distillation.objectives
        with torch.no_grad():
            for parameter in learned.parameters():
                parameter.fill_(0.25)
        trainer.args.learning_rate = 0.0
        if change != "a larger vocabulary":
            CHANGES[change](trainer.model)
        else:
            fewer = trainer.model.model.layers[:1]
            trainer.model.model.layers = fewer
        trainer.train()
        assert trainer.distillation.is_current
        held = list(trainer.distillation.objectives.parameters())
        assert held
        assert all(bool((parameter == 0.25).all()) for parameter in held)


def test_nothing_is_made_anew_for_a_student_that_stayed() -> None:
    trainer = language_model()
    capture = trainer.distillation._capture
    trainer.train()
    trainer.train()
    assert trainer.distillation._capture is capture


def test_an_optimizer_of_parameters_that_were_replaced_is_refused() -> None:
    student = tiny.model("causal_lm", seed=1)
    trainer = language_model(student=student, optimizers=(torch.optim.SGD(student.parameters(), lr=0.1), None))
    assign(student)
    with pytest.raises(DistillationError, match=r"21 of the 21 parameters .* no longer the student's"):
        trainer.train()
    trainer.optimizer = None
    trainer.train()
