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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from hf_distill.errors import DataError, DistillationError
from hf_distill.evaluation.fidelity import agreement
from hf_distill.hub.folder import VOCABULARIES
from hf_distill.loading import load_model
from hf_distill.tasks import IGNORED

FACTS = "export.json"
"""What was found when the exported model was compared with the original."""

ROWS = 64
"""The fewest rows on which an export is compared."""

SCHEMES = ("int8_dynamic", "int8_weight", "int4_weight")
TOKENIZER = (*VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True)
class Exported:
    """An export beside its original: bytes of the weights, the share of answers with the same largest logit (for a
    regression their correlation), the largest difference of a logit, and the accuracy of both where the rows have
    labels of classes."""

    scheme: str
    bytes: int
    original_bytes: int
    rows: int
    agreement: float
    largest_difference: float
    accuracy: float | None
    original_accuracy: float | None


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
        found = _compare(original, _loaded(part, auto_class), read, scheme, _weight_bytes(source), _weight_bytes(part))
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
    if place.exists():
        raise DistillationError(f"export: {place} exists; give a folder that does not.")
    if importlib.util.find_spec("torchao") is None:
        raise DistillationError(
            f'export: {scheme} needs the package torchao, which is not installed: pip install "hf_distill[quant]"'
        )
    if scheme == "int4_weight" and importlib.util.find_spec("mslk") is None:
        raise DistillationError(
            "export: int4_weight needs the kernels of the package mslk, which is not installed; there are none for "
            "CPUs. Install mslk on a machine with a GPU, or take int8_weight."
        )
    rows = sum(len(batch["input_ids"]) for batch in batches)
    padded = any("attention_mask" in batch and not bool(batch["attention_mask"].all()) for batch in batches)
    if rows < ROWS or not padded:
        raise DataError(
            f"export: {rows} rows{'' if padded else ', none of them padded'}; an export is compared with its original "
            f"on {ROWS} or more, of different lengths in one batch."
        )


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
    for name in TOKENIZER:
        if (source / name).is_file():
            shutil.copyfile(source / name, part / name)


def _loaded(folder: Path, auto_class: str) -> PreTrainedModel:
    model: PreTrainedModel = getattr(transformers, auto_class).from_pretrained(folder, dtype=torch.float32)
    return model


def _compare(
    original: PreTrainedModel,
    exported: PreTrainedModel,
    batches: list[dict[str, Tensor]],
    scheme: str,
    original_bytes: int,
    found_bytes: int,
) -> Exported:
    logits = [torch.cat([_logits(model.eval(), batch) for batch in batches]) for model in (original, exported)]
    accuracies: list[float | None] = [None, None]
    if all("labels" in batch for batch in batches) and logits[0].shape[-1] > 1:
        labels = torch.cat([_aligned(batch, batch["labels"]) for batch in batches])
        counted = labels != IGNORED
        accuracies = [float((found.argmax(-1) == labels)[counted].float().mean()) for found in logits]
    return Exported(
        scheme=scheme,
        bytes=found_bytes,
        original_bytes=original_bytes,
        rows=sum(len(batch["input_ids"]) for batch in batches),
        agreement=agreement(logits[1].numpy(), logits[0].numpy()),
        largest_difference=float((logits[0] - logits[1]).abs().max()),
        accuracy=accuracies[1],
        original_accuracy=accuracies[0],
    )


def _logits(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """The logits of what is real, `[rows or tokens, classes]`."""
    with torch.inference_mode():
        found: Tensor = model(**{name: value for name, value in batch.items() if name != "labels"}).logits.float()
    return _aligned(batch, found) if found.dim() == 3 else found


def _aligned(batch: Mapping[str, Tensor], values: Tensor) -> Tensor:
    """The values at real tokens, one behind the other; those of whole rows as they are."""
    mask = batch.get("attention_mask")
    per_token = mask is not None and values.shape[:2] == mask.shape and values.dim() > 1
    return values[mask.bool()] if per_token and mask is not None else values


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
