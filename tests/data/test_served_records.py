"""Records of a served teacher: what they say in each form, and what is no record."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_distill import DistillationTrainer, Labels, SoftTargets
from hf_distill.activations import Signal
from hf_distill.commands import cache_teacher as command
from hf_distill.data.served_cache import import_records, recorded_rows
from hf_distill.data.served_records import Records
from hf_distill.data.served_words import Words
from hf_distill.errors import CacheMismatch, DataError, DistillationError
from hf_distill.tasks import IGNORED
from hf_distill.teachers import Cached, Ensemble
from hf_distill.teachers.cache import codecs
from tests import chats, tiny
from tests.data.served import TEMPLATE, TEXTS, Server, model, tokenizer, write

WORDS = tokenizer()
TEACHER = model(len(WORDS), layers=2, seed=3)
SERVER = Server(TEACHER, WORDS)
QUESTION, ANSWER = "is the house old", " the house is old, slowly<|end|>"


def read(tmp_path: Path, *lines: Any, **settings: Any) -> Records:
    return Records([write(tmp_path / "records.jsonl", [*lines])], WORDS, len(WORDS), **settings)


def rows(texts: list[str]) -> list[dict[str, Any]]:
    return [{**WORDS(text), "labels": WORDS(text)["input_ids"]} for text in texts]


# ---- the forms ----


def forms(text: str) -> dict[str, dict[str, Any]]:
    ids = WORDS(text)["input_ids"]
    laws = SERVER.laws(ids)
    return {
        "prompt_logprobs": SERVER.prompt_logprobs(text),
        "with ids": SERVER.prompt_logprobs(text, prompt_token_ids=ids, token_ids=[5]),
        "numbered echo": SERVER.echo(text, numbered=True),
        "by ids": {"input_ids": ids, "top_logprobs": laws},
        "pairs": {
            "input_ids": ids,
            "top_logprobs": [law and [[t, value] for t, value in law.items()] for law in laws],
        },
    }


@pytest.mark.parametrize("form", forms(TEXTS[0]))
def test_every_form_tells_the_same(form: str, tmp_path: Path) -> None:
    for text in TEXTS:
        line = json.loads(json.dumps(forms(text)[form]))
        records = read(tmp_path, line)
        (told,) = records
        ids = WORDS(text)["input_ids"]
        assert told.input_ids == ids
        assert told.laws[0] is None
        for law, expected in zip(told.laws[1:], SERVER.laws(ids)[1:], strict=True):
            assert law is not None
            assert dict(zip(law.ids.tolist(), law.log_probabilities.tolist(), strict=True)) == expected
            assert (np.diff(law.log_probabilities) <= 0).all()
        assert (records.counts.texts, records.counts.places, records.counts.silent) == (1, len(ids) - 1, 0)


def test_tokens_by_their_texts(tmp_path: Path) -> None:
    """Of tokens that are part of a character there is no text; likely ones of that kind are counted as unknown."""
    records = read(tmp_path, SERVER.echo(TEXTS[0], numbered=False))
    (told,) = records
    assert told.input_ids == WORDS(TEXTS[0])["input_ids"]
    expected = [law or {} for law in SERVER.laws(told.input_ids)]
    found = [
        {} if law is None else dict(zip(law.ids.tolist(), law.log_probabilities, strict=True)) for law in told.laws
    ]
    assert all(law.items() <= whole.items() for law, whole in zip(found, expected, strict=True))
    assert sum(map(len, expected)) >= sum(map(len, found)) > 0
    with pytest.raises(DataError, match=r"is the text of no token of the tokenizer, or of several.*ask the server"):
        list(read(tmp_path, SERVER.echo("ő", numbered=False)))


@pytest.mark.parametrize("octets", [True, False])
def test_an_answer_in_a_chat(octets: bool, tmp_path: Path) -> None:
    records = read(tmp_path, SERVER.chat(QUESTION, ANSWER, octets=octets))
    (told,) = records
    rendered = WORDS.apply_chat_template(
        [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER[: -len("<|end|>")]}],
        tokenize=False,
    )
    assert told.input_ids == WORDS(rendered)["input_ids"]
    answered = len(WORDS(ANSWER)["input_ids"])
    assert [law is None for law in told.laws] == [True] * (len(told.input_ids) - answered) + [False] * answered
    assert records.counts.silent == len(told.input_ids) - answered - 1
    (row,) = recorded_rows(records)
    assert row["labels"] == [IGNORED] * (len(told.input_ids) - answered) + told.input_ids[-answered:]


def test_requests_that_failed_and_long_texts(tmp_path: Path) -> None:
    failed = [{"response": {"status_code": 500, "body": {}}}, {"error": {"message": "gone"}}, {"response": None}]
    records = read(tmp_path, *failed, SERVER.prompt_logprobs(TEXTS[0]), max_length=5)
    (told,) = records
    assert told.input_ids == WORDS(TEXTS[0])["input_ids"][:5]
    assert (records.counts.failed, records.counts.cut, records.counts.places) == (3, 1, 4)


def test_bytes_of_tokens() -> None:
    words = Words(WORDS)
    (token,) = (t for t in range(len(WORDS)) if WORDS.convert_ids_to_tokens(t) == "Ã")  # the byte C3
    assert words.id_of("�", bytes([0xC3])) == token
    assert words.id_of("�") is None
    assert words.id_of("<|end|>") == words.id_of("", b"<|end|>") == WORDS.eos_token_id
    assert (words.id_of("token_id:7"), words.id_of("token_id:x")) == (7, None)
    assert not words.agree(WORDS.eos_token_id, "house")


def spelt_as_vllm(told: Any) -> None:
    """Has every token told with the bytes of its text, also where that stands for part of a character."""
    for each in told if isinstance(told, list) else told.values():
        if isinstance(each, dict):
            each["bytes"] = [*each["token"].encode()]
            spelt_as_vllm(each.get("top_logprobs", []))


def test_bytes_that_are_those_of_the_text_tell_no_part_of_a_character(tmp_path: Path) -> None:
    words = tokenizer((*TEXTS, "� � �"))
    named = [token for token in range(len(words)) if words.decode([token]).strip() == "�"]
    (whole,) = words("�")["input_ids"]
    assert len(named) > 1
    assert whole in named
    found = Words(words)
    assert found.id_of("�", "�".encode()) is None
    assert found.id_of("\ud800�", b"\xed\xa0\x80\xef\xbf\xbd") is None
    (part,) = (t for t in range(len(words)) if words.convert_ids_to_tokens(t) == "Ã")  # the byte C3
    assert found.id_of("�", bytes([0xC3])) == part
    server = Server(model(len(words), layers=2, seed=3), words, k=len(words))
    line = server.chat("�", " the house")
    spelt_as_vllm(line["response"]["body"]["choices"][0]["logprobs"]["content"])
    records = Records([write(tmp_path / "laws.jsonl", [line])], words, len(words))
    (told,) = records
    for law in filter(None, told.laws):
        assert not {*named} & {*law.ids.tolist()}
    assert records.counts.unknown >= 2 * len(named)
    line = server.chat("a", "☎")
    spelt_as_vllm(line["response"]["body"]["choices"][0]["logprobs"]["content"])
    with pytest.raises(DataError, match=r"'�' is the text of no token .*or of several.*ask the server for ids"):
        list(Records([write(tmp_path / "answer.jsonl", [line])], words, len(words)))


# ---- what is no record ----


def changed(change: Any) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(json.dumps(SERVER.prompt_logprobs(TEXTS[0])))
    change(line)
    return line


def _law(line: dict[str, Any], place: int = 2) -> dict[str, Any]:
    law: dict[str, Any] = line["choices"][0]["prompt_logprobs"][place]
    return law


def _set(value: Any) -> Any:
    return lambda line: next(iter(_law(line).values())).update(logprob=value)


WRONG: dict[str, tuple[Any, str]] = {
    "another prompt": (lambda line: line.update(prompt="a house"), r"prompt_logprobs has \d+ places, and the prompt"),
    "another token": (
        lambda line: line["choices"][0].update(prompt_token_ids=[7] * len(line["choices"][0]["prompt_logprobs"])),
        r"line 1, token \d+: is 7 '.*' here, which the server does not have among",
    ),
    "another text": (
        lambda line: next(iter(_law(line).values())).update(decoded_token="zzz"),
        "is 'zzz' to the server",
    ),
    "no number": (_set("x"), "a log-probability is 'x'"),
    "true": (_set(True), "a log-probability is True"),
    "not a number": (_set(math.nan), "a log-probability is nan"),
    "a logit": (_set(3.5), r"a log-probability is 3\.5 .*not logits"),
    "too large a number": (_set(10**400), "a log-probability is 1000"),
    "no law": (lambda line: [each.update(logprob=-0.1) for each in _law(line).values()], r"sum to .* they are no law"),
    "an id beyond": (lambda line: _law(line).update({"999999": -1.0}), "has the token id 999999"),
    "no id": (lambda line: _law(line).update({"x": -1.0}), "'x' is no token id"),
    "a long id": (lambda line: _law(line).update({"9" * 5000: -1.0}), "is no token id"),
    "a law of another kind": (lambda line: line["choices"][0]["prompt_logprobs"].__setitem__(2, 7), "a law is 7"),
    "no choices": (lambda line: line.pop("choices"), "neither input_ids with top_logprobs nor the choices"),
    "no prompt": (lambda line: line.pop("prompt"), "nothing tells the tokens of the prompt"),
    "a model of another kind": (lambda line: line.update(model=[]), "model is "),
    "ids of another kind": (lambda line: line.update(prompt=["1"]), "has the token id '1'"),
    "messages that are none": (lambda line: line.update(prompt=None, messages=5), "the chat template does not take"),
    "half a character": (lambda line: line.update(prompt="a\ud800"), "surrogates not allowed"),
    "a message with half a character": (
        lambda line: line.update(prompt=None, messages=[{"role": "user", "content": "a\ud800"}]),
        "surrogates not allowed",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_record(kind: str, tmp_path: Path) -> None:
    change, message = WRONG[kind]
    with pytest.raises(DataError, match=message):
        list(read(tmp_path, changed(change)))


def test_what_is_no_record_of_other_forms(tmp_path: Path) -> None:
    echo = SERVER.echo(TEXTS[0], numbered=True)
    other = copy.deepcopy(echo)
    other["request"]["prompt"] = TEXTS[1]
    with pytest.raises(DataError, match="the server's tokens of the prompt are"):
        list(read(tmp_path, other))
    echo["choices"][0]["logprobs"]["tokens"].pop()
    with pytest.raises(DataError, match="as many tokens as top_logprobs"):
        list(read(tmp_path, echo))
    with pytest.raises(DataError, match="2 tokens have 1 laws"):
        list(read(tmp_path, {"input_ids": [5, 6], "top_logprobs": [None]}))
    with pytest.raises(DataError, match="token 6 has two log-probabilities"):
        list(read(tmp_path, {"input_ids": [5, 6], "top_logprobs": [None, [[6, -1.0], [6, -2.0]]]}))
    with pytest.raises(DataError, match="the text has no token"):
        list(read(tmp_path, {"input_ids": [], "top_logprobs": []}))
    (tmp_path / "broken.jsonl").write_text("{")
    with pytest.raises(DataError, match="line 1: not JSON"):
        list(Records([tmp_path / "broken.jsonl"], WORDS, len(WORDS)))
    with pytest.raises(DataError, match="cannot be read"):
        list(Records([tmp_path / "none.jsonl"], WORDS, len(WORDS)))


CHANGED: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "add"}}],
    "documents": [{"title": "a", "text": "b"}],
    "chat_template_kwargs": {"enable_thinking": False},
    "chat_template": "{{ messages }}",
    "add_generation_prompt": False,
    "continue_final_message": True,
    "add_special_tokens": True,
}


def asked_with(line: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {**line, "request": {**line["request"], **settings}}


@pytest.mark.parametrize("key", CHANGED)
def test_what_changed_the_prompt_of_a_chat_is_refused(key: str, tmp_path: Path) -> None:
    line, remedy = SERVER.chat(QUESTION, ANSWER), r"ask the server for token ids \(vLLM: return_token_ids\)"
    for settings in ({key: CHANGED[key]}, {"extra_body": {key: CHANGED[key]}}):
        with pytest.raises(DataError, match=rf"line 1: was asked with {key} .*{remedy}"):
            list(read(tmp_path, asked_with(line, **settings)))
    (plain,) = read(tmp_path, line)
    ids = plain.input_ids[: -len(line["response"]["body"]["choices"][0]["logprobs"]["content"])]
    line["response"]["body"]["prompt_token_ids"] = ids
    (told,) = read(tmp_path, asked_with(line, **CHANGED))
    assert told.input_ids == plain.input_ids


@pytest.mark.parametrize(
    "settings",
    [
        dict.fromkeys(CHANGED),
        {"tools": [], "documents": [], "chat_template_kwargs": {}, "chat_template": WORDS.chat_template},
        {"add_generation_prompt": True, "continue_final_message": False, "add_special_tokens": False},
        {"temperature": 1.0, "extra_body": None},
    ],
)
def test_what_changes_no_prompt_is_taken(settings: dict[str, Any], tmp_path: Path) -> None:
    line = SERVER.chat(QUESTION, ANSWER)
    (plain,), (told,) = read(tmp_path, line), read(tmp_path, asked_with(line, **settings))
    assert told.input_ids == plain.input_ids


def test_special_tokens_of_a_text_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    line = SERVER.prompt_logprobs(TEXTS[0])
    with pytest.raises(DataError, match=r"was asked with add_special_tokens False \(bool\)"):
        list(read(tmp_path, {**line, "add_special_tokens": False}))
    for settings in ({"add_special_tokens": True}, {"add_special_tokens": None}, {"tools": CHANGED["tools"]}):
        (told,) = read(tmp_path, {**line, **settings})
        assert told.input_ids == WORDS(TEXTS[0])["input_ids"]
    ids = WORDS(TEXTS[0])["input_ids"]
    (told,) = read(tmp_path, {**line, "prompt": ids, "add_special_tokens": False})
    assert told.input_ids == ids


def counted(line: dict[str, Any], usage: Any) -> dict[str, Any]:
    """The line with what a server counted."""
    found = copy.deepcopy(line)
    found.get("response", {"body": found})["body"]["usage"] = usage
    return found


def test_a_prompt_has_as_many_tokens_as_the_server_counts(tmp_path: Path) -> None:
    """One more is a beginning of a text that stands there twice."""
    ids = WORDS(TEXTS[0])["input_ids"]
    chat = SERVER.chat(QUESTION, ANSWER)
    answered = len(chat["response"]["body"]["choices"][0]["logprobs"]["content"])
    (told,) = read(tmp_path, chat)
    lines = [
        (chat, len(told.input_ids) - answered),
        (SERVER.prompt_logprobs(TEXTS[0]), len(ids)),
        (SERVER.prompt_logprobs(TEXTS[0], prompt_token_ids=ids), len(ids)),
        ({**SERVER.prompt_logprobs(TEXTS[0]), "prompt": ids}, len(ids)),
        (SERVER.echo(TEXTS[0], numbered=True), len(ids)),
    ]
    for line, number in lines:
        (plain,) = read(tmp_path, line)
        for usage in (*({"prompt_tokens": same} for same in (number, None, "many", True)), None, [], 5):
            (told,) = read(tmp_path, counted(line, usage))
            assert told.input_ids == plain.input_ids
        for other in (number + 1, number - 1, 0):
            with pytest.raises(DataError, match=rf"has {number} tokens, and the server counts {other} .*ask the serv"):
                list(read(tmp_path, counted(line, {"prompt_tokens": other})))


def test_several_prompts_of_an_answer_are_counted_together(tmp_path: Path) -> None:
    answers = [SERVER.prompt_logprobs(text, prompt_token_ids=WORDS(text)["input_ids"]) for text in TEXTS]
    line = {"prompt": TEXTS, "choices": [answer["choices"][0] for answer in answers]}
    number = sum(len(WORDS(text)["input_ids"]) for text in TEXTS)
    found = list(read(tmp_path, counted(line, {"prompt_tokens": number})))
    assert [told.input_ids for told in found] == [WORDS(text)["input_ids"] for text in TEXTS]


def test_messages_of_a_template_that_writes_the_day(tmp_path: Path) -> None:
    words = tokenizer(template=chats.TODAY + TEMPLATE)
    line = SERVER.chat(QUESTION, ANSWER)
    path = write(tmp_path / "chat.jsonl", [line])
    with pytest.raises(DataError, match=r"writes the day .*; ask the server for token ids \(vLLM: return_token_ids\)"):
        list(Records([path], words, len(words)))
    path = write(
        tmp_path / "chat.jsonl", [{**line, "response": {**line["response"]["body"], "prompt_token_ids": [7]}}]
    )
    (told,) = Records([path], words, len(words))
    assert told.input_ids[0] == 7


def test_messages_without_a_template(tmp_path: Path) -> None:
    plain = copy.deepcopy(WORDS)
    plain.chat_template = None
    path = write(tmp_path / "chat.jsonl", [SERVER.chat(QUESTION, ANSWER)])
    with pytest.raises(DataError, match="has messages, and the tokenizer no chat template"):
        list(Records([path], plain, len(plain)))


# ---- the cache ----


def imported(tmp_path: Path, lines: list[Any], name: str = "cache", **settings: Any) -> Any:
    path = write(tmp_path / f"{name}.jsonl", lines)
    return import_records([path], tmp_path / name, WORDS, TEACHER.config, **settings)


def trainer(train: Any, teacher: Any, *, vocabulary: int = len(WORDS), **settings: Any) -> DistillationTrainer:
    return DistillationTrainer(
        model=model(vocabulary, layers=1, seed=5).train(),
        teacher=teacher,
        objectives=SoftTargets(temperature=1.0) + Labels(),
        args=tiny.arguments(per_device_train_batch_size=3, **settings),
        train_dataset=train,
        data_collator=tiny.Pad(),
        processing_class=WORDS,
    )


def test_a_student_of_records_is_one_of_the_largest_logits(tmp_path: Path) -> None:
    wide = model(1100, layers=2, seed=3)  # its vocabulary is padded beyond the tokenizer's
    path = write(tmp_path / "records.jsonl", [Server(wide, WORDS).prompt_logprobs(text) for text in TEXTS])
    done = import_records([path], tmp_path / "cache", WORDS, wide.config)
    assert (done.written, done.k, done.counts.silent, done.short) == (3, 4, 0, 0)
    served = trainer(rows(TEXTS), Cached(tmp_path / "cache"), vocabulary=1100)
    largest = trainer(rows(TEXTS), wide, vocabulary=1100)
    largest.cache_teacher(tmp_path / "largest", codec=codecs.make("top_k", {"k": 4}))
    served.train()
    largest.train()
    assert tiny.distance(served.model, largest.model) < 2e-5
    assert served.teacher.facts.signals[0].codec == "recorded_top_k"
    assert codecs.make("recorded_top_k", {"k": 64}).bytes_per_row(49152) == 4 * 64 + 5


def test_places_without_a_record_are_not_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The loss is that over the places of which the server told, over their number."""
    imported(tmp_path, [SERVER.chat(QUESTION, ANSWER)], k=2)
    records = Records([tmp_path / "cache.jsonl"], WORDS, len(WORDS))
    (row,) = recorded_rows(records)
    everywhere = {**row, "labels": row["input_ids"]}
    (told,) = records
    student = model(len(WORDS), layers=1, seed=5)
    with torch.no_grad():
        q = student(torch.tensor([row["input_ids"]])).logits[0].double().log_softmax(-1)
    values = []
    for place, law in enumerate(told.laws[1:]):
        if law is not None and len(law.ids) >= 2:
            p, ids = law.log_probabilities[:2], law.ids[:2].tolist()
            rest_p, rest_q = 1.0 - np.exp(p).sum(), 1.0 - float(q[place, ids].exp().sum())
            kept = sum(math.exp(p[i]) * (p[i] - float(q[place, each])) for i, each in enumerate(ids))
            values.append(kept + rest_p * math.log(rest_p / rest_q))
    for given in (everywhere, row):
        made = trainer([given], Cached(tmp_path / "cache"), max_steps=1)
        made.train()
        assert made.state.log_history[0]["objective/soft_targets"] == pytest.approx(np.mean(values), rel=2e-3)
    silent = len(told.input_ids) - 1 - len(values)
    assert f"of {len(told.input_ids) - 1} labelled positions {silent} have no record" in caplog.text


