"""Terms over a large vocabulary in chunks: the values and gradients of logits taken whole, without those logits."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer

from hf_distill import DistillationError, DistillationTrainer, HiddenCosine, vocabulary
from hf_distill.activations import Needs, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.chunks import RowLoss, Rows, Sizes, ThroughHead
from hf_distill.distillation import Counts, Distillation, Losses
from hf_distill.objectives import (
    DKD,
    Annealing,
    Labels,
    Pair,
    PretrainingDistillation,
    SoftTargets,
    StandardizedKL,
    TfKDReg,
    TokenwiseKD,
    WeightedSoftCE,
)
from hf_distill.objectives.response.soft_targets import KINDS
from hf_distill.objectives.terms import Terms
from hf_distill.runs.stages import StageTrainer
from hf_distill.tasks import task_of
from hf_distill.teachers import Frozen
from tests import tiny, tiny_models
from tests.processes import on_processes
from tests.test_invariance import trained

LANGUAGE_MODELS = ("masked_lm", "causal_lm", "seq2seq_lm")
SMALL = Sizes(chunk=6, block=2)


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every vocabulary goes through the head in chunks, of a few rows."""
    monkeypatch.setattr("hf_distill.objectives.pair.LARGE_VOCABULARY", 1)
    monkeypatch.setattr(Sizes, "of", classmethod(lambda cls, *_: SMALL))


def batch_of(task: str, number: int = 4, extra: int = 0, seed: int = 1) -> dict[str, Tensor]:
    return tiny.Pad(extra)(tiny.rows(task, number, seed=seed))


class Outcome:
    """Losses and gradients of one forward and backward pass."""

    def __init__(self, losses: Losses, student: nn.Module) -> None:
        self.total, self.values = losses.total.detach(), losses.values
        self.gradients = {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}

    def assert_equals(self, other: Outcome, relative: float, absolute: float) -> None:
        torch.testing.assert_close(self.total, other.total, rtol=relative, atol=absolute)
        torch.testing.assert_close(self.values, other.values, rtol=relative, atol=absolute)
        assert self.gradients.keys() == other.gradients.keys()
        for name, gradient in other.gradients.items():
            error, size = (self.gradients[name] - gradient).abs().max(), gradient.abs().max()
            assert float(error) <= absolute + relative * float(size), name


def outcome(
    student: nn.Module,
    teacher: nn.Module | None,
    terms: Any,
    batches: list[dict[str, Tensor]],
    *,
    in_part: bool,
    label_smoothing: float = 0.0,
    tokenizer_size: int | None = None,
    logits_alone: bool = False,
    autocast: bool = False,
    upstream: float = 1.0,
    mode: bool = False,
) -> Outcome:
    """One accumulation window over the batches, on a copy of the student; `mode` is that of a model that trains."""
    student = copy.deepcopy(student).train(mode)  # some families have dropout
    terms = Terms.of(copy.deepcopy(terms))
    frozen = None if teacher is None else Frozen(copy.deepcopy(teacher))
    anatomy, task = Anatomy.of(student), task_of(student)
    teacher_anatomy = None if frozen is None else frozen.anatomy
    pair = Pair.of(anatomy, teacher_anatomy, task, label_smoothing=label_smoothing, tokenizer_size=tokenizer_size)
    head = None if frozen is None or logits_alone else frozen.head
    distillation = Distillation(student, terms, pair, in_part=in_part, teacher_head=head)
    assert (distillation._vocabulary is not None) == in_part
    if frozen is not None:
        frozen.bind(distillation.reads().teacher)
    counted = [distillation.count(batch) for batch in batches]
    counts = Counts(tuple(float(max(sum(column), 1)) for column in zip(*counted, strict=True)))
    added: list[Losses] = []
    for batch in batches:
        shown = frozen.activations(batch) if frozen is not None and distillation.reads().teacher else None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            losses = distillation(batch, shown, counts)
        (losses.total * upstream).backward()
        assert losses.outputs is None
        added.append(losses)
    distillation.close()
    total = sum(losses.total for losses in added)
    values = sum(losses.values for losses in added)
    return Outcome(Losses(total, values), student)


