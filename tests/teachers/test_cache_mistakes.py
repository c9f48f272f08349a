"""Ordinary mistakes with a teacher's cache are told in a sentence; what can be meant is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from hf_distill import DistillationTrainer, HiddenMSE, Labels, SoftTargets, objectives
from hf_distill.errors import CacheMismatch, DataError, DistillationError, IncompatiblePair
from hf_distill.hub.trained import record_of
from hf_distill.recipe import Recipe
from hf_distill.runs.caching import check_cache
from hf_distill.teachers import Cached
from hf_distill.teachers.cache import codecs
from hf_distill.teachers.cache.keys import Inputs
from hf_distill.teachers.cache.pieces import Pieces
from hf_distill.teachers.cache.skeleton import config_of, hub_id, skeleton_of
from tests import sounds, tiny

ROWS = tiny.rows("single_label", 16)


def teacher() -> PreTrainedModel:
    return tiny.model("single_label", layers=3, seed=3)


def trainer(objectives: Any = None, *, model: Any = None, rows: Any = ROWS, **settings: Any) -> DistillationTrainer:
    return DistillationTrainer(
        model=model or tiny.model("single_label", seed=4),
        teacher=settings.pop("teacher", None) or teacher(),
        objectives=objectives or SoftTargets() + HiddenMSE(layer_map="final"),
        args=settings.pop("args", None) or tiny.arguments(),
        train_dataset=rows,
        data_collator=tiny.Pad(),
        **settings,
    )


# ---- nothing to write ----


def test_objectives_that_read_nothing_of_the_teacher(tmp_path: Path) -> None:
    with pytest.raises(DistillationError, match="read nothing of the teacher"):
        trainer(Labels()).cache_teacher(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_recipe_whose_stages_read_nothing_of_the_teacher() -> None:
    labels, soft = trainer(Labels()).distillation, trainer(SoftTargets()).distillation
    stages = [{"name": name, "objectives": [{"labels": {}}]} for name in ("first", "second")]
    recipe = Recipe.model_validate(
        {"schema": 1, "task": "sst2", "student": {"from_layers": {"layers": 1}}, "stages": stages}
        | {"teacher": {"model": "owner/teacher", "cache": {"codec": "int8"}}}
    )
    with pytest.raises(DistillationError, match="read nothing of the teacher"):
        check_cache(recipe, teacher(), {"first": labels, "second": labels})
    check_cache(recipe, teacher(), {"first": labels, "second": soft})


def test_a_teacher_that_hears_is_refused_before_it_runs(tmp_path: Path) -> None:
    made = DistillationTrainer(
        model=sounds.hearing(1),
        teacher=sounds.hearing(),
        objectives=objectives.make("ctc_nbest_kd", {}) + Labels(),
        args=tiny.arguments(),
        train_dataset=sounds.rows(),
        data_collator=sounds.collate,
    )
    message = r"Wav2Vec2ForCTC, reads input_values, .* Train with the teacher itself"
    with pytest.raises(IncompatiblePair, match=message):
        made.cache_teacher(tmp_path / "cache")
    recipe = Recipe.model_validate(
        {"schema": 1, "data": {"files": {"train": "a.jsonl"}, "speech": {}}, "student": {"model": "owner/student"}}
        | {"stages": [{"name": "first", "objectives": [{"labels": {}}]}]}
        | {"teacher": {"model": "owner/teacher", "cache": {}}}
    )
    with pytest.raises(IncompatiblePair, match=message):
        check_cache(recipe, sounds.hearing(), {"first": made.distillation})
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("rows", [None, []])
def test_no_rows(rows: Any, tmp_path: Path) -> None:
    with pytest.raises(DistillationError, match="no rows to cache the teacher for"):
        trainer(rows=rows).cache_teacher(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_without_rows_a_token_budget_leaves_the_word_to_the_trainer() -> None:
    with pytest.raises(ValueError, match="training requires a train_dataset"):
        trainer(rows=None, tokens_per_batch=64).train()


# ---- codecs ----


def test_a_codec_by_its_name(tmp_path: Path) -> None:
    made = trainer()
    made.cache_teacher(tmp_path / "cache", codec="int8")
    assert isinstance(made.teacher, Cached)
    assert {each.name: each.codec for each in made.teacher.facts.signals} == {"hidden[3]": "int8", "logits": "float32"}
    trainer().cache_teacher(tmp_path / "cache", codec=codecs.make("int8", {}))  # the same


@pytest.mark.parametrize(("codec", "message"), [("int4", "no codec 'int4'; the codecs are"), (8, "codec is 8; give")])
def test_what_is_no_codec(codec: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DistillationError, match=message):
        trainer().cache_teacher(tmp_path / "cache", codec=codec)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "temperatures",
    [1.0, None, "1", ["1"], [None], [True], [], [0], [-1.0], [float("nan")], [float("inf")], [10**400], [1, 1.0],
     [[1.0]]],
)  # fmt: skip
def test_temperatures_that_are_none(temperatures: Any) -> None:
    with pytest.raises(DistillationError, match="top_k: temperatures are"):
        codecs.make("top_k", {"temperatures": temperatures})


# ---- models without a head ----


def headless(rows: int = 8, seed: int = 5) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if name != "labels"}
        for row in tiny.rows("masked_lm", rows, seed=seed)
    ]


def compared(**settings: Any) -> DistillationTrainer:
    """A headless student, which is evaluated against its teacher."""
    return trainer(
        HiddenMSE(layer_map="final"),
        model=tiny.model("masked_lm", seed=4).bert,
        teacher=tiny.model("masked_lm", layers=3, seed=3).bert,
        rows=headless(),
        eval_dataset=headless(),
        **settings,
    )


def test_prediction_reads_the_cache(tmp_path: Path) -> None:
    made = compared()
    expected = made.predict(headless()).metrics["test_loss"]
    made.cache_teacher(tmp_path / "cache", codec="float32")
    assert made.predict(headless()).metrics["test_loss"] == pytest.approx(expected, rel=1e-6)


def test_loaders_that_are_kept_for_evaluation_are_made_anew(tmp_path: Path) -> None:
    made = compared(args=tiny.arguments(dataloader_num_workers=1, dataloader_persistent_workers=True))
    expected = made.evaluate()["eval_loss"]
    made.cache_teacher(tmp_path / "cache", codec="float32")
    assert made.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)


# ---- where the teacher came from ----


def came_from(name: str) -> PreTrainedModel:
    """As `from_pretrained(name)` leaves it."""
    model = teacher()
    model.name_or_path = model.config.name_or_path = name
    model.config._commit_hash = "a" * 40
    return model


def test_the_record_keeps_the_id_of_the_teacher(tmp_path: Path) -> None:
    made = trainer(teacher=came_from("owner/teacher"))
    before = record_of(made).teacher
    made.cache_teacher(tmp_path / "cache")
    after = record_of(made).teacher
    assert before is not None
    assert after is not None
    assert (after.id, after.revision) == (before.id, before.revision) == ("owner/teacher", "a" * 40)


def test_no_path_of_the_machine_is_written_down(tmp_path: Path) -> None:
    made = trainer(teacher=came_from("/home/somebody/teacher"))
    made.cache_teacher(tmp_path / "cache")
    assert "somebody" not in (tmp_path / "cache" / "config.json").read_text()
    assert record_of(made).teacher.id is None  # type: ignore[union-attr]
    nested = teacher()
    nested.config.text_config = {"_name_or_path": "/home/somebody/text", "size": 3}
    assert config_of(nested)["text_config"] == {"size": 3}
    assert "somebody" not in json.dumps(config_of(nested), default=str)


def test_a_folder_is_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    names = ["models/mine", "models/other", "bert", "", "/models/mine", "../mine", "a/b/c", "C:\\mine"]
    assert [hub_id(name) for name in names] == [None, "models/other", "bert", None, None, None, None, None]


# ---- remedies ----


TOKENS = torch.tensor([[5, 6, 7]])
PACKED = Inputs(frozenset({"input_ids", "position_ids"}), causal=True)
PAIRS = Inputs(frozenset({"input_ids"}), targets=True)


@pytest.mark.parametrize(
    ("batch", "inputs", "message"),
    [
        ({"input_values": TOKENS.float()}, PACKED, "only input_values. Give rows of token ids"),
        ({"input_ids": TOKENS, "document_ids": TOKENS[:, :2]}, PACKED, "give the number of its document for each"),
        ({"input_ids": TOKENS}, PAIRS, "only input_ids. Give rows with labels"),
        ({"input_ids": TOKENS, "labels": TOKENS.repeat(2, 1)}, PAIRS, "1 source texts have 2 .*give one for each"),
    ],
)
def test_batches_by_which_nothing_is_found(batch: dict[str, Any], inputs: Inputs, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Pieces.of(batch, inputs)


def test_a_configuration_of_another_version_of_transformers() -> None:
    with pytest.raises(CacheMismatch, match=r"cannot be built .* Train with the teacher itself, or with the version"):
        skeleton_of("BertModel", {"model_type": "bert", "hidden_size": 31})


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheMismatch, match=r"cannot be made: .* Choose a folder that this process may write into"):
        trainer().cache_teacher(tmp_path / "file" / "cache")
