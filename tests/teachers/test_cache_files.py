"""What is on the disk: whole or refused, never a wrong target."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file
from transformers import DataCollatorForLanguageModeling, GPT2Config, GPT2ForSequenceClassification

from hf_distill import DistillationTrainer, HiddenMSE, SoftTargets
from hf_distill.data.packing import Layout, Packer
from hf_distill.errors import CacheMismatch, DataError, DistillationError, IncompatiblePair
from hf_distill.teachers import Cached, Frozen
from hf_distill.teachers.cache import codecs, filling
from hf_distill.teachers.cache.fingerprint import teacher_digest
from hf_distill.teachers.cache.folder import CacheFolder
from hf_distill.teachers.cache.keys import Inputs, row_keys, row_lengths
from hf_distill.teachers.cache.scanning import Source, scan
from tests import tiny, tiny_models, tiny_runs

ROWS = tiny.rows("single_label", 20)
PAD = tiny.Pad()
READ = Inputs(frozenset({"input_ids"}))


def trainer(
    rows: Any = ROWS,
    *,
    teacher: Any = None,
    model: Any = None,
    collator: Any = PAD,
    bf16: bool = False,
    **settings: Any,
) -> DistillationTrainer:
    return DistillationTrainer(
        model=tiny.model("single_label", seed=4) if model is None else model,
        teacher=tiny.model("single_label", layers=3, seed=3) if teacher is None else teacher,
        objectives=SoftTargets() + HiddenMSE(layer_map="final"),
        args=tiny.arguments(per_device_eval_batch_size=4, bf16=bf16),
        train_dataset=rows,
        data_collator=collator,
        **settings,
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of `ROWS` in several shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling, "SHARD_BYTES", 1)
        trainer().cache_teacher(tmp_path / "cache", max_length=16)
    return tmp_path / "cache"


def read_all(folder: Path, rows: Any = ROWS) -> dict[str, torch.Tensor]:
    cached = Cached(folder)
    return {name: part for name, part in cached.reading(PAD)(rows).items() if name.startswith("teacher/")}


# ---- the format ----


def test_the_files_are_as_documented(cache: Path) -> None:
    facts = json.loads((cache / "cache.json").read_text())
    assert [each["name"] for each in facts["signals"]] == ["hidden[3]", "logits"]
    assert [each["file"] for each in facts["shards"]] == [f"shard-0000{i}.safetensors" for i in range(5)]
    shard = load_file(cache / "shard-00000.safetensors")
    tokens = int(shard["lengths"].sum())
    shapes = {name: tuple(tensor.shape) for name, tensor in shard.items()}
    assert shapes == {
        "keys": (4, 16), "lengths": (4,), "checksums": (4,), "hidden[3]/values": (tokens, 32), "logits/values": (4, 3),
    }  # fmt: skip
    assert shard["hidden[3]/values"].dtype == torch.float16
    assert shard["logits/values"].dtype == torch.float32


def test_rows_come_in_any_order_and_by_any_process(cache: Path) -> None:
    forward, backward = read_all(cache), read_all(cache, ROWS[::-1])
    assert set(forward) == {"teacher/hidden[3]/values", "teacher/logits/values"}
    for name, part in forward.items():
        torch.testing.assert_close(part, backward[name].flip(0), rtol=0, atol=0)
    reading = Cached(cache).reading(PAD)
    again = pickle.loads(pickle.dumps(reading))(ROWS)
    assert all(torch.equal(again[name], part) for name, part in forward.items())
    assert len(pickle.dumps(reading)) < 20_000  # the files are opened anew, not sent


def test_equal_rows_are_kept_once(tmp_path: Path) -> None:
    trainer(ROWS[:5] * 3).cache_teacher(tmp_path / "cache")
    assert len(Cached(tmp_path / "cache").reader) == 5


# ---- keys ----


def keys_of(batch: dict[str, torch.Tensor], columns: tuple[str, ...] = ("input_ids", "token_type_ids")) -> list[bytes]:
    return row_keys(batch, Inputs(frozenset(columns), first_segment=True), row_lengths(batch))


def test_a_key_is_of_what_the_teacher_reads_without_padding() -> None:
    short = PAD(ROWS[:4])
    keys = keys_of(short)
    assert keys == keys_of(tiny.Pad(7)(ROWS[:4])) == [keys_of(PAD([row]))[0] for row in ROWS[:4]]
    assert len(set(keys)) == 4
    zeros = torch.zeros_like(short["input_ids"])
    assert keys_of({**short, "token_type_ids": zeros}) == keys
    second = zeros.clone()
    second[:, 2:] = 1
    assert not {*keys_of({**short, "token_type_ids": second})} & {*keys}
    assert keys_of({**short, "token_type_ids": second}, ("input_ids",)) == keys
    assert keys_of({**short, "labels": torch.zeros(4)}, ("input_ids", "labels")) == keys
    assert keys_of({**short, "input_ids": short["input_ids"].int()}) == keys


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "deberta-v2", "distilbert", "llama", "gpt2"])
def test_zeros_for_segments_have_the_key_of_none_where_the_teacher_reads_the_same(family: str) -> None:
    settings = {"type_vocab_size": 2} if family == "deberta-v2" else {}
    model = tiny_models.tiny(family, tiny_models.CLASSIFIER, **settings)
    accepts = Frozen(model).accepts
    ids, mask = torch.tensor([[4, 5, 6, 7, 8]]), torch.ones(1, 5, dtype=torch.long)
    without = {"input_ids": ids, "attention_mask": mask}
    zeros = {**without, "token_type_ids": torch.zeros_like(ids)}
    inputs = Inputs.of(model, accepts)
    with torch.no_grad():
        shown = [model(**{name: each for name, each in batch.items() if name in accepts}).logits
                 for batch in (without, zeros)]  # fmt: skip
    keys = [row_keys(batch, inputs, row_lengths(batch)) for batch in (without, zeros)]
    assert (keys[0] == keys[1]) == torch.equal(*shown)


def test_a_cache_for_gpt2_without_segments_does_not_serve_rows_with_them(tmp_path: Path) -> None:
    settings = {"model": tiny_models.tiny("gpt2", tiny_models.CLASSIFIER, layers=1), "collator": PAD}
    teacher = tiny_models.tiny("gpt2", tiny_models.CLASSIFIER)
    trainer(teacher=teacher, **settings).cache_teacher(tmp_path / "cache")
    zeros = [{**row, "token_type_ids": [0] * len(row["input_ids"])} for row in ROWS]
    with pytest.raises(CacheMismatch, match="not in the teacher's cache"):
        read_all(tmp_path / "cache", zeros)


def test_a_prefix_has_another_key() -> None:
    row = {**ROWS[0], "token_type_ids": [0] * len(ROWS[0]["input_ids"])}
    part = {name: value[:-1] if isinstance(value, list) else value for name, value in row.items()}
    assert keys_of(PAD([row])) != keys_of(PAD([part]))


def test_padding_on_the_left_is_refused() -> None:
    batch = {name: column.flip(1) if column.dim() == 2 else column for name, column in PAD(ROWS[:4]).items()}
    with pytest.raises(CacheMismatch, match="padding_side = 'right'"):
        row_lengths(batch)


@pytest.mark.parametrize("column", [torch.zeros(4, 12), torch.zeros(4, dtype=torch.long)])
def test_a_column_that_is_no_number_a_token_is_refused(column: torch.Tensor) -> None:
    with pytest.raises(DataError, match="the column 'extra'"):
        keys_of({**PAD(ROWS[:4]), "extra": column}, ("input_ids", "extra"))


# ---- a cache of something else ----


def test_a_buffer_that_is_not_saved_makes_another_teacher() -> None:
    models = [tiny.model("causal_lm", seed=3) for _ in range(3)]
    models[2].model.rotary_emb.inv_freq.mul_(0.5)
    digests = [teacher_digest(model) for model in models]
    assert "model.rotary_emb.inv_freq" not in models[2].state_dict()
    assert digests[0] == digests[1] != digests[2]


def other_weight() -> Any:
    teacher = tiny.model("single_label", layers=3, seed=3)
    with torch.no_grad():
        teacher.classifier.bias[0] += 1e-6
    return teacher


def other_setting() -> Any:
    teacher = tiny.model("single_label", layers=3, seed=3)
    teacher.config.layer_norm_eps = 1e-3
    return teacher


def tiny_gpt2() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, num_labels=3)
    return GPT2ForSequenceClassification(config).eval()


@pytest.mark.parametrize("make", [other_weight, other_setting])
def test_another_teacher(make: Callable[[], Any], cache: Path) -> None:
    before = read_all(cache)
    with pytest.raises(CacheMismatch, match=r"was written with another teacher: teacher '[0-9a-f]{32}', here"):
        trainer(teacher=make()).cache_teacher(cache)
    with pytest.raises(CacheMismatch, match="another teacher"):
        Cached(cache, teacher=make())
    Cached(cache, teacher=tiny.model("single_label", layers=3, seed=3))
    assert all(torch.equal(part, before[name]) for name, part in read_all(cache).items())


@pytest.mark.parametrize("make", [partial(tiny.model, "single_label", layers=3, seed=3), tiny_gpt2])
def test_a_teacher_that_has_seen_labels_is_no_other(make: Callable[[], Any]) -> None:
    """Classifiers write into their configuration what kind of labels these were."""
    teacher = make()
    before = teacher_digest(teacher)
    ids = torch.tensor([[5, 6, 7]])
    shown = teacher(input_ids=ids).logits
    teacher(input_ids=ids, labels=torch.tensor([1]))
    assert teacher.config.problem_type == "single_label_classification"
    assert teacher_digest(teacher) == before
    torch.testing.assert_close(teacher(input_ids=ids).logits, shown)


def test_another_length_or_precision(cache: Path) -> None:
    with pytest.raises(CacheMismatch, match="max_length 16, here 12"):
        trainer().cache_teacher(cache, max_length=12)
    half = Frozen(tiny.model("single_label", layers=3, seed=3), dtype=torch.bfloat16)
    with pytest.raises(CacheMismatch, match="precision"):
        trainer(teacher=half).cache_teacher(cache)


def test_a_folder_that_is_given_is_of_the_precision_that_is_trained_in(cache: Path, tmp_path: Path) -> None:
    mixed = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    cpu = torch.device("cpu")
    Cached(cache).place(cpu, nullcontext)
    with pytest.raises(
        CacheMismatch, match=r"ran in float32, .* in float32, autocast bfloat16\. .*dtype=torch.float32"
    ):
        trainer(teacher=Cached(cache), bf16=True)
    trainer(teacher=Cached(cache, dtype=torch.float32), bf16=True)
    with pytest.raises(CacheMismatch, match="ran in float32, and would here in bfloat16"):
        Cached(cache, dtype=torch.bfloat16).place(cpu, nullcontext)
    own = Frozen(tiny.model("single_label", layers=3, seed=3), dtype=torch.float32)
    trainer(teacher=own, bf16=True).cache_teacher(cache, max_length=16)
    trainer(bf16=True).cache_teacher(tmp_path / "mixed")
    Cached(tmp_path / "mixed").place(cpu, mixed)
    with pytest.raises(CacheMismatch, match="ran in float32, autocast bfloat16, and would here in float32"):
        Cached(tmp_path / "mixed").place(cpu, nullcontext)


def test_another_codec(cache: Path) -> None:
    with pytest.raises(CacheMismatch, match=r"holds hidden\[3\] as float16 .*bfloat16 .* is asked for"):
        trainer().cache_teacher(cache, codec=codecs.make("bfloat16", {}))


def test_another_tokenizer(tmp_path: Path) -> None:
    first, second = tiny_runs.tokenizer(), tiny_runs.tokenizer((*tiny_runs.SPECIAL, "other"))
    trainer(processing_class=first).cache_teacher(tmp_path / "cache")
    with pytest.raises(CacheMismatch, match="another tokenizer"):
        trainer(processing_class=second).cache_teacher(tmp_path / "cache")
    with pytest.raises(CacheMismatch, match="another tokenizer"):
        trainer(teacher=Cached(tmp_path / "cache"), processing_class=second).train()
    with pytest.raises(CacheMismatch, match="another tokenizer"):
        Cached(tmp_path / "cache", tokenizer=second)
    trainer(teacher=Cached(tmp_path / "cache"), processing_class=first).train()


def test_other_text(cache: Path) -> None:
    rows = [*ROWS, {**ROWS[0], "input_ids": ROWS[0]["input_ids"][::-1]}]
    made = trainer(rows, teacher=Cached(cache))
    with pytest.raises(CacheMismatch, match="1 of 21 rows are not in the teacher's cache, row 20 is the first"):
        made.train()
    with pytest.raises(CacheMismatch, match="row 1 of a batch is not in the teacher's cache of 20 rows"):
        Cached(cache).reading(PAD)([rows[0], rows[20]])


def test_no_cache_at_all(tmp_path: Path) -> None:
    with pytest.raises(CacheMismatch, match="holds no teacher's cache"):
        Cached(tmp_path)


def test_a_batch_that_was_not_read(cache: Path) -> None:
    cached = Cached(cache)
    cached.bind(frozenset())
    with pytest.raises(DistillationError, match="nothing of the teacher's cache"):
        cached.activations(PAD(ROWS[:2]))


# ---- damage ----


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def test_a_missing_shard(cache: Path) -> None:
    (cache / "shard-00002.safetensors").unlink()
    with pytest.raises(CacheMismatch, match=r"shard-00002\.safetensors.*No such file"):
        Cached(cache)
    with pytest.raises(CacheMismatch, match=r"shard-00002\.safetensors"):
        trainer().cache_teacher(cache, max_length=16)


@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_a_shard_that_is_cut_off(left: int, cache: Path) -> None:
    path = cache / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CacheMismatch, match=r"shard-00001\.safetensors: not a whole shard"):
        Cached(cache)


def test_no_flipped_bit_goes_unseen(cache: Path) -> None:
    path = cache / "shard-00003.safetensors"
    whole = path.read_bytes()
    generator = random.Random(0)
    for place in [0, 8, *generator.sample(range(len(whole)), 60)]:
        flip(path, place)
        with pytest.raises(CacheMismatch, match=r"shard-00003"):
            read_all(cache)
        path.write_bytes(whole)
    read_all(cache)


@contextmanager
def few_files(number: int) -> Iterator[None]:
    """No more than `number` files can be opened beside those that are."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = {int(name) for name in os.listdir("/proc/self/fd")}
    free = [each for each in range(soft) if each not in open_now]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[number], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted by /proc")
