"""Small real tokenizers of three kinds, trained on a few sentences."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Distillation trains a small student to answer as its large teacher answers.",
    "Tokens of one vocabulary are not the tokens of another; the text is the same.",
    "A naïve café owner wrote: déjà vu! Prices rose by 12.5% in 2024.",
    "New lines\nand  double spaces\tand tabs are text as well.",
)

KINDS = ("bpe", "wordpiece", "unigram")


@cache
def tokenizer(kind: str, vocabulary: int = 320) -> PreTrainedTokenizerFast:
    """`bpe`: cased, bytes; `wordpiece`: lower case without accents; `unigram`: with marks for the beginning of words.
    All have an end of text; the latter two have a beginning of text as well.
    """
    made = {"bpe": _bpe, "wordpiece": _wordpiece, "unigram": _unigram}[kind](vocabulary)
    if kind == "wordpiece":
        names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")}
    elif kind == "unigram":
        names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    else:
        names = {"pad_token": "<|end|>", "eos_token": "<|end|>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def _bpe(vocabulary: int) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.ByteLevel(trim_offsets=True)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def _wordpiece(vocabulary: int) -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=vocabulary // 2, special_tokens=special, show_progress=False)
    )
    ends = [(name, made.token_to_id(name)) for name in ("[SEP]", "[CLS]")]
    made.post_processor = processors.BertProcessing(*ends)
    return made


def _unigram(vocabulary: int) -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary // 2, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    around = [(name, made.token_to_id(name)) for name in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=around)
    return made
