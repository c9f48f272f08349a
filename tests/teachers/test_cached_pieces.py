"""Caches of packed documents and of pairs of texts: each is found by itself, and trains as the teacher would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import DataCollatorWithFlattening, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from hf_distill import DistillationTrainer, HiddenMSE, Labels, SoftTargets
from hf_distill.activations import Signal
from hf_distill.errors import CacheMismatch, DataError, IncompatiblePair
from hf_distill.teachers import Cached
from hf_distill.teachers.cache import codecs
from hf_distill.teachers.cache.keys import Inputs
from hf_distill.teachers.cache.pieces import Pieces
from tests import tiny, tiny_models

DOCUMENTS = tiny.rows("causal_lm", 12)
PAIRS = [
    {**row, "labels": [token for token in row["labels"] if token != -100][: 3 + i % 5]}
    for i, row in enumerate(tiny.rows("seq2seq_lm", 20))
]
READ = Inputs(frozenset({"input_ids", "position_ids", "attention_mask"}), causal=True)


def trainer(task: str, rows: Any, *, cache: Path | None = None, objectives: Any = None, **given: Any) -> Any:
    made = DistillationTrainer(
        model=given.pop("model", None) or tiny.model(task, seed=4),
        teacher=given.pop("teacher", None) or tiny.model(task, layers=3, seed=3),
        objectives=objectives or SoftTargets(temperature=2.0) + Labels(),
        args=tiny.arguments(per_device_eval_batch_size=4, **given.pop("arguments", {})),
        train_dataset=rows,
        data_collator=given.pop("collator", None) or tiny.Pad(),
        **given,
    )
    if cache is not None:
        made.cache_teacher(cache, codec=codecs.make("float32", {}))
    return made


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary whose logits go through the head in chunks."""
    monkeypatch.setattr(tiny, "VOCABULARY", 4200)


# ---- documents ----


def packed(*groups: list[int]) -> list[dict[str, Any]]:
    """Rows of whole documents of `DOCUMENTS`, whose positions begin anew with each."""
    rows = []
    for group in groups:
        documents = [DOCUMENTS[number]["input_ids"] for number in group]
        ids = [token for document in documents for token in document]
        positions = [place for document in documents for place in range(len(document))]
        labels = [label for document in documents for label in [-100, *document[1:]]]
        rows.append({"input_ids": ids, "position_ids": positions, "labels": labels})
    return rows


def test_a_document_has_one_key_wherever_it_is() -> None:
    rows = packed([0, 1], [2])
    pieces = Pieces.of(tiny.Pad()(rows[:1]), READ)
    lengths = [len(DOCUMENTS[number]["input_ids"]) for number in (0, 1)]
    assert (pieces.rows.tolist(), pieces.starts.tolist(), pieces.lengths.tolist()) == (
        [0, 0],
        [0, lengths[0]],
        lengths,
    )
    assert pieces.places.tolist() == [*range(sum(lengths))]
    alone = [Pieces.of(tiny.Pad()([DOCUMENTS[number]]), READ).keys[0] for number in (0, 1)]
    assert pieces.keys == alone
    later = {"input_ids": torch.tensor([[5, 6]]), "position_ids": torch.tensor([[3, 4]])}
    assert Pieces.of(later, READ).keys != Pieces.of({**later, "position_ids": torch.tensor([[0, 1]])}, READ).keys
    with_mask = {**tiny.Pad()(rows[:1]), "attention_mask": torch.ones(1, sum(lengths), dtype=torch.long)}
    assert len(Pieces.of(with_mask, READ)) == 1, "attention goes across documents where there is a mask"


