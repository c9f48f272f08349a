"""Sentence encoders on two gloo processes: the student and the figures of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_distill.commands.embeddings import main
from hf_distill.runs import results
from tests import tiny_runs, tiny_sentences
from tests.processes import ROOT, on_processes
from tests.test_sentences import with_dense

NARROW = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "dense"), [({"from_shape": NARROW}, False), ({"from_layers": {"layers": 1}}, True)]
)
def test_two_ranks_learn_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, student: dict[str, Any], dense: bool
) -> None:
    """Rows divide neither by the processes nor by a batch. The narrow student learns principal components, which each
    process takes for itself; the other one has its teacher's dense layer."""
    if dense:
        tiny_runs.save_base(with_dense(tmp_path / "teacher"), dropout=0.0)
    else:
        tiny_sentences.save_encoder(tmp_path / "teacher", dropout=0.0)
    tiny_sentences.write_pairs(tmp_path, train=21, validation=9)
    recipe = tiny_sentences.recipe(tmp_path, student=student)
    recipe["stages"][0]["arguments"] |= {
        "max_steps": 3, "optim": "sgd", "learning_rate": 0.1, "train_sampling_strategy": "sequential",
        "per_device_eval_batch_size": 2,
    }  # fmt: skip
    path = tiny_runs.write_jsonl(tmp_path / "recipe.yaml", [recipe])
    flags = ["--recipe", str(path), "--do_train", "--do_eval"]
    cut = ["--per_device_train_batch_size=4", "--output_dir", tmp_path / "two"]
    on_processes(ROOT / "scripts" / "distill_embeddings.py", *flags, *cut)
    monkeypatch.setattr(results, "write_report", lambda *args: [])
    assert main([*flags, "--per_device_train_batch_size=8", "--output_dir", str(tmp_path / "one")]) == 0

    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("two", "one")]
    start = load_file(tmp_path / "teacher" / "model.safetensors")["embeddings.word_embeddings.weight"]
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][name], tensor, atol=1e-6, rtol=1e-5, msg=name)
    if dense:
        assert not torch.equal(weights[1]["embeddings.word_embeddings.weight"], start)
    found = [json.loads((tmp_path / name / "eval_results.json").read_text()) for name in ("two", "one")]
    for key in ("eval_spearmanr", "eval_pearson", "eval_samples", "teacher_eval_spearmanr", "control_eval_pearson"):
        assert found[0][key] == pytest.approx(found[1][key], abs=1e-4), key
    assert (tmp_path / "two" / "2_Dense" / "model.safetensors").is_file() is dense