def compare(student: nn.Module, teacher: nn.Module | None, terms: Any, batches: Any, **settings: Any) -> None:
    """Both ways, in float64 and in float32."""
    for dtype, relative, absolute in ((torch.float64, 1e-10, 1e-12), (torch.float32, 1e-5, 1e-5)):
        models = student.to(dtype), None if teacher is None else teacher.to(dtype)
        whole, parts = (outcome(*models, terms, batches, in_part=in_part, **settings) for in_part in (False, True))
        parts.assert_equals(whole, relative, absolute)


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("task", LANGUAGE_MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_equals_the_whole_logits(task: str, kind: str) -> None:
    terms = 0.7 * SoftTargets(kind=kind, temperature=1.5) + 2.0 * Labels()
    student, teacher = tiny.model(task, seed=1), tiny.model(task, layers=3, hidden=48, seed=2)
    compare(student, teacher, terms, [batch_of(task)])


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "cross_entropy", "jsd", "skew_kl", "skew_rkl"])
def test_words_that_both_models_rule_out(kind: str) -> None:
    """As the rows beyond the tokenizer are, by a bias of -inf, and in a student that was cut from such a teacher."""
    student, teacher = tiny.model("masked_lm", seed=1), tiny.model("masked_lm", seed=2)
    for model in (student, teacher):
        with torch.no_grad():
            model.cls.predictions.bias[-4:] = -torch.inf
    terms = SoftTargets(kind=kind, temperature=1.5) + WeightedSoftCE()
    compare(student, teacher, terms, [batch_of("masked_lm")])


