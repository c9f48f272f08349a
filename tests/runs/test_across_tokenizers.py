"""Conversations that student and teacher read by tokenizers of their own: rows, prompts, and what is told of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_distill.data.aligned_messages import align_messages
from hf_distill.data.packing import around
from hf_distill.errors import DataError
from hf_distill.evaluation import language_models
from hf_distill.evaluation.language_models import Prompt, samples
from hf_distill.recipe import Recipe
from hf_distill.runs.workload import Limits
from hf_distill.runs.workloads import load_workload
from hf_distill.runs.workloads.across_tokenizers import AlignedChat
from hf_distill.tasks import IGNORED
from tests import tiny_runs
from tests.chats import TODAY
from tests.test_across_tokenizers import OURS, THEIRS, model
from tests.tokenizers_of_kinds import CORPUS, tokenizer

PLAIN = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} [SEP] {% endfor %}"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LIMITS = Limits(128, [None, None], frozenset({"input_ids", "attention_mask"}))


def with_template(tokens: Any, template: str | None) -> Any:
    made = copy.deepcopy(tokens)
    made.chat_template = template
    return made


def talk(number: int) -> list[dict[str, str]]:
    """A conversation whose answer is a text of the corpus; one ends in a line that the student has no token for."""
    answer = CORPUS[number % len(CORPUS)] + ("\n" if number == 7 else "")
    return [{"role": "user", "content": "another text"}, {"role": "assistant", "content": answer}]


def home(folder: Path) -> Path:
    """Both models with their tokenizers, and files of conversations."""
    sides = (("teacher", THEIRS, CHATML, 2), ("student", OURS, PLAIN, 1))
    for role, tokens, template, seed in sides:
        model(tokens, seed, positions=256).save_pretrained(folder / role)
        with_template(tokens, template).save_pretrained(folder / role)
    for split, number in (("train", 9), ("validation", 3)):
        tiny_runs.write_jsonl(folder / f"{split}.jsonl", [{"messages": talk(i)} for i in range(number)])
    return folder


def recipe(folder: Path, objective: str = "uld", **chat: Any) -> dict[str, Any]:
    """Two steps of `home`."""
    arguments = {"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True, "report_to": "none"}
    return {
        "schema": 1,
        "data": {
            "files": {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")},
            "chat": {"samples": 2, **chat},
        },
        "max_length": 128,
        "teacher": {"model": str(folder / "teacher"), "tokenizer": "own"},
        "student": {"model": str(folder / "student")},
        "stages": [{"name": "distil", "objectives": [{objective: {}}, {"labels": {}}], "arguments": arguments}],
    }


def loaded(folder: Path, **chat: Any) -> AlignedChat:
    found = load_workload(Recipe.from_dict(recipe(home(folder), **chat)))
    assert isinstance(found, AlignedChat)
    return found


def test_each_model_reads_a_conversation_in_its_own_template(tmp_path: Path) -> None:
    found, ours = loaded(tmp_path), with_template(OURS, PLAIN)
    theirs = found.teachers_tokenizer
    assert theirs.chat_template == CHATML
    rows = found.read(ours, LIMITS)
    expected, counts = align_messages([talk(i) for i in range(9)], ours, theirs, 128)
    assert rows["train"].to_dict() == expected.to_dict()
    assert found.counted() == {f"alignment_{name}": float(n) for name, n in counts.to_dict().items()}
    said = [[label for label in row["labels"] if label != IGNORED] for row in rows["train"]]
    assert ours.decode(said[1]) == f"{CORPUS[1].lower()[:-1]}. [SEP]"
    seen = found.as_read_by("teacher", rows["validation"])
    batch = found.collator(theirs)(list(seen))
    words = [theirs.decode(row[row != IGNORED]) for row in batch["labels"]]
    assert words == [f"{CORPUS[i]}<|end|>" for i in range(3)]
    assert "Aligned, train: 9 texts in 9 rows" in found.remarks("validation", {})[0]
    assert found.facts(found.recipe).alignment["validation"]["texts"] == 3


def test_a_template_of_ones_own_is_the_students(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(PLAIN, encoding="utf-8")
    found = loaded(tmp_path, template=str(tmp_path / "own.jinja"))
    assert found.tokenizer_settings(OURS)["chat_template"] == PLAIN
    assert found.teachers_tokenizer.chat_template == CHATML


def test_both_models_are_told_the_day_of_the_recipe(tmp_path: Path) -> None:
    found, ours = loaded(tmp_path, date="2025-03-09"), with_template(OURS, TODAY + PLAIN)
    found.teachers_tokenizer.chat_template = TODAY + CHATML
    row, prompt = found.read(ours, LIMITS, ["train"])["train"][0], found.prompts(ours, LIMITS)[0]
    for ids in (row["input_ids"], prompt.ids):
        assert ours.decode(ids).startswith("today : [UNK] mar [UNK] user")
    for ids in (row["teacher_input_ids"], prompt.teachers_ids):
        assert found.teachers_tokenizer.decode(ids).startswith("Today: 09 Mar 2025\n<|im_start|>user")


def test_a_conversation_that_cannot_be_placed_is_told_with_its_line(tmp_path: Path) -> None:
    shouting = with_template(OURS, PLAIN.replace("m['content']", "m['content'] | upper"))
    with pytest.raises(DataError, match=r"train\.jsonl, line 1: the student's chat template leaves messages out or"):
        loaded(tmp_path).read(shouting, LIMITS)
    with pytest.raises(DataError, match="max_length is 128, and of the tokenizer and the models one takes 64 tokens"):
        loaded(tmp_path).read(with_template(OURS, PLAIN), LIMITS._replace(positions=[64, 256]))


@pytest.mark.parametrize("kinds", [("bpe", "wordpiece"), ("unigram", "bpe"), ("wordpiece", "unigram")])
def test_both_models_go_on_from_what_rows_begin_with(tmp_path: Path, kinds: tuple[str, str]) -> None:
    ours, theirs = map(tokenizer, kinds)
    model(theirs, 2).save_pretrained(tmp_path / "teacher")
    theirs.save_pretrained(tmp_path / "teacher")
    (tmp_path / "a.txt").write_text(f"{CORPUS[0]}\n", encoding="utf-8")
    text = [{"files": [str(tmp_path / "a.txt")]}]
    data = {"text": {"train": text, "validation": text, "task": "causal_lm", "packing": "none"}}
    found = load_workload(Recipe.from_dict({**recipe(tmp_path), "data": data}))
    (prompt,), row = found.prompts(ours, LIMITS), found.read(ours, LIMITS)["train"][0]
    assert row["input_ids"][: len(prompt.ids)] == prompt.ids
    begin = len(around(theirs)[0])
    assert row["teacher_input_ids"][:begin] == prompt.teachers_ids[:begin]
    assert prompt.teachers_ids[begin:] == theirs(prompt.text, add_special_tokens=False)["input_ids"]


def greedy(writer: Any, ids: list[int], tokens: Any) -> str:
    """The likeliest token, one after the other."""
    found = list(ids)
    for _ in range(language_models.NEW_TOKENS):
        with torch.no_grad():
            found.append(int(writer(torch.tensor([found])).logits[0, -1].argmax()))
        if found[-1] == tokens.eos_token_id:
            break
    return str(tokens.decode(found[len(ids) :], skip_special_tokens=True))


def test_a_teacher_answers_the_prompts_in_its_own_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The student's vocabulary is the larger one, so its ids mean nothing to the teacher, or are none."""
    monkeypatch.setattr(language_models, "NEW_TOKENS", 6)
    found, ours = loaded(tmp_path), with_template(OURS, PLAIN)
    prompts = found.prompts(ours, LIMITS)
    assert [ours.decode(prompt.ids) for prompt in prompts] == ["user : another text [SEP]"] * 2
    asked = "<|im_start|>user\nanother text<|end|>\n<|im_start|>assistant\n"
    assert [found.teachers_tokenizer.decode(prompt.teachers_ids) for prompt in prompts] == [asked] * 2
    student, teacher = model(THEIRS, 1, positions=256).eval(), model(OURS, 2, positions=256).eval()
    ids = THEIRS("The quick fox")["input_ids"]
    assert max(ids) >= teacher.config.vocab_size
    prompt = Prompt(ids, "The quick fox", "", OURS("the quick fox")["input_ids"])
    (sample,) = samples({"teacher": teacher, "student": student}, THEIRS, [prompt], OURS)
    wanted = {"teacher": greedy(teacher, [*prompt.teachers_ids], OURS), "student": greedy(student, ids, THEIRS)}
    for role, text in wanted.items():
        shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        assert sample.written[role] == shown  # type: ignore[index]
