"""The tasks of GLUE (Wang et al., 2019, arXiv:1804.07461), from the Hub or from local files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict

from hf_distill.data.files import FORMATS, choices, find, listing, read
from hf_distill.data.hub import HUB_ERRORS, digest, download
from hf_distill.data.labels import LabelKind, Labels
from hf_distill.data.text import BLANK, SECRET, TextData, to_dataset, unlabelled
from hf_distill.errors import DataError

HUB_ID = "nyu-mll/glue"


@dataclass(frozen=True)
class GlueTask:
    """One task: its columns, its labels in the order of their ids (none: a regression), and the names of its
    metrics."""

    name: str
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    splits: tuple[str, ...] = ("train", "validation", "test")

    @property
    def kind(self) -> LabelKind:
        """Whether the label is a class or a float."""
        return "single_label" if self.label_names else "regression"

    @property
    def validation_splits(self) -> tuple[str, ...]:
        """`validation`, or the two of MNLI; the first one stands for the task."""
        return tuple(split for split in self.splits if split.startswith("validation"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        """`test`, or the two of MNLI."""
        return tuple(split for split in self.splits if split.startswith("test"))

    def load(
        self,
        dataset_dir: str | Path | None = None,
        revision: str | None = None,
        cache_dir: str | None = None,
        needed: Sequence[str] | None = None,
    ) -> TextData:
        """Loads the task from `dataset_dir`, with one file `<split>.<format>` a split, or else from the Hub.

        `needed` are the splits that must be there, by default all with labels; others come along where they exist. A
        split whose labels are secret comes without `label`. `idx` is dropped: rows keep their order. The `sources` of
        files are the files' SHA-256, those of the Hub are taken over the rows.

        Errors: DataError for a missing split or file, a missing column, an empty split, other labels than the task's,
        and whatever keeps the Hub from answering.
        """
        needed = self.splits[: -len(self.test_splits)] or self.splits if needed is None else needed
        for split in needed:
            if split not in self.splits:
                raise DataError(f"GLUE task {self.name!r} has no split {split!r}; {choices(split, self.splits)}.")
        if dataset_dir is not None:
            return self._from_files(Path(dataset_dir), needed)
        return self._from_hub(revision, cache_dir, needed)

    def _from_files(self, folder: Path, needed: Sequence[str]) -> TextData:
        splits, sources = {}, {}
        labels = Labels.named(self.label_names) if self.label_names else Labels((), {}, "regression")
        for split in self.splits:
            path = find(folder, split)
            if path is None and split in needed:
                raise DataError(
                    f"GLUE task {self.name!r}: no file {split} ending in {', '.join(FORMATS)}, or one of them and "
                    f".gz; {listing(folder)}."
                )
            if path is not None:
                is_test = split in self.test_splits
                table = read(path, [*self.text_columns, *([] if is_test else ["label"])], ["label"] if is_test else [])
                table = unlabelled(table, "label", (*BLANK, *SECRET)) if is_test else table
                splits[split], sources[split] = to_dataset(table, self.text_columns, "label", labels), table.sha256
        return self._data(splits, sources)

    def _from_hub(self, revision: str | None, cache_dir: str | None, needed: Sequence[str]) -> TextData:
        where = f"GLUE task {self.name!r} of {HUB_ID}"
        try:
            loaded, commit = download(HUB_ID, self.name, revision, cache_dir)
        except HUB_ERRORS as error:
            raise DataError(
                f"{where}, revision {revision or 'main'}, could not be loaded: {error}. Where there is no way to "
                "the Hub, give a folder with the files (dataset_dir)."
            ) from error
        splits = {split: loaded[split] for split in self.splits if split in loaded}
        for split in needed:
            if split not in splits:
                raise DataError(f"{where}: no split {split!r}; it has {', '.join(loaded)}.")
        checked = {split: self._checked(dataset, f"{where}, split {split!r}") for split, dataset in splits.items()}
        sources = {split: digest(dataset) for split, dataset in checked.items()}
        return self._data(checked, sources, commit)

    def _checked(self, dataset: Dataset, where: str) -> Dataset:
        columns = [*self.text_columns, "label"]
        for column in columns:
            if column not in dataset.column_names:
                raise DataError(f"{where}: no column {column!r}; {choices(column, dataset.column_names)}.")
        if not len(dataset):
            raise DataError(f"{where}: holds no rows.")
        names = tuple(getattr(dataset.features["label"], "names", ()))
        if names != self.label_names:
            raise DataError(f"{where}: the labels are {list(names)}, expected {list(self.label_names)}.")
        secret = all(label in SECRET for label in dataset["label"][:])
        return dataset.select_columns(columns[:-1] if secret else columns)

    def _data(self, splits: dict[str, Dataset], sources: dict[str, str], commit: str | None = None) -> TextData:
        return TextData(DatasetDict(splits), self.text_columns, self.label_names, self.kind, sources, commit)


_PAIR = ("sentence1", "sentence2")
_NLI = ("premise", "hypothesis")
_ENTAILMENT = ("entailment", "neutral", "contradiction")
_MATCHED = ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched")

TASKS = {
    task.name: task
    for task in (
        GlueTask("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",)),
        GlueTask("sst2", ("sentence",), ("negative", "positive")),
        GlueTask("mrpc", _PAIR, ("not_equivalent", "equivalent"), ("accuracy", "f1")),
        GlueTask("stsb", _PAIR, (), ("pearson", "spearmanr")),
        GlueTask("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
        GlueTask("mnli", _NLI, _ENTAILMENT, splits=_MATCHED),
        GlueTask("qnli", ("question", "sentence"), ("entailment", "not_entailment")),
        GlueTask("rte", _PAIR, ("entailment", "not_entailment")),
        GlueTask("wnli", _PAIR, ("not_entailment", "entailment")),
        GlueTask("ax", _NLI, _ENTAILMENT, ("matthews_correlation",), ("test",)),
    )
}
"""The tasks by name, as on the Hub. `ax` has a test split alone; a model trained on `mnli` predicts it."""


def task(name: str) -> GlueTask:
    """The task of that name. Errors: DataError with the nearest name."""
    if name not in TASKS:
        raise DataError(f"unknown GLUE task {name!r}; {choices(name, TASKS)}.")
    return TASKS[name]
