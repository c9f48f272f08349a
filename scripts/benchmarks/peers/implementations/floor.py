"""The floor: the cheapest eager code known here that has the textbook loss's gradient.

The teacher runs in inference mode and only as deep as it is read, the student likewise; the last layer of a classifier
has one query row; relation and vocabulary losses form their gradients in the forward pass, block by block. No
framework.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from peers import floor_bert, textbook
from peers.floor_relations import BlockedRelation
from peers.floor_vocabulary import ChunkedHeads, Divergence, Head
from peers.implementations.optimizer import adamw, step
from peers.turns import Batches
from peers.workloads import IGNORED, Workload

Batch = dict[str, Tensor]


def outside_inference(tensor: Tensor) -> Tensor:
    """Autograd refuses to save inference tensors; a copy outside is an ordinary one."""
    return tensor.clone()


def classifier(workload: Workload, teacher: nn.Module, student: nn.Module, batch: Batch, cut: bool = True) -> Tensor:
    with torch.inference_mode():
        targets = floor_bert.first_logits(teacher, batch, cut)
    logits = floor_bert.first_logits(student, batch, cut)
    return textbook.classifier(workload, logits, outside_inference(targets), batch["labels"])


def relations(workload: Workload, teacher: nn.Module, student: nn.Module, batch: Batch) -> Tensor:
    mask = floor_bert.key_mask(batch["attention_mask"])

    def last(model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        *before, block = model.encoder.layer
        return floor_bert.projections(block, floor_bert.states(model, batch, len(before), mask))

    with torch.inference_mode():
        targets = last(teacher)
    lengths = batch["attention_mask"].sum(1).tolist()
    return sum(
        BlockedRelation.apply(ours, theirs, lengths, workload.relation_heads)
        for ours, theirs in zip(last(student), targets, strict=True)
    )


def masked_lm(workload: Workload, teacher: nn.Module, student: nn.Module, batch: Batch) -> Tensor:
    real = batch["attention_mask"].bool().flatten()
    labels = batch["labels"].flatten()[real]
    mask = floor_bert.key_mask(batch["attention_mask"])

    def read(model: nn.Module) -> tuple[Tensor, Tensor]:
        hidden = floor_bert.states(model.bert, batch, len(model.bert.encoder.layer), mask).flatten(0, 1)[real]
        return hidden, model.cls.predictions.transform(hidden)

    with torch.inference_mode():
        theirs, targets = read(teacher)
    ours, before_head = read(student)
    soft, hard, cosine = textbook.TRIPLE
    form = Divergence(
        soft=soft * workload.temperature**2 / len(labels),
        temperature=workload.temperature,
        hard=hard / int((labels != IGNORED).sum()),
        rows=256,
    )
    to, of = student.cls.predictions.decoder, teacher.cls.predictions.decoder
    head = Head(targets, of.weight, of.bias)
    loss = ChunkedHeads.apply(before_head, to.weight, to.bias, head, labels, form)
    return loss + cosine * (1 - functional.cosine_similarity(ours, outside_inference(theirs), -1)).mean()


def causal_lm(workload: Workload, teacher: nn.Module, student: nn.Module, batch: Batch) -> Tensor:
    target = (batch["labels"][:, 1:] != IGNORED).flatten()

    def read(model: nn.Module) -> Tensor:
        return model.model(input_ids=batch["input_ids"]).last_hidden_state[:, :-1].flatten(0, 1)[target]

    with torch.inference_mode():
        head = Head(read(teacher), teacher.lm_head.weight)
    states = read(student)
    form = Divergence(soft=1.0 / len(states), beta=workload.beta)
    return ChunkedHeads.apply(states, student.lm_head.weight, None, head, None, form)


LOSSES = {"classifier": classifier, "relations": relations, "masked_lm": masked_lm, "causal_lm": causal_lm}


def train(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches, **given: bool) -> None:
    loss = partial(LOSSES[workload.kind], workload, teacher, student, **given)
    optimizer = adamw(student)
    for index in range(len(data)):
        loss(data[index]).backward()
        step(optimizer)


def run(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches) -> None:
    train(workload, teacher, student, data)