SETTINGS = [
    ("masked_lm", SoftTargets(tokens="masked") + Labels()),
    ("masked_lm", SoftTargets(reduction="example_mean") + 0.5 * PretrainingDistillation(alpha=0.3, temperature=2.0)),
    ("masked_lm", 3.0 * SoftTargets(reduction="element_mean") + HiddenCosine(layer_map="final")),
    ("masked_lm", Terms.of(Labels())),
    ("causal_lm", SoftTargets(tokens="attention", reduction="example_mean") + Labels(label_smoothing=0.1)),
    ("causal_lm", SoftTargets() + 0.0 * SoftTargets(kind="jsd", beta=0.3, temperature=1.0)),
    ("seq2seq_lm", SoftTargets(reduction="example_mean") + Labels()),
    ("causal_lm", SoftTargets(top_k=5) + SoftTargets(kind="jsd", top_k=3, temperature=1.0)),
    ("masked_lm", DKD(beta=2.0, temperature=1.5) + StandardizedKL() + TokenwiseKD(tokens="masked")),
    ("causal_lm", TokenwiseKD(direction="student_first", temperature=2.0) + TfKDReg(temperature=2.0)),
    ("seq2seq_lm", WeightedSoftCE() + Annealing()),
]


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize(("task", "terms"), SETTINGS, ids=lambda value: str(value).replace(" ", ""))
def test_rows_reductions_and_other_terms(task: str, terms: Terms) -> None:
    """Over two micro-batches of unequal length, padded further, with a scaled loss."""
    student, teacher = tiny.model(task, seed=1), tiny.model(task, layers=3, seed=2)
    batches = [batch_of(task, 3), batch_of(task, 2, extra=5, seed=2)]
    compare(student, teacher, terms, batches, upstream=128.0)


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("task", LANGUAGE_MODELS)
def test_label_smoothing_of_the_arguments(task: str) -> None:
    compare(tiny.model(task, seed=1), None, Terms.of(Labels()), [batch_of(task)], label_smoothing=0.2)


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_every_head_of_the_table(family: str) -> None:
    """With its transform, its scale, its bias, its tie to the embeddings."""
    teacher, student = (tiny_models.tiny(family, layers=layers, seed=layers) for layers in (3, 1))
    batch = {name: value[:1] for name, value in tiny_models.batch(family).items()}  # the text without padding
    ids = batch.get("decoder_input_ids", batch["input_ids"])
    left_out = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    batch["labels"] = ids.masked_fill(left_out, -100)
    compare(student, teacher, SoftTargets() + Labels(), [batch])


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize(("family", "tied"), [("bert", False), ("llama", True), ("t5", False)])
def test_tied_and_untied_heads(family: str, tied: bool) -> None:
    teacher, student = (tiny_models.tiny(family, layers=n, seed=n, tie_word_embeddings=tied) for n in (2, 1))
    batch = tiny_models.batch(family)
    batch["labels"] = batch.get("decoder_input_ids", batch["input_ids"]).clone()
    compare(student, teacher, SoftTargets() + Labels(), [batch])


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("sizes", [(104, 96), (96, 104)])
def test_a_vocabulary_padded_beyond_the_tokenizer(sizes: tuple[int, int]) -> None:
    student, teacher = (
        tiny_models.tiny("llama", layers=1, seed=seed, vocab_size=size) for seed, size in enumerate(sizes)
    )
    batch = tiny_models.batch("llama")
    batch["labels"] = batch["input_ids"].clone()
    compare(student, teacher, SoftTargets() + Labels(), [batch], tokenizer_size=96)


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "lm_head"]])
@pytest.mark.parametrize("saved", [None, ["lm_head"]])
def test_adapters_below_and_on_the_head(targets: list[str], saved: list[str] | None) -> None:
    if saved and "lm_head" in targets:
        targets = ["v_proj"]
    student = tiny_models.tiny("llama", layers=1, seed=1)
    adapted = get_peft_model(student, LoraConfig(target_modules=targets, modules_to_save=saved, r=2))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(3))
    batch = tiny_models.batch("llama")
    batch["labels"] = batch["input_ids"].clone()
    compare(adapted, tiny_models.tiny("llama", layers=2, seed=2), SoftTargets() + Labels(), [batch])


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("task", LANGUAGE_MODELS)
def test_a_teacher_that_gives_its_logits_alone(task: str) -> None:
    student, teacher = tiny.model(task, seed=1), tiny.model(task, layers=3, hidden=48, seed=2)
    compare(student, teacher, SoftTargets() + Labels(), [batch_of(task)], logits_alone=True)


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("task", ["masked_lm", "causal_lm"])
def test_half_precision_models_and_autocast(task: str, autocast: bool) -> None:
    """Losses are float32, and as far from a float32 model as logits taken whole are, give or take."""
    dtype = torch.float32 if autocast else torch.bfloat16
    models = tiny.model(task, seed=1), tiny.model(task, layers=3, seed=2)
    given = (SoftTargets() + Labels(), [batch_of(task, 8)])
    exact = outcome(*models, *given, in_part=False)
    models = tuple(model.to(dtype) for model in models)
    whole, parts = (outcome(*models, *given, in_part=in_part, autocast=autocast) for in_part in (False, True))
    assert parts.total.dtype == parts.values.dtype == torch.float32
    torch.testing.assert_close(parts.values, whole.values, rtol=2e-2, atol=0)
    for name, gradient in exact.gradients.items():
        assert parts.gradients[name].dtype == whole.gradients[name].dtype == dtype
        errors = [float((found.gradients[name].float() - gradient).norm()) for found in (whole, parts)]
        assert errors[1] <= 1.5 * errors[0] + 1e-6, name


