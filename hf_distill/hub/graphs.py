"""Graphs of a student beside it, `onnx/model.onnx` and `onnx/model_int8.onnx`: compared with it, and timed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.evaluation.latency import measure_latency
from hf_distill.hub.comparing import Batches, check_rows
from hf_distill.hub.export import FACTS, check_target, copy_tokenizer
from hf_distill.hub.onnx import OnnxModel, require_onnx, write_graph
from hf_distill.hub.record import Export, Speed, sha256_of, write_whole
from hf_distill.loading import load_model, load_tokenizer

FOLDER = "onnx"
QUANTIZED = {"onnx": False, "onnx-int8": True}
"""The forms, and whether their matrices are in 8 bits."""

Texts = Sequence[str] | Sequence[tuple[str, str]]


def add_graph(
    form: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    batches: Batches,
    texts: Texts,
    *,
    told: str,
    max_length: int,
    least_agreement: float = 0.98,
) -> tuple[Path, Export]:
    """Writes the graph of that form into `folder`, compared with the model on `batches`, which are called `told` in
    the record, and times both on `texts` with the threads that torch has. The graph gets its place when it is timed.

    Errors: as `hf_distill.hub.onnx.write_onnx`, and `measure_latency`.
    """
    part = folder / f".{form}.{os.getpid()}.part"
    try:
        made, found = write_graph(model, batches, part, quantized=QUANTIZED[form], least_agreement=least_agreement)
        graph = OnnxModel(made)
        speeds = [measure_latency(model, tokenizer, texts, max_length=max_length, call=call) for call in (None, graph)]
        path = made.replace(folder / made.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return path, Export(
        scheme=form,
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        texts=told,
        original_speed=Speed(**asdict(speeds[0])),
        speed=Speed(**asdict(speeds[1])),
        **asdict(found),
    )


def export_graph(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    batches: Batches,
    texts: Texts,
    *,
    form: str,
    auto_class: str,
    told: str,
    max_length: int,
    least_agreement: float = 0.98,
) -> Export:
    """Writes the graph of a trained model's folder into the folder `target`, with its configuration, its tokenizer and
    `export.json`, what was found. The target appears when the comparison is over, or not at all.

    Errors: `DistillationError` for a target that exists or a model that cannot be loaded; and as `add_graph`.
    """
    place, folder = Path(target), Path(source)
    check_target(place)
    require_onnx()
    check_rows(batches)
    model = load_model(str(source), auto_class, role="exported model").eval()
    tokenizer = load_tokenizer(str(source), role="exported model")
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        _, found = add_graph(
            form,
            model,
            tokenizer,
            part,
            batches,
            texts,
            told=told,
            max_length=max_length,
            least_agreement=least_agreement,
        )
        copy_tokenizer(folder, part)
        shutil.copyfile(folder / "config.json", part / "config.json")
        write_whole(part / FACTS, found.model_dump_json(indent=2) + "\n")
        part.replace(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return found