def test_more_shards_than_a_process_may_have_files_open(tmp_path: Path) -> None:
    rows = tiny.rows("single_label", 120)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling, "SHARD_BYTES", 1)
        made = trainer(rows[:100])
        made.args.per_device_eval_batch_size = 1
        made.cache_teacher(tmp_path)
        assert len(CacheFolder(tmp_path).facts().shards) > 90
        whole = read_all(tmp_path, rows[:100])
        with few_files(16):
            few = read_all(tmp_path, rows[:100])
            trainer(rows).cache_teacher(tmp_path)  # goes on
    assert all(torch.equal(few[name], part) for name, part in whole.items())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("name", ["cache.json", "tables.safetensors", "shard-00001.safetensors"])
def test_a_file_that_the_system_does_not_give_is_not_to_be_removed(
    name: str, number: int, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def refused(path: Path, *words: Any, **named: Any) -> Any:
        if path.name == name:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *words, **named)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(CacheMismatch, match=f"{re.escape(name)} cannot be read: {os.strerror(number)}") as caught:
        Cached(cache)
    assert "emove" not in str(caught.value)
    assert "anew" not in str(caught.value)


def test_a_shard_that_cannot_be_mapped_is_not_to_be_removed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise RuntimeError("unable to mmap 64 bytes from file: Cannot allocate memory (12)")

    monkeypatch.setattr(torch, "from_file", refused)
    with pytest.raises(CacheMismatch, match=r"shard-00000\.safetensors cannot be read: unable to mmap") as caught:
        Cached(cache)
    assert "emove" not in str(caught.value)