@pytest.mark.usefixtures("small_is_large")
def test_a_head_of_another_type_than_the_body() -> None:
    """As a loader leaves it that keeps the head in float32; the models run in mixed precision."""
    student = tiny.model("causal_lm", seed=1).to(torch.bfloat16)
    student.lm_head.float()
    teacher = tiny.model("causal_lm", layers=3, seed=2)
    given = (SoftTargets() + Labels(), [batch_of("causal_lm")])
    whole, parts = (outcome(student, teacher, *given, in_part=part, autocast=True) for part in (False, True))
    torch.testing.assert_close(parts.values, whole.values, rtol=1e-2, atol=0)
    assert parts.gradients.keys() == whole.gradients.keys()
    assert parts.gradients["lm_head.weight"].dtype == torch.float32


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("adapted", [False, True])
def test_a_head_that_trains_alone(adapted: bool) -> None:
    """What it reads carries no gradient, and needs none."""
    student = tiny.model("causal_lm", seed=1)
    if adapted:
        student = get_peft_model(student, LoraConfig(target_modules=["lm_head"], r=2))
    else:
        student.requires_grad_(False).lm_head.requires_grad_(True)
    given = (tiny.model("causal_lm", layers=3, seed=2), SoftTargets() + Labels(), [batch_of("causal_lm")])
    whole, parts = (outcome(student, *given, in_part=in_part, mode=True) for in_part in (False, True))
    assert parts.gradients
    assert all("lm_head" in name for name in parts.gradients)
    parts.assert_equals(whole, 1e-5, 1e-6)


@pytest.mark.usefixtures("small_is_large")
def test_nothing_that_trains_is_refused() -> None:
    """The head is frozen, and nothing that trains is below it."""
    student = tiny.model("causal_lm", seed=1).requires_grad_(False)
    student.register_parameter("beside", nn.Parameter(torch.zeros(1)))
    with pytest.raises(DistillationError, match="final carry no gradient"):
        outcome(student, None, Terms.of(Labels()), [batch_of("causal_lm")], in_part=True, mode=True)


# ---- under the Trainer ----


@pytest.mark.parametrize("task", LANGUAGE_MODELS)
def test_a_run_gives_the_student_of_a_run_with_whole_logits(task: str, request: pytest.FixtureRequest) -> None:
    """Four steps of every objective at once, in micro-batches; logs and evaluation, too."""
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    whole = trained(task) if task != "seq2seq_lm" else seq2seq_run()
    request.getfixturevalue("small_is_large")
    parts = trained(task, **cut) if task != "seq2seq_lm" else seq2seq_run(**cut)
    assert whole.distillation._vocabulary is None
    assert parts.distillation._vocabulary is not None
    assert tiny.distance(whole.distillation, parts.distillation) < 1e-6
    logs = [[row for row in run.state.log_history if "loss" in row] for run in (whole, parts)]
    for expected, found in zip(*logs, strict=True):
        keys = [key for key in expected if key.startswith(("objective/", "weighted/")) or key == "loss"]
        assert {key: found[key] for key in keys} == pytest.approx({key: expected[key] for key in keys}, abs=2e-5)
    data = tiny.rows(task, 21)
    assert parts.evaluate(data)["eval_loss"] == pytest.approx(whole.evaluate(data)["eval_loss"], abs=1e-5)


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("task", ["masked_lm", "causal_lm"])
def test_a_stage_without_a_teacher_gives_the_student_of_the_plain_trainer(task: str) -> None:
    """And makes the logits of no word that has no label; these are made whole by the plain Trainer."""
    runs: dict[type[Trainer], tuple[Trainer, list[int]]] = {}
    for kind in (Trainer, StageTrainer):
        given = {
            "args": tiny.arguments(max_steps=-1, num_train_epochs=1),
            "train_dataset": tiny.rows(task),
            "data_collator": tiny.Pad(),
        }
        trainer = kind(model=tiny.model(task, seed=1), **given)
        rows: list[int] = []
        head = trainer.model.get_output_embeddings()
        head.register_forward_hook(lambda _, inputs, __, rows=rows: rows.append(inputs[0].shape[:-1].numel()))
        trainer.train()
        runs[kind] = trainer, rows
    (plain, whole), (ours, counted) = runs.values()
    assert tiny.distance(ours.model, plain.model) < 1e-6
    batches = list(ours.get_train_dataloader())
    first = 1 if task == "causal_lm" else 0  # nothing stands before the first word that could predict it
    labels = sum(int((batch["labels"][:, first:] != -100).sum()) for batch in batches)
    assert sum(whole) == sum(batch["labels"].numel() for batch in batches)
    assert sum(counted) == labels < sum(whole)


