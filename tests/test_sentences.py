"""Vectors of sentences: how they are made, and what sentence-transformers' files say of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hf_distill import students
from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.errors import IncompatiblePair
from hf_distill.hub.folder import is_published
from hf_distill.hub.sentence_transformers import FILES, write_modules
from hf_distill.sentence_modules import load_encoder, read_modules
from hf_distill.sentences import DENSE, POOLINGS, SIMILARITIES, SentenceEmbedding, SentenceVectors, give
from hf_distill.tasks import task_of
from hf_distill.teachers import Frozen
from tests import tiny_runs

STATES = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MASKS = {
    "right": [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]],
    "left": [[1] * 5, [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]],
}


def by_hand(states: Tensor, real: list[int], pooling: str) -> list[float]:
    """One vector, feature by feature."""
    tokens = [states[i] for i, one in enumerate(real) if one]
    features: list[list[float]] = [[float(token[d]) for token in tokens] for d in range(states.shape[-1])]
    ways: dict[str, Callable[[list[float]], float]] = {
        "cls": lambda values: values[0],
        "lasttoken": lambda values: values[-1],
        "max": max,
        "mean": lambda values: sum(values) / len(values),
        "mean_sqrt_len_tokens": lambda values: sum(values) / math.sqrt(len(values)),
    }
    return [ways[pooling](values) for values in features]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("side", MASKS)
def test_states_are_pooled_as_named(pooling: str, side: str) -> None:
    base = nn.Module()
    base.config = SimpleNamespace(sentence_embedding={"pooling": pooling, "normalize": False})
    mask = torch.tensor(MASKS[side])
    states = STATES.masked_fill(~mask.bool().unsqueeze(-1), math.nan)
    found = SentenceVectors(base)(states, mask)
    expected = torch.tensor([by_hand(states[i], MASKS[side][i], pooling) for i in range(3)], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    base.config.sentence_embedding["normalize"] = True
    lengths = expected.square().sum(-1, keepdim=True).sqrt()
    torch.testing.assert_close(SentenceVectors(base)(states, mask), expected / lengths)


def test_a_model_says_itself_that_it_is_a_sentence_encoder(tmp_path: Path) -> None:
    """Its configuration goes with it, and a model without one is an encoder."""
    tiny_runs.save_base(tmp_path)
    model = tiny_runs.BertModel.from_pretrained(tmp_path)
    assert task_of(model).name == "encoder"
    give(model, SentenceEmbedding("cls", True))
    assert task_of(model).name == "embeddings"
    model.save_pretrained(tmp_path)
    again = tiny_runs.BertModel.from_pretrained(tmp_path)
    assert SentenceEmbedding.of(again.config) == SentenceEmbedding("cls", True)
    shown = Capture(Anatomy.of(again.eval()), [Signal("sentence"), Signal("final")], role="model")
    ids = torch.tensor([[2, 6, 7, 3], [2, 8, 3, 0]])
    found = shown({"input_ids": ids, "attention_mask": (ids > 0).long()})[1]
    torch.testing.assert_close(found.sentence, found.final[:, 0] / found.final[:, 0].norm(dim=-1, keepdim=True))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("mean", r"sentence_embedding = 'mean'"),
        ({"pooling": "mean"}, r"it holds pooling and normalize"),
        ({"pooling": "mean", "normalize": True, "code": "x"}, r"it holds pooling and normalize"),
        ({"pooling": ["mean"], "normalize": True}, r"pooling is \"\['mean'\]\"; it may be cls, mean, max"),
        ({"pooling": "mean", "normalize": 1}, r"normalize is 1; it may be true or false"),
        ({"pooling": "mean", "normalize": True, "similarity": "euclidean"}, r"similarity is 'euclidean'; it may be"),
        ({"pooling": "mean", "normalize": True, "width": -3}, r"width is -3; it must be a whole number above 0"),
    ],
)
def test_a_configuration_from_elsewhere_is_checked(told: Any, message: str) -> None:
    with pytest.raises(IncompatiblePair, match=message):
        SentenceEmbedding.of(SimpleNamespace(sentence_embedding=told))


# ---- the files of sentence-transformers ----


def write(folder: Path, *kinds: str, pooling: dict[str, Any] | None = None, **files: Any) -> Path:
    """A folder with these modules, in the form of version 2."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = ["" if kind == "Transformer" else f"{i}_{kind}" for i, kind in enumerate(kinds)]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    contents = {"modules.json": modules, **files}
    if "Pooling" in kinds:
        contents.setdefault(
            f"{kinds.index('Pooling')}_Pooling/config.json", pooling or {"pooling_mode_mean_tokens": True}
        )
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def with_dense(folder: Path, **settings: Any) -> Path:
    """A folder with a dense layer from 16 to 6 features."""
    told = {
        "in_features": 16,
        "out_features": 6,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    write(folder, *kinds, **{"2_Dense/config.json": {**told, **settings}})
    draw = torch.Generator().manual_seed(4)
    weights = {"linear.weight": torch.randn(6, 16, generator=draw), "linear.bias": torch.randn(6, generator=draw)}
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    return folder


PLAIN = ("Transformer", "Pooling", "Normalize")


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}, "mean"),
        ({"embedding_dimension": 16, "pooling_mode": "max", "include_prompt": True}, "max"),
        ({"pooling_mode": ["lasttoken"]}, "lasttoken"),
    ],
)
def test_pooling_and_norm_are_read_in_both_forms(tmp_path: Path, pooling: dict[str, Any], expected: str) -> None:
    folder = write(tmp_path, *PLAIN, pooling=pooling, **{"sentence_bert_config.json": {"max_seq_length": 77}})
    found = read_modules(str(folder), "teacher")
    assert found is not None
    assert found.embedding == SentenceEmbedding(expected, True, max_length=77)
    assert found.dense is None
    bare = read_modules(str(write(tmp_path / "bare", *PLAIN[:2])), "teacher")
    assert bare is not None
    assert bare.embedding.normalize is False
    (tmp_path / "other").mkdir()
    assert read_modules(str(tmp_path / "other"), "teacher") is None


