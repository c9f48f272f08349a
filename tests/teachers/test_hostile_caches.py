"""Caches whose digests are right and whose contents are not: refused, never a traceback of another library."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from hf_distill import DistillationTrainer, HiddenMSE, SoftTargets
from hf_distill.errors import CacheMismatch
from hf_distill.teachers import Cached
from hf_distill.teachers.cache import codecs, filling
from hf_distill.teachers.cache.folder import CacheFolder, Facts, ShardFacts, digest_of
from hf_distill.teachers.cache.shards import Shard
from tests import tiny

Facet = dict[str, Any]


def written(folder: Path, codec: str) -> Path:
    """A language model's state and head, in two shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "VOCABULARY", 1100)
        patch.setattr(filling, "SHARD_BYTES", 1)
        trainer = DistillationTrainer(
            model=tiny.model("causal_lm", seed=4),
            teacher=tiny.model("causal_lm", layers=2, seed=3),
            objectives=SoftTargets() + HiddenMSE(layer_map="final"),
            args=tiny.arguments(per_device_eval_batch_size=8),
            train_dataset=tiny.rows("causal_lm", 16),
            data_collator=tiny.Pad(),
        )
        trainer.cache_teacher(folder, codec=codec)
    return folder


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("caches")
    return {codec: written(home / codec, codec) for codec in ("int8", "rotated")}


@pytest.fixture
def cache(originals: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals["int8"], tmp_path / "cache"))


@pytest.fixture
def rotated(originals: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals["rotated"], tmp_path / "rotated"))


def tell(cache: Path, **changes: Any) -> None:
    """Other facts, with their digest."""
    told = json.loads((cache / "cache.json").read_text())
    del told["digest"]
    told |= changes
    digest = digest_of(json.dumps(told, sort_keys=True).encode())
    (cache / "cache.json").write_text(json.dumps({**told, "digest": digest}))


def facts(cache: Path) -> Facts:
    return CacheFolder(cache).facts()


def replace(cache: Path, name: str, data: bytes) -> None:
    """Another file beside the shards, with its digest."""
    (cache / name).write_bytes(data)
    tell(cache, files={**facts(cache).files, name: digest_of(data)})


def change_config(cache: Path, **changes: Any) -> None:
    replace(cache, "config.json", json.dumps({**json.loads((cache / "config.json").read_text()), **changes}).encode())