def seq2seq_run(**settings: Any) -> DistillationTrainer:
    trainer = DistillationTrainer(
        model=tiny.model("seq2seq_lm", seed=1),
        teacher=tiny.model("seq2seq_lm", layers=3, hidden=48, seed=2),
        objectives=0.5 * SoftTargets(kind="jsd") + 0.5 * Labels(),
        args=tiny.arguments(**settings),
        train_dataset=tiny.rows("seq2seq_lm"),
        data_collator=tiny.Pad(),
    )
    trainer.train()
    return trainer


@pytest.mark.slow
def test_two_ranks_equal_one_process_with_whole_logits(tmp_path: Path) -> None:
    """The head's parameters are reached through the pass alone, and their gradients are exchanged all the same."""
    script = Path(__file__).parent / "distributed" / "train_in_chunks.py"
    on_processes(script, tmp_path, "masked_lm", "causal_lm")
    for task in ("masked_lm", "causal_lm"):
        expected = dict(trained(task).distillation.named_parameters(remove_duplicate=False))
        for rank in (0, 1):
            state = load_file(tmp_path / f"{task}-{rank}.safetensors")
            for name, parameter in expected.items():
                torch.testing.assert_close(state[name], parameter.detach(), rtol=0, atol=1e-6)


# ---- what is not computed ----


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operator gave."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return output


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("task", LANGUAGE_MODELS)
@pytest.mark.parametrize("number", [8, 32])
def test_no_tensor_is_larger_than_a_chunk_of_logits_or_the_head(task: str, number: int) -> None:
    """However many rows there are: 96 words, states 32 wide, chunks of 6."""
    student, teacher = tiny.model(task, seed=1, layers=1), tiny.model(task, layers=1, seed=2)
    batch, terms = batch_of(task, number), SoftTargets(kind="jsd") + Labels()
    with Largest() as parts:
        outcome(student, teacher, terms, [batch], in_part=True)
    with Largest() as whole:
        outcome(student, teacher, terms, [batch], in_part=False)
    states = batch["labels"].numel() * 128  # of the widest layer
    assert parts.numel <= max(96 * 32, SMALL.chunk * 96, states)
    assert whole.numel >= (batch["labels"].numel() - number) * 96


def test_the_logits_of_a_chunk_are_gone_when_those_of_the_next_are_made() -> None:
    """Of both models."""
    weight, made = nn.Parameter(torch.randn(7, 3)), list[Any]()

    def logits(states: Tensor) -> Tensor:
        assert [of for of in made if of() is not None] == []
        found = nn.functional.linear(states, weight)
        made.append(weakref.ref(found))
        return found

    def teacher(positions: Tensor) -> Tensor:
        found = torch.randn(len(positions), 7)
        made.append(weakref.ref(found))
        return found

    losses: list[RowLoss] = [lambda z, against, _: (z - against).square().sum(-1)]
    total = ThroughHead(logits, teacher, losses, [1.0], [weight], [])(
        torch.randn(2, 9, 3, requires_grad=True), Rows(torch.ones(1, 18), SMALL)
    ).total
    total.backward()
    assert len(made) == 2 * 3


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize(("terms", "part"), [(Terms.of(Labels()), "labeled"), (SoftTargets() + Labels(), "real")])
def test_heads_run_over_the_rows_that_count_alone(terms: Terms, part: str) -> None:
    student, teacher = tiny.model("masked_lm", seed=1), tiny.model("masked_lm", layers=3, seed=2)
    batch = batch_of("masked_lm", 8, extra=4)
    batch["labels"][:, ::2] = -100
    rows: dict[str, list[int]] = {"student": [], "teacher": []}
    for name, model in (("student", student), ("teacher", teacher)):
        decoder = model.cls.predictions.decoder
        decoder.register_forward_hook(lambda _, inputs, __, name=name: rows[name].append(inputs[0].shape[:-1].numel()))
    outcome(student, teacher, copy.deepcopy(terms), [batch], in_part=True)
    labeled, real = int((batch["labels"] != -100).sum()), int(batch["attention_mask"].sum())
    expected = labeled if part == "labeled" else real
    assert max(rows["student"]) <= SMALL.chunk
    # One more row tells, when the pass is set up, which parameters the head has.
    assert sum(rows["student"]) - 1 == expected
    assert sum(rows["teacher"]) == (0 if part == "labeled" else expected)