@pytest.mark.parametrize("codec", ["float16", "bfloat16", "float32", "int8"])
def test_bits_travel_in_types_that_every_engine_sends(codec: str, tmp_path: Path) -> None:
    trainer().cache_teacher(tmp_path, codec=codec)
    sent = {torch.uint8, torch.int8, torch.int32, torch.int64}
    assert {part.dtype for part in read_all(tmp_path).values()} <= sent


def test_a_mapped_shard_cannot_be_written_into(cache: Path) -> None:
    shard = Cached(cache).reader.shards[0]
    assert not any(array.flags.writeable for array in (shard.keys, shard.lengths, *shard.arrays.values()))


def test_another_shard_in_its_place(cache: Path) -> None:
    os.replace(cache / "shard-00004.safetensors", cache / "shard-00000.safetensors")
    with pytest.raises(CacheMismatch, match="is not the shard that"):
        Cached(cache)


@pytest.mark.parametrize("name", ["cache.json", "config.json", "tables.safetensors"])
def test_damage_beside_the_shards(name: str, cache: Path) -> None:
    size = (cache / name).stat().st_size
    whole = (cache / name).read_bytes()
    for place in (1, size // 2, size - 2):
        flip(cache / name, place)
        with pytest.raises(CacheMismatch, match=name.replace(".", r"\.")):
            Cached(cache)
        (cache / name).write_bytes(whole)
    (cache / name).unlink()
    with pytest.raises(CacheMismatch, match=r"holds no teacher's cache|cannot be read"):
        Cached(cache)


def test_another_format(cache: Path) -> None:
    facts = json.loads((cache / "cache.json").read_text())
    (cache / "cache.json").write_text(json.dumps({**facts, "format": 7}))
    with pytest.raises(CacheMismatch, match="is of format 7, and this version reads 1"):
        Cached(cache)


def packed(documents: list[list[int]]) -> list[dict[str, Any]]:
    packer = Packer(Layout((), (), (3,), 9))
    rows = [row for document in documents for row in packer.add(document)] + list(packer.rest())
    return [{"input_ids": row, "attention_mask": [1] * len(row), "labels": row} for row in rows]


def test_a_packed_row_is_one_row_as_the_teacher_reads_it(tmp_path: Path) -> None:
    """What a teacher shows of a document depends on those before it in the row."""
    documents = [[5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16], [17, 18, 19, 20]]
    first, other = packed(documents), packed([documents[2], *documents[:2], documents[3]])
    assert [len(row["input_ids"]) for row in (*first, *other)] == [9] * 4
    teacher = tiny.model("causal_lm", layers=3, seed=3).eval()
    with torch.no_grad():
        logits = [teacher(**PAD([row])).logits[0, 5:] for row in (first[0], packed([documents[2], documents[1]])[0])]
    assert (logits[0] - logits[1]).abs().max() > 1e-3  # of the second document, behind the first or the third
    model = tiny.model("causal_lm", seed=4)
    trainer(first, teacher=teacher, model=model).cache_teacher(tmp_path)
    with pytest.raises(CacheMismatch, match=r"2 of 2 rows are not in .*packed together with others"):
        trainer(other, teacher=Cached(tmp_path), model=model).train()
    trainer(other, teacher=teacher, model=model).cache_teacher(tmp_path)
    assert len(Cached(tmp_path).reader) == 4


def test_rows_that_the_collator_joins_are_refused(tmp_path: Path) -> None:
    def flattened(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = torch.tensor([[token for row in rows for token in row["input_ids"]]])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0])}

    with pytest.raises(DataError, match=r"the collator makes 1 rows of 20 \(as DataCollatorWithFlattening"):
        trainer(collator=flattened).cache_teacher(tmp_path / "cache")