def change_tensors(cache: Path, name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load((cache / name).read_bytes())
    change(tensors)
    replace(cache, name, save({name: each.contiguous() for name, each in tensors.items()}))


def change_shard(cache: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Another last shard, with its digest."""
    told = facts(cache)
    path = cache / told.shards[-1].file
    tensors = load(path.read_bytes())
    change(tensors)
    path.write_bytes(save({name: each.contiguous() for name, each in tensors.items()}))
    shard = Shard(path)
    last = ShardFacts(file=path.name, rows=len(shard), tokens=shard.tokens, index=shard.index)
    tell(cache, shards=[each.model_dump() for each in (*told.shards[:-1], last)])


def refused(cache: Path) -> CacheMismatch:
    with pytest.raises(CacheMismatch) as caught:
        Cached(cache)
    assert str(cache) in str(caught.value)
    return caught.value


def test_what_is_rewritten_without_a_change_is_read(cache: Path, rotated: Path) -> None:
    for folder in (cache, rotated):
        change_config(folder)
        change_tensors(folder, "head.safetensors", lambda _: None)
        change_tensors(folder, "tables.safetensors", lambda _: None)
        change_shard(folder, lambda _: None)
        assert len(Cached(folder).reader) == 16


# ---- facts ----


@pytest.mark.parametrize("text", ["[" * 200_000, "{" * 9, "[]", "7", '{"format": 1}', "\xff"])
def test_facts_that_are_none(text: str, cache: Path) -> None:
    (cache / "cache.json").write_text(text, encoding="latin-1")
    assert "damaged" in str(refused(cache))


def test_facts_without_a_precision(cache: Path) -> None:
    tell(cache, fingerprint={"teacher": "a" * 32})
    assert "has no precision" in str(refused(cache))


@pytest.mark.parametrize("name", ["config.json", "tables.safetensors"])
def test_a_file_that_is_not_told_of(name: str, cache: Path) -> None:
    tell(cache, files={other: digest for other, digest in facts(cache).files.items() if other != name})
    assert name in str(refused(cache))


@pytest.mark.parametrize("name", ["hidden", "hidden[x]", "hidden[²]", "hidden[1", "hidden[01]", "final[2]", "mask"])
def test_a_signal_that_is_none(name: str, cache: Path) -> None:
    tell(cache, signals=[{**facts(cache).signals[0].model_dump(), "name": name}])
    assert f"no signal {name!r}" in str(refused(cache))


def test_a_signal_that_is_told_of_twice(cache: Path) -> None:
    tell(cache, signals=[each.model_dump() for each in facts(cache).signals] * 2)
    assert "twice" in str(refused(cache))


@pytest.mark.parametrize("change", [{"width": 31}, {"width": 10**15}, {"by_token": False}, {"codec": "float16"}])
def test_a_signal_that_is_written_otherwise(change: Facet, cache: Path) -> None:
    signals = [each.model_dump() for each in facts(cache).signals]
    tell(cache, signals=[signals[0] | change, *signals[1:]])
    refused(cache)


# ---- the model ----


@pytest.mark.parametrize("name", ["logging", "AutoModel", "BertConfig", "pipeline", "__doc__", "PreTrainedModel", ""])
def test_a_class_that_is_no_model(name: str, cache: Path) -> None:
    tell(cache, class_name=name)
    assert "does not know" in str(refused(cache))


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 31}, {"hidden_size": "wide"}, {"num_attention_heads": 0}, {"hidden_act": "none"},
        {"num_hidden_layers": None}, {"vocab_size": -1}, {"rope_parameters": {"rope_type": "other"}},
        {"model_type": {}}, {"model_type": ["llama"]},
    ],
)  # fmt: skip
def test_a_configuration_that_builds_no_model(change: Facet, cache: Path) -> None:
    change_config(cache, **change)
    error = refused(cache)
    assert "config" in str(error)
    assert error.__cause__ is not None


def test_no_attention_is_taken_from_the_hub(cache: Path) -> None:
    change_config(cache, attn_implementation="somebody/kernels")
    assert Cached(cache).anatomy.base.config._attn_implementation == "eager"


@pytest.mark.parametrize("data", [b"{", b"[]", b"[" * 200_000, b"\xff"])
def test_a_configuration_that_is_no_table(data: bytes, cache: Path) -> None:
    replace(cache, "config.json", data)
    assert "config.json is damaged" in str(refused(cache))


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head.clear(),
        lambda head: head.update({"lm_head.weight": head["lm_head.weight"][:-1]}),
        lambda head: head.update({"lm_head.weight": head["lm_head.weight"].int()}),
        lambda head: head.update({"lm_head.bias": torch.zeros(1100)}),
        lambda head: head.update({"model.norm.weight": head.pop("lm_head.weight")}),
    ],
)
def test_another_head(change: Callable[[dict[str, torch.Tensor]], object], cache: Path) -> None:
    change_tensors(cache, "head.safetensors", change)
    assert "head.safetensors is damaged" in str(refused(cache))


def test_a_head_without_the_state_that_it_reads(cache: Path) -> None:
    tell(cache, signals=[each.model_dump() for each in facts(cache).signals if each.name != "final"])
    refused(cache)


# ---- tables ----


@pytest.mark.parametrize("name", ["tables.safetensors", "head.safetensors"])
@pytest.mark.parametrize("data", [b"", b"\xff" * 40, (2).to_bytes(8, "little") + b"[]"])
def test_tensors_that_are_none(name: str, data: bytes, cache: Path) -> None:
    replace(cache, name, data)
    assert f"{name} is damaged" in str(refused(cache))


@pytest.mark.parametrize("table", [torch.ones(31), torch.ones(32, 1), torch.ones(()), torch.ones(32).int()])
def test_other_tables_of_int8(table: torch.Tensor, cache: Path) -> None:
    change_tensors(cache, "tables.safetensors", lambda tables: tables.update({"final/ranges": table}))
    assert "tables.safetensors is damaged" in str(refused(cache))


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("bits", torch.zeros(0, dtype=torch.uint8)), ("bits", torch.full((4,), 4.0)), ("bits", torch.tensor(4)),
        ("bits", torch.tensor([8, 8, 8, 8], dtype=torch.uint8)), ("bits", torch.tensor([-1, -1, -1, -1])),
        ("centre", torch.ones(())), ("forward", torch.ones(3)), ("length", torch.ones(0)),
        ("spreads", torch.ones(32).int()), ("centre", torch.ones(32).double()), ("length", torch.ones(1).half()),
    ],
)  # fmt: skip
def test_other_tables_of_rotated(name: str, table: torch.Tensor, rotated: Path) -> None:
    change_tensors(rotated, "tables.safetensors", lambda tables: tables.update({f"final/{name}": table}))
    assert "tables.safetensors is damaged" in str(refused(rotated))


def test_rotated_states_of_another_width_than_the_head_reads(rotated: Path) -> None:
    def narrowed(tables: dict[str, torch.Tensor]) -> None:
        tables["final/centre"] = tables["final/centre"][:31]
        tables["final/forward"] = tables["final/forward"][:31]
        tables["final/backward"] = tables["final/backward"][:, :31]

    change_tensors(rotated, "tables.safetensors", narrowed)
    signals = [each.model_dump() for each in facts(rotated).signals]
    tell(rotated, signals=[each | ({"width": 31} if each["name"] == "final" else {}) for each in signals])
    assert "states are 31 wide, those of the teacher 32" in str(refused(rotated))


@pytest.mark.parametrize("number", [torch.tensor(1.5), torch.tensor([96, 96]), torch.tensor(4), torch.tensor(-1)])
def test_other_tables_of_top_k(number: torch.Tensor) -> None:
    with pytest.raises(CacheMismatch, match="num_classes, a whole number above"):
        codecs.make("top_k", {"k": 8}).load_state({"num_classes": number})


# ---- shards ----


@pytest.mark.parametrize(
    "change",
    [
        lambda shard: shard.pop("final/scales"),
        lambda shard: shard.update({"final/others": shard["final/scales"].clone()}),
        lambda shard: shard.update({"values": shard.pop("final/values")}),
        lambda shard: shard.update({"final/values": shard["final/values"].view(torch.uint8)}),
        lambda shard: shard.update({"final/values": shard["final/values"][:, :16]}),
        lambda shard: shard.update({"final/values": shard["final/values"][:-1]}),
        lambda shard: shard.update({"final/scales": torch.tensor(1.0)}),
    ],
)
def test_parts_that_the_codec_has_not_written(
    change: Callable[[dict[str, torch.Tensor]], object], cache: Path
) -> None:
    change_shard(cache, change)
    assert "is told of it" in str(refused(cache))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("keys", lambda keys: keys.view(torch.int8)), ("lengths", lambda lengths: lengths.int()),
        ("lengths", lambda lengths: -lengths), ("checksums", lambda sums: sums[:, None]),
        ("keys", lambda keys: torch.tensor(1, dtype=torch.uint8)),
    ],
)  # fmt: skip
def test_rows_that_are_none(name: str, change: Callable[[torch.Tensor], torch.Tensor], cache: Path) -> None:
    path = cache / "shard-00001.safetensors"
    tensors = load(path.read_bytes())
    path.write_bytes(save({**tensors, name: change(tensors[name]).contiguous()}))
    assert "not a whole shard" in str(refused(cache))


NONE = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


@pytest.mark.parametrize(
    "header",
    [
        "[]", "7", "[" * 200_000, '{"keys": 1}',
        *(json.dumps({"keys": NONE | change}) for change in (
            {"shape": 3}, {"shape": [0.5]}, {"shape": [float("inf")]}, {"shape": [True]}, {"shape": [0, 10**30]},
            {"data_offsets": ["0", "0"]}, {"data_offsets": [0.0, 0.0]}, {"data_offsets": 0}, {"dtype": ["F32"]},
            {"data_offsets": [-4, 0], "shape": [1]},
        )),
    ],
)  # fmt: skip
def test_headers_that_are_none(header: str, cache: Path) -> None:
    data = header.encode()
    (cache / "shard-00001.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + bytes(64))
    assert "not a whole shard" in str(refused(cache))
