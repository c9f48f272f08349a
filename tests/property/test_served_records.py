"""Records of a served teacher with a part replaced at random are read or refused by name, and never end in another
error; what is read is laws."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.data.served_records import Records
from hf_distill.errors import DataError
from tests.data.served import TEXTS, Server, model, tokenizer

WORDS = tokenizer()
SERVER = Server(model(len(WORDS), layers=1, seed=3), WORDS, k=2)
LINES = [
    SERVER.prompt_logprobs(TEXTS[1]),
    SERVER.echo(TEXTS[0], numbered=True),
    SERVER.chat("is it old", " yes<|end|>"),
    {"input_ids": [5, 6, 7], "top_logprobs": [None, {"6": -0.5}, [[7, -0.1]]]},
]

NAMES = st.text(max_size=3) | st.sampled_from(["token", "logprob", "7"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("token_id:3"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=4,
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something can be replaced."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, each in inner for place in places(each, (*here, key)))]


PLACES = [(i, place) for i, line in enumerate(LINES) for place in places(line)[1:]]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(PLACES), VALUES)
def test_a_record_with_a_part_replaced(where: tuple[int, tuple[Any, ...]], value: Any) -> None:
    number, path = where
    line = copy.deepcopy(LINES[number])
    inside: Any = line
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "records.jsonl")
        file.write_text(json.dumps(line), encoding="utf-8")
        refusal = str(file)
        try:
            for told in Records([file], WORDS, len(WORDS)):
                assert told.input_ids
                assert len(told.laws) == len(told.input_ids)
                assert all(0 <= token < len(WORDS) for token in told.input_ids)
                masses = [math.fsum(map(math.exp, law.log_probabilities)) for law in told.laws if law is not None]
                assert all(0.0 < mass < 1.02 for mass in masses)
        except DataError as error:
            refusal = str(error)
        assert str(file) in refusal