def test_labels_where_the_server_told_nothing_at_all(tmp_path: Path) -> None:
    imported(tmp_path, [SERVER.chat(QUESTION, ANSWER)])
    records = Records([tmp_path / "cache.jsonl"], WORDS, len(WORDS))
    (row,) = recorded_rows(records)
    prompt = [
        token if label == IGNORED else IGNORED for token, label in zip(row["input_ids"], row["labels"], strict=True)
    ]
    with pytest.raises(CacheMismatch, match="the served teacher told of none"):
        trainer([{**row, "labels": prompt}], Cached(tmp_path / "cache")).train()


def test_an_import_goes_on_where_it_was(tmp_path: Path) -> None:
    lines = [SERVER.prompt_logprobs(text) for text in TEXTS]
    imported(tmp_path, lines[:1], k=3)
    done = imported(tmp_path, [*lines, lines[0]], k=3)
    assert (done.written, done.counts.texts, len(Cached(tmp_path / "cache").reader)) == (2, 4, 3)
    with pytest.raises(CacheMismatch, match=r"holds recorded_top_k \{'k': 3\}"):
        imported(tmp_path, lines, k=2)
    with pytest.raises(CacheMismatch, match="another teacher: teacher 'served: teacher', here 'served: other'"):
        imported(tmp_path, [{**line, "model": "other"} for line in lines], k=3)
    with pytest.raises(DataError, match="is of the model 'other', and those before of 'teacher'"):
        imported(tmp_path, [lines[0], {**lines[1], "model": "other"}], k=3)
    with pytest.raises(CacheMismatch, match="another teacher"):
        trainer(rows(TEXTS), TEACHER).cache_teacher(tmp_path / "cache")


