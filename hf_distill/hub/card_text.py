"""The text of a model card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hf_distill.hub.card_again import emissions, reproduction
from hf_distill.hub.card_on_policy import on_policy
from hf_distill.hub.card_results import exports, fidelity, results, size
from hf_distill.hub.card_targets import targets
from hf_distill.hub.card_use import intended_use, is_adapter, limits, linked_id, starts_of, teachers_of, usage
from hf_distill.hub.license import License
from hf_distill.hub.markdown import block, code, escaped, table
from hf_distill.hub.record import CutFacts, ModelFacts, ObjectiveFacts, Origin, Record

ARGUMENTS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "per_device_train_batch_size",
    "tokens_per_batch",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "bf16",
    "fp16",
)
"""Training arguments that the card shows; the record has all."""

OTHER_FORMS, USE = "Other forms", "How to use it"


def text_of(record: Record, name: str, repo_id: str | None, license: License) -> str:
    """The Markdown below the metadata: what the student is, how good, how it was made, and how to make it again."""
    sections = [
        f"# {escaped(name)}\n\n{_introduction(record)}",
        _section("Results", results(record)),
        _section("Agreement and calibration", fidelity(record)),
        _section("Size and speed", size(record)),
        _section("How it was distilled", _method(record)),
        _section(OTHER_FORMS, exports(record)),
        _section(USE, usage(record, repo_id)),
        _section("Intended use", intended_use(record)),
        _section("Limits and licence", limits(record, license)),
        _section("How to make it again", reproduction(record, repo_id)),
        _section("Emissions", emissions(record)),
        _section("Versions", _versions(record)),
        _section("Citations", _citations(record.objectives)),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def with_exports(card: str, record: Record) -> str:
    """A card with the other forms that the record tells of, and everything else as it is, by hand or not."""
    heads = list(re.finditer(r"^## (.*)$", card, re.MULTILINE))
    own = next((head for head in heads if head[1] == OTHER_FORMS), None)
    following = next((head for head in heads if head[1] == USE), None)
    end = len(card) if following is None else following.start()
    start = end if own is None else own.start()
    if own is not None:
        end = next((head.start() for head in heads if head.start() > start), len(card))
    parts = [card[:start].rstrip(), _section(OTHER_FORMS, exports(record)), card[end:].rstrip()]
    return "\n\n".join(filter(None, parts)) + "\n"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _introduction(record: Record) -> str:
    student = record.student
    what = f"{code(student.class_name)}{_depth(student)}, {student.num_parameters:,} parameters{_base(student)}"
    starts = [_source(each, "model") for each in starts_of(record)]
    begun = f", begun from {' and '.join(dict.fromkeys(starts))}" if starts else ""
    teachers = [_source(each, code(each.class_name)) for each in teachers_of(record)]
    source = f", distilled from {' and '.join(teachers)}" if teachers else ""
    return f"{what}{begun}{source} on {escaped(record.data.name)} with hf_distill {escaped(record.toolkit_version)}."


def _base(student: ModelFacts) -> str:
    """What an adapter is one of."""
    if not is_adapter(student):
        return ""
    name = student.adapter_of
    return f", an adapter of {linked_id(name) if name else 'another model'}"


def _depth(model: ModelFacts) -> str:
    layers = model.num_hidden_layers
    return "" if layers is None else f" with {layers} layer{'' if layers == 1 else 's'}"


def _source(model: ModelFacts | Origin, kind: str) -> str:
    """A model that the student comes from."""
    if not model.id:
        return f"a {kind} that is not on the Hub"
    revision = f" (revision {code(model.revision)})" if model.revision else ""
    return f"{linked_id(model.id)}{revision}"


def _method(record: Record) -> str:
    parts = []
    if record.objectives:
        rows = [[code(o.name), code(o.objective), _weight(o.weight), _settings(o.settings)] for o in record.objectives]
        parts.append("The loss is the weighted sum of:\n\n" + table(["term", "objective", "weight", "settings"], rows))
    parts += [_cut(stage, cut, len(record.cuts)) for stage, cut in record.cuts.items()]
    if record.teacher_cache is not None:
        kept = ", ".join(f"{code(name)} as {code(how)}" for name, how in record.teacher_cache.codecs.items())
        parts.append(
            "The teacher was run once over the training rows, and its targets were read from a cache of "
            f"{kept} (fingerprint {code(record.teacher_cache.fingerprint)})."
        )
    parts += targets(record) + on_policy(record)
    if record.layer_maps:
        maps = [
            f"- {code(term)}: " + ", ".join(f"{s} ← {t}" for s, t in pairs)
            for term, pairs in record.layer_maps.items()
        ]
        parts.append("Layers (student ← teacher; 0 is the embedding output):\n\n" + "\n".join(maps))
    parts.append(_data(record))
    shown = {
        key: record.training_arguments[key] for key in ARGUMENTS if record.training_arguments.get(key) is not None
    }
    shown |= {"steps": record.steps, "epochs": round(record.epochs, 4)}
    parts.append(
        "Training:\n\n" + table(["argument", "value"], [[code(k), escaped(str(v))] for k, v in shown.items()])
    )
    return "\n\n".join(parts)


def _cut(stage: str, cut: CutFacts, number: int) -> str:
    """What a student kept of its teacher by measured importance."""
    layers = "; ".join(
        f"{'' if stack == 'layers' else f'{escaped(stack)} '}layers {', '.join(map(str, kept))}"
        for stack, kept in cut.layers.items()
    )
    width = f" and {len(cut.hidden)} hidden dimensions" if cut.hidden else ""
    which = f"The student of stage {code(stage)}" if number > 1 else "The student"
    measured = f"by importance, measured on {cut.rows:,} training rows at most"
    return f"{which} was cut from its teacher {measured}: kept are {layers} (pick {code(cut.pick)}){width}."


def _weight(weight: float | str) -> str:
    return f"{weight:g}" if isinstance(weight, int | float) else escaped(weight)


def _settings(settings: Mapping[str, object]) -> str:
    return escaped(", ".join(f"{key}={value}" for key, value in settings.items())) or "n/a"


def _data(record: Record) -> str:
    data = record.data
    source = f"[{escaped(data.id)}](https://huggingface.co/datasets/{data.id})" if data.id else escaped(data.name)
    config = f", configuration {code(data.config)}" if data.config else ""
    sizes = ", ".join(f"{escaped(split)} {count:,}" for split, count in data.sizes.items())
    return f"Data: {source}{config}" + (f"; rows: {sizes}." if sizes else ".") + _alignment(record)


def _alignment(record: Record) -> str:
    """What of the training texts could not be aligned between two tokenizers."""
    counts = record.data.alignment.get("train", {})
    shares = [
        f"{counts.get(f'{side}_unaligned', 0):,} of the {side}'s {counts[f'{side}_tokens']:,} tokens"
        for side in ("student", "teacher")
        if counts.get(f"{side}_tokens")
    ]
    if not shares:
        return ""
    return f" Teacher and student read them by tokenizers of their own; not aligned are {' and '.join(shares)}."


def _versions(record: Record) -> str:
    hardware = record.hardware
    rows = [[code(name), escaped(version)] for name, version in record.versions.items()]
    rows.append(["machine", escaped(f"{hardware.machine}, {hardware.processor}, {hardware.cores} cores")])
    if hardware.accelerators:
        rows.append(["accelerators", escaped(", ".join(hardware.accelerators))])
    return table(["", "version"], rows)


def _citations(objectives: Sequence[ObjectiveFacts]) -> str:
    by_text: dict[str, str] = {}
    for objective in objectives:
        by_text.setdefault(" ".join(objective.citation.split()), objective.citation.strip())
    by_text.pop("", None)
    return block("\n\n".join(by_text.values()), "bibtex") if by_text else ""