# ---- writing ----


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "SHARD_BYTES", 1)
    trainer(ROWS[:8]).cache_teacher(tmp_path)
    before = read_all(tmp_path, ROWS[:8])
    synced, sync = [], os.fsync

    def full(file: int) -> None:
        synced.append(file)
        if len(synced) > 3:  # a shard, its facts, a shard
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CacheMismatch, match=r"No space left on device.*untouched; make room"):
            trainer().cache_teacher(tmp_path)
    assert not list(tmp_path.glob(".*.part"))
    assert len(Cached(tmp_path).reader) == 12
    assert all(torch.equal(part, before[name]) for name, part in read_all(tmp_path, ROWS[:8]).items())
    trainer().cache_teacher(tmp_path)
    assert len(Cached(tmp_path).reader) == 20
    trainer(teacher=Cached(tmp_path)).train()


def test_a_writer_that_was_killed_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "SHARD_BYTES", 1)
    whole = tmp_path / "whole"
    trainer().cache_teacher(whole)
    teacher, passes = tiny.model("single_label", layers=3, seed=3), []

    def die(*_: Any) -> None:
        passes.append(1)
        if len(passes) == 4:  # one to learn the shapes
            raise KeyboardInterrupt

    hook = teacher.register_forward_pre_hook(die)
    with pytest.raises(KeyboardInterrupt):
        trainer(teacher=teacher).cache_teacher(tmp_path / "cache")
    (tmp_path / "cache" / ".shard-00002.safetensors.1.part").write_bytes(b"torn")
    (tmp_path / "cache" / "shard-00002.safetensors").write_bytes(b"renamed, and never told of")
    hook.remove()
    assert len(Cached(tmp_path / "cache").reader) == 8
    rest: list[int] = []
    teacher.register_forward_pre_hook(lambda *_: rest.append(1))
    trainer(teacher=teacher).cache_teacher(tmp_path / "cache")
    assert len(rest) == 3
    assert not list((tmp_path / "cache").glob(".*.part"))
    expected = read_all(whole)
    assert all(torch.equal(part, expected[name]) for name, part in read_all(tmp_path / "cache").items())


