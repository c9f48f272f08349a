"""Augmented training rows: made once, part after part, and kept in the folder of the run."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets, load_from_disk
from filelock import FileLock
from torch import device
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.data.augmentation import augment_tinybert
from hf_distill.data.word_vectors import WordVectors
from hf_distill.errors import DistillationError
from hf_distill.hub.record import ModelFacts, sha256_of, sha256_of_files
from hf_distill.recipe import Augmentation, Recipe
from hf_distill.runs import models
from hf_distill.runs.folder import read_json, write_json
from hf_distill.runs.workloads.splits import fingerprint

logger = logging.getLogger(__name__)

VERSION = 1
PART = 1024
"""Rows that a part is made of: whole batches of the masked LM, so that the parts are what one call would give."""

PART_FACTS = "part.json"


@dataclass(frozen=True)
class Augmenter:
    """What makes variants of rows: a masked LM with its tokenizer, and word vectors, as the recipe says."""

    settings: Augmentation
    seed: int
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    vectors: WordVectors | None

    @classmethod
    def of(cls, recipe: Recipe) -> Augmenter:
        """Loads what `augmentation` names.

        Raises: `IncompatiblePair` for a model without a head for masked words; `DistillationError` if it cannot be
        loaded; `DataError` for word vectors that cannot be read.
        """
        settings = recipe.augmentation
        assert settings is not None
        model = models.load_masked_lm(settings.masked_lm, settings.revision)
        tokenizer = models.load_masked_lm_tokenizer(settings.masked_lm, settings.revision)
        vectors = None if settings.word_vectors is None else WordVectors.read(settings.word_vectors)
        return cls(settings, recipe.seed, model, tokenizer, vectors)

    def first(self, rows: Dataset, text_columns: Sequence[str]) -> Dataset:
        """The first row and its variants, for whatever would be refused of the others."""
        return self._augment(rows.select([0]), text_columns, 0)

    def _augment(self, rows: Dataset, text_columns: Sequence[str], first_row: int) -> Dataset:
        return augment_tinybert(
            rows,
            self.model,
            self.tokenizer,
            text_columns,
            samples=self.settings.samples,
            probability=self.settings.replace,
            candidates=self.settings.candidates,
            word_vectors=self.vectors,
            seed=self.seed,
            first_row=first_row,
        )

    def key(self, rows: Dataset, text_columns: Sequence[str]) -> str:
        """A digest of all that decides what is made: rows, seed, settings, and the contents of the files."""
        vectors = self.settings.word_vectors
        facts = {
            "version": VERSION,
            "rows": fingerprint({"train": rows}),
            "columns": list(text_columns),
            "seed": self.seed,
            "settings": self.settings.model_dump(exclude={"masked_lm", "revision", "word_vectors"}),
            "model": ModelFacts.of(self.model, self.settings.masked_lm).model_dump(),
            "tokenizer": self.tokenizer.backend_tokenizer.to_str(),
            "word_vectors": None if vectors is None else sha256_of(Path(vectors)),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def stored(self, rows: Dataset, text_columns: Sequence[str], folder: Path, place: device) -> Dataset:
        """The rows with their variants, out of a folder below `folder` that is named after `key`.

        What is there already is read and not made again, so that a run that was broken off goes on with the next
        part. One process makes them, with the model on `place`, while the others wait.

        Raises: `DistillationError` for a part that is damaged, and where the disk does not take one.
        """
        root = folder / f"augmented-{self.key(rows, text_columns)}"
        starts = range(0, len(rows), PART)
        try:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / ".lock"):
                self.model.to(place)
                for number, start in enumerate(starts):
                    if not _path(root, number).is_dir():
                        logger.info("augmenting: part %d of %d", number + 1, len(starts))
                        some = rows.select(range(start, min(start + PART, len(rows))))
                        _write(_path(root, number), self._augment(some, text_columns, start))
                self.model.to("cpu")
        except OSError as error:
            raise DistillationError(f"{root}: augmented rows cannot be written: {error.strerror or error}.") from error
        return concatenate_datasets([_read(_path(root, number)) for number in range(len(starts))])


def _path(root: Path, number: int) -> Path:
    return root / f"{number:05d}"


def _sums(folder: Path) -> dict[str, str]:
    return sha256_of_files(folder, ("data-*.arrow",))


def _write(path: Path, rows: Dataset) -> None:
    """Writes a part whole or not at all; what an earlier process left half done is removed."""
    unfinished = path.with_name(f".{path.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    rows.save_to_disk(unfinished)
    write_json(unfinished / PART_FACTS, {"rows": len(rows), "files": _sums(unfinished)})
    unfinished.replace(path)


def _read(path: Path) -> Dataset:
    """Raises: `DistillationError` where the files are not those that were written."""
    told: dict[str, Any] | None = read_json(path / PART_FACTS)
    if told is None or told.get("files") != _sums(path):
        raise DistillationError(
            f"{path}: augmented rows are damaged, their SHA-256 is not that of {PART_FACTS}; remove the folder "
            f"{path.name}, and it is made anew."
        )
    part: Dataset = load_from_disk(str(path))
    return part
