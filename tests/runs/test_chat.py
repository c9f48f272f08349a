"""Conversations from the file to the student: what is trained on, how it is judged, and what is told of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from hf_distill.data.chat_template import ChatTemplate
from hf_distill.errors import DataError, IncompatiblePair, RecipeError
from hf_distill.evaluation.findings import Findings
from hf_distill.evaluation.language_models import NEW_TOKENS, samples
from hf_distill.recipe import Recipe
from hf_distill.runs import run
from hf_distill.runs.measuring import answer
from hf_distill.runs.models import limits
from hf_distill.runs.workload import Limits
from hf_distill.runs.workloads import load_workload
from hf_distill.runs.workloads.chat import LARGEST_TEMPLATE, Chat
from hf_distill.training import on_policy
from hf_distill.training.sampling import Sampling
from tests import chats, tiny, tiny_runs

LIMITS = Limits(64, [256, 256], frozenset({"input_ids", "attention_mask", "position_ids"}))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chats")
    chats.save(folder / "teacher")
    return chats.write(folder)


def workload(home: Path, **changes: Any) -> Chat:
    found = load_workload(Recipe.from_dict(chats.recipe(home, **changes)))
    assert isinstance(found, Chat)
    return found


def by_hand(folder: Path, home: Path) -> list[tuple[np.ndarray, int]]:
    """The log-laws over the next token at the assistant's tokens of the validation rows, each with that token."""
    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    template = ChatTemplate(chats.tokenizer())
    found = []
    for line in (home / "validation.jsonl").read_text().splitlines():
        ids, said = template.read(json.loads(line)["messages"], "")
        with torch.no_grad():
            laws = model(torch.tensor([ids[:128]])).logits[0].log_softmax(-1).numpy()
        found += [(laws[i - 1], ids[i]) for i in range(1, len(laws)) if said[i]]
    return found


def expected(laws: list[tuple[np.ndarray, int]], teachers: list[tuple[np.ndarray, int]]) -> dict[str, float]:
    pairs = [(p, q) for (p, _), (q, _) in zip(teachers, laws, strict=True)]
    loss = float(np.mean([-law[token] for law, token in laws]))
    return {
        "eval_loss": loss,
        "eval_perplexity": math.exp(loss),
        "eval_accuracy": float(np.mean([law.argmax() == token for law, token in laws])),
        "eval_kl": float(np.mean([(np.exp(p) * (p - q)).sum() for p, q in pairs])),
    }


def test_models_are_judged_by_the_assistants_words(home: Path, tmp_path: Path) -> None:
    student = chats.model(layers=1, seed=5)
    student.save_pretrained(tmp_path / "student")
    teacher = AutoModelForCausalLM.from_pretrained(home / "teacher")
    found, tokenizer = workload(home), chats.tokenizer()
    splits = found.read(tokenizer, LIMITS._replace(max_length=128), ["validation"])
    arguments = tiny.arguments(per_device_eval_batch_size=2)
    answers = answer(student, tokenizer, splits, found, (), arguments, teacher)
    laws, teachers = by_hand(tmp_path / "student", home), by_hand(home / "teacher", home)
    for name, value in expected(laws, teachers).items():
        assert answers.metrics[name] == pytest.approx(value, rel=1e-4), name
    alone = answer(teacher, tokenizer, splits, found, (), arguments)
    assert "eval_kl" not in alone.metrics
    agreed = np.mean([p.argmax() == q.argmax() for (p, _), (q, _) in zip(teachers, laws, strict=True)])
    assert found.agreement("validation", *(each.kept["validation"] for each in (answers, alone))) == agreed
    (told,) = found.remarks("validation", {"teacher": alone.kept["validation"], "student": answers.kept["validation"]})
    assert told == f"KL(teacher || model), nats a token: student {answers.metrics['eval_kl']:.4f}."