def test_two_writers_at_once(cache: Path) -> None:
    more = tiny.rows("single_label", 22)
    with CacheFolder(cache).claimed():
        whole = trainer()
        teacher = whole.teacher.model
        whole.cache_teacher(cache, max_length=16)  # nothing is lacking, so nothing is written
        assert not any(module._forward_hooks for module in teacher.modules()), "let go of, as one that was written"
        with pytest.raises(CacheMismatch, match="another process writes"):
            trainer(more).cache_teacher(cache, max_length=16)
    trainer(more).cache_teacher(cache, max_length=16)
    assert len(Cached(cache).reader) == 22


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheMismatch, match="cannot be made"):
        trainer().cache_teacher(tmp_path / "file" / "cache")


def test_numbers_that_are_none_are_not_written(tmp_path: Path) -> None:
    teacher = tiny.model("single_label", layers=3, seed=3)
    with torch.no_grad():
        teacher.classifier.bias[0] = float("nan")
    with pytest.raises(DistillationError, match="NaN or infinite"):
        trainer(teacher=teacher).cache_teacher(tmp_path / "cache")


def test_an_adapter_is_to_be_merged_first(tmp_path: Path) -> None:
    teacher = get_peft_model(tiny.model("single_label", layers=3), LoraConfig(target_modules=["query"]))
    with pytest.raises(IncompatiblePair, match="merge_and_unload"):
        trainer(teacher=teacher).cache_teacher(tmp_path / "cache")


