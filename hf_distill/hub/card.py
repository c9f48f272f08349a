"""The model card: `README.md`, written from the record of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hf_distill.hub.card_results import quality
from hf_distill.hub.card_text import text_of
from hf_distill.hub.card_use import is_adapter, starts_of, stated_license, teachers_of
from hf_distill.hub.front_matter import FILE_NAME, check
from hf_distill.hub.license import License
from hf_distill.hub.markdown import line
from hf_distill.hub.record import Record, write_whole
from hf_distill.tasks import TASKS, Embeddings

TAGS = ("knowledge-distillation", "hf_distill")

OF_SENTENCES = ("sentence-transformers", "sentence-similarity", "feature-extraction")
"""Further tags of sentence encoders, by which the Hub finds them."""

METRIC_IDS = {
    "accuracy": "accuracy",
    "f1": "f1",
    "subset_accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "matthews_correlation": "matthews_correlation",
    "pearson": "pearsonr",
    "spearmanr": "spearmanr",
    "exact_match": "exact_match",
    "perplexity": "perplexity",
    "bleu": "sacrebleu",
    "chrf": "chrf",
    "rouge1": "rouge",
    "rouge2": "rouge",
    "rougeL": "rouge",
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
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
    ) -> Card:
        """The card of the run that `record` tells of.

        Args:
            repo_id: where the student will be published; the usage example names it. None: the example says `.`, the
                folder of the card.
            language: language tag or tags of the data. None: left out.
            license: identifier of the student's licence as the Hub spells it. None: that of its teachers and of the
                models that it starts from, if they have one in common; else left out.
            tags: further tags of the repository.
        """
        name = line(
            repo_id.rpartition("/")[2] if repo_id else f"{record.student.class_name} distilled on {record.data.name}"
        )
        stated = stated_license(record, license)
        further = [tags] if isinstance(tags, str) else tags or []
        return cls(_metadata(record, name, language, stated, further), text_of(record, name, repo_id, stated))

    def __str__(self) -> str:
        return f"---\n{self.data.to_yaml(line_break=chr(10))}\n---\n\n{self.body}"

    def validate(self) -> None:
        """Check the metadata without the network. Raises `HubError` with every problem."""
        check(str(self))

    def write(self, folder: str | Path) -> Path:
        """Write `README.md` into `folder`, whole or not at all. Raises `HubError` for bad metadata or a full disk."""
        self.validate()
        return write_whole(Path(folder) / FILE_NAME, str(self))


def _metadata(
    record: Record, name: str, language: str | list[str] | None, license: License, tags: list[str]
) -> ModelCardData:
    task = TASKS.get(record.task)
    tag = task.pipeline_tag if task else None
    results = _eval_results(record, tag) if tag else []
    bases = _bases(record)
    return ModelCardData(
        language=language,
        **license._asdict(),
        library_name=_library(record),
        tags=list(dict.fromkeys([*TAGS, *(OF_SENTENCES if record.task == Embeddings.name else ()), *tags])),
        base_model=bases[0] if len(bases) == 1 else bases or None,
        base_model_relation=_relation(record) if bases else None,
        pipeline_tag=tag,
        datasets=[record.data.id] if record.data.id else None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name if results else None,
        eval_results=results or None,
        co2_eq_emissions=_emissions(record),
    )


def _library(record: Record) -> str:
    """What loads the student."""
    if record.task == Embeddings.name:
        return "sentence-transformers"
    return "peft" if is_adapter(record.student) else "transformers"


def _bases(record: Record) -> list[str]:
    """The models of the Hub that the student comes from: the one that an adapter is of, or else its teachers and the
    models that it starts from."""
    sources = [*(each.id for each in teachers_of(record)), *(each.id for each in starts_of(record))]
    found = [record.student.adapter_of] if is_adapter(record.student) else sources
    return list(dict.fromkeys(name for name in found if name))


def _relation(record: Record) -> str:
    """What the student is to these in the Hub's tree of models.

    The Hub knows adapter, merge, quantized and finetune, and guesses one of them where none is stated; there is none
    for a distilled model, for which users have asked in vain. A finetune is what comes nearest; the tag
    `knowledge-distillation` says the rest.
    """
    return "adapter" if is_adapter(record.student) else "finetune"


def _emissions(record: Record) -> dict[str, Any] | None:
    """Grams of CO2 equivalent, as the Hub asks for them."""
    found = record.emissions
    if found is None:
        return None
    facts = {
        "emissions": round(1000 * found.kilograms, 6),
        "source": "codecarbon",
        "training_type": "knowledge distillation",
        "hardware_used": line(", ".join(record.hardware.accelerators) or record.hardware.processor),
    }
    return facts | ({"geographical_location": line(found.country)} if found.country else {})


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