@pytest.mark.usefixtures("small_is_large")
def test_a_batch_without_rows_that_count() -> None:
    batch = batch_of("causal_lm")
    batch["labels"].fill_(-100)
    student = tiny.model("causal_lm", seed=1)
    found = outcome(student, tiny.model("causal_lm", seed=2), SoftTargets() + Labels(), [batch], in_part=True)
    assert float(found.total) == 0.0
    assert found.gradients.keys() == dict(student.named_parameters()).keys()
    assert not any(gradient.any() for gradient in found.gradients.values())


# ---- where logits are taken whole ----


class Mixed(SoftTargets):
    """Looks at all rows at once."""

    def forward(self, student: Any, teacher: Any, batch: Any) -> Tensor:
        return self.values(student, teacher, batch).std()


class TeachersWords(HiddenCosine):
    """Reads the teacher's logits, and no rows of the student's."""

    def needs(self) -> Needs:
        return Needs(super().needs().student, frozenset({Signal("logits")}))


def bound(task: str, terms: Any, **settings: Any) -> vocabulary.Vocabulary | None:
    student, teacher = tiny.model(task, seed=1), tiny.model(task, seed=2)
    pair = Pair.of(Anatomy.of(student), Anatomy.of(teacher), task_of(student))
    return Distillation(student, Terms.of(terms), pair, **settings)._vocabulary


def test_a_small_vocabulary_is_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bound("masked_lm", SoftTargets()) is None
    monkeypatch.setattr("hf_distill.objectives.pair.LARGE_VOCABULARY", 95)
    assert bound("masked_lm", SoftTargets()) is not None
    monkeypatch.setattr("hf_distill.objectives.pair.LARGE_VOCABULARY", 96)
    assert bound("masked_lm", SoftTargets()) is None


@pytest.mark.usefixtures("small_is_large")
def test_what_needs_whole_logits_gets_them() -> None:
    assert bound("causal_lm", SoftTargets() + Labels()) is not None
    assert bound("causal_lm", Mixed() + Labels()) is None
    assert bound("causal_lm", SoftTargets() + Labels(), in_part=False) is None
    assert bound("single_label", SoftTargets() + Labels()) is None
    assert bound("causal_lm", HiddenCosine(layer_map="final")) is None
    assert bound("causal_lm", Labels() + TeachersWords()) is None


@pytest.mark.usefixtures("small_is_large")
def test_the_log_says_what_is_taken_in_chunks(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "hf_distill"):
        bound("causal_lm", SoftTargets() + Labels() + HiddenCosine(layer_map="final"))
    assert "soft_targets, labels: taken over 96 words in chunks of rows" in caplog.text


@pytest.mark.usefixtures("small_is_large")
def test_the_log_says_what_is_taken_whole_and_how_large_it_is(caplog: pytest.LogCaptureFixture) -> None:
    student, known = tiny_models.tiny("opt", word_embed_proj_dim=16), tiny_models.tiny("llama")
    task = task_of(student)
    for pair in ((student, known), (known, student)):
        first, second = map(Anatomy.of, pair)
        head = Frozen(pair[1]).head
        Distillation(pair[0], Terms.of(SoftTargets() + Labels()), Pair.of(first, second, task), teacher_head=head)
    whole = [record.getMessage() for record in caplog.records if "taken whole" in record.getMessage()]
    assert len(whole) == 2
    assert "the student's logits are taken whole (the head of OPTForCausalLM has no row in the family" in whole[0]
    assert "the teacher's logits are taken whole" in whole[1]
    assert all("1,000 tokens of 96 words are 0 MB" in each for each in whole)


