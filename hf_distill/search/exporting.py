"""The folder of a student in the form that was chosen for it."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.search.forms import COMPILED, FLOAT32, ONNX, PLAIN, Form, in_bfloat16, ready


def export(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, form: Form, trained: Path, folder: Path
) -> Path:
    """The folder of the student, written whole or not at all: `trained`, that of its run, where it needs no other, as
    what is compiled is compiled where it is used; else `folder`, with its configuration and tokenizer, the weights in
    bfloat16 or the graph in `onnx/`."""
    if form == PLAIN or (form.runtime == COMPILED and form.precision == FLOAT32):
        return trained
    if folder.is_dir():
        return folder
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    if form.runtime == ONNX:
        ready(model, tokenizer, form, model.device, part / "onnx")
        model.config.save_pretrained(part)
    else:
        in_bfloat16(model).save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.replace(folder)
    return folder
