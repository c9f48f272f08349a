"""Training rows that are prompts alone, whose answers a model writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hf_distill import students
from hf_distill.data.hypotheses import with_hypotheses
from hf_distill.errors import DataError, RecipeError
from hf_distill.inspection.cost import expected_costs
from hf_distill.recipe import Recipe
from hf_distill.recipe.rules.answers import readers_of_answers
from hf_distill.runs import run
from hf_distill.runs.stages import StageTrainer
from hf_distill.runs.workload import Limits
from hf_distill.runs.workloads import load_workload
from hf_distill.runs.workloads.across_tokenizers import AlignedChat
from hf_distill.runs.workloads.chat import Chat
from hf_distill.tasks import IGNORED, PROMPT_TOKENS
from hf_distill.teachers.generation import Hypothesis
from tests import chats, tiny_runs
from tests.runs import test_across_tokenizers as two_tokenizers
from tests.test_across_tokenizers import OURS

LIMITS = Limits(128, [256, 256], frozenset({"input_ids", "attention_mask", "position_ids"}))
SOFT: dict[str, Any] = {"objectives": [{"soft_targets": {"kind": "jsd", "temperature": 1.0}}]}
WRITES = {"student_share": 0.75, "teacher_share": 0.25, "max_new_tokens": 5}
ON_POLICY: dict[str, Any] = {**SOFT, "on_policy": WRITES}
BEST: dict[str, Any] = {"targets": "best", "objectives": [{"labels": {}}]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, validation rows with answers, and training rows without."""
    folder = tmp_path_factory.mktemp("prompts")
    chats.writer().save_pretrained(folder / "teacher")
    chats.tokenizer().save_pretrained(folder / "teacher")
    chats.write(folder)
    write(folder, [])
    return folder


def prompts() -> list[list[dict[str, str]]]:
    """As many as `chats.write` has training rows, of one turn."""
    return [chats.said(i)[:1] for i in range(12)]


def write(folder: Path, behind: list[dict[str, str]]) -> None:
    rows = [{"messages": [*messages, *behind], "prompt": messages} for messages in prompts()]
    tiny_runs.write_jsonl(folder / "train.jsonl", rows)


def asked(home: Path, stage: dict[str, Any], **changes: Any) -> dict[str, Any]:
    generate = {"beams": 2, "max_new_tokens": 16, **changes.pop("generate", {})}
    teacher = {"model": str(home / "teacher"), **({"generate": generate} if "targets" in stage else {})}
    return chats.recipe(home, stage=stage, **{"teacher": teacher, **changes})


def workload(recipe: dict[str, Any]) -> Chat:
    found = load_workload(Recipe.from_dict(recipe))
    assert isinstance(found, Chat)
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(*folders: Path) -> bool:
    first, *others = map(weights, folders)
    return all(torch.equal(first[name], other[name]) for other in others for name in first)


# ---- the student, or the teacher, writes while the student trains ----


@pytest.mark.parametrize("chat", [{}, {"prompt_column": "prompt"}])
def test_a_run_on_prompts_alone_is_that_on_rows_with_any_answer(
    home: Path, tmp_path: Path, chat: dict[str, Any]
) -> None:
    """Nothing of the answers of the data is read, so none is missed."""
    runs = {"alone": (), "one": ("an answer",), "other": ("☕ of another length",)}
    for name, said in runs.items():
        write(tmp_path, [{"role": "assistant", "content": text} for text in said])
        recipe = asked(home, ON_POLICY, chat={} if said else chat)
        recipe["data"]["files"]["train"] = str(tmp_path / "train.jsonl")
        run(recipe, tmp_path / name, evaluate=False)
    assert same(*(tmp_path / name for name in runs))
    start = students.from_layers(AutoModelForCausalLM.from_pretrained(home / "teacher"), layers=1).state_dict()
    assert not all(torch.equal(start[name], value) for name, value in weights(tmp_path / "alone").items())


