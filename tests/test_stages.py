"""What a stage trains, and what is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, MobileBertForSequenceClassification

from hf_distill import students
from hf_distill.anatomy import Anatomy
from hf_distill.errors import DistillationError, IncompatiblePair, RecipeError
from hf_distill.reach import layer_parameters
from hf_distill.recipe import TrainGroup
from hf_distill.runs import run
from hf_distill.runs.freezing import freeze
from hf_distill.runs.stages import StageTrainer
from tests import tiny_runs
from tests.tiny_models import CLASSIFIER, ENCODER_DECODERS, tiny, widen
from tests.tiny_models import FAMILIES as TINY

SGD = {
    "per_device_train_batch_size": 8, "max_steps": 2, "use_cpu": True, "disable_tqdm": True, "optim": "sgd",
    "learning_rate": 0.5, "lr_scheduler_type": "constant",
}  # fmt: skip
SIZES = {
    "num_hidden_layers": 3, "hidden_size": 16, "embedding_size": 8, "intra_bottleneck_size": 8,
    "num_attention_heads": 2, "intermediate_size": 12,
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of two layers, an IB-BERT of three, and rows."""
    folder = tmp_path_factory.mktemp("home")
    tiny_runs.save_teacher(folder / "teacher")
    tiny_runs.write_sst2(folder / "sst2")
    torch.manual_seed(5)
    shape = AutoModelForSequenceClassification.from_config(tiny_runs.config(("negative", "positive")))
    widen(students.ib_bert(shape, **{**SIZES, "intra_bottleneck_size": 24})).save_pretrained(folder / "ib_bert")
    tiny_runs.tokenizer().save_pretrained(folder / "ib_bert")
    return folder


