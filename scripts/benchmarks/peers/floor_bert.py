"""BERT's layers without the library around them, as far and for as many rows as a loss reads."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def key_mask(attention_mask: Tensor) -> Tensor | None:
    """None where there is no padding: attention without a mask is cheaper."""
    return None if bool(attention_mask.all()) else attention_mask[:, None, None, :].bool()


def states(bert: nn.Module, batch: dict[str, Tensor], layers: int, mask: Tensor | None) -> Tensor:
    """Hidden states after so many layers."""
    hidden = bert.embeddings(input_ids=batch["input_ids"])
    for block in bert.encoder.layer[:layers]:
        hidden = layer(block, hidden, mask)
    return hidden


def projections(block: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a layer."""
    attention = block.attention.self
    return attention.query(hidden), attention.key(hidden), attention.value(hidden)


def layer(block: nn.Module, hidden: Tensor, mask: Tensor | None, rows: int | None = None) -> Tensor:
    """One layer; with `rows`, everything behind the keys and values for the first positions only."""
    attention, read = block.attention.self, hidden if rows is None else hidden[:, :rows]
    parts = [
        projected.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
        for projected in (attention.query(read), attention.key(hidden), attention.value(hidden))
    ]
    context = functional.scaled_dot_product_attention(*parts, attn_mask=mask).transpose(1, 2).flatten(2)
    output = block.attention.output
    attended = output.LayerNorm(output.dense(context) + read)
    inner = functional.gelu(block.intermediate.dense(attended))
    return block.output.LayerNorm(block.output.dense(inner) + attended)


def first_logits(model: nn.Module, batch: dict[str, Tensor], cut: bool) -> Tensor:
    """A classifier's logits. It reads the first position alone, so with `cut` its last layer has one query row."""
    mask = key_mask(batch["attention_mask"])
    blocks = model.bert.encoder.layer
    hidden = states(model.bert, batch, len(blocks) - 1, mask)
    hidden = layer(blocks[-1], hidden, mask, 1 if cut else None)
    return model.classifier(model.bert.pooler(hidden[:, :1]))
