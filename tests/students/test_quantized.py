"""Students whose weights lie on a grid: what they compute with, what trains, and what is saved."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, PreTrainedModel

from hf_distill import DistillationTrainer, HiddenMSE, Labels, SoftTargets, students
from hf_distill.errors import BrokenCheckpoint, DistillationError, IncompatiblePair
from hf_distill.hub import packed
from hf_distill.students import quantized as module_of_grids
from hf_distill.students.grids import assign_points, compression_ratio
from hf_distill.students.quantized import UniformGrid, _noise, beneath, gridded, has_grids
from tests import tiny, tiny_models

SIZE = 64
"""Values in a bucket of the tests."""


def on_grid(weight: Tensor, bits: int, size: int = SIZE) -> Tensor:
    """Q(w), value by value."""
    flat, found = weight.detach().flatten().tolist(), []
    for first in range(0, len(flat), size):
        bucket = torch.tensor(flat[first : first + size])
        low, high = bucket.min(), bucket.max()
        step = (high - low) / (2**bits - 1)
        found += [float(low + step * torch.round((value - low) / step)) for value in bucket]
    return torch.tensor(found).view_as(weight)


def weights_of(model: nn.Module, *, head: bool = False) -> dict[str, Tensor]:
    """The weights of a plain BERT classifier that are quantized."""
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2 and (head or not name.startswith("classifier"))
    }


def quantized(bits: int = 4, seed: int = 1, **settings: Any) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A classifier on a grid, and the same in floats."""
    model = tiny.model("single_label", seed=seed)
    plain = copy.deepcopy(model)
    return students.quantize_uniform(model, bits=bits, bucket_size=SIZE, **settings), plain


def trainer_of(student: PreTrainedModel, folder: Path | None = None, **settings: Any) -> DistillationTrainer:
    place = {} if folder is None else {"output_dir": str(folder)}
    return DistillationTrainer(
        model=student,
        teacher=tiny.model("single_label", layers=4, seed=2),
        objectives=SoftTargets() + Labels() + HiddenMSE(),
        args=tiny.arguments(**place, **settings),
        train_dataset=Dataset.from_list(tiny.rows("single_label")),
        eval_dataset=tiny.rows("single_label", 10, seed=9),
        data_collator=tiny.Pad(),
    )


# ---- what it computes with ----


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_weights_of_layers_and_embeddings_lie_on_the_grid(bits: int) -> None:
    student, plain = quantized(bits)
    state = student.state_dict()
    assert state.keys() == plain.state_dict().keys()
    wanted = weights_of(plain)
    for name, weight in plain.state_dict().items():
        if name in wanted:
            torch.testing.assert_close(state[name], on_grid(weight, bits), rtol=0, atol=1e-6)
            shown = student.get_submodule(name.rpartition(".")[0]).weight
            assert torch.equal(shown, state[name])
        else:
            assert torch.equal(state[name], weight), name


def test_parts_are_left_in_floats_or_taken_in() -> None:
    for settings, expected in (
        ({"include_head": True}, {"classifier.weight"}),
        ({"include_embeddings": False}, set()),
        ({}, set()),
    ):
        student, plain = quantized(**settings)
        found = {f"{path}.weight" for path, _ in gridded(student)}
        everything = set(weights_of(plain))
        if settings.get("include_embeddings") is False:
            everything = {name for name in everything if "embeddings" not in name}
        assert found == everything | expected


def test_tied_weights_are_on_one_grid_and_stay_tied(tmp_path: Path) -> None:
    model = tiny_models.tiny("bert", "AutoModelForMaskedLM")
    student = students.quantize_uniform(model, bits=4, bucket_size=SIZE)
    embeddings, decoder = student.get_input_embeddings(), student.get_output_embeddings()
    assert torch.equal(embeddings.weight, decoder.weight)
    assert len(embeddings.weight.flatten()[:SIZE].unique()) <= 16
    batch = tiny_models.batch("bert")
    logits = student(**batch).logits
    logits.square().mean().backward()
    original = embeddings.parametrizations.weight.original
    assert original is decoder.parametrizations.weight.original
    assert original.grad.abs().sum() > 0
    student.save_pretrained(tmp_path)
    loaded, report = AutoModelForMaskedLM.from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not has_grids(loaded)
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert torch.equal(loaded(**batch).logits, student.eval()(**batch).logits)