def test_the_number_of_tokens_is_that_of_nearly_all_places(tmp_path: Path) -> None:
    ids = [5 + i % 7 for i in range(40)]
    laws: list[Any] = [None, *[[[token, -2.0 - i / 9] for i, token in enumerate(range(4, 10))] for _ in ids[1:]]]
    laws[3] = laws[3][:2]
    done = imported(tmp_path, [{"input_ids": ids, "top_logprobs": laws}])
    assert (done.k, done.short) == (6, 1)
    cached = Cached(tmp_path / "cache")
    cached.bind(frozenset({Signal("logits")}))
    batch = cached.reading(tiny.Pad())([{"input_ids": ids, "attention_mask": [1] * len(ids)}])
    assert batch["teacher/recorded"][0].tolist() == [i != 2 for i in range(39)] + [False]
    with pytest.raises(DistillationError, match="k is 0"):
        imported(tmp_path, [{"input_ids": ids, "top_logprobs": laws}], "other", k=0)
    with pytest.raises(DataError, match="no place has a record"):
        imported(tmp_path, [{"input_ids": ids, "top_logprobs": [None] * 40}], "none")


def test_records_of_two_models_are_two_caches(tmp_path: Path) -> None:
    lines = [{**SERVER.prompt_logprobs(text), "model": name} for text, name in zip(TEXTS, "ab", strict=False)]
    with pytest.raises(DataError, match=r"line 2.*is of the model 'b', and those before of 'a'\. .*a folder of"):
        imported(tmp_path, lines)


