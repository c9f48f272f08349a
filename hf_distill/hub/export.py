"""Exports a trained model in 8 bits, reloaded and compared with the original before it gets its name.

Weights are quantized by torchao through transformers' own loading, so that the exported folder loads with
`from_pretrained` wherever torchao is installed (`pip install "hf_distill[quant]"`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from hf_distill.errors import DistillationError
from hf_distill.hub.comparing import Exported, answers, check_rows, compare
from hf_distill.hub.folder import OF_A_TOKENIZER
from hf_distill.loading import load_model
from hf_distill.tasks import task_of

FACTS = "export.json"
"""What was found when the exported model was compared with the original."""

SCHEMES = ("int8_dynamic", "int8_weight", "int4_weight")


def export_quantized(
    model: str | os.PathLike[str],
    target: str | os.PathLike[str],
    batches: Iterable[Mapping[str, Tensor]],
    *,
    auto_class: str,
    scheme: str = "int8_dynamic",
    keep: Iterable[str] = (),
    least_agreement: float = 0.98,
) -> Exported:
    """Writes the model of a folder into the folder `target`, its linear layers in few bits, with its tokenizer.

    `scheme` is `int8_dynamic` (weights in 8 bits by row, activations in 8 bits by token as they come), `int8_weight`
    (weights alone), or `int4_weight` (weights in 4 bits by groups of 128; on GPUs). Embeddings stay in floats, and so
    do the modules that `keep` names, such as `classifier`.

    The export is loaded again and compared with the original on `batches`, 64 rows or more of which some are padded,
    as both will meet them. `labels` in the batches give the accuracy of both. The target appears when the comparison
    is over, and not at all where the share of equal answers is below `least_agreement`.

    Raises: `DistillationError` for a target that exists, an unknown scheme, a package that is missing, a model that
    cannot be loaded, and answers that differ too often; `DataError` for too few rows, or none with padding.
    """
    source, place = Path(model), Path(target)
    read = [dict(batch) for batch in batches]
    _check(place, read, scheme)
    kept = list(keep)
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    original = load_model(str(source), auto_class, role="exported model")
    try:
        _write(source, part, auto_class, scheme, kept)
        expected = answers(original.eval(), read)
        difference = compare(answers(_loaded(part, auto_class).eval(), read), expected, read, task_of(original).form)
        found = Exported(scheme, _weight_bytes(part), _weight_bytes(source), **asdict(difference))
        if found.agreement < least_agreement:
            raise DistillationError(
                f"export: {scheme} gives the original's answer on {found.agreement:.4f} of {found.rows} rows, less "
                f"than {least_agreement}; nothing was written. Keep more modules in floats (keep), or take "
                "int8_weight."
            )
        (part / FACTS).write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
        part.replace(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return found


def _check(place: Path, batches: list[dict[str, Tensor]], scheme: str) -> None:
    if scheme not in SCHEMES:
        raise DistillationError(f"export: scheme is {scheme!r}; it may be {', '.join(SCHEMES)}.")
    check_target(place)
    if importlib.util.find_spec("torchao") is None:
        raise DistillationError(
            f'export: {scheme} needs the package torchao, which is not installed: pip install "hf_distill[quant]"'
        )
    if scheme == "int4_weight" and importlib.util.find_spec("mslk") is None:
        raise DistillationError(
            "export: int4_weight needs the kernels of the package mslk, which is not installed; there are none for "
            "CPUs. Install mslk on a machine with a GPU, or take int8_weight."
        )
    check_rows(batches)


def _config(scheme: str) -> Any:
    """torchao's name for a scheme."""
    from torchao import quantization

    return {
        "int8_dynamic": quantization.Int8DynamicActivationInt8WeightConfig,
        "int8_weight": quantization.Int8WeightOnlyConfig,
        "int4_weight": quantization.Int4WeightOnlyConfig,
    }[scheme]()


def _write(source: Path, part: Path, auto_class: str, scheme: str, keep: list[str]) -> None:
    """Quantizes while loading and saves; torchao's tensors cannot be saved by a model that was quantized later."""
    settings = transformers.TorchAoConfig(_config(scheme), modules_to_not_convert=keep or None)
    quantized = getattr(transformers, auto_class).from_pretrained(
        source, dtype=torch.float32, quantization_config=settings
    )
    quantized.save_pretrained(part)
    copy_tokenizer(source, part)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies what a tokenizer is loaded from."""
    for path in [path for pattern in OF_A_TOKENIZER for path in source.glob(pattern) if path.is_file()]:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)


def check_target(place: Path) -> None:
    """Raises: `DistillationError` for a target that exists."""
    if place.exists():
        raise DistillationError(f"export: {place} exists; give a folder that does not.")


def _loaded(folder: Path, auto_class: str) -> PreTrainedModel:
    model: PreTrainedModel = getattr(transformers, auto_class).from_pretrained(folder, dtype=torch.float32)
    return model


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
