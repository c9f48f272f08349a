"""How many parameters a model has, and what they take."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from hf_distill.sentences import DENSE
from hf_distill.shards import is_shard


def num_parameters(model: nn.Module) -> int:
    """The parameters of a model, tied ones once, with those of dense layers behind a pooling. Those that DeepSpeed has
    partitioned, or bitsandbytes packed, count in full."""
    return sum(_count(tensor) for tensor in _tensors(model))


def num_bytes(model: nn.Module) -> int:
    """What the same take in their present dtypes, quantized ones as they are stored."""
    return sum(_bytes(tensor) for tensor in _tensors(model))


def _tensors(model: nn.Module) -> list[Tensor]:
    dense = model._modules.get(DENSE)
    return [*model.parameters(), *(() if dense is None else dense.buffers())]


def _count(tensor: Tensor) -> int:
    """The values of a parameter; bitsandbytes keeps two of 4 bits in one element, and their shape beside them."""
    state = getattr(tensor, "quant_state", None)
    return int(getattr(tensor, "ds_numel", tensor.numel() if state is None else state.shape.numel()))


def _bytes(tensor: Tensor) -> int:
    """What a parameter takes; torchao's tensors say the dtype of what they stand for, and are made of others."""
    if is_traceable_wrapper_subclass(tensor) and not is_shard(tensor):
        return sum(_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return int(getattr(tensor, "ds_numel", tensor.numel())) * tensor.element_size()