def test_documents_by_their_numbers() -> None:
    """Two documents and padding, beside a mask; the same keys as alone."""
    row = packed([0, 1])[0]
    lengths = [len(DOCUMENTS[number]["input_ids"]) for number in (0, 1)]
    batch = {**tiny.Pad(3)([row]), "document_ids": torch.tensor([[1] * lengths[0] + [2] * lengths[1] + [0] * 3])}
    batch["attention_mask"] = (batch["document_ids"] > 0).long()
    pieces = Pieces.of(batch, READ)
    assert pieces.lengths.tolist() == lengths
    assert pieces.keys == [Pieces.of(tiny.Pad()([DOCUMENTS[number]]), READ).keys[0] for number in (0, 1)]
    with pytest.raises(DataError, match="document_ids are"):
        Pieces.of({**batch, "document_ids": batch["document_ids"][:, 1:]}, READ)


def test_the_places_of_some_pieces() -> None:
    pieces = Pieces.of({name: torch.tensor(rows) for name, rows in {
        "input_ids": [[5, 6, 7, 8], [5, 6, 7, 9]], "position_ids": [[0, 1, 0, 1], [0, 0, 1, 2]],
    }.items()}, READ)  # fmt: skip
    assert pieces.lengths.tolist() == [2, 2, 1, 3]
    some = pieces.some(pieces.lengths != 2)
    assert some.places.tolist() == [4, 5, 6, 7]
    assert not some.are_rows


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("joined", [False, True])
def test_packed_documents_train_as_with_the_teacher(joined: bool, tmp_path: Path) -> None:
    """Written in one packing and read in another; joined by the collator as well, which makes one row of a batch."""
    first, other = packed([0, 1, 2], [3, 4, 0], [5, 6]), packed([6, 3], [1, 0], [4, 5, 2])
    trainer("causal_lm", first, collator=_one_by_one, cache=tmp_path / "cache")
    assert len(Cached(tmp_path / "cache").reader) == 8, "seven, and the one that fills rows"
    rows, collator = (other, _one_by_one) if not joined else (DOCUMENTS[:7], DataCollatorWithFlattening())
    settings = {"collator": collator, "arguments": {"per_device_train_batch_size": 3 if joined else 1}}
    plain = trainer("causal_lm", rows, **settings)
    cached = trainer("causal_lm", rows, teacher=Cached(tmp_path / "cache"), **settings)
    plain.train()
    cached.train()
    assert tiny.distance(plain.model, cached.model) < 1e-6


