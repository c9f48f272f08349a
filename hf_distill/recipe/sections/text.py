"""Raw text to train on: where it is, how it is packed into rows, and which words of it are hidden."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hf_distill.recipe.fields import Count, Scale, Share, Text, Weight, distinct
from hf_distill.recipe.sections.base import Section
from hf_distill.recipe.sections.sources import HubData


class HubText(HubData):
    """A split of a data set on the Hub, which is streamed."""

    split: Text = "train"


class TextSource(Section):
    """Text from files, or from the Hub: exactly one of files and hub."""

    files: Annotated[list[Text], Field(min_length=1), AfterValidator(distinct)] | None = None
    """.txt, .jsonl, both also .gz, and .parquet; relative to the working directory."""
    hub: HubText | None = None
    unit: Literal["line", "paragraph"] = "line"
    """What a document is in a .txt file."""
    column: Text = "text"
    """Where the text is in .jsonl, .parquet and on the Hub."""
    documents: Count | None = None
    """Read so many documents at most."""
    weight: Scale | None = None
    """The share of this source among several; without weights every row of each comes once in an epoch."""


class Masks(Section):
    """Which tokens are hidden, to be predicted; special tokens never are."""

    probability: Annotated[Share, Field(gt=0.0)] = 0.15
    """The share of tokens to predict."""
    masked: Share = 0.8
    """The share of these that becomes the mask token."""
    random: Share = 0.1
    """The share of these that becomes any token; the rest stays."""
    smoothing: Weight | None = None
    """Prefer rare tokens, by the weight max(count, 1) ** -smoothing, as DistilBERT does with 0.7."""
    counts: Text | None = None
    """A JSON list of token counts for smoothing; without it they are those of the training text."""
    whole_word: bool = False
    """Hide whole words."""


class UnlabelledText(Section):
    """Raw text, packed into rows."""

    train: Annotated[list[TextSource], Field(min_length=1)]
    validation: Annotated[list[TextSource], Field(min_length=1)] | None = None
    held_out: Count = 1000
    """Rows of the training text that are kept for validation where there is no other, at most a tenth of them."""
    task: Literal["masked_lm", "causal_lm", "encoder"] = "masked_lm"
    """Models with a head for masked words, or for the next word, or without a head, trained by objectives of hidden
    states and relations."""
    packing: Literal["full", "whole", "none"] = "full"
    """Full rows across documents, rows of whole documents, or one document a row."""
    masking: Masks | None = None
    streaming: bool = False
    """Tokenise while training, and put nothing on the disk; without it tokens are stored first."""
    shuffle: Count = 10_000
    """Rows of a stream that are held to be shuffled."""
    cache_dir: Text | None = None
    """Where tokens are stored; by default beside the caches of the library datasets."""