def test_prompts_and_rows_with_answers_stand_in_one_file(home: Path, tmp_path: Path) -> None:
    rows = [{"messages": chats.said(i, 1 + i % 2)[: None if i % 3 else 1]} for i in range(6)]
    tiny_runs.write_jsonl(tmp_path / "train.jsonl", rows)
    recipe = asked(home, ON_POLICY)
    recipe["data"]["files"]["train"] = str(tmp_path / "train.jsonl")
    found, tokenizer = workload(recipe), chats.tokenizer()
    read = found.read(tokenizer, LIMITS)
    expected = [
        tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True, return_dict=False)
        for row in rows
    ]
    assert [row["input_ids"][: row[PROMPT_TOKENS]] for row in read["train"]] == expected
    assert PROMPT_TOKENS not in read["validation"].column_names
    batch = found.collator(tokenizer)([read["train"][i] for i in range(3)])
    assert batch[PROMPT_TOKENS].tolist() == list(map(len, expected[:3]))
    (told,) = found.remarks("validation", {})
    assert told == "Of the 6 training rows 2 have no answer in the data; a model wrote what was learned of them."


def test_doctor_measures_steps_whose_texts_are_written(home: Path) -> None:
    """Rows are made up there, with prompts in them."""
    stage = {**ON_POLICY, "arguments": {"per_device_train_batch_size": 2, "use_cpu": True}}
    ((_, found),) = expected_costs(Recipe.from_dict(asked(home, stage, max_length=24)), ["distil"])
    assert found.cost.seconds > 0
    assert found.length == 24


# ---- the teacher writes before the training ----


