"""The tasks that there are, and which of them a model was made for."""

from __future__ import annotations

from typing import Any

from hf_distill.errors import IncompatiblePair
from hf_distill.sentences import is_sentence_model
from hf_distill.tasks.base import Task
from hf_distill.tasks.classes import MultiLabel, Regression, SingleLabel, TokenClassification
from hf_distill.tasks.ctc import CTC
from hf_distill.tasks.headless import Embeddings, Encoder
from hf_distill.tasks.spans import QuestionAnswering
from hf_distill.tasks.words import CausalLM, MaskedLM, Seq2SeqLM

TASKS: dict[str, Task] = {
    task.name: task()
    for task in (
        SingleLabel,
        MultiLabel,
        Regression,
        TokenClassification,
        QuestionAnswering,
        MaskedLM,
        CausalLM,
        Seq2SeqLM,
        CTC,
        Encoder,
        Embeddings,
    )
}

HEADS = {
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
    "ForMaskedLM": "masked_lm",
    "ForPreTraining": "masked_lm",
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
    "ForConditionalGeneration": "seq2seq_lm",
    "ForCTC": "ctc",
}
"""Ends of class names of transformers models, and the task each stands for."""

PROBLEM_TYPES = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


def task_of(model: Any) -> Task:
    """The task of a transformers model, by its class and its configuration.

    Raises: `IncompatiblePair` for a head that no task describes.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    class_name, config = type(plain).__name__, plain.config
    if class_name.endswith("ForSequenceClassification"):
        by_width = "regression" if config.num_labels == 1 else "single_label"
        return TASKS[PROBLEM_TYPES.get(config.problem_type or "", by_width)]
    if class_name.endswith("ForCTC"):
        return _ctc_of(plain)
    for ending, name in HEADS.items():
        if class_name.endswith(ending) and not _predicts_no_words(plain, ending):
            return TASKS[name]
    if class_name.endswith("Model") and getattr(plain, "base_model", None) is plain:
        return TASKS["embeddings" if is_sentence_model(config) else "encoder"]
    known = ", ".join(["ForSequenceClassification", *HEADS])
    raise IncompatiblePair(
        f"no task is known for {class_name}; the heads that are known end in {known}. Load the model with such a head."
    )


def _ctc_of(model: Any) -> CTC:
    """In the models' code the padding token is the blank, and one of two methods counts frames."""
    names = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")
    counting = [getattr(model, name) for name in names if hasattr(model, name)]
    return CTC(model.config.pad_token_id or 0, next(iter(counting), None))


def _predicts_no_words(model: Any, ending: str) -> bool:
    """Some pre-training heads tell replaced words from the original ones instead."""
    return ending == "ForPreTraining" and model.get_output_embeddings() is None
