"""Likeness of layers: linear CKA and SVCCA, against other ways to compute them."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hf_distill import students
from hf_distill.commands import similarity as command
from hf_distill.commands.main import main
from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.evaluation.similarity import LayerSimilarity, layer_cka, layer_similarity, linear_cka, svcca
from tests import tiny_models, tiny_runs


def activations(rows: int = 200, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width))


def test_cka_is_the_alignment_of_centred_gram_matrices() -> None:
    x, y = activations(), activations(width=6, seed=1) + 3.0
    y[:, 0] += 2 * x[:, 1]
    centre = np.eye(200) - 1 / 200
    k, l = (centre @ (z @ z.T) @ centre for z in (x, y))  # noqa: E741
    expected = (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())
    assert linear_cka(x, y) == pytest.approx(expected, rel=1e-10)
    assert 0.0 < expected < 1.0


def test_svcca_is_the_correlation_of_best_directions() -> None:
    """One shared signal among noise: its correlation by regression, and chance for the rest."""
    x, y = activations(4000, 2), activations(4000, 2, seed=1)
    y[:, 0] = 0.8 * x[:, 0] + 0.6 * y[:, 0]
    whitened = []
    for z in (x, y):
        z = z - z.mean(axis=0)
        values, vectors = np.linalg.eigh(z.T @ z)
        whitened.append(z @ vectors / np.sqrt(values))
    expected = np.linalg.svd(whitened[0].T @ whitened[1], compute_uv=False).mean()
    assert svcca(x, y, threshold=1.0) == pytest.approx(expected, rel=1e-10)
    assert svcca(x, y, threshold=1.0) == pytest.approx(0.4, abs=0.03)


def test_directions_of_little_variance_do_not_count() -> None:
    x = activations(500, 3)
    x[:, 2] *= 1e-3
    y = x.copy()
    y[:, 2] = activations(500, 1, seed=5)[:, 0] * 1e-3
    assert svcca(x, y) == pytest.approx(1.0, abs=1e-3)
    assert svcca(x, y, threshold=1.0) < 0.8


@pytest.mark.parametrize("measure", [linear_cka, svcca])
def test_a_turned_and_scaled_copy_is_the_same(measure) -> None:
    x = activations()
    turned = np.linalg.qr(activations(4, 4, seed=2))[0]
    assert measure(x, 3.0 * x @ turned + 1.0) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("measure", [linear_cka, svcca])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((5, 2)), activations(5, 2), "same in all rows"),
        (activations(5, 2), activations(4, 2), "of the same rows"),
        (activations(1, 2), activations(1, 2), "of the same rows"),
        (activations(5, 2)[:, 0], activations(5, 2), "of the same rows"),
        (np.full((5, 2), np.nan), activations(5, 2), "NaN"),
    ],
)
def test_activations_that_say_nothing_are_refused(measure, x, y, message: str) -> None:
    with pytest.raises(DataError, match=message):
        measure(x, y)


@pytest.mark.parametrize("threshold", [0.0, 1.5, -1.0, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(threshold: float) -> None:
    with pytest.raises(DataError, match="threshold is"):
        svcca(activations(), activations(), threshold)


@pytest.mark.parametrize(("rows", "warned"), [(20, True), (21, False)])
def test_few_rows_are_warned_about(rows: int, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        svcca(activations(rows), activations(rows, seed=1))
    assert ("correlations are high by chance" in caplog.text) == warned


# ---- of models ----


def batches(extra: int = 0, fill: int = 5) -> list[dict[str, Tensor]]:
    batch = tiny_models.batch("bert")
    padded = {name: torch.nn.functional.pad(value, (0, extra)) for name, value in batch.items()}
    padded["input_ids"] = torch.where(padded["attention_mask"].bool(), padded["input_ids"], fill)
    return [padded, {name: value[:2] for name, value in batch.items()}]


def test_a_model_is_like_itself_layer_by_layer() -> None:
    model = tiny_models.tiny("bert")
    found = layer_similarity(model, model, batches())
    assert found.cka.shape == found.svcca.shape == (4, 4)
    np.testing.assert_allclose(np.diag(found.cka), 1.0, atol=1e-9)
    np.testing.assert_allclose(np.diag(found.svcca), 1.0, atol=1e-6)
    assert found.rows == 11 + 7 + 4 + 11 + 7
    assert (found.cka[0, 1:] < 0.999).all()


def test_layers_are_those_of_the_models() -> None:
    """A student cut from its teacher shares the embeddings and the first layer."""
    teacher = tiny_models.tiny("bert", layers=4)
    student = students.from_layers(teacher, layers=[1, 3])
    found = layer_similarity(student, teacher, batches())
    assert found.cka.shape == (3, 5)
    assert found.cka[0, 0] == pytest.approx(1.0)
    assert found.cka[1, 1] == pytest.approx(1.0)
    outputs = [model.bert(**batches()[0], output_hidden_states=True).hidden_states for model in (student, teacher)]
    real = batches()[0]["attention_mask"].bool()
    expected = linear_cka(*(state[layer][real].detach() for state, layer in zip(outputs, (2, 3), strict=True)))
    assert layer_similarity(student, teacher, batches()[:1]).cka[2, 3] == pytest.approx(expected, rel=1e-6)


def test_padding_changes_nothing_and_modes_stay() -> None:
    one, other = tiny_models.tiny("bert", seed=1).train(), tiny_models.tiny("bert", seed=2)
    found, padded = (layer_similarity(one, other, batches(extra, fill)) for extra, fill in ((0, 5), (6, 9)))
    np.testing.assert_allclose(found.cka, padded.cka, atol=1e-6)
    assert one.training
    assert not other.training
    assert not any(module._forward_hooks for module in one.modules())


def test_what_is_not_compared_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = tiny_models.tiny("bert", "AutoModel", layers=1), []
    batches = [{"input_ids": torch.arange(12).reshape(2, 6) + 5} for _ in range(4)]
    model.register_forward_hook(lambda module, args, output: asked.append(1))
    found, rows = layer_cka(model, model, batches, most=14)
    assert (rows, len(asked)) == (14, 2 * 2)
    assert np.diag(found) == pytest.approx(np.ones(2))


def test_what_cannot_be_compared_is_refused() -> None:
    model = tiny_models.tiny("bert")
    with pytest.raises(DataError, match="the batches hold 0 tokens"):
        layer_similarity(model, model, [])
    with pytest.raises(IncompatiblePair, match="'t5' has no single stack"):
        layer_similarity(tiny_models.tiny("t5"), model, batches())


def test_the_table_has_a_row_for_each_layer() -> None:
    teacher = tiny_models.tiny("bert", layers=2)
    table = layer_similarity(students.from_layers(teacher, layers=[1]), teacher, batches()).markdown("mine", "theirs")
    lines = table.split("\n")
    assert lines[0] == "| mine \\ theirs | embeddings | 1 | 2 |"
    assert lines[2].startswith("| embeddings | 1.000 / 1.000 |")
    assert lines[3].split(" | ")[2] == "1.000 / 1.000"
    assert lines[-1] == "Linear CKA / SVCCA of the layers' outputs at 40 tokens."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    tiny_runs.save_teacher(folder / "teacher", layers=3)
    tiny_runs.save_teacher(folder / "student", layers=2, seed=2)
    tiny_runs.write_text(folder / "texts.txt", 40)
    return folder


def flags(home: Path, **more: str) -> list[str]:
    named = {"student": home / "student", "teacher": home / "teacher", "texts": home / "texts.txt", **more}
    return [word for name, value in named.items() for word in (f"--{name}", str(value))]


def test_the_command_writes_the_table(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["similarity", *flags(home)]) == 0
    printed = capsys.readouterr().out
    assert command.main(flags(home, output=str(tmp_path / "table.md"))) == 0
    assert (tmp_path / "table.md").read_text() == printed
    assert printed.count("\n| ") == 4
    assert command.main(flags(home, max_texts="3")) == 0
    assert capsys.readouterr().out != printed


def test_texts_are_cut_to_what_both_models_and_the_tokenizer_take(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    compare = layer_similarity

    def looked_at(one: nn.Module, other: nn.Module, batches: Iterable[dict[str, Tensor]]) -> LayerSimilarity:
        read = list(batches)
        asked.append(max(batch["input_ids"].shape[1] for batch in read))
        return compare(one, other, read)

    monkeypatch.setattr(command, "layer_similarity", looked_at)
    (home / "long.txt").write_text("\n".join(["a good film " * 30] * 3), encoding="utf-8")
    assert command.main(flags(home, texts=str(home / "long.txt"), max_length="5000")) == 0
    assert command.main(flags(home, texts=str(home / "long.txt"), max_length="7")) == 0
    assert asked == [32, 7], "the models have 32 positions"


@pytest.mark.parametrize(("name", "value", "message"), [
    ("max_texts", "-1", "'-1' is no number of 1 or more"),
    ("max_length", "0", "'0' is no number of 1 or more"),
    ("max_length", "2", "leaves no room beside the 2 special tokens"),
    ("output", "nowhere/table.md", "there is no folder nowhere"),
    ("output", "/", "is a folder"),
])  # fmt: skip
def test_flags_that_cannot_be_followed_are_refused_at_once(
    name: str,
    value: str,
    message: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "layer_similarity", lambda *given: pytest.fail("the models were compared"))
    try:
        status = command.main(flags(home, **{name: value}))
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    assert status == 2
    assert message in capsys.readouterr().err


def test_a_tokenizer_that_cannot_pad_is_refused_by_name(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As that of GPT-2."""
    shutil.copytree(home / "student", tmp_path / "student")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = tmp_path / "student" / name
        if path.is_file():
            kept = {key: value for key, value in json.loads(path.read_text()).items() if key != "pad_token"}
            path.write_text(json.dumps(kept))
    assert command.main(flags(home, student=str(tmp_path / "student"))) == 2
    assert "the tokenizer of the student" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"", "has no line of text"), (b"\xff\xfe\xff", "cannot be read")],
)
def test_texts_that_cannot_be_read_are_refused(
    content: bytes | None, message: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    assert command.main(flags(home, texts=str(path))) == 2
    assert message in capsys.readouterr().err
