"""What a causal teacher answers to conversations: what it reads, and what of it is learned."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

from hf_distill.data.hypotheses import with_hypotheses
from hf_distill.errors import DataError
from hf_distill.objectives.hypotheses import PLACE, SCORES
from hf_distill.recipe import Recipe
from hf_distill.recipe.sections.teacher import Writing
from hf_distill.runs.abilities import Sources
from hf_distill.runs.generating import search_of
from hf_distill.runs.workload import Limits
from hf_distill.runs.workloads import load_workload
from hf_distill.runs.workloads.across_tokenizers import AlignedChat
from hf_distill.runs.workloads.chat import Chat
from hf_distill.tasks import IGNORED
from hf_distill.teachers.generation import Hypothesis
from tests import chats
from tests.runs import test_across_tokenizers as two_tokenizers
from tests.test_across_tokenizers import OURS

LIMITS = Limits(256, [256, 256], frozenset({"input_ids", "attention_mask", "position_ids"}))
BRACKETS = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teachers with the student's chat template, with another, and with none."""
    folder = tmp_path_factory.mktemp("answers")
    for name, template in (("teacher", chats.PLAIN), ("other", BRACKETS), ("none", None)):
        chats.tokenizer(template).save_pretrained(folder / name)
        chats.model().config.save_pretrained(folder / name)
    return chats.write(folder)


def asked(home: Path, teacher: str = "teacher", **changes: Any) -> tuple[Chat, Recipe]:
    stage = {"targets": "best", "objectives": [{"labels": {}}]}
    section = {"model": str(home / teacher), "generate": {}, **changes.pop("teacher_settings", {})}
    recipe = Recipe.from_dict(chats.recipe(home, stage=stage, teacher=section, **changes))
    found = load_workload(recipe)
    assert isinstance(found, Chat)
    return found, recipe


def conversations(home: Path) -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in (home / "train.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("teacher", "template"), [("teacher", chats.PLAIN), ("other", BRACKETS), ("none", chats.PLAIN)]
)
def test_a_teacher_reads_up_to_the_last_answer_by_its_own_template(home: Path, teacher: str, template: str) -> None:
    found, recipe = asked(home, teacher)
    sources = found.sources_of(recipe, chats.tokenizer())
    writes = chats.tokenizer(template)
    assert sources.texts == [
        writes.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        for messages in conversations(home)
    ]
    assert (sources.tokenizer.chat_template, sources.rendered, sources.ends) == (template, True, (2,))


def test_a_teacher_trained_on_the_data_reads_them_as_the_student(home: Path) -> None:
    found, recipe = asked(home, "other", teacher_settings={"fine_tune": {}})
    student = chats.tokenizer()
    assert found.sources_of(recipe, student).tokenizer is student


def test_a_teacher_is_asked_on_the_day_of_the_recipe(home: Path) -> None:
    found, recipe = asked(home, teacher_settings={"fine_tune": {}}, chat={"date": "2025-03-09"})
    sources = found.sources_of(recipe, chats.tokenizer(chats.TODAY + chats.PLAIN))
    assert all(text.startswith("Today: 09 Mar 2025\n<|im_start|>user") for text in sources.texts)
    assert sources.ends == (2,)


def test_a_teacher_of_another_tokenizer_reads_by_that(tmp_path: Path) -> None:
    """And on both sides the last answer alone is learned."""
    given = two_tokenizers.recipe(two_tokenizers.home(tmp_path))
    given["teacher"]["generate"] = {}
    given["stages"][0] |= {"targets": "best", "objectives": [{"labels": {}}]}
    first = [{"role": "user", "content": "another text"}, {"role": "assistant", "content": "The quick dog."}]
    talks = [{"messages": [*first, *two_tokenizers.talk(i)]} for i in range(3)]
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in talks))
    recipe = Recipe.from_dict(given)
    found = load_workload(recipe)
    assert isinstance(found, AlignedChat)
    ours = two_tokenizers.with_template(OURS, two_tokenizers.PLAIN)
    sources = found.sources_of(recipe, ours)
    assert sources.tokenizer is found.teachers_tokenizer
    assert sources.texts[1].endswith("<|end|>\n<|im_start|>assistant\n")
    changed = found.retargeted(lambda rows, column: rows.map(lambda _row: {column: "the lazy fox"}))
    rows = changed.read(ours, two_tokenizers.LIMITS, ["train"])["train"]
    assert len(rows) == 3
    for row in rows:
        sides = (("", ours, "the lazy fox [SEP]"), ("teacher_", found.teachers_tokenizer, "the lazy fox<|end|>"))
        for prefix, tokens, said in sides:
            assert tokens.decode([label for label in row[f"{prefix}labels"] if label != IGNORED]) == said


@pytest.mark.parametrize("packing", [False, True])
def test_what_is_written_alone_is_learned(home: Path, packing: bool) -> None:
    """Each answer is a row, with what `nbest_kd` reads of it, unless rows are packed."""
    found, _ = asked(home, chat={"packing": packing})
    tokenizer = chats.tokenizer()
    answers = [Hypothesis("ja ☕", (1,), -1.0, True), Hypothesis("nein", (2,), -2.5, True)]

    def make(rows: Dataset, column: str) -> Dataset:
        assert rows[column][:] == [messages[-1]["content"] for messages in conversations(home)]
        return with_hypotheses(rows, [answers] * len(rows), column, "all")

    changed = found.retargeted(make)
    rows = changed.read(tokenizer, LIMITS, ["train"])["train"]
    said = [
        tokenizer.decode([label for label in row["labels"] if label != IGNORED]).split(chats.END)[:-1] for row in rows
    ]
    assert sorted(text for row in said for text in row) == ["ja ☕"] * 12 + ["nein"] * 12
    assert len(found.splits["train"]) == 12
    if packing:
        assert len(rows) < 24
        return
    for row, messages in zip(list(rows)[1::2], conversations(home), strict=True):
        told = [*messages[:-1], {"role": "assistant", "content": "nein"}]
        assert tokenizer.decode(row["input_ids"]) == tokenizer.apply_chat_template(told, tokenize=False)
    batch = changed.collator(tokenizer)([rows[i] for i in (0, 1, 2)])
    assert batch[PLACE].tolist() == [0, 1, 0]
    assert batch[SCORES].tolist() == [[-1.0, -2.5]] * 3


def test_prompt_and_answer_have_room_in_the_teacher() -> None:
    setup: Any = SimpleNamespace(limits=LIMITS._replace(max_length=128))
    sources = Sources(["a"], chats.tokenizer(), rendered=True, ends=(2,))
    for new_tokens, longest in ((100, 128), (200, 56)):
        search = search_of(setup, sources, Writing(max_new_tokens=new_tokens), chats.model())
        assert (search.max_source_length, search.rendered, search.ends) == (longest, True, (2,))
    with pytest.raises(DataError, match="max_new_tokens is 256, and the teacher takes 256 tokens, prompt and answer"):
        search_of(setup, sources, Writing(max_new_tokens=256), chats.model())
    plain = search_of(setup, sources._replace(rendered=False), Writing(max_new_tokens=256), chats.model())
    assert (plain.max_source_length, plain.rendered) == (128, False)