def test_records_are_no_member_of_an_ensemble(tmp_path: Path) -> None:
    imported(tmp_path, [SERVER.prompt_logprobs(text) for text in TEXTS])
    with pytest.raises(DistillationError, match="made of a served teacher's records"):
        Ensemble([Cached(tmp_path / "cache"), TEACHER])


@pytest.mark.parametrize("change", ["chat_template", "tokenizer"])
def test_another_tokenizer_or_chat_template(change: str, tmp_path: Path) -> None:
    imported(tmp_path, [SERVER.prompt_logprobs(text) for text in TEXTS])
    other = tokenizer(template="{{ messages }}") if change == "chat_template" else tokenizer(("other words",))
    with pytest.raises(CacheMismatch, match=f"was written with another {change}: "):
        Cached(tmp_path / "cache", tokenizer=other)
    plain = tokenizer()
    plain.chat_template = None
    Cached(tmp_path / "cache", tokenizer=plain)  # of which nothing is known that could be another


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    WORDS.save_pretrained(tmp_path / "student")
    TEACHER.config.save_pretrained(tmp_path / "student")
    path = write(tmp_path / "records.jsonl", [*map(SERVER.prompt_logprobs, TEXTS), {"error": "x"}])
    flags = ["--records", str(path), "--tokenizer_name_or_path", str(tmp_path / "student")]
    assert command.main(["served", *flags, "--cache_teacher", str(tmp_path / "cache")]) == 0
    said = capsys.readouterr().out
    assert "3 of 3 texts written, 4 tokens kept at each of" in said
    assert "1 requests that failed" in said
    assert len(Cached(tmp_path / "cache", tokenizer=WORDS).reader) == 3
    assert command.main(["served", *flags]) == 2
    assert command.main(["served", *flags, "--cache_teacher", str(tmp_path / "x"), "--kk", "3"]) == 2
    assert "unknown argument --kk" in capsys.readouterr().err