@pytest.mark.parametrize("family", ["gpt2", "albert", "t5"])
def test_other_families(family: str, tmp_path: Path) -> None:
    """Linear layers that hold their weights the other way round, blocks that layers share, and two stacks."""
    student = students.quantize_uniform(tiny_models.tiny(family), bits=4, bucket_size=SIZE)
    batch = tiny_models.batch(family)
    found = student(**batch).logits
    student.save_pretrained(tmp_path)
    loaded = type(student).from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(loaded.eval()(**batch).logits, found)
    assert sum(1 for _ in gridded(student)) > 8


def test_stochastic_rounding_draws_when_weights_have_moved_and_is_right_on_average() -> None:
    student, plain = quantized(2, rounding="stochastic")
    module, weight = student.bert.encoder.layer[0].output.dense, plain.bert.encoder.layer[0].output.dense.weight
    assert torch.equal(module.eval().weight, module.weight)
    torch.testing.assert_close(module.weight, on_grid(weight, 2), rtol=0, atol=1e-6)
    module.train()
    original, draws = module.parametrizations.weight.original, []
    for _ in range(400):
        draws.append(module.weight.detach())
        torch.rand(1)
        assert torch.equal(module.weight, draws[-1]), "one draw a step"
        with torch.no_grad():
            original[0, 0] *= 1 + 1e-6
    drawn = torch.stack(draws)
    assert 0.2 < float((drawn[0] != drawn[1]).float().mean()) < 0.6, "the rest of the tensor is drawn anew, too"
    # a step is at most 0.6 wide: the mean of 400 draws is within 5 of its standard deviations, 0.015
    assert float((drawn.mean(dim=0) - weight.detach()).abs().max()) < 0.075
    with torch.no_grad():
        original.copy_(weight)
    torch.testing.assert_close(student.state_dict()["bert.encoder.layer.0.output.dense.weight"], on_grid(weight, 2))


