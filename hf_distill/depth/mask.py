"""Attention masks that a model need not look into: it would wait for the device at every pass to do so."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.anatomy import Anatomy
from hf_distill.depth.plan import foreign


def takes_ready(anatomy: Anatomy) -> bool:
    """Whether a model reads its mask in its attentions alone, all of them those of the library."""
    row = anatomy.row
    return row is not None and row.plain_mask and not foreign(anatomy)


def ready(anatomy: Anatomy, mask: Tensor) -> Tensor | None:
    """A mask `[batch, length]` of a model that `takes_ready`, as its attentions read it: boolean
    `[batch, 1, 1, length]`.

    None where it hides nothing and that is known without waiting, on a CPU; the attentions then take no mask, as they
    do when the model itself finds out. Values are the same to the last bit. The mask stays as it is where the
    attentions read another form.
    """
    config = anatomy.base.config
    if config._attn_implementation != "sdpa" or mask.dim() != 2 or getattr(config, "is_decoder", False):
        return mask
    if mask.device.type == "cpu" and not torch.compiler.is_compiling() and mask.bool().numpy().all():
        return None
    return mask.bool()[:, None, None, :]
