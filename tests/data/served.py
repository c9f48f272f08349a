"""A tiny language model behind a stand-in for a server, which tells the likeliest tokens in all forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = ["the house is old and the garden is wide", "un café près de l'été", "snow ☃ falls on the old house, slowly"]

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer(texts: tuple[str, ...] = (*TEXTS,), template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    """Byte-level pairs, learned from some texts."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    found = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", pad_token="<|end|>")
    found.chat_template = template
    return found


def model(vocabulary: int, layers: int, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, num_hidden_layers=layers, initializer_range=0.3, **sizes)
    ).eval()


class Server:
    """Answers as a server would: `k` likeliest tokens of each place, and the one that stands there."""

    def __init__(self, teacher: LlamaForCausalLM, words: PreTrainedTokenizerFast, k: int = 4) -> None:
        self.teacher, self.words, self.k = teacher, words, k

    def laws(self, ids: list[int], *, with_own: bool = False) -> list[dict[int, float] | None]:
        """For each token after the first the log-probabilities of the likeliest, given those before it, and of the
        token itself where that is wanted."""
        with torch.no_grad():
            laws = self.teacher(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        found: list[dict[int, float] | None] = [None]
        for place in range(1, len(ids)):
            kept = laws[place - 1].topk(self.k).indices.tolist()
            own = [ids[place]] if with_own else []
            found.append({token: float(laws[place - 1, token]) for token in [*kept, *own]})
        return found

    def text(self, token: int) -> str:
        return str(self.words.decode([token]))

    def prompt_logprobs(self, text: str, **more: Any) -> dict[str, Any]:
        """vLLM's answer to a completion of one token with prompt_logprobs."""
        ids = self.words(text)["input_ids"]
        ranks = [*range(1, self.k + 1), 200]
        laws = [
            None if law is None
            else {str(token): {"logprob": value, "rank": rank, "decoded_token": self.text(token)}
                  for rank, (token, value) in zip(ranks, law.items(), strict=False)}
            for law in self.laws(ids, with_own=True)
        ]  # fmt: skip
        choice = {"index": 0, "text": " x", "logprobs": None, "prompt_logprobs": laws, "prompt_token_ids": None}
        return {"model": "teacher", "prompt": text, "choices": [{**choice, **more}]}

    def echo(self, text: str, *, numbered: bool) -> dict[str, Any]:
        """A completion with echo, whose tokens are texts or numbers."""
        ids = self.words(text)["input_ids"]
        name = (lambda token: f"token_id:{token}") if numbered else self.text
        laws = [None if law is None else {name(t): value for t, value in law.items()} for law in self.laws(ids)]
        logprobs = {"tokens": [name(t) for t in ids], "top_logprobs": laws, "token_logprobs": [], "text_offset": []}
        return {"model": "teacher", "request": {"prompt": text}, "choices": [{"text": text, "logprobs": logprobs}]}

    def chat(self, question: str, answer: str, *, octets: bool = True) -> dict[str, Any]:
        """A chat whose answer alone is scored, in a line of a file of batches."""
        messages = [{"role": "user", "content": question}]
        prompt = self.words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        before = self.words(prompt, add_special_tokens=False)["input_ids"]
        ids = [*before, *self.words(answer, add_special_tokens=False)["input_ids"]]
        laws = [law or {} for law in self.laws(ids, with_own=True)]
        told = [
            {**self._spelt(token, octets), "logprob": law[token],
             "top_logprobs": [{**self._spelt(each, octets), "logprob": law[each]} for each in [*law][: self.k]]}
            for token, law in zip(ids[len(before) :], laws[len(before) :], strict=True)
        ]  # fmt: skip
        body = {"model": "teacher", "choices": [{"message": {"content": answer}, "logprobs": {"content": told}}]}
        return {"custom_id": "1", "request": {"messages": messages}, "error": None,
                "response": {"status_code": 200, "body": body}}  # fmt: skip

    def _spelt(self, token: int, octets: bool) -> dict[str, Any]:
        """A token's text, and its bytes where it is whole characters."""
        text = self.text(token)
        whole = "\N{REPLACEMENT CHARACTER}" not in text
        return {"token": text, "bytes": [*text.encode()] if octets and whole else None}


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