def test_stochastic_rounding_leaves_what_lies_on_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is drawn, the smallest number there is, too: one in 2^24 would leave its place, and the largest of a
    bucket the grid."""
    weight = torch.tensor([[0.0, 1.0, 2.0, 3.0], [3.0, 0.0, 1.0, 2.0]])
    grid = UniformGrid(2, 4, "stochastic", "ste")
    for draw in (0, -1):
        monkeypatch.setattr(module_of_grids, "scrambled", lambda numbers, draw=draw: torch.full_like(numbers, draw))
        assert torch.equal(grid(weight), weight)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_what_is_drawn_for_rounding_is_uniform_and_independent(kind: torch.dtype) -> None:
    """Of neighbours and of steps, for equal weights: moments and correlations within 5 of their deviations."""
    weights = torch.full((256, 256), 0.1, dtype=kind)
    draws = [_noise(weights).flatten()]
    weights[3, 4] = torch.nextafter(weights[3, 4], weights.new_ones(()))
    draws.append(_noise(weights).flatten())
    for drawn in draws:
        for power in (1, 2, 3):
            assert abs(float(drawn.double().pow(power).mean()) - 1 / (power + 1)) < 5 * 0.3 / 256
    centred = [drawn.double() - 0.5 for drawn in draws]
    pairs = [(centred[0], centred[1]), *((centred[0], centred[0].roll(shift)) for shift in (1, 2, 255, 256, 257))]
    for one, other in pairs:
        assert abs(float((one * other).mean()) * 12) < 5 / 256


def test_half_precision_weights_are_quantized_in_float32() -> None:
    student = students.quantize_uniform(tiny.model("single_label").bfloat16(), bits=4, bucket_size=SIZE)
    module = student.bert.encoder.layer[0].output.dense
    expected = on_grid(module.parametrizations.weight.original.float(), 4)
    assert module.weight.dtype == torch.bfloat16
    assert torch.equal(module.weight, expected.bfloat16())


def test_a_copy_is_independent() -> None:
    student, _ = quantized()
    twin = copy.deepcopy(student)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert student.bert.encoder.layer[0].output.dense.weight.abs().sum() > 0
    assert all(not tensor.any() for tensor in twin.state_dict().values() if tensor.is_floating_point())


def test_a_vocabulary_in_chunks_sees_the_grid(request: pytest.FixtureRequest) -> None:
    from tests import test_vocabulary

    request.getfixturevalue("small_is_large")
    student = students.quantize_uniform(tiny.model("masked_lm"), bits=4, bucket_size=SIZE)
    teacher = tiny.model("masked_lm", layers=3, seed=2)
    batch = test_vocabulary.batch_of("masked_lm")
    test_vocabulary.compare(student, teacher, SoftTargets() + Labels(), [batch])


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_distill.chunks import Sizes

    monkeypatch.setattr("hf_distill.objectives.pair.LARGE_VOCABULARY", 1)
    monkeypatch.setattr(Sizes, "of", classmethod(lambda cls, *_: Sizes(chunk=6, block=2)))


# ---- training ----


def test_a_step_moves_the_floats_by_the_gradient_at_the_grid() -> None:
    """The first step of SGD, against that of a plain student with the values on the grid."""
    student, plain = quantized()
    at_grid = copy.deepcopy(plain)
    at_grid.load_state_dict(student.state_dict())
    trainer_of(student, max_steps=1).train()
    before = {name: parameter.detach().clone() for name, parameter in at_grid.named_parameters()}
    trainer_of(at_grid, max_steps=1).train()
    floats = {name.replace("/", "."): parameter for name, parameter in beneath(student).items()}
    assert floats.keys() == weights_of(plain).keys()
    for name, weight in weights_of(plain).items():
        moved = dict(at_grid.named_parameters())[name] - before[name]
        torch.testing.assert_close(floats[name] - weight, moved, rtol=1e-5, atol=1e-6)


def test_a_trained_student_is_saved_plain_with_values_on_the_grid(tmp_path: Path) -> None:
    student, plain = quantized()
    trainer = trainer_of(student, tmp_path)
    trainer.train()
    trainer.save_model()
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == plain.state_dict().keys()
    floats = beneath(student)
    for name in weights_of(plain):
        torch.testing.assert_close(written[name], on_grid(floats[name.replace(".", "/")], 4), rtol=0, atol=1e-6)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    batch = tiny.Pad()(tiny.rows("single_label", 6))
    torch.testing.assert_close(loaded.eval()(**batch).logits, student.eval()(**batch).logits, rtol=0, atol=1e-6)
    beside = load_file(tmp_path / "distillation.safetensors")
    name = "bert/encoder/layer/0/output/dense/weight"
    assert torch.equal(beside[f"student/weights.{name}"], floats[name])


@pytest.mark.parametrize("kind", ["uniform", "stochastic", "points"])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def trainer() -> DistillationTrainer:
        model = tiny.model("single_label", seed=1, dropout=0.1)
        if kind == "points":
            students.quantize_points(model, points=8, bucket_size=SIZE)
        else:
            rounding = "stochastic" if kind == "stochastic" else "nearest"
            students.quantize_uniform(model, bits=4, bucket_size=SIZE, rounding=rounding)
        return trainer_of(
            model, tmp_path, max_steps=6, save_strategy="steps", save_steps=3, optim="adamw_torch_fused",
            learning_rate=1e-3, gradient_accumulation_steps=2, per_device_train_batch_size=4,
        )  # fmt: skip

    whole = trainer()
    whole.train()
    again = trainer()
    with caplog.at_level(logging.WARNING):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert "keys in the checkpoint" not in caplog.text
    assert tiny.distance(whole.distillation, again.distillation) == 0.0
    assert any(
        not torch.equal(a, b) for a, b in zip(whole.model.parameters(), trainer().model.parameters(), strict=True)
    )


def test_the_best_model_comes_back_with_its_floats(tmp_path: Path) -> None:
    student, _ = quantized()
    trainer = trainer_of(
        student, tmp_path, max_steps=4, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2,
        load_best_model_at_end=True, metric_for_best_model="eval_loss", learning_rate=1.0,
    )  # fmt: skip
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    kept = load_file(best / "distillation.safetensors")
    for name, parameter in beneath(student).items():
        assert torch.equal(parameter, kept[f"student/weights.{name}"])


def test_a_checkpoint_without_the_floats_is_refused(tmp_path: Path) -> None:
    student, _ = quantized()
    trainer_of(student, tmp_path, max_steps=3, save_strategy="steps", save_steps=3).train()
    (tmp_path / "checkpoint-3" / "distillation.safetensors").unlink()
    with pytest.raises(BrokenCheckpoint, match=r"distillation\.safetensors is missing"):
        trainer_of(quantized()[0], tmp_path, max_steps=4).train(str(tmp_path / "checkpoint-3"))


def test_accumulation_and_checkpointing_change_nothing() -> None:
    moved = []
    for settings in (
        {"per_device_train_batch_size": 8},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"per_device_train_batch_size": 8},
    ):
        student, _ = quantized()
        if len(moved) == 2:
            name = "activation_checkpointing_enable"  # from transformers 5.24 on
            getattr(student, name if hasattr(student, name) else "gradient_checkpointing_enable")()
        trainer_of(student, max_steps=2, **settings).train()
        moved.append(beneath(student))
    for other in moved[1:]:
        for name, parameter in moved[0].items():
            torch.testing.assert_close(other[name], parameter, rtol=1e-4, atol=1e-5)


# ---- learned points ----


def test_points_alone_train(tmp_path: Path) -> None:
    model = tiny.model("single_label", seed=1)
    plain = copy.deepcopy(model)
    student = students.quantize_points(model, points=8, bucket_size=SIZE)
    trains = [name for name, parameter in student.named_parameters() if parameter.requires_grad]
    assert trains
    assert all(name.endswith(".points") for name in trains)
    started = {name: parameter.clone() for name, parameter in beneath(student).items()}
    trainer = trainer_of(student, tmp_path, learning_rate=1e-3)
    trainer.train()
    for name, parameter in beneath(student).items():
        if name.endswith("/points"):
            assert not torch.equal(parameter, started[name]), name
        else:
            assert torch.equal(parameter, started[name]), name
    for name, parameter in plain.named_parameters():
        if parameter.dim() == 1:
            assert torch.equal(student.get_parameter(name), parameter)
    trainer.save_model()
    weight = load_file(tmp_path / "model.safetensors")["bert.encoder.layer.0.output.dense.weight"]
    assert len(weight.flatten()[:SIZE].unique()) <= 8


def test_the_order_of_points_does_not_matter() -> None:
    student = students.quantize_points(tiny.model("single_label"), points=8, bucket_size=SIZE).eval()
    batch = tiny.Pad()(tiny.rows("single_label", 4))
    before = student(**batch).logits
    with torch.no_grad():
        for _, module in gridded(student):
            points = module.parametrizations.weight[0].points
            points.copy_(points.flip(0))
    assert torch.equal(student(**batch).logits, before)


def test_points_are_shared_out_by_gradients() -> None:
    model = tiny.model("single_label", seed=1)
    batches = [tiny.Pad()(tiny.rows("single_label", 8, seed=seed)) for seed in (1, 2)]
    norms = students.gradient_norms(model, batches)
    loss = sum(model(**batch).loss for batch in batches[:1])
    loss.backward()
    first = float(model.bert.pooler.dense.weight.grad.norm())
    model.zero_grad()
    model(**batches[1]).loss.backward()
    second = float(model.bert.pooler.dense.weight.grad.norm())
    assert norms["bert.pooler.dense.weight"] == pytest.approx((first + second) / 2)
    shares = assign_points(list(norms.values()), [8] * len(norms))
    assert sum(shares) == 8 * len(norms)
    student = students.quantize_points(model, points=dict(zip(norms, shares, strict=True)), bucket_size=SIZE)
    found = {f"{path}.weight": len(module.parametrizations.weight[0].points) for path, module in gridded(student)}
    assert found == dict(zip(norms, shares, strict=True))


def test_gradients_are_those_of_the_evaluated_student_on_any_batch() -> None:
    """In eval mode, so that dropout draws nothing; a weight that is frozen has none."""
    batch = tiny.Pad()(tiny.rows("single_label", 8))
    wanted = students.gradient_norms(tiny.model("single_label", seed=1, dropout=0.0), [batch])
    model = tiny.model("single_label", seed=1, dropout=0.5).train()
    words, dense = model.bert.embeddings.word_embeddings, model.bert.pooler.dense
    words.requires_grad_(False)
    found = students.gradient_norms(model, [batch])
    frozen = "bert.embeddings.word_embeddings.weight"
    assert wanted[frozen] > 0
    assert found == {**wanted, frozen: 0.0}
    assert all(module.training for module in model.modules())
    assert dense.weight.grad is None
    model.requires_grad_(False)
    assert set(students.gradient_norms(model, [batch]).values()) == {0.0}


@pytest.mark.parametrize(("rate", "warned"), [(1e-3, False), (2e-3, True)])
def test_points_that_would_overtake_each_other_are_warned_about(
    rate: float, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    trainer_of(students.quantize_points(tiny.model("single_label"), bucket_size=SIZE), learning_rate=rate)
    assert ("points" in caplog.text) == warned


# ---- codes ----


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_packed_without_loss(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (1001,), generator=torch.Generator().manual_seed(0)).to(torch.uint8).numpy()
    stream = packed.packed(codes, bits)
    assert len(stream) == -(-1001 * bits // 8)
    assert (packed.unpacked(stream, bits, 1001) == codes).all()
    assert stream[0] & (2**bits - 1) == codes[0]


@pytest.mark.parametrize("kind", ["uniform", "points"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_student_in_codes_is_the_student(kind: str, tied: bool, tmp_path: Path) -> None:
    head = "AutoModelForMaskedLM" if tied else "AutoModelForSequenceClassification"
    model = tiny_models.tiny("bert", head)
    if kind == "uniform":
        students.quantize_uniform(model, bits=4, bucket_size=SIZE)
    else:
        students.quantize_points(model, points=5, bucket_size=SIZE)
    model.save_pretrained(tmp_path)
    path = packed.write_packed(model, tmp_path)
    state = packed.read_packed(tmp_path)
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor), name
    loaded = packed.load_packed(tmp_path, head)
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert path.stat().st_size < (tmp_path / "model.safetensors").stat().st_size / 2


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_codes_of_a_student_in_half_precision_are_its_values(kind: torch.dtype, tmp_path: Path) -> None:
    model = tiny_models.tiny("bert", tiny_models.CLASSIFIER).to(kind)
    students.quantize_uniform(model, bits=4, bucket_size=SIZE)
    model.save_pretrained(tmp_path)
    packed.write_packed(model, tmp_path)
    plain, state = load_file(tmp_path / "model.safetensors"), packed.read_packed(tmp_path)
    assert {tensor.dtype for tensor in state.values()} == {kind}
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.items())
    loaded = packed.load_packed(tmp_path, tiny_models.CLASSIFIER).state_dict()
    assert all(torch.equal(loaded[name], tensor.to(loaded[name].dtype)) for name, tensor in plain.items())


def test_the_bytes_of_the_codes_are_those_of_the_ratio(tmp_path: Path) -> None:
    student = students.quantize_uniform(tiny.model("single_label", hidden=64), bits=2, bucket_size=256)
    whole = sum(weight.numel() for weight in weights_of(tiny.model("single_label", hidden=64)).values()) * 4
    packed.write_packed(student, tmp_path)
    found = load_file(tmp_path / "quantized.safetensors")
    parts = sum(t.nbytes for name, t in found.items() if name.endswith((".codes", ".alpha", ".beta")))
    assert whole / parts == pytest.approx(compression_ratio(2, 256), rel=0.02)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "cannot be read"),
        ("text", "cannot be read"),
        ("headless", "cannot be read"),
        ("short", "should have codes, alpha, beta, points of sizes"),
        ("high", "has the code 15, and 3 points"),
        ("strange", "does not fit config.json"),
    ],
)
def test_damaged_codes_are_refused(damage: str, message: str, tmp_path: Path) -> None:
    import safetensors
    from safetensors.torch import save_file

    student, _ = quantized()
    student.save_pretrained(tmp_path)
    path = packed.write_packed(student, tmp_path)
    tensors = load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        header = file.metadata()
    name = "bert.pooler.dense.weight"
    if damage == "missing":
        path.unlink()
    elif damage == "text":
        path.write_text("no tensors")
    elif damage == "headless":
        save_file(tensors, path)
    else:
        changed = {
            "short": {f"{name}.codes": tensors[f"{name}.codes"][:-1].clone()},
            "high": {f"{name}.points": tensors[f"{name}.points"][:3].clone()},
            "strange": {"classifier.weight": torch.zeros(3, 5)},
        }[damage]
        save_file({**tensors, **changed}, path, header)
    with pytest.raises(BrokenCheckpoint, match=message):
        packed.load_packed(tmp_path, "AutoModelForSequenceClassification")


def test_codes_in_a_folder_are_those_of_the_student_saved_there(tmp_path: Path) -> None:
    """Of a student that has trained on, and none beside one without grids."""
    trainer = trainer_of(quantized(bits=3)[0])
    trainer.save_model(str(tmp_path))
    assert not (tmp_path / packed.FILE_NAME).exists()
    packed.write_packed(trainer.model, tmp_path)
    trainer.train()
    trainer.save_model(str(tmp_path))
    plain, state = load_file(tmp_path / "model.safetensors"), packed.read_packed(tmp_path)
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.items())
    trainer_of(tiny.model("single_label", seed=1)).save_model(str(tmp_path))
    assert not (tmp_path / packed.FILE_NAME).exists()


def test_a_plain_student_has_no_codes(tmp_path: Path) -> None:
    with pytest.raises(DistillationError, match="no weight of BertForSequenceClassification lies on a grid"):
        packed.write_packed(tiny.model("single_label"), tmp_path)
    assert not list(tmp_path.iterdir())


# ---- what is refused ----


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, "bits is 0; it must be a whole number from 1 to 8"),
        ({"bits": 9}, "bits is 9; it must be a whole number from 1 to 8"),
        ({"bits": True}, "bits is True"),
        ({"bits": 2.0}, "bits is 2.0"),
        ({"bucket_size": 1}, "bucket_size is 1; it must be a whole number from 2"),
        ({"style": "st"}, r"style is 'st' \(did you mean 'ste'"),
        ({"rounding": "up"}, "rounding is 'up'"),
        ({"include_head": 1}, "include_head is 1; it may be true or false"),
    ],
)
def test_settings_without_a_grid_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DistillationError, match=message):
        students.quantize_uniform(tiny.model("single_label"), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points": 1}, r"points of .* is 1; it must be a whole number from 2 to 256"),
        ({"points": 257}, r"points of .* is 257"),
        ({"points": {"bert.pooler.dense.weight": 4}}, "points are given for 1 tensors"),
        ({"init": "random"}, "init is 'random'"),
    ],
)
def test_points_without_a_grid_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DistillationError, match=message):
        students.quantize_points(tiny.model("single_label"), **settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float) -> None:
    model = tiny.model("single_label")
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[0, 0] = value
    with pytest.raises(DistillationError, match=r"layer\.1\.output\.dense\.weight holds NaN or infinite"):
        students.quantize_uniform(model)
    assert not has_grids(model)


def test_a_constant_bucket_stays_as_it_is() -> None:
    model = tiny.model("single_label")
    with torch.no_grad():
        model.bert.pooler.dense.weight.fill_(0.3)
    student = students.quantize_uniform(model, bits=2, bucket_size=SIZE)
    weight = student.bert.pooler.dense.weight
    assert torch.equal(weight, torch.full_like(weight, 0.3))
    weight.sum().backward()
    assert student.bert.pooler.dense.parametrizations.weight.original.grad.eq(1).all()


def test_a_bucket_larger_than_a_tensor_is_told(caplog: pytest.LogCaptureFixture) -> None:
    students.quantize_uniform(tiny.model("single_label"), bucket_size=2000)
    assert "bert.pooler.dense.weight has 1024 values, fewer than a bucket of 2000" in caplog.text


def test_adapters_and_quantized_weights_are_refused() -> None:
    adapted = get_peft_model(tiny.model("single_label"), LoraConfig(target_modules=["query"]))
    with pytest.raises(IncompatiblePair, match="merge_and_unload"):
        students.quantize_uniform(adapted)
    student, _ = quantized()
    with pytest.raises(IncompatiblePair, match="quantized already"):
        students.quantize_points(student)


@pytest.mark.parametrize(
    ("norms", "points"), [([1.0], [8, 8]), ([-1.0, 2.0], [8, 8]), ([0.0, 0.0], [8, 8]), ([1.0, 1.0], [1, 8])]
)
def test_points_that_cannot_be_shared_out(norms: list[float], points: list[int]) -> None:
    with pytest.raises(DistillationError, match="assign_points"):
        assign_points(norms, points)


def test_batches_without_labels_have_no_gradients() -> None:
    batch = tiny.Pad()(tiny.rows("single_label", 4))
    del batch["labels"]
    with pytest.raises(DistillationError, match="a batch has no labels"):
        students.gradient_norms(tiny.model("single_label"), [batch])
    with pytest.raises(DistillationError, match="there are no batches"):
        students.gradient_norms(tiny.model("single_label"), [])