@pytest.mark.slow
def test_a_run_leaves_figures_samples_and_a_card(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(chats.recipe(home, chat={"packing": True, "samples": 2}, control=True), out)
    found = json.loads((out / "eval_results.json").read_text())
    laws, teachers = by_hand(out, home), by_hand(home / "teacher", home)
    for name, value in expected(laws, teachers).items():
        assert found[name] == pytest.approx(value, rel=1e-3), name
        if name != "eval_kl":
            assert found[f"teacher_{name}"] == pytest.approx(expected(teachers, teachers)[name], rel=1e-3), name
    assert found["control_eval_kl"] > 0
    assert "teacher_eval_kl" not in found
    told = Findings.read(out / "report" / "data.json")
    assert told is not None
    assert [sample.wanted for sample in told.samples] == ["100 ☕", "101 ☕"]
    assert [{*sample.written} for sample in told.samples] == [{"teacher", "student"}] * 2
    assert "What the models write" in (out / "report.html").read_text(encoding="utf-8")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "perplexity" in card
    assert "KL(teacher || model) in nats" in card
    assert AutoTokenizer.from_pretrained(out).chat_template == chats.PLAIN


def test_what_is_written_is_what_the_model_finds_likeliest(home: Path) -> None:
    found = workload(home, chat={"samples": 1})
    tokenizer = chats.tokenizer()
    (prompt,) = found.prompts(tokenizer, LIMITS)
    assert prompt.text == "Add 100 and 0, café"
    assert tokenizer.decode(prompt.ids).endswith(f"{chats.START}assistant\n")
    model = chats.model(seed=3)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.3, repetition_penalty=5.0, no_repeat_ngram_size=2, eos_token_id=2
    )
    ids = list(prompt.ids)
    for _ in range(NEW_TOKENS):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == 2:
            break
    (sample,) = samples({"student": model}, tokenizer, [prompt])
    wanted = tokenizer.decode(ids[len(prompt.ids) :], skip_special_tokens=True)
    assert sample.written["student"] == " ".join("".join(c if c.isprintable() else " " for c in wanted).split())


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    long = [{"role": "user", "content": "x" * 90}, {"role": "assistant", "content": "y"}]
    for split, rows in (("train", [chats.said(1)]), ("validation", [chats.said(1), long, long])):
        tiny_runs.write_jsonl(tmp_path / f"{split}.jsonl", [{"messages": messages} for messages in rows])
    found = workload(tmp_path)
    assert found.remarks("validation", {}) == []
    splits = found.read(chats.tokenizer(), LIMITS)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 1, "validation": 1}
    (told,) = found.remarks("validation", {})
    assert told.endswith("that are read: 2 of 3 in validation.")


def test_a_template_of_ones_own_takes_the_place_of_the_tokenizers(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(chats.MARKED, encoding="utf-8")
    found = workload(home, chat={"template": str(path)})
    tokenizer = chats.tokenizer(None)
    settings = found.tokenizer_settings(tokenizer)
    tokenizer.save_pretrained(tmp_path / "bare")
    again = AutoTokenizer.from_pretrained(tmp_path / "bare", **settings)
    assert again.chat_template == chats.MARKED
    assert len(found.read(again, LIMITS, ["validation"])["validation"]) == 5
    path.write_text(chats.PLAIN, encoding="utf-8")
    again = workload(home, chat={"template": str(path)})
    assert {name for name in found.sources if found.sources[name] != again.sources[name]} == {"chat template"}
    path.write_bytes(b" " * (LARGEST_TEMPLATE + 1))
    with pytest.raises(DataError, match=r"own\.jinja: has 1,048,577 bytes.* at most; name a file that holds the text"):
        workload(home, chat={"template": str(path)})
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"own\.jinja: the chat template \(data\.chat\.template\) cannot be read"):
        workload(home, chat={"template": str(path)})


def test_the_day_of_the_recipe_is_told_wherever_conversations_are_read(home: Path) -> None:
    tokenizer = chats.tokenizer(chats.TODAY + chats.PLAIN)
    for chat, day in (({"date": "2025-03-09"}, "09 Mar 2025"), ({}, "26 Jul 2024")):
        found = workload(home, chat=chat)
        splits = found.read(tokenizer, LIMITS._replace(max_length=128))
        read = [*splits["train"]["input_ids"], *splits["validation"]["input_ids"]]
        prompts = [prompt.ids for prompt in found.prompts(tokenizer, LIMITS)]
        assert (len(read), len(prompts)) == (17, 4)
        assert all(tokenizer.decode(ids).startswith(f"Today: {day}\n<|im_start|>user") for ids in (*read, *prompts))
    with pytest.raises(RecipeError, match=r"data\.chat\.date: must be a day as 2024-07-26; given '26 Jul 2024'"):
        workload(home, chat={"date": "26 Jul 2024"})
    with pytest.raises(RecipeError, match=r"data\.chat\.date: must be a day as 2024-07-26; given '2025-02-29'"):
        workload(home, chat={"date": "2025-02-29"})


def test_bad_input_is_refused_before_training(home: Path, tmp_path: Path) -> None:
    found = workload(home)
    with pytest.raises(DataError, match=r"has no chat template"):
        found.read(chats.tokenizer(None), LIMITS)
    with pytest.raises(DataError, match="max_length is 64, and of the tokenizer and the models one takes 32 tokens"):
        found.read(chats.tokenizer(), LIMITS._replace(positions=[256, 32]))
    recipe = Recipe.from_dict(chats.recipe(home, max_length=300))
    with pytest.raises(DataError, match="max_length is 300, and of the tokenizer and the models one takes 256 tokens"):
        found.read(chats.tokenizer(), limits(recipe, chats.model(), None))
    packing = workload(home, chat={"packing": True})
    with pytest.raises(IncompatiblePair, match="the models take no position_ids"):
        packing.read(chats.tokenizer(), LIMITS._replace(input_names=frozenset({"input_ids"})))
    model = chats.model()
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(IncompatiblePair, match="the attention of the student runs as 'flash_attention_2'"):
        packing.fit(model, "student")
    with pytest.raises(DataError, match="leave --do_predict out"):
        load_workload(Recipe.from_dict(chats.recipe(home)), predict=True)


