"""MobileBERT, MobileBERT-tiny and IB-BERT, at their published shapes or any other."""

from __future__ import annotations

import logging
import re
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import MobileBertConfig, PreTrainedModel

from hf_distill.anatomy import Anatomy
from hf_distill.errors import IncompatiblePair
from hf_distill.sentences import keep_vectors
from hf_distill.students.copying import plain_copy
from hf_distill.students.ib_bert import AUTO_CLASSES, IBBertConfig
from hf_distill.suggestions import did_you_mean
from hf_distill.tasks import TASKS

logger = logging.getLogger(__name__)

VARIANTS: dict[str, dict[str, Any]] = {
    "mobilebert": {},
    "tiny": {
        "num_feedforward_networks": 2,
        "use_bottleneck_attention": True,
        "key_query_shared_bottleneck": False,
    },
}
"""How the published MobileBERTs differ from the defaults of `MobileBertConfig`."""

SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "embedding_size",
    "intra_bottleneck_size",
    "num_attention_heads",
    "intermediate_size",
    "num_feedforward_networks",
)
"""What of a shape may be chosen."""

_SHARED = ("type_vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


def mobilebert(
    teacher: nn.Module | None = None, *, variant: str = "mobilebert", task: str | None = None, **sizes: int
) -> PreTrainedModel:
    """A MobileBERT in the published shape (Sun et al., 2020, arXiv:2004.02984), a plain transformers class.

    `variant`: `mobilebert`, 24 blocks, 512 wide outside and 128 inside, 4 heads, 4 feed-forward networks of 512, where
    queries and keys share a bottleneck and values read the block's input; or `tiny`, 2 feed-forward networks, where
    all three read the bottleneck. `sizes` change it: `num_hidden_layers`, `hidden_size` (outside),
    `intra_bottleneck_size` (inside), `embedding_size`, `num_attention_heads`, `intermediate_size`,
    `num_feedforward_networks`.

    The head is that of `task` (a task's name, such as `masked_lm`), or else of the teacher's class. Vocabulary,
    special tokens, length, labels, whether a dense layer comes before the classifier, and how a model without a head
    makes sentence vectors are the teacher's, too. All weights are random but the embeddings and the head: each of
    these starts as the teacher's if its tensors have the teacher's names and shapes, all of them, which those of an
    IB-BERT of equal outer width have. The embeddings' norm is taken over as it is, though the teacher's normalises and
    the student's only scales.

    At the published shapes, with 30,522 words and 512 positions, there are 24,581,888 parameters without a head (25.3M
    are reported) and 15,485,696 in `tiny` (15.1M).

    The student is in float32 and in eval mode, on the teacher's device. An adapter is merged first, into a copy.

    Raises: `IncompatiblePair` for a variant, task, head or size that does not exist, or sizes that do not go together.
    """
    if variant not in VARIANTS:
        raise IncompatiblePair(f"mobilebert: unknown variant {variant!r}; the variants are {', '.join(VARIANTS)}.")
    settings = {"classifier_activation": False, **VARIANTS[variant]}
    return _made("mobilebert", MobileBertConfig, teacher, task, settings, sizes)


def ib_bert(teacher: nn.Module | None = None, *, task: str | None = None, **sizes: int) -> PreTrainedModel:
    """IB-BERT in the published shape, to be trained as MobileBERT's teacher: 24 blocks, 512 wide outside and 1024
    inside, 4 heads, one feed-forward network of 4096 (Sun et al., 2020, arXiv:2004.02984).

    Everything else is as in `mobilebert`; `teacher` is the model that it is trained to imitate, if any. At the
    published shape there are 294,205,184 parameters without a head (293M are reported). Its classes load by the auto
    classes of transformers once `hf_distill` is imported.

    Raises: `IncompatiblePair`, as `mobilebert`.
    """
    return _made("ib_bert", IBBertConfig, teacher, task, {}, sizes)


def _made(
    maker: str,
    config_class: Any,
    teacher: nn.Module | None,
    task: str | None,
    settings: dict[str, Any],
    sizes: dict[str, int],
) -> PreTrainedModel:
    _check_names(maker, sizes)
    anatomy = None if teacher is None else Anatomy.of(plain_copy(teacher, maker))
    auto_class = _auto_class(maker, anatomy, task)
    inherited = {} if anatomy is None else _inherited(anatomy)
    config = config_class(**{**settings, **inherited, **sizes})
    _check_fit(maker, config)
    config.dtype = torch.float32
    student: PreTrainedModel = getattr(transformers, auto_class).from_config(config)
    if anatomy is None:
        return student.eval()
    taken = _take_over(student, anatomy.base)
    logger.info("%s: taken over from the teacher: %s; the rest is random", maker, " and ".join(taken) or "nothing")
    if auto_class == "AutoModel":
        keep_vectors(student, anatomy.base)
    return student.to(anatomy.base.device).eval()


def _auto_class(maker: str, teacher: Anatomy | None, task: str | None) -> str:
    """The auto class of a task, or that of the head that the teacher has."""
    if task is not None:
        if task not in TASKS:
            raise IncompatiblePair(f"{maker}: unknown task {task!r}; the tasks are {', '.join(TASKS)}.")
        found, what = TASKS[task].auto_class, f"task {task!r}"
    elif teacher is None:
        raise IncompatiblePair(f"{maker}: give the teacher whose head to take, or task=…, one of {', '.join(TASKS)}.")
    else:
        name = type(teacher.base).__name__
        ending = re.search(r"For[A-Z]\w*$", name)
        bare = ending is None and teacher.base.base_model is teacher.base
        found, what = "AutoModel" if bare else f"AutoModel{ending[0] if ending else '?'}", f"class {name}"
    if found not in AUTO_CLASSES:
        raise IncompatiblePair(
            f"{maker}: there is no such model for the {what}; the heads are {', '.join(list(AUTO_CLASSES)[1:])}."
        )
    return found


def _inherited(teacher: Anatomy) -> dict[str, Any]:
    """What the student's configuration takes from the teacher's."""
    config = teacher.base.config
    found = {name: getattr(config, name, None) for name in (*_SHARED, "problem_type", "classifier_activation")}
    return {name: value for name, value in found.items() if value is not None} | {
        "vocab_size": teacher.shape.vocab_size,
        "max_position_embeddings": teacher.shape.max_length or MobileBertConfig().max_position_embeddings,
        "id2label": dict(config.id2label),
        "label2id": dict(config.label2id),
    }


def _check_names(maker: str, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        if name not in SIZES:
            near = did_you_mean(name, SIZES, " (", ")")
            raise IncompatiblePair(f"{maker}: unknown size {name!r}{near}; the sizes are {', '.join(SIZES)}.")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise IncompatiblePair(f"{maker}: {name} is {size!r}; it must be a whole number, at least 1.")


def _check_fit(maker: str, config: Any) -> None:
    if config.intra_bottleneck_size % config.num_attention_heads:
        raise IncompatiblePair(
            f"{maker}: {config.num_attention_heads} attention heads do not divide the {config.intra_bottleneck_size} "
            "features inside a block; change num_attention_heads or intra_bottleneck_size."
        )
    if config.embedding_size >= config.hidden_size:
        raise IncompatiblePair(
            f"{maker}: embeddings of {config.embedding_size} features must be narrower than the hidden states of "
            f"{config.hidden_size}; change embedding_size or hidden_size."
        )


def _take_over(student: PreTrainedModel, teacher: PreTrainedModel) -> list[str]:
    """Copies the embeddings and the head where the teacher has just these tensors; returns what was copied."""
    taken = []
    for part in ("embeddings", "head"):
        ours, theirs = (_part(model, part) for model in (student, teacher))
        shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in (ours, theirs)]
        if ours and shapes[0] == shapes[1]:
            taken.append(part)
            for name, tensor in ours.items():
                tensor.copy_(theirs[name])
    return taken


def _part(model: PreTrainedModel, part: str) -> dict[str, Tensor]:
    """The tensors of the embeddings, or of everything behind the blocks, by names that do not hold the family's."""
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    found = {}
    for name, tensor in model.state_dict().items():
        inner = name.removeprefix(prefix) if name.startswith(prefix) else f"head.{name}"
        if not inner.startswith("encoder.") and inner.startswith("embeddings.") == (part == "embeddings"):
            found[inner] = tensor
    return found
