"""Attention masks that a model need not look into: it would wait for the device at every pass to do so."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.anatomy import Anatomy


def ready(anatomy: Anatomy, mask: Tensor) -> Tensor | None:
    """A mask `[batch, length]` in the form in which the attentions read it, boolean `[batch, 1, 1, length]`.

    None where it hides nothing and that is known without waiting, on a CPU; the attentions then take no mask, as they
    do when the model itself finds out. Values are the same to the last bit. The mask stays as it is where the model
    does more with it, or its attentions read another form.
    """
    row, config = anatomy.row, anatomy.base.config
    attends = row is not None and row.plain_mask and config._attn_implementation == "sdpa"
    if not attends or mask.dim() != 2 or getattr(config, "is_decoder", False):
        return mask
    if mask.device.type == "cpu" and not torch.compiler.is_compiling() and mask.numpy().all():
        return None
    return mask.bool()[:, None, None, :]