def test_the_student_learns_what_the_teacher_generates(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str]] = []
    compute, tokenizer = StageTrainer.compute_loss, chats.tokenizer()

    def watched(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if model.training:
            for ids, labels in zip(inputs["input_ids"], inputs["labels"], strict=True):
                seen.append((tokenizer.decode(ids[labels == IGNORED]), tokenizer.decode(labels[labels != IGNORED])))
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "compute_loss", watched)
    recipe = asked(home, BEST, chat={"prompt_column": "prompt"})
    recipe["stages"][0]["arguments"]["max_steps"] = 4
    run(recipe, tmp_path / "out", evaluate=False)
    teacher = chats.writer()
    expected = {}
    for messages in prompts():
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            found = teacher.generate(**ids, num_beams=2, do_sample=False, max_new_tokens=16, early_stopping=True)
        expected[text] = tokenizer.decode(found[0][ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert len(seen) == 12
    for prompt, said in seen:
        asks = prompt.replace(chats.PAD, "")
        key = next(text for text in expected if asks.startswith(text))
        assert said.startswith(expected[key] + chats.END)
    record = json.loads((tmp_path / "out" / "distillation.json").read_text())
    assert (record["texts"]["written"], record["data"]["sizes"]["train"]) == (12, 12)


@pytest.mark.slow
def test_a_run_on_prompts_alone_is_judged_and_has_its_card(home: Path, tmp_path: Path) -> None:
    for name, stage, chat in (("best", BEST, {"packing": True}), ("policy", ON_POLICY, {})):
        run(asked(home, stage, chat=chat), tmp_path / name)
        found = json.loads((tmp_path / name / "eval_results.json").read_text())
        assert found["eval_perplexity"] > 1
        assert "12 have no answer in the data" in (tmp_path / name / "report.html").read_text(encoding="utf-8")
        card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
    assert "of the data, in the share 0.25 by the teacher. Written texts are drawn" in card
    told = json.loads((tmp_path / "best" / "distillation.json").read_text())
    assert told["texts"]["written"] == 12


def test_a_teacher_of_another_tokenizer_answers_prompts(tmp_path: Path) -> None:
    given = two_tokenizers.recipe(two_tokenizers.home(tmp_path))
    given["teacher"]["generate"] = {}
    given["stages"][0] |= BEST
    rows = [{"messages": two_tokenizers.talk(i)[:1]} for i in range(3)]
    tiny_runs.write_jsonl(tmp_path / "train.jsonl", rows)
    found = load_workload(Recipe.from_dict(given))
    assert isinstance(found, AlignedChat)
    ours = two_tokenizers.with_template(OURS, two_tokenizers.PLAIN)
    assert len(found.read(ours, two_tokenizers.LIMITS, ["train"])["train"]) == 0
    answers = [[Hypothesis("the lazy fox", (1,), -1.0, True)]] * 3

    def make(given: Dataset, column: str) -> Dataset:
        return with_hypotheses(given, answers, column)

    read = found.retargeted(make).read(ours, two_tokenizers.LIMITS, ["train"])["train"]
    assert [ours.decode([label for label in row["labels"] if label != IGNORED]) for row in read] == [
        "the lazy fox [SEP]"
    ] * 3
    given["stages"][0]["targets"] = "nearest"
    with pytest.raises(DataError, match=r"nothing to learn, and stage 'distil' takes the texts of the teacher that"):
        load_workload(Recipe.from_dict(given))


# ---- what reads the answers of the data ----


@pytest.mark.parametrize(
    ("stage", "changes", "reader"),
    [
        ({}, {}, "stage 'distil' learns the answers of the data"),
        (
            {**SOFT, "on_policy": {"student_share": 0.9}},
            {},
            "stage 'distil' learns the answers of the data in a share",
        ),
        ({**BEST, "targets": "nearest"}, {}, r"that are nearest to the answers of the data \(targets\)"),
        (BEST, {"control": True}, r"the control is trained on the answers of the data \(control\)"),
        (BEST, {"generate": {"filters": {"min_similarity": 0.1}}}, r"\(teacher\.generate\.filters\.min_similarity\)"),
    ],
)
def test_prompts_alone_are_refused_where_answers_are_read(
    home: Path, stage: dict[str, Any], changes: dict[str, Any], reader: str
) -> None:
    recipe = asked(home, stage, **changes)
    with pytest.raises(DataError, match=rf"train\.jsonl, line 1.*nothing to learn, and .*{reader}"):
        load_workload(Recipe.from_dict(recipe))
    recipe["data"]["chat"] = {"prompt_column": "prompt"}
    with pytest.raises(RecipeError, match=rf"completion_column: is missing: it goes with prompt_column.*{reader}"):
        Recipe.from_dict(recipe)


def test_a_teacher_that_is_trained_first_reads_answers(home: Path) -> None:
    recipe = asked(home, ON_POLICY, student={"model": str(home / "teacher")})
    recipe["teacher"]["fine_tune"] = {}
    with pytest.raises(DataError, match=r"the teacher is trained on the answers of the data \(teacher\.fine_tune\)"):
        load_workload(Recipe.from_dict(recipe))


def test_stages_may_write_in_different_ways(home: Path) -> None:
    recipe = asked(home, BEST)
    recipe["stages"].append({"name": "policy", **ON_POLICY})
    made = Recipe.from_dict(recipe)
    assert list(readers_of_answers(made.to_dict())) == []
    assert len(workload(recipe).splits["train"]) == 12
    recipe["stages"][1]["on_policy"] = {**WRITES, "teacher_share": 0.0}
    (reader,) = readers_of_answers(Recipe.from_dict(recipe).to_dict())
    assert "stage 'policy'" in reader


def test_validation_has_answers(home: Path, tmp_path: Path) -> None:
    recipe = asked(home, ON_POLICY)
    files = recipe["data"]["files"]
    recipe["data"] |= {"files": {"train": files["train"]}, "split": {"validation": 0.25}}
    with pytest.raises(DataError, match=r"train\.jsonl, line \d+: has no answer, and it was cut off for validation"):
        load_workload(Recipe.from_dict(recipe))
    recipe["data"] = {"files": {**files, "validation": files["train"]}, "chat": {}}
    with pytest.raises(DataError, match=r"line 1.*the roles are user\), and validation is judged by what the assist"):
        load_workload(Recipe.from_dict(recipe))


@pytest.mark.parametrize("has_column", [False, True])
def test_the_completions_are_those_of_validation_alone(home: Path, tmp_path: Path, has_column: bool) -> None:
    nothing = {"completion": None} if has_column else {}
    rows = [{"prompt": messages, **nothing} for messages in prompts()]
    tiny_runs.write_jsonl(tmp_path / "train.jsonl", rows)
    tiny_runs.write_jsonl(tmp_path / "validation.jsonl", [{"prompt": "Why?", "completion": "So."}])
    recipe = asked(home, BEST, chat={"prompt_column": "prompt", "completion_column": "completion"})
    recipe["data"]["files"] = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "validation")}
    found = workload(recipe)
    assert {name: len(rows) for name, rows in found.splits.items()} == {"train": 12, "validation": 1}
    sources = found.sources_of(Recipe.from_dict(recipe), chats.tokenizer())
    assert sources.texts[3] == chats.tokenizer().apply_chat_template(
        prompts()[3], tokenize=False, add_generation_prompt=True
    )
