"""Graphs of small models of each family: what onnxruntime makes of them at shapes that the exporter never saw."""

from __future__ import annotations

import copy
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import BrokenCheckpoint, DistillationError
from hf_distill.hub import onnx
from hf_distill.hub.onnx import SENTENCES, OnnxModel, write_onnx
from hf_distill.hub.redaction import secrets_in
from tests import tiny_models, tiny_runs

pytestmark = pytest.mark.slow

WORDS = sorted({word for text in SENTENCES for word in text.lower().replace(",", " ").replace(".", " ").split()})


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """Its ids fit every tiny model; padding is id 0 for all, and the mask says which tokens are real."""
    return tiny_runs.tokenizer((*tiny_runs.SPECIAL, *WORDS[:91]))


def model_of(family: str, head: str = tiny_models.CLASSIFIER) -> PreTrainedModel:
    model = tiny_models.tiny(family, head, layers=2)
    model.set_attn_implementation("sdpa" if family != "mobilebert" else "eager")
    return model


def shapes(model: PreTrainedModel) -> list[dict[str, Tensor]]:
    """One row of one token, one of the longest input, and more rows than any batch of the comparison has."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for rows, length in ((1, 1), (1, 32), (7, 5), (2, 17)):
        ids = torch.randint(5, 96, (rows, length), generator=generator)
        mask = torch.ones(rows, length, dtype=torch.long)
        if rows > 1:
            mask[1, length // 2 :] = 0
            ids[1, length // 2 :] = model.config.pad_token_id
        made.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)})
    return made


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "mobilebert", "electra", "mpnet"])
def test_a_graph_gives_the_models_logits_at_every_shape(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = model_of(family)
    model.train()
    kept = copy.deepcopy(model.state_dict())
    path = write_onnx(model, tokenizer, tmp_path / "onnx")
    assert [each.name for each in (tmp_path / "onnx").iterdir()] == ["model.onnx"]
    assert path == tmp_path / "onnx" / "model.onnx"
    assert secrets_in(path.read_bytes(), tmp_path) == []
    assert b"site-packages" not in path.read_bytes()
    assert model.training
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    graph = OnnxModel(path, threads=1)
    model.eval()
    for batch in shapes(model):
        given = {name: batch[name] for name in graph.inputs}
        with torch.inference_mode():
            torch.testing.assert_close(graph(**batch).logits, model(**given).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", [tiny_models.TOKENS, tiny_models.SPANS, "AutoModelForMaskedLM"])
def test_other_heads_have_their_own_outputs(head: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    model = model_of("bert", head)
    graph = OnnxModel(write_onnx(model, tokenizer, tmp_path), threads=1)
    batch = shapes(model)[2]
    with torch.inference_mode():
        found, expected = graph(**batch), model(**batch)
    assert graph.outputs == (("start_logits", "end_logits") if head == tiny_models.SPANS else ("logits",))
    for name in graph.outputs:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5)


def test_in_8_bits_it_is_smaller_and_answers_alike(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx import TensorProto, load

    model = model_of("bert")
    path = write_onnx(model, tokenizer, tmp_path / "a", quantized=True, least_agreement=0.8)
    assert [each.name for each in (tmp_path / "a").iterdir()] == ["model_int8.onnx"]
    weights = sum(parameter.numel() for parameter in model.parameters())
    graph = load(path)
    assert (
        sum(node.op_type == "MatMulInteger" for node in graph.graph.node) >= 6 * 2
    )  # q, k, v, out and two more a layer
    in_floats = sum(
        math.prod(tensor.dims) for tensor in graph.graph.initializer if tensor.data_type == TensorProto.FLOAT
    )
    assert in_floats < 0.2 * weights
    differences = []
    for batch in shapes(model):
        with torch.inference_mode():
            difference = OnnxModel(path, threads=1)(**batch).logits - model(**batch).logits
        differences.append(float(difference.abs().max()))
    assert 0 < max(differences) < 0.2
    monkeypatch.setattr(onnx, "_write", lambda *given: shutil.copyfile(path, given[2]))
    with pytest.raises(DistillationError, match=r"BertForSequenceClassification \(bert\) has logits that differ"):
        write_onnx(model, tokenizer, tmp_path / "b")
    monkeypatch.setattr(onnx, "_quantize", lambda source, target: source)
    with pytest.raises(DistillationError, match=r"in 8 bits, .* of \d+ texts, less than 1\.1; nothing was written"):
        write_onnx(model, tokenizer, tmp_path / "b", quantized=True, least_agreement=1.1)
    assert list((tmp_path / "b").iterdir()) == []
    with pytest.raises(DistillationError, match="input 'attention_mask' is missing; given: input_ids"):
        OnnxModel(path)(input_ids=torch.ones(1, 2, dtype=torch.long))


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"text")
    for name in ("model.onnx", "none.onnx"):
        with pytest.raises(BrokenCheckpoint, match=f"{name} cannot be read as an ONNX graph"):
            OnnxModel(tmp_path / name)