# ---- rows that change ----


def test_masks_drawn_while_collating_are_refused(tmp_path: Path) -> None:
    masking = DataCollatorForLanguageModeling(tiny_runs.tokenizer(), mlm_probability=0.3)
    rows = [{"input_ids": [2, 5, 6, 7, 8, 9, 3]} for _ in range(8)]
    made = DistillationTrainer(
        model=tiny.model("masked_lm", seed=4),
        teacher=tiny.model("masked_lm", layers=3),
        objectives=SoftTargets(),
        args=tiny.arguments(),
        train_dataset=rows,
        data_collator=masking,
    )
    with pytest.raises(CacheMismatch, match="made anew each time"):
        made.cache_teacher(tmp_path / "cache")


class Epochs:
    """Rows that are the same within an epoch, and others in the next."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> dict[str, Any]:
        epoch, row = divmod(number, 4)
        return {"input_ids": [4 + epoch, 5, 6 + row], "attention_mask": [1, 1, 1]}

    def epoch_sampler(self) -> None:
        raise NotImplementedError


def test_masks_drawn_by_epoch_are_refused() -> None:
    with pytest.raises(CacheMismatch, match="made anew each time"):
        scan(Source(Epochs(), PAD), READ)


def test_a_stream_is_refused() -> None:
    with pytest.raises(DataError, match="is a stream"):
        scan(Source(iter(ROWS), PAD), READ)


def test_looking_at_the_rows_draws_no_random_numbers() -> None:
    def drawing(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        torch.rand(1), np.random.rand(), random.random()
        return PAD(rows)

    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    found = scan(Source(ROWS, drawing), READ)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert len(found.keys) == len(ROWS)


def test_rows_of_a_table_and_rows_of_a_list_have_the_same_keys() -> None:
    table = Dataset.from_list(ROWS)
    assert (scan(Source(table, PAD), READ).keys == scan(Source(ROWS, PAD), READ).keys).all()


# ---- adapters ----


def test_a_model_with_an_adapter_inside_is_no_teacher_of_a_cache(cache: Path) -> None:
    """Two scales of one adapter, or one that is switched off, have equal settings and weights."""
    adapted = tiny.model("single_label", layers=3, seed=3)
    inject_adapter_in_model(LoraConfig(target_modules=["query"], r=2), adapted)
    with pytest.raises(IncompatiblePair, match=r"adapter, .*merge_and_unload"):
        trainer(teacher=adapted).cache_teacher(cache, max_length=16)
    with pytest.raises(IncompatiblePair, match="adapter"):
        Cached(cache, teacher=adapted)
