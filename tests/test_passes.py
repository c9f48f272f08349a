"""Passes beside the main one: what each makes of a batch, and what it shows of a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from hf_distill.activations import MAIN, Activations, Pass, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.passes import FOUND, Distorted, InputGradient, Kind, Noisy, Partner, Passes, same_table
from hf_distill.teachers import Frozen
from tests import tiny, tiny_models

LOGITS = Signal("logits")
FAMILIES = (
    "bert",
    "roberta",
    "distilbert",
    "albert",
    "electra",
    "modernbert",
    "mobilebert",
    "gpt2",
    "llama",
    "t5",
    "bart",
)


def batch(left: bool = False) -> dict[str, Tensor]:
    ids = torch.tensor([[5, 6, 7, 8, 2], [9, 4, 2, 0, 0], [3, 2, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    found = {"input_ids": ids, "attention_mask": mask}
    found = {name: value.flip(1) for name, value in found.items()} if left else found
    return {**found, "labels": torch.tensor([0, 2, 1])}


def classifier(family: str = "bert", **changes: Any) -> PreTrainedModel:
    return tiny_models.tiny(family, tiny_models.CLASSIFIER, layers=2, **changes)


def passes_of(model: PreTrainedModel, *sources: Pass, field: str = "logits", role: str = "student") -> Passes:
    return Passes(Anatomy.of(model), {Signal(field, source=source) for source in sources}, role)


def shown(passes: Passes, given: dict[str, Tensor], teacher: Activations | None = None) -> Activations:
    return passes.show(given, Activations(mask=given["attention_mask"]), teacher)


# ---- gradients of the input ----


def expected_gradient(model: PreTrainedModel, given: dict[str, Tensor], source: InputGradient, graph: bool) -> Tensor:
    """By embeddings that are handed to the model."""
    embeddings = model.get_input_embeddings()(given["input_ids"]).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings, attention_mask=given["attention_mask"]).logits
    if source.scalar == "cross_entropy":
        value = sum(
            functional.cross_entropy(row[None], label[None])
            for row, label in zip(logits, given["labels"], strict=True)
        )
    else:
        classes = logits.argmax(-1) if source.target == "teacher" else given["labels"]
        value = sum(row[c] for row, c in zip(logits, classes, strict=True))
    return torch.autograd.grad(value, embeddings, create_graph=graph)[0]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "source", [InputGradient(), InputGradient(target="label"), InputGradient(scalar="cross_entropy", target="label")]
)
def test_the_gradient_and_its_gradient_are_those_of_a_plain_model(source: InputGradient, attention: str) -> None:
    model, given = classifier(), batch()
    expected = expected_gradient(model, given, source, graph=True)
    weights = (
        torch.randn(expected.shape, generator=torch.Generator().manual_seed(0)) * given["attention_mask"][..., None]
    )
    (expected * weights).square().sum().backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.set_attn_implementation(attention)
    passes = passes_of(model, source, field="input_gradient")
    found = shown(passes, given).in_pass(source).input_gradient
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not found[~given["attention_mask"].bool()].any()
    (found * weights).square().sum().backward()
    table = model.get_input_embeddings().weight
    for name, parameter in model.named_parameters():
        if parameter is table:  # of which the embeddings that were handed over do not depend
            assert parameter.grad is not None
        elif name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_every_family_moves_its_logit(family: str) -> None:
    """Against differences: a small step along the gradient of one example."""
    model, source = classifier(family).double(), InputGradient(target="label")
    given = batch()
    if family in ("roberta", "bart"):
        given["input_ids"] = given["input_ids"].masked_fill(given["attention_mask"] == 0, 1)
    small = 1e-6 if family == "mobilebert" else 1e-4  # ReLUs have kinks, norms that work in float32 have noise
    passes = Passes(Anatomy.of(model), {Signal("input_gradient", source=source)}, "teacher")
    with torch.no_grad():
        gradient = shown(passes, given).in_pass(source).input_gradient
        assert gradient.shape[:2] == given["input_ids"].shape
        assert gradient.any()
        size = gradient.square().sum((1, 2), keepdim=True).sqrt()
        step = small * gradient / size.clamp(min=1e-12)
        values = []
        for sign in (1.0, -1.0):
            with passes._embeddings.within(sign * step):
                logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
            values.append(logits.gather(1, given["labels"][:, None]).squeeze(1))
    torch.testing.assert_close((values[0] - values[1]) / (2 * small), size.flatten(), rtol=1e-3, atol=1e-9)


def test_dropout_is_off_in_the_gradient_and_on_afterwards() -> None:
    model = classifier(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5).train()
    source, given = InputGradient(target="label"), batch()
    passes = passes_of(model, source, field="input_gradient")
    first, second = (shown(passes, given).in_pass(source).input_gradient for _ in range(2))
    assert torch.equal(first, second)
    assert all(module.training for module in model.modules())


def test_the_student_takes_the_class_of_its_teacher() -> None:
    student, teacher, given = classifier(seed=1), classifier(seed=2), batch()
    columns = (2, 0, 1)
    source = InputGradient(columns=columns)
    frozen = Frozen(teacher)
    frozen.bind(frozenset({Signal("input_gradient", source=source)}))
    theirs = frozen.activations(given)
    with torch.no_grad():
        logits = teacher(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
    classes = torch.tensor([columns.index(column) for column in logits.argmax(-1).tolist()])
    assert torch.equal(theirs.in_pass(source).drawn["classes"], classes)
    assert not theirs.in_pass(source).input_gradient.requires_grad
    found = shown(passes_of(student, source, field="input_gradient"), given, theirs).in_pass(source).input_gradient
    by_label = InputGradient(target="label")
    expected = expected_gradient(student, {**given, "labels": classes}, by_label, graph=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_an_unlabelled_example_has_no_gradient() -> None:
    given = batch()
    given["labels"][1] = -100
    for scalar in ("logit", "cross_entropy"):
        source = InputGradient(scalar=scalar, target="label")
        found = shown(passes_of(classifier(), source, field="input_gradient"), given).in_pass(source).input_gradient
        assert not found[1].any()
        assert found[0].any()


def test_a_frozen_table_still_gives_a_gradient() -> None:
    model, source = classifier(), InputGradient(target="label")
    model.get_input_embeddings().requires_grad_(False)
    found = shown(passes_of(model, source, field="input_gradient"), batch()).in_pass(source).input_gradient
    found.square().sum().backward()
    assert model.classifier.weight.grad.any()
    assert model.get_input_embeddings().weight.grad is None


def test_an_attention_without_second_derivative_is_refused() -> None:
    model = classifier()
    model.config._attn_implementation_internal = "flash_attention_2"
    source = InputGradient()
    with pytest.raises(
        IncompatiblePair, match=r"'flash_attention_2', which has no second derivative.*'eager' or 'sdpa'"
    ):
        passes_of(model, source, field="input_gradient")
    passes_of(model, source, field="input_gradient", role="teacher")  # which is differentiated once
    passes_of(model, Noisy())


# ---- noise ----


@pytest.mark.parametrize("left", [False, True])
def test_both_models_see_the_same_noise(left: bool) -> None:
    student, teacher, given = classifier(seed=1), classifier(seed=2), batch(left)
    sources = [Noisy(number=number, sigma=0.5) for number in (1, 2)]
    frozen = Frozen(teacher)
    frozen.bind(frozenset(Signal("logits", source=source) for source in sources))
    torch.manual_seed(3)
    theirs = frozen.activations(given)
    ours = shown(passes_of(student, *sources), given, theirs)
    spread = 0.5 * teacher.get_input_embeddings().weight.square().mean().sqrt()
    noises = [theirs.in_pass(source).drawn["noise"] for source in sources]
    assert not torch.equal(*noises)
    for source, noise in zip(sources, noises, strict=True):
        assert not noise[~given["attention_mask"].bool()].any()
        assert 0.8 < float(noise[given["attention_mask"].bool()].std() / spread) < 1.25
        for model, side in ((student, ours), (teacher, theirs)):
            embeddings = model.get_input_embeddings()(given["input_ids"]) + noise
            expected = model(inputs_embeds=embeddings, attention_mask=given["attention_mask"]).logits
            torch.testing.assert_close(side.in_pass(source).logits, expected, rtol=1e-4, atol=1e-5)
    assert ours.in_pass(sources[0]).logits.requires_grad
    assert not theirs.in_pass(sources[0]).logits.requires_grad


def test_draws_follow_from_the_generator_alone() -> None:
    model, source = classifier(), Noisy()
    passes = passes_of(model, source)
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(shown(passes, batch()).in_pass(source).logits)
    assert torch.equal(*found)
    assert not torch.equal(shown(passes, batch()).in_pass(source).logits, found[0])


def test_noise_is_that_of_the_table_as_it_is() -> None:
    model, source = classifier(), Noisy()
    passes, found = passes_of(model, source), []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(shown(passes, batch()).in_pass(source).drawn["noise"])
        model.get_input_embeddings().weight.data.mul_(2.0)
    torch.testing.assert_close(found[1], 2.0 * found[0])


# ---- distorted copies ----


def test_tokens_are_dropped_but_for_the_ends_and_special_ones() -> None:
    given = batch()
    given["special_tokens_mask"] = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    source = Distorted(share=1.0)
    read = source.batch(given, source.draw(given, None))
    assert read["attention_mask"].tolist() == [[1, 0, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 0, 0, 0]]
    assert torch.equal(read["input_ids"], given["input_ids"])
    masked = Distorted(distortion="mask_tokens", share=1.0, mask_token_id=77)
    read = masked.batch(given, masked.draw(given, None))
    assert read["input_ids"].tolist() == [[5, 77, 7, 77, 2], [9, 77, 2, 0, 0], [3, 2, 0, 0, 0]]
    assert torch.equal(read["attention_mask"], given["attention_mask"])


def test_the_share_of_dropped_tokens() -> None:
    mask = torch.ones(50, 202, dtype=torch.long)
    source = Distorted(share=0.2)
    torch.manual_seed(0)
    hit = source.draw({"input_ids": mask, "attention_mask": mask}, None)["hit"]
    assert not hit[:, [0, -1]].any()
    assert 0.18 < float(hit[:, 1:-1].float().mean()) < 0.22  # 10,000 draws: 5 standard deviations


def test_copies_are_distorted_apart_and_left_padding_is_no_text() -> None:
    given = batch(left=True)
    sources = [Distorted(copy=copy, share=0.5) for copy in (1, 2)]
    passes = passes_of(classifier(), *sources)
    torch.manual_seed(1)
    found = shown(passes, given)
    hits = [found.in_pass(source).drawn["hit"] for source in sources]
    assert not torch.equal(*hits)
    for source, hit in zip(sources, hits, strict=True):
        kept = given["attention_mask"].bool() & ~hit
        assert torch.equal(found.in_pass(source).mask.bool(), kept)
        assert kept[:, -1].all()


def test_dropout_alone_makes_copies_that_differ() -> None:
    model = classifier(hidden_dropout_prob=0.3).train()
    sources = [Distorted(copy=copy, distortion="dropout") for copy in (1, 2)]
    found = shown(passes_of(model, *sources), batch())
    first, second = (found.in_pass(source).logits for source in sources)
    assert (first - second).abs().max() > 1e-3


# ---- partners ----


def test_partners_are_read_without_gradient() -> None:
    given = batch()
    partners = {f"partner_{name}": given[name].flip(0) for name in ("input_ids", "attention_mask")}
    model, source = classifier(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train(), Partner()
    found = shown(passes_of(model, source), {**given, **partners, FOUND: torch.ones(3, dtype=torch.bool)})
    logits = found.in_pass(source).logits
    assert not logits.requires_grad
    model.eval()
    expected = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits.flip(0)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_without_partners_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"no partner rows \(columns partner_…\), only input_ids, attention_mask, labels"
    ):
        shown(passes_of(classifier(), Partner()), batch())


# ---- what runs, and what stays ----


def test_a_pass_that_did_not_run_is_named() -> None:
    seen = Activations().read_by("cs_kd")
    with pytest.raises(
        DistillationError, match=r"objective 'cs_kd' reads the pass 'partner', which did not run \(there ran: main\)"
    ):
        seen.in_pass(Partner())
    assert seen.in_pass(MAIN) is seen


def test_equal_passes_are_one_and_others_are_not() -> None:
    assert Noisy() == Noisy(sigma=0.1)
    assert len({Noisy(), Noisy(number=2), Distorted(), Distorted(copy=2), Partner(), MAIN, Pass()}) == 6
    assert str(Signal("logits", source=Partner())) == "logits (partner)"
    assert str(LOGITS) == "logits"


def test_a_pass_of_no_kind_is_refused() -> None:
    with pytest.raises(DistillationError, match=r"Pass\(name='other', gradient=True\) is no pass that can be run"):
        passes_of(classifier(), Pass("other"))


def test_signals_of_passes_are_listed() -> None:
    source = Partner()
    made = Activations(logits=torch.zeros(1, 2))
    made.passes = {source: Activations(logits=torch.zeros(1, 2))}
    assert made.signals() == {LOGITS, Signal("logits", source=source)}


def test_nothing_is_hooked_or_run_without_passes() -> None:
    model = classifier()
    passes = Passes(Anatomy.of(model), {LOGITS, Signal("hidden", 1)}, "student")
    assert not passes
    assert not any(module._forward_hooks for module in model.modules())


def test_close_takes_the_hooks_off() -> None:
    model = classifier()
    source = Noisy()
    passes = Passes(Anatomy.of(model), {Signal("hidden", 1, source=source)}, "student")
    assert any(module._forward_hooks for module in model.modules())
    passes.close()
    assert not any(module._forward_hooks for module in model.modules())


def test_an_embedding_that_does_not_run_is_named() -> None:
    model, source, given = classifier(), InputGradient(target="label"), batch()
    embeddings = model.get_input_embeddings()(given.pop("input_ids")).detach()
    passes = passes_of(model, source, field="input_gradient")
    with pytest.raises(
        DistillationError, match=r"student: its Embedding did not run in this pass.*must hold input_ids"
    ):
        shown(passes, {**given, "inputs_embeds": embeddings})


def test_a_kind_of_its_own_is_run() -> None:
    """What a new pass needs: a class that makes its batch."""

    class Reversed(Kind):
        def batch(self, batch: Any, drawn: Any) -> Any:
            return {
                **batch,
                "input_ids": batch["input_ids"].flip(0),
                "attention_mask": batch["attention_mask"].flip(0),
            }

    model, given = classifier(), batch()
    source = Reversed("reversed")
    expected = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits.flip(0)
    torch.testing.assert_close(
        shown(passes_of(model, source), given).in_pass(source).logits, expected, rtol=1e-4, atol=1e-5
    )


# ---- the table of embeddings ----


def test_the_same_table_is_known_after_some_training() -> None:
    teacher, other = tiny.model("single_label", seed=1), tiny.model("single_label", seed=2)
    student = tiny.model("single_label", layers=1, seed=3)
    table, theirs = student.get_input_embeddings().weight, teacher.get_input_embeddings().weight
    with torch.no_grad():
        table.copy_(theirs + 0.05 * torch.randn(theirs.shape, generator=torch.Generator().manual_seed(0)))
    assert same_table(Anatomy.of(student), Anatomy.of(teacher))
    assert not same_table(Anatomy.of(student), Anatomy.of(other))
    assert not same_table(Anatomy.of(tiny.model("single_label", hidden=16)), Anatomy.of(teacher))