def test_a_teacher_with_another_vocabulary_is_refused(home: Path, tmp_path: Path) -> None:
    chats.model().save_pretrained(tmp_path / "other")
    tiny_runs.tokenizer().save_pretrained(tmp_path / "other")
    recipe = chats.recipe(home, student={"model": str(tmp_path / "other")})
    with pytest.raises(IncompatiblePair, match="tokenizer"):
        run(recipe, tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("chat", "text"),
    [
        ({"prompt_column": "a"}, r"data\.chat\.completion_column: is missing: it goes with prompt_column"),
        ({"completion_column": "a"}, r"data\.chat\.prompt_column: is missing"),
        ({"prompt_column": "a", "completion_column": "a"}, r"'a' is the column of the prompts as well"),
        (
            {"prompt_column": "a", "completion_column": "b", "messages_column": "c"},
            r"data\.chat\.messages_column: does not go with prompts and completions",
        ),
        ({"samples": -1}, r"data\.chat\.samples"),
        ({"packing": "always"}, r"data\.chat\.packing"),
    ],
)
def test_columns_that_do_not_go_together_are_refused(home: Path, chat: dict[str, Any], text: str) -> None:
    with pytest.raises(RecipeError, match=text):
        Recipe.from_dict(chats.recipe(home, chat=chat))


@pytest.mark.parametrize("key", ["quantization", "device_map"])
def test_no_student_is_cut_from_a_teacher_that_does_not_lie_whole(home: Path, key: str) -> None:
    teacher = {"model": str(home / "teacher"), key: {"quantization": "int8", "device_map": "auto"}[key]}
    with pytest.raises(RecipeError, match=rf"student\.from_layers: is cut from the teacher.*\(teacher\.{key}\)"):
        Recipe.from_dict(chats.recipe(home, teacher=teacher))
    with pytest.raises(RecipeError, match=rf"teacher\.{key}: is for one teacher that is loaded by name"):
        Recipe.from_dict(
            chats.recipe(home, teacher={**teacher, "fine_tune": {}}, student={"model": str(home / "teacher")})
        )


@pytest.mark.slow
@pytest.mark.parametrize("held", [{"device_map": "cpu", "dtype": "float32"}, {"quantization": "int8"}])
def test_a_teacher_held_in_a_way_of_its_own_teaches_and_is_judged(
    home: Path, tmp_path: Path, held: dict[str, Any]
) -> None:
    """8 bits need the extra `quant`."""
    chats.save(tmp_path / "student", layers=1, seed=4)
    found = []
    for number, own in enumerate(({}, held)):
        teacher = {"model": str(home / "teacher"), **own}
        recipe = chats.recipe(home, teacher=teacher, student={"model": str(tmp_path / "student")})
        run(recipe, tmp_path / str(number))
        found.append(json.loads((tmp_path / str(number) / "eval_results.json").read_text()))
    assert found[1]["eval_kl"] == pytest.approx(found[0]["eval_kl"], rel=0.05)
    assert found[1]["teacher_eval_loss"] == pytest.approx(found[0]["teacher_eval_loss"], rel=0.02)
    assert (found[1]["eval_kl"] == found[0]["eval_kl"]) is ("quantization" not in held)


def test_texts_end_where_the_template_ends_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer's own end of a text is another token than the template's end of a turn, as in many base models."""
    chats.save(tmp_path / "teacher")
    saved = chats.tokenizer()
    saved.eos_token = chats.START
    saved.save_pretrained(tmp_path / "teacher")
    changed = GenerationConfig.from_pretrained(tmp_path / "teacher")
    changed.eos_token_id = 1
    changed.save_pretrained(tmp_path / "teacher")
    ends: list[tuple[int, ...]] = []

    def sampling(law: Any, max_new_tokens: int, found: tuple[int, ...], padding: int) -> Sampling:
        ends.append(found)
        return Sampling(law, max_new_tokens, found, padding)

    monkeypatch.setattr(on_policy, "Sampling", sampling)
    recipe = chats.recipe(
        chats.write(tmp_path),
        stage={"on_policy": {"student_share": 1.0, "max_new_tokens": 4}},
        chat={"samples": 1},
    )
    run(recipe, tmp_path / "out")
    assert ends
    assert all(set(found) == {1, 2} for found in ends)
    assert set(GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id) == {1, 2}