def recipe(home: Path, stages: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    made = {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(home / "sst2"),
        "max_length": 16,
        "teacher": {"model": str(home / "teacher")},
        "student": {"from_layers": {"layers": 2}},
        "stages": stages,
    }
    return made | changes


def stage(objectives: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"name": "distil", "objectives": objectives, "arguments": SGD, **more}


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


# --- layers by number -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", [family for family in TINY if family not in (*ENCODER_DECODERS, "albert")])
def test_layers_are_found_in_every_family(family: str) -> None:
    """What trains is exactly what the number says: the block, or what makes the state that enters the first one."""
    model = tiny(family, CLASSIFIER)
    path = Anatomy.of(model).blocks_path()
    names = {name for name, _ in model.named_parameters()}
    scales = freeze(model, [TrainGroup(layers=[2]), TrainGroup(layers=[0, 2], learning_rate_scale=0.1)], "stage")
    training = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert training == set(scales)
    block = {name for name in names if name.startswith(f"{path}1.")}
    assert {name for name, scale in scales.items() if scale == 1.0} == block
    assert len(block) > 3
    embeddings = {name for name, scale in scales.items() if scale == 0.1}
    assert any(model.get_parameter(name) is model.get_input_embeddings().weight for name in embeddings)
    assert not any(name.startswith(path) for name in embeddings)
    assert not any(name.startswith(("classifier", "score", "pre_classifier", "cls")) for name in embeddings)


def test_the_layers_of_two_stacks_are_not_counted_as_one() -> None:
    with pytest.raises(RecipeError, match=r"stage: train: layers are those of a single stack .* 't5' is no such"):
        freeze(tiny("t5"), [TrainGroup(layers=[1])], "stage")


def test_a_layer_beyond_the_model_is_refused(home: Path, tmp_path: Path) -> None:
    made = recipe(home, [stage([{"hidden_mse": {}}], train=[{"layers": [1, 3]}])])
    with pytest.raises(RecipeError, match=r"stage 'distil': train: layer 3 does not exist; .* 1 to 2, and 0 for"):
        run(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_layer_that_the_model_does_not_have_has_no_parameters() -> None:
    with pytest.raises(IncompatiblePair, match="layer 4 does not exist; the model has layers 0 to 3"):
        layer_parameters(Anatomy.of(tiny("bert")), 4)


# --- the head -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", TINY)
def test_the_head_is_found_in_every_family(family: str) -> None:
    model = tiny(family, CLASSIFIER)
    scales = freeze(model, [TrainGroup(part="head")], "stage")
    above = {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}
    assert set(scales) == {name for name, parameter in model.named_parameters() if parameter.requires_grad} == above
    assert above


def test_the_other_parameters_may_train_at_a_rate_of_their_own() -> None:
    """The first group that names a parameter has it, so the rest is what the head is not."""
    groups = [TrainGroup(part="head"), TrainGroup(parameters=".", learning_rate_scale=0.1)]
    scales = freeze(tiny("bert", CLASSIFIER), groups, "stage")
    assert {name for name, scale in scales.items() if scale == 1.0} == {"classifier.weight", "classifier.bias"}
    assert set(scales.values()) == {1.0, 0.1}


def test_a_head_without_parameters_of_its_own_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"stage: train: the head of the student \(GPT2LMHeadModel\) has no param"):
        freeze(tiny("gpt2"), [TrainGroup(part="head")], "stage")


@pytest.mark.parametrize(
    ("train", "awake"),
    [
        ([{"part": "head"}], {"", "dropout", "classifier"}),
        ([{"parameters": "^classifier"}], {"", "dropout", "classifier"}),
        ([{"part": "head"}, {"layers": [2]}], None),
        ("all", None),
    ],
)
def test_where_the_head_alone_trains_it_reads_states_without_dropout(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Any, awake: set[str] | None
) -> None:
    """What trains is in training mode, also behind an evaluation; the base model is, where any of it trains."""
    step, seen = StageTrainer.training_step, []

    def looked(trainer: StageTrainer, *args: Any, **kwargs: Any) -> Any:
        loss = step(trainer, *args, **kwargs)
        seen.append([name for name, module in trainer.model.named_modules() if module.training])
        expected = awake or {name for name, _ in trainer.model.named_modules()}
        assert set(seen[-1]) == expected
        return loss

    monkeypatch.setattr(StageTrainer, "training_step", looked)
    made = stage([{"labels": {}}], train=train)
    made["arguments"] = SGD | {"eval_strategy": "steps", "eval_steps": 1}
    run(recipe(home, [made]), tmp_path / "out", evaluate=False)
    assert len(seen) == 2


# --- the dry run ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objectives", "more", "words"),
    [
        (
            [{"hidden_mse": {"layer_map": [[1, 1]]}, "name": "first"}],
            {"train": [{"parameters": "layer.0"}, {"parameters": "^classifier"}]},
            r"classifier\.weight, classifier\.bias should train, but no gradient of the terms first gets there",
        ),
        (
            [{"hidden_mse": {"layer_map": [[1, 1]]}}],
            {"train": [{"layers": [1, 2]}]},
            r"layer\.1\.attention.* and 13 more should train, but no gradient of the terms hidden_mse",
        ),
        (
            [{"hidden_mse": {}}, {"labels": {}, "weight": 0.0}],
            {"train": [{"layers": [1]}, {"parameters": "classifier"}]},
            r"classifier\.weight, classifier\.bias should train, but no gradient of the terms hidden_mse gets there",
        ),
        ([{"labels": {}, "weight": 0.0}], {}, "every term has the weight 0, so nothing would be trained"),
    ],
)
def test_what_should_train_and_gets_no_gradient_is_refused_before_anything_is_written(
    home: Path, tmp_path: Path, objectives: list[dict[str, Any]], more: dict[str, Any], words: str
) -> None:
    with pytest.raises(DistillationError, match=f"stage 'distil': .*{words}"):
        run(recipe(home, [stage(objectives, **more)]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_second_stage_is_tried_before_the_first_one_trains(home: Path, tmp_path: Path) -> None:
    second = stage([{"hidden_mse": {}}], train=[{"parameters": "classifier"}]) | {"name": "late"}
    with pytest.raises(DistillationError, match="stage 'late': train: classifier"):
        run(recipe(home, [stage([{"labels": {}}]), second]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_with_all_what_no_term_reaches_stays_as_it_is(home: Path, tmp_path: Path) -> None:
    """A new head that the hidden states do not reach: with `all` that is no error."""
    made = recipe(home, [stage([{"hidden_mse": {"layer_map": [[1, 1], [2, 1]]}}])])
    run(made, tmp_path / "out", evaluate=False)
    moved = changed(weights(home / "teacher"), weights(tmp_path / "out"))
    assert moved
    assert not [name for name in moved if "classifier" in name or "pooler" in name]


# --- progressive transfer -------------------------------------------------------------------------


def transfer(below: object) -> list[dict[str, Any]]:
    first = stage([{"hidden_mse": {}, "weight": 0.1}], progressive={"layers": 3, "below": below})
    last = {"name": "labels", "objectives": [{"soft_targets": {}}, {"labels": {}}], "arguments": SGD}
    return [first | {"name": "transfer"}, last]


@pytest.fixture(scope="module", params=[0.1, pytest.param("frozen", marks=pytest.mark.slow)], ids=["tenth", "frozen"])
def transferred(request: pytest.FixtureRequest, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("transfer") / "out"
    made = recipe(
        home,
        transfer(request.param),
        teacher={"model": str(home / "ib_bert")},
        student={"mobilebert": {"variant": "tiny", **SIZES, "num_feedforward_networks": 2}},
    )
    run(made, folder, evaluate=False)
    return folder, request.param


def test_a_mobilebert_learns_from_an_ib_bert_block_by_block(home: Path, transferred: tuple[Path, Any]) -> None:
    folder, below = transferred
    names = ["01-transfer-01", "02-transfer-02", "03-transfer-03", "04-labels"]
    assert sorted(path.name for path in (folder / "stages").iterdir() if path.is_dir()) == names
    after = [weights(folder / "stages" / name) for name in names]
    teacher = weights(home / "ib_bert")
    assert torch.equal(after[0]["classifier.weight"], teacher["classifier.weight"])
    blocks = [{name for name in after[0] if f".layer.{i}." in name} for i in range(3)]
    rest = {name for name in after[0] if ".embeddings." in name}
    for i in (1, 2):
        moved = changed(after[i - 1], after[i])
        lower = rest.union(*blocks[:i])
        assert moved & blocks[i]
        assert moved <= blocks[i] | (set() if below == "frozen" else lower)
        assert bool(moved & lower) == (below != "frozen")
    assert "classifier.weight" in changed(after[2], after[3])


def test_the_student_is_a_plain_mobilebert(transferred: tuple[Path, Any]) -> None:
    folder, _ = transferred
    model = MobileBertForSequenceClassification.from_pretrained(folder)
    assert model.config.model_type == "mobilebert"
    assert model.config.use_bottleneck_attention
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_the_first_stage_trains_the_first_block_and_the_embeddings(home: Path, tmp_path: Path) -> None:
    """At a learning rate of 0 the student is the one that it starts as."""
    started = []
    for rate in (0.0, 0.5):
        stages = transfer("frozen")
        stages[0]["arguments"] = {**SGD, "learning_rate": rate}
        made = recipe(home, stages, teacher={"model": str(home / "ib_bert")}, student={"mobilebert": SIZES})
        made["stages"] = [stages[0] | {"progressive": {"layers": 1}}]
        run(made, tmp_path / str(rate), evaluate=False)
        started.append(weights(tmp_path / str(rate)))
    moved = changed(*started)
    assert {name.split(".")[1] for name in moved} == {"embeddings", "encoder"}
    assert {name for name in moved if ".encoder." in name} <= {name for name in started[0] if ".layer.0." in name}