# ---- the pass alone ----


def test_a_pass_is_differentiated_once() -> None:
    hidden = torch.randn(1, 5, 4, requires_grad=True)
    through_head = ThroughHead(lambda x: x, lambda _: None, [lambda z, *_: z.sum(-1)], [1.0], [], [])
    total = through_head(hidden, Rows(torch.ones(1, 5), SMALL)).total
    total.backward(retain_graph=True)
    with pytest.raises(DistillationError, match="differentiated twice"):
        total.backward()


@pytest.mark.parametrize("autocast", [False, True])
def test_a_bias_that_is_computed_gets_its_gradient(autocast: bool) -> None:
    weight, scale = (torch.randn(size, requires_grad=True) for size in ((7, 4), (7,)))
    hidden, fixed = torch.randn(1, 5, 4), torch.randn(7)

    def head(states: Tensor) -> Tensor:
        return nn.functional.linear(states, weight, scale * fixed)

    losses = [lambda logits, *_: logits.float().logsumexp(-1)]
    through_head = ThroughHead(head, lambda _: None, losses, [1.0], [weight, scale], [])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        through_head(hidden, Rows(torch.ones(1, 5), Sizes(2, 1))).total.backward()
    expected = torch.autograd.grad(head(hidden).logsumexp(-1).sum(), [weight, scale])
    tolerance = 5e-2 if autocast else 1e-5
    torch.testing.assert_close((weight.grad, scale.grad), expected, rtol=tolerance, atol=tolerance)


def test_the_gradient_of_a_head_in_float16_is_as_large_as_it_has_to_be() -> None:
    """Its sum over the rows of a chunk is beyond the largest float16, 65504; what each row has is not."""
    rows, width = 2048, 4
    linear = nn.Linear(width, 8)
    with torch.no_grad():
        linear.weight.zero_()
    hidden = torch.full((1, rows, width), 64.0)
    losses = [lambda logits, *_: -logits.float().log_softmax(-1)[:, 0]]
    parameters = list(linear.parameters())
    through_head = ThroughHead(linear, lambda _: None, losses, [1 / rows], parameters, [])
    with torch.autocast("cpu", dtype=torch.float16):
        through_head(hidden, Rows(torch.ones(1, rows), Sizes(rows, rows))).total.backward()
    exact = torch.softmax(linear.bias.detach(), 0) - nn.functional.one_hot(torch.tensor(0), 8)
    torch.testing.assert_close(linear.bias.grad, exact, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(linear.weight.grad, 64 * exact.unsqueeze(1).expand(8, width), rtol=2e-3, atol=1e-2)


def test_rows_that_the_same_losses_count_lie_together() -> None:
    weights = torch.tensor([[1.0, 0.0, 2.0, 0.0, 3.0, 0.0], [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]])
    rows = Rows(weights, Sizes(4, 2))
    assert rows.positions.tolist() == [0, 4, 3, 2, 1, 5]
    assert rows.weights.tolist() == [[1, 3, 0, 2, 0, 0], [1, 1, 1, 0, 0, 0]]
    assert rows.numbers() == [[2, 1, 0], [2, 1, 0], [2, 2, 0]]


@pytest.mark.parametrize(("columns", "chunk", "block"), [(30522, 272, 17), (49152, 170, 10), (151936, 126, 3)])
def test_the_size_of_a_chunk_on_a_cpu(columns: int, chunk: int, block: int) -> None:
    assert Sizes.of(columns, torch.device("cpu")) == (chunk, block)


def test_the_size_of_a_chunk_on_an_accelerator() -> None:
    assert Sizes.of(151936, torch.device("meta")) == (441, 441)
    assert Sizes.of(4097, torch.device("meta")) == (4096, 4096)