def _one_by_one(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows without padding, and so without a mask; the shorter are filled with documents of one token."""
    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "position_ids": 0, "labels": -100}
    return {
        name: torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])
        for name, value in fill.items()
    }


def test_a_document_that_is_missing_is_told_of(tmp_path: Path) -> None:
    trainer("causal_lm", packed([0, 1]), collator=_one_by_one, cache=tmp_path / "cache")
    with pytest.raises(CacheMismatch, match=r"of \d+ documents are not in the teacher's cache, row 1 is the first"):
        trainer("causal_lm", packed([1, 0], [2]), collator=_one_by_one, teacher=Cached(tmp_path / "cache")).train()


def test_attention_across_documents_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher that reads across documents would be written down under keys that tell nothing of it."""
    import transformers.masking_utils as masking

    monkeypatch.setattr(masking, "find_packed_sequence_indices", lambda positions: None)
    with pytest.raises(IncompatiblePair, match="its attention goes across the documents"):
        trainer("causal_lm", packed([0, 1], [2, 3]), collator=_one_by_one, cache=tmp_path / "cache")


# ---- pairs of texts ----


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_pairs_of_texts_train_as_with_the_teacher(family: str, tmp_path: Path) -> None:
    def pair() -> dict[str, PreTrainedModel]:
        still = {"dropout_rate": 0.0} if family == "t5" else {"dropout": 0.0}
        models = [tiny_models.tiny(family, "", layers=n, seed=n, vocab_size=4200, **still) for n in (1, 2)]
        return {"model": models[0], "teacher": models[1]}

    written = trainer("seq2seq_lm", PAIRS, **pair(), cache=tmp_path / "cache")
    assert [(each.name, each.by_token) for each in written.teacher.facts.signals] == [("decoder.final", True)]
    tokens = sum(len(row["labels"]) for row in PAIRS)
    assert sum(shard.tokens for shard in written.teacher.facts.shards) == tokens
    models = pair()
    plain = trainer("seq2seq_lm", PAIRS, **models)
    cached = trainer("seq2seq_lm", PAIRS, model=pair()["model"], teacher=Cached(tmp_path / "cache"))
    plain.train()
    cached.train()
    assert tiny.distance(plain.model, cached.model) < 1e-6


def test_states_of_a_decoder_and_narrow_logits(tmp_path: Path) -> None:
    def objectives() -> Any:
        return SoftTargets() + Labels() + HiddenMSE(layer_map="final", stack="decoder")

    plain = trainer("seq2seq_lm", PAIRS, objectives=objectives())
    cached = trainer("seq2seq_lm", PAIRS, objectives=objectives(), cache=tmp_path / "cache")
    assert {each.name for each in cached.teacher.facts.signals} == {"logits", "decoder.hidden[3]"}
    plain.train()
    cached.train()
    assert tiny.distance(plain.model, cached.model) < 1e-6


def test_a_pair_is_found_by_both_texts(tmp_path: Path) -> None:
    trainer("seq2seq_lm", PAIRS[:4], cache=tmp_path / "cache")
    cached = Cached(tmp_path / "cache")
    cached.bind(frozenset({Signal("logits")}))
    rows = PAIRS[:4]
    wide, narrow = (cached.reading(tiny.Pad(extra))(rows)["teacher/logits/values"] for extra in (5, 0))
    assert torch.equal(wide[:, : narrow.shape[1]], narrow)
    for change in ("input_ids", "labels"):
        other = [{**rows[0], change: [*rows[0][change][:-1], rows[0][change][-1] - 1]}]
        with pytest.raises(CacheMismatch, match="row 0 of a batch is not in the teacher's cache of 4 rows"):
            cached.reading(tiny.Pad())(other)
    with pytest.raises(DataError, match="reads the labels or decoder_input_ids"):
        cached.reading(tiny.Pad())([{name: row[name] for name in ("input_ids", "attention_mask")} for row in rows])


def test_states_of_the_encoder_are_in_no_cache(tmp_path: Path) -> None:
    made = trainer("seq2seq_lm", PAIRS, objectives=HiddenMSE(layer_map="final", stack="encoder") + Labels())
    with pytest.raises(IncompatiblePair, match=r"encoder\.hidden\[3\]: a teacher's cache holds"):
        made.cache_teacher(tmp_path / "cache")


# ---- memory ----


class Largest(TorchDispatchMode):
    """The most numbers that a tensor of floats has, among all that operators give."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(given)[0]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.numbers = max(self.numbers, tensor.numel())
        return given


@pytest.mark.parametrize(("codec", "settings"), [("float16", {}), ("rotated", {"bits": 2.0}), ("top_k", {"k": 8})])
def test_logits_of_all_tokens_never_exist(
    codec: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the cache holds: the teacher's head and the student's run chunk by chunk."""
    words, tokens = 49_152, 2 * 256
    monkeypatch.setattr(tiny, "VOCABULARY", words)
    rows = tiny.rows("causal_lm", 2, shortest=256, longest=256)
    models = [_long(layers=n, seed=n) for n in (1, 2)]
    made = trainer(
        "causal_lm", rows, model=models[0], teacher=models[1], objectives=SoftTargets(temperature=1.0) + Labels(),
        arguments={"max_steps": 1},
    )  # fmt: skip
    made.cache_teacher(tmp_path / "cache", codec=codecs.make(codec, settings))
    with Largest() as largest:
        made.train()
    assert words * 8 <= largest.numbers < tokens * words / 2


def _long(layers: int, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 1, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=tiny.VOCABULARY, num_hidden_layers=layers, **sizes))
