"""Where rows are, and which of them are used."""

from __future__ import annotations

from hf_distill.recipe.fields import Count, Fraction, InsidePath, Module, Seed, Sha256, Text
from hf_distill.recipe.sections.base import Section


class Files(Section):
    """Files of the user's: jsonl, json, csv, tsv or parquet, gzipped or not; relative to the working directory."""

    train: Text
    validation: Text | None = None
    test: Text | None = None


class PackagedFile(Section):
    """One data file inside an installed Python package, which is found without being imported."""

    name: Module
    """The name under which the package is imported."""
    file: InsidePath
    """The path inside the package."""
    sha256: Sha256
    """The SHA-256 digest of the file."""


class Split(Section):
    """What is cut from the training data when the files bring no such split."""

    validation: Fraction = 0.0
    test: Fraction = 0.0
    seed: Seed = 0


class HubData(Section):
    """A data set on the Hub; its splits are train, validation and test."""

    id: Text
    config: Text | None = None
    revision: Text | None = None
    """Branch, tag or commit."""


class MaxSamples(Section):
    """How many rows of each split are used; all without a number."""

    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None
