"""The program of a card, which shows a student an input of the kind that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_distill.data.glue import TASKS as GLUE_TASKS
from hf_distill.hub.record import Record, is_hub_id
from hf_distill.students.ib_bert import AUTO_CLASSES
from hf_distill.tasks import TASKS, Embeddings

CALLS = {
    "single_label": "print(model({row}))",
    "multi_label": "print(model({row}, top_k=None))",
    "token_classification": "print(model('An example text.'))",
    "masked_lm": "print(model(f'An example {{model.tokenizer.mask_token}}.'))",
    "causal_lm": "print(model({start}, max_new_tokens=20))",
    "ctc": "print(model('recording.wav'))",
    "regression": "print(model(**tokenizer({texts}, return_tensors='pt')).logits)",
    "question_answering": (
        "inputs = tokenizer('Who wrote it?', 'Ada wrote it.', return_tensors='pt')\n"
        "outputs = model(**inputs)\n"
        "start, end = outputs.start_logits.argmax(), outputs.end_logits.argmax()\n"
        "print(tokenizer.decode(inputs['input_ids'][0, start : end + 1]))"
    ),
    "seq2seq_lm": (
        "outputs = model.generate(**tokenizer({source}, return_tensors='pt'), max_new_tokens=20)\n"
        "print(tokenizer.decode(outputs[0], skip_special_tokens=True))"
    ),
    "encoder": "print(model(**tokenizer('An example text.', return_tensors='pt')).last_hidden_state)",
    "embeddings": (
        "vectors = model.encode(['An example text.', 'Another text.'])\n"
        "print(vectors.shape, model.similarity(vectors, vectors))"
    ),
}
"""What a task asks of a student, with places for what the recipe says of its rows."""

WITH_PIPELINE = frozenset({"single_label", "multi_label", "token_classification", "masked_lm", "causal_lm", "ctc"})
"""Tasks that have a pipeline in transformers 5 which reads the model as it was trained."""


def example(record: Record, repo_id: str | None) -> str:
    """A program that runs the student on an input of its kind: a pair of texts where its rows are pairs, a
    conversation where they are conversations, a text behind the prefix that all sources have."""
    name = repo_id if repo_id and is_hub_id(repo_id) else "."
    task, kind = record.task, TASKS.get(record.task)
    call = CALLS.get(task, "print(model(**tokenizer('An example text.', return_tensors='pt')))")
    call = call.format(**_inputs(record.recipe or {}))
    if kind and task in WITH_PIPELINE:
        made = f"from transformers import pipeline\n\nmodel = pipeline({kind.pipeline_tag!r}, model={name!r})\n"
    elif task == Embeddings.name:
        made = f"from sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer({name!r})\n"
    else:
        auto_class = kind.auto_class if kind else "AutoModel"
        made = (
            f"from transformers import {auto_class}, AutoTokenizer\n\n"
            f"tokenizer = AutoTokenizer.from_pretrained({name!r})\n"
            f"model = {auto_class}.from_pretrained({name!r})\n"
        )
    return _registering(record) + made + call


def _inputs(recipe: Mapping[str, Any]) -> dict[str, str]:
    """What stands in the places of `CALLS`, as Python; `recipe` is anybody's, and may have any form."""
    first, second = "An example text.", "Another text."
    data = recipe.get("data")
    data = data if isinstance(data, Mapping) else {}
    translation, prefix = data.get("translation"), ""
    if isinstance(translation, Mapping) and isinstance(translation.get("prefix"), str):
        prefix = translation["prefix"]
    pair = _reads_pairs(recipe, data)
    return {
        "row": repr({"text": first, "text_pair": second} if pair else first),
        "texts": f"{first!r}, {second!r}" if pair else repr(first),
        "start": repr("An example" if data.get("chat") is None else [{"role": "user", "content": "An example"}]),
        "source": repr(prefix + first),
    }


def _reads_pairs(recipe: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    task, columns = recipe.get("task"), data.get("text_columns")
    if isinstance(task, str) and task in GLUE_TASKS:
        return len(GLUE_TASKS[task].text_columns) == 2
    return isinstance(columns, list) and len(columns) == 2


def _registering(record: Record) -> str:
    """What comes before the rest where transformers alone does not know the class."""
    ours = {model_class.__name__ for model_class in AUTO_CLASSES.values()}
    return "import hf_distill  # makes the class known to transformers\n" if record.student.class_name in ours else ""