def test_dense_layers_of_a_teacher_stand_behind_its_pooling(tmp_path: Path) -> None:
    folder = with_dense(tmp_path)
    tiny_runs.save_base(folder)
    model = tiny_runs.BertModel.from_pretrained(folder).eval()
    found = read_modules(str(folder), "teacher")
    assert found is not None
    give(model, found.embedding, found.dense)
    assert Anatomy.of(model).shape.sentence_width == 6
    ids = torch.tensor([[2, 6, 7, 3], [2, 8, 3, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    teacher = Frozen(model)
    teacher.bind(frozenset({Signal("sentence")}))
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mean = torch.stack([states[0].mean(0), states[1, :3].mean(0)])
    draw = torch.Generator().manual_seed(4)
    weight, bias = torch.randn(6, 16, generator=draw), torch.randn(6, generator=draw)
    expected = torch.tanh(mean @ weight.T + bias)
    expected = expected / expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(teacher.activations(batch).sentence, expected)
    delattr(model, DENSE)
    with pytest.raises(IncompatiblePair, match=r"tells of dense layers behind the pooling, 6 wide, and it has none"):
        SentenceVectors(model)


def dense_teacher(folder: Path) -> Any:
    """An encoder of two layers with a dense layer from 16 to 6 features."""
    tiny_runs.save_base(with_dense(folder))
    return load_encoder(str(folder))


def test_a_student_keeps_the_dense_layers_of_its_teacher(tmp_path: Path) -> None:
    """They are written beside its weights, not trained, and its vectors are what they make of its states."""
    teacher = dense_teacher(tmp_path / "teacher")
    student = students.from_layers(teacher, layers=1)
    assert Anatomy.of(student).shape.sentence_width == 6
    assert not any(DENSE in name for name in student.state_dict())
    assert not any(DENSE in name for name, _ in student.named_parameters())
    ids = torch.tensor([[2, 6, 7, 3]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        mean = student(**batch).last_hidden_state.mean(1)
        found = Capture(Anatomy.of(student), [Signal("sentence")], role="model")(batch)[1].sentence
    draw = torch.Generator().manual_seed(4)
    weight, bias = torch.randn(6, 16, generator=draw), torch.randn(6, generator=draw)
    expected = torch.tanh(mean @ weight.T + bias)
    torch.testing.assert_close(found, expected / expected.norm(dim=-1, keepdim=True))
    folder = tmp_path / "student"
    student.save_pretrained(folder)
    write_modules(folder, student.config, getattr(student, DENSE))
    again = load_encoder(str(folder))
    torch.testing.assert_close(
        Capture(Anatomy.of(again), [Signal("sentence")], role="model")(batch)[1].sentence.detach(), found
    )
    files = [f"2_Dense/{name}" for name in ("config.json", "model.safetensors")]
    assert all(is_published(name) for name in files)


def test_dense_layers_that_do_not_fit_are_left_out_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = dense_teacher(tmp_path)
    with caplog.at_level("WARNING"):
        narrow = students.from_shape(teacher, hidden_size=8, num_attention_heads=2)
    assert "dense layers read vectors 16 wide, the student's are 8: it goes without them" in caplog.text
    assert SentenceEmbedding.of(narrow.config) == SentenceEmbedding("mean", True)
    assert Anatomy.of(narrow).shape.sentence_width == 8
    with pytest.raises(IncompatiblePair, match=r"reads vectors 16 wide, and those before it are 8; they are of"):
        give(narrow, SentenceEmbedding("mean", True), getattr(teacher, DENSE))


NARROW = {
    "num_hidden_layers": 1, "hidden_size": 16, "embedding_size": 8, "intra_bottleneck_size": 8,
    "num_attention_heads": 2, "intermediate_size": 8,
}  # fmt: skip
MAKERS: dict[str, Callable[..., Any]] = {
    "from_layers": lambda teacher, **more: students.from_layers(teacher, layers=1),
    "as_distilbert": lambda teacher, **more: students.as_distilbert(teacher, layers=1, pick="first"),
    "mobilebert": lambda teacher, **more: students.mobilebert(teacher, **NARROW, **more),
    "ib_bert": lambda teacher, **more: students.ib_bert(teacher, **NARROW, **more),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("has_dense", [False, True])
def test_every_maker_keeps_how_vectors_are_made(maker: str, has_dense: bool, tmp_path: Path) -> None:
    if has_dense:
        teacher = dense_teacher(tmp_path)
    else:
        tiny_runs.save_base(tmp_path)
        teacher = tiny_runs.BertModel.from_pretrained(tmp_path)
        give(teacher, SentenceEmbedding("cls", True, max_length=12))
    student = MAKERS[maker](teacher)
    assert SentenceEmbedding.of(student.config) == SentenceEmbedding.of(teacher.config)
    assert Anatomy.of(student).shape.sentence_width == (6 if has_dense else 16)
    ids = torch.tensor([[2, 6, 7, 3]])
    with torch.no_grad():
        state = student(input_ids=ids).last_hidden_state
    found = SentenceVectors(student)(state, torch.ones_like(ids))
    draw = torch.Generator().manual_seed(4)
    weight, bias = torch.randn(6, 16, generator=draw), torch.randn(6, generator=draw)
    vector = torch.tanh(state.mean(1) @ weight.T + bias) if has_dense else state[:, 0]
    torch.testing.assert_close(found, vector / vector.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("maker", MAKERS)
def test_dense_layers_that_the_teacher_lost_are_missed_in_the_student_as_well(maker: str, tmp_path: Path) -> None:
    teacher = dense_teacher(tmp_path)
    delattr(teacher, DENSE)
    with pytest.raises(IncompatiblePair, match=r"tells of dense layers behind the pooling, 6 wide, and it has none"):
        SentenceVectors(MAKERS[maker](teacher))


def test_a_head_makes_no_sentence_vectors(tmp_path: Path) -> None:
    teacher = dense_teacher(tmp_path)
    assert SentenceEmbedding.of(MAKERS["mobilebert"](teacher, task="masked_lm").config) is None


def damage(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content, encoding="utf-8")


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a path out of it": (
        lambda f: write(f, *PLAIN, **{"modules.json": [{"type": "x.Transformer", "path": "../other"}]}),
        r"modules.json has the entry .*\.\./other",
    ),
    "the folder above": (
        lambda f: write(f, *PLAIN, **{"modules.json": [
            {"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": ".."},
        ]}),
        r"modules.json has the entry .*'\.\.'",
    ),
    "no list": (lambda f: write(f, *PLAIN, **{"modules.json": {"a": 1}}), r"modules.json holds no list of modules"),
    "no JSON": (lambda f: write(f, *PLAIN, **{"modules.json": "[[["}), r"modules.json cannot be read"),
    "deep nesting": (lambda f: write(f, *PLAIN, **{"modules.json": "[" * 100_000}), r"modules.json cannot be read"),
    "a large file": (lambda f: write(f, *PLAIN, **{"modules.json": " " * 2**21}), r"2097152 bytes"),
    "another order": (
        lambda f: write(f, "Transformer", "Normalize", "Pooling"),
        r"has the modules Transformer, Normalize, Pooling; known are",
    ),
    "another module": (lambda f: write(f, "Transformer", "Pooling", "LSTM"), r"Transformer, Pooling, LSTM; known are"),
    "two poolings": (
        lambda f: write(f, *PLAIN, pooling={"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}),
        r"1_Pooling/config.json pools by max, mean; known is one of",
    ),
    "no pooling": (lambda f: write(f, *PLAIN, pooling={"x": 1}), r"pools by none; known is one of"),
    "weights by position": (
        lambda f: write(f, *PLAIN, pooling={"pooling_mode": "weightedmean"}),
        r"pools by weightedmean",
    ),
    "no settings": (lambda f: (write(f, *PLAIN), (f / "1_Pooling/config.json").unlink()), r"config.json is missing"),
    "a subfolder": (
        lambda f: write(f, *PLAIN, **{"modules.json": [
            {"type": "m.Transformer", "path": "0_BERT"}, {"type": "m.Pooling", "path": "1_Pooling"},
        ]}),
        r"its transformer lies in the folder '0_BERT'",
    ),
    "a residual": (lambda f: with_dense(f, use_residual=True), r"a dense layer of another kind"),
    "another output": (
        lambda f: with_dense(f, module_output_name="dense_embedding"),
        r"asks for a dense layer of another kind",
    ),
    "an activation": (lambda f: with_dense(f, activation_function="os.system"), r"activation function 'os.system'"),
    "sizes": (lambda f: with_dense(f, out_features=10**9), r"has 1000000000 as out_features"),
    "other weights": (lambda f: with_dense(f, out_features=7), r"the weights of 2_Dense do not fit its config.json"),
    "pickled weights": (
        lambda f: (with_dense(f), (f / "2_Dense/model.safetensors").rename(f / "2_Dense/pytorch_model.bin")),
        r"2_Dense has no model.safetensors; pickled weights are not read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_files_from_elsewhere_are_checked(tmp_path: Path, name: str) -> None:
    make, message = HOSTILE[name]
    make(tmp_path)
    with pytest.raises(IncompatiblePair, match=rf"the teacher .* as a sentence encoder: .*{message}"):
        read_modules(str(tmp_path), "teacher")


def test_dense_layers_are_no_larger_than_their_file_and_draw_nothing(tmp_path: Path) -> None:
    """A configuration may ask for any size; what is not in the file is never made, and no random number is drawn."""
    folder = with_dense(tmp_path / "large", in_features=2**16, out_features=2**16)
    drawn = torch.random.get_rng_state()
    with pytest.raises(IncompatiblePair, match=r"the weights of 2_Dense do not fit its config.json"):
        read_modules(str(folder), "teacher")
    assert read_modules(str(with_dense(tmp_path / "small")), "teacher") is not None
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_a_link_that_leaves_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", *PLAIN)
    (tmp_path / "secret.json").write_text('{"pooling_mode": "max"}', encoding="utf-8")
    (folder / "1_Pooling" / "config.json").unlink()
    (folder / "1_Pooling" / "config.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(IncompatiblePair, match=r"1_Pooling/config.json is a link that leaves the folder"):
        read_modules(str(folder), "teacher")


@pytest.mark.parametrize(
    ("told", "expected", "remark"),
    [
        ({"similarity_fn_name": "dot"}, "dot", ""),
        ({"similarity_fn_name": "cosine"}, "cosine", ""),
        ({"similarity_fn_name": None}, "cosine", ""),
        ({}, "cosine", ""),
        (
            {"similarity_fn_name": "manhattan"},
            "cosine",
            "compares its vectors by 'manhattan', which is not known here",
        ),
        ({"similarity_fn_name": ["dot"]}, "cosine", "which is not known here"),
        ([], "cosine", ""),
    ],
)
def test_how_a_teachers_vectors_are_compared_is_read(
    tmp_path: Path, told: Any, expected: str, remark: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "encoder", *PLAIN[:2], **{"config_sentence_transformers.json": told})
    found = read_modules(str(folder), "teacher")
    assert found is not None
    assert found.embedding == SentenceEmbedding("mean", False, similarity=expected)
    assert remark in caplog.text
    assert bool(remark) == bool(caplog.records)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    for number, pooling in enumerate(POOLINGS):
        folder, normalize = tmp_path / pooling, bool(number % 2)
        folder.mkdir()
        told = SentenceEmbedding(pooling, normalize, max_length=9, similarity=SIMILARITIES[number % 2])
        write_modules(folder, SimpleNamespace(hidden_size=16, sentence_embedding=told.to_dict()))
        assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == sorted(FILES)
        found = read_modules(str(folder), "student")
        assert found is not None
        assert found.embedding == told
    write_modules(tmp_path, SimpleNamespace(hidden_size=16))
    assert not (tmp_path / "modules.json").exists()
