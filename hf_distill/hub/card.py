"""The model card: `README.md`, written from the record of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from hf_distill.hub.card_text import quality, text_of
from hf_distill.hub.front_matter import FILE_NAME, check
from hf_distill.hub.markdown import line
from hf_distill.hub.record import Record, write_whole
from hf_distill.tasks import TASKS

TAGS = ("knowledge-distillation", "hf_distill")

METRIC_IDS = {
    "accuracy": "accuracy",
    "f1": "f1",
    "precision": "precision",
    "recall": "recall",
    "matthews_correlation": "matthews_correlation",
    "pearson": "pearsonr",
    "spearmanr": "spearmanr",
    "exact_match": "exact_match",
    "perplexity": "perplexity",
    "wer": "wer",
    "cer": "cer",
}
"""Names that metrics have in results, and their identifiers on the Hub."""


@dataclass(frozen=True)
class Card:
    """A model card: metadata for the Hub, and a text. `str(card)` is the whole `README.md`."""

    data: ModelCardData
    body: str

    @classmethod
    def from_record(
        cls,
        record: Record,
        *,
        repo_id: str | None = None,
        language: str | list[str] = "en",
        license: str | None = None,
    ) -> Card:
        """The card of the run that `record` tells of.

        Args:
            repo_id: where the student will be published; the usage example names it. None: the example says `.`, the
                folder of the card.
            language: language tag or tags of the data.
            license: identifier of the student's licence as the Hub spells it; left out if None.
        """
        name = line(
            repo_id.rpartition("/")[2] if repo_id else f"{record.student.class_name} distilled on {record.data.name}"
        )
        return cls(_metadata(record, name, language, license), text_of(record, name, repo_id))

    def __str__(self) -> str:
        return f"---\n{self.data.to_yaml(line_break=chr(10))}\n---\n\n{self.body}"

    def validate(self) -> None:
        """Check the metadata without the network. Raises `HubError` with every problem."""
        check(str(self))

    def write(self, folder: str | Path) -> Path:
        """Write `README.md` into `folder`, whole or not at all. Raises `HubError` for bad metadata or a full disk."""
        self.validate()
        return write_whole(Path(folder) / FILE_NAME, str(self))


def _metadata(record: Record, name: str, language: str | list[str], license: str | None) -> ModelCardData:
    task = TASKS.get(record.task)
    tag = task.pipeline_tag if task else None
    results = _eval_results(record, tag) if tag else []
    return ModelCardData(
        language=language,
        license=license,
        library_name="transformers",
        tags=list(TAGS),
        base_model=record.teacher.id if record.teacher else None,
        pipeline_tag=tag,
        datasets=[record.data.id] if record.data.id else None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def _eval_results(record: Record, tag: str) -> list[EvalResult]:
    name = line(record.data.name)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "custom"
    return [
        EvalResult(
            task_type=tag,
            dataset_type=record.data.id or slug,
            dataset_name=name or slug,
            dataset_config=record.data.config and line(record.data.config),
            dataset_split=split,
            dataset_revision=record.data.revision and line(record.data.revision),
            metric_type=_metric_id(metric),
            metric_name=line(metric),
            metric_value=value,
        )
        for (metric, split), value in quality(record.metrics).items()
    ]


def _metric_id(metric: str) -> str:
    """The Hub's identifier; a suffix of ours (`accuracy_mm`) is dropped, an unknown metric keeps its name."""
    known = [name for name in METRIC_IDS if metric == name or metric.startswith(f"{name}_")]
    return METRIC_IDS[max(known, key=len)] if known else re.sub(r"[^A-Za-z0-9]+", "_", metric).strip("_") or "metric"
