"""The text of a model card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hf_distill.hub.markdown import block, code, escaped, shell, table
from hf_distill.hub.record import ModelFacts, ObjectiveFacts, Record, Side, is_hub_id
from hf_distill.students.ib_bert import AUTO_CLASSES
from hf_distill.tasks import TASKS

SPLITS = {"eval_": "validation", "test_": "test", "predict_": "test"}
_NO_QUALITY = re.compile(r"(loss|runtime|_per_second|epoch|steps?|samples|_time|memory|num_.*)$")

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

SNIPPETS = {
    "single_label": "print(model('An example text.'))",
    "multi_label": "print(model('An example text.', top_k=None))",
    "token_classification": "print(model('An example text.'))",
    "masked_lm": "print(model(f'An example {model.tokenizer.mask_token}.'))",
    "causal_lm": "print(model('An example', max_new_tokens=20))",
    "ctc": "print(model('recording.wav'))",
    "regression": "print(model(**tokenizer('An example text.', 'Another text.', return_tensors='pt')).logits)",
    "question_answering": (
        "inputs = tokenizer('Who wrote it?', 'Ada wrote it.', return_tensors='pt')\n"
        "outputs = model(**inputs)\n"
        "start, end = outputs.start_logits.argmax(), outputs.end_logits.argmax()\n"
        "print(tokenizer.decode(inputs['input_ids'][0, start : end + 1]))"
    ),
    "seq2seq_lm": (
        "outputs = model.generate(**tokenizer('An example text.', return_tensors='pt'), max_new_tokens=20)\n"
        "print(tokenizer.decode(outputs[0], skip_special_tokens=True))"
    ),
    "encoder": "print(model(**tokenizer('An example text.', return_tensors='pt')).last_hidden_state)",
}
WITH_PIPELINE = frozenset({"single_label", "multi_label", "token_classification", "masked_lm", "causal_lm", "ctc"})
"""Tasks that have a pipeline in transformers 5 which reads the model as it was trained."""


def text_of(record: Record, name: str, repo_id: str | None) -> str:
    """The Markdown below the metadata: what the student is, how good, how it was made, and how to make it again."""
    sections = [
        f"# {escaped(name)}\n\n{_introduction(record)}",
        _section("Results", _results(record)),
        _section("Size", _sizes(record)),
        _section("How it was distilled", _method(record)),
        _section("How to use it", block(_registering(record.student) + _snippet(record.task, repo_id), "python")),
        _section("How to make it again", _reproduction(record)),
        _section("Limits", _limits(record)),
        _section("Versions", _versions(record)),
        _section("Citations", _citations(record.objectives)),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def quality(metrics: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """Metrics of quality by (name, split); losses, times and counts are left out."""
    return {_metric_and_split(key): value for key, value in metrics.items() if not _NO_QUALITY.search(key)}


def _metric_and_split(key: str) -> tuple[str, str]:
    prefix = next((prefix for prefix in SPLITS if key.startswith(prefix)), "eval_")
    return key.removeprefix(prefix), SPLITS[prefix]


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _introduction(record: Record) -> str:
    what = f"{code(record.student.class_name)}{_depth(record.student)}, {record.student.num_parameters:,} parameters"
    teachers = [_model(each) for each in (record.teacher, *record.other_teachers) if each]
    source = f", distilled from {' and '.join(teachers)}" if teachers else ""
    return f"{what}{source} on {escaped(record.data.name)} with hf_distill {escaped(record.toolkit_version)}."


def _depth(model: ModelFacts) -> str:
    layers = model.num_hidden_layers
    return "" if layers is None else f" with {layers} layer{'' if layers == 1 else 's'}"


def _model(model: ModelFacts) -> str:
    if not model.id:
        return f"a {code(model.class_name)} that is not on the Hub"
    revision = f" (revision {code(model.revision)})" if model.revision else ""
    return f"[{escaped(model.id)}](https://huggingface.co/{model.id}){revision}"


def _sides(record: Record) -> dict[Side, dict[tuple[str, str], float]]:
    sides: dict[Side, Mapping[str, float]] = {
        "student": record.metrics,
        "teacher": record.teacher_metrics,
        "control": record.control_metrics,
    }
    return {side: quality(metrics) for side, metrics in sides.items() if metrics}


def _results(record: Record) -> str:
    sides = _sides(record)
    names = list(dict.fromkeys(name for metrics in sides.values() for name in metrics))
    if not names:
        return "The run recorded no metric of quality."
    intervals = {side: {_metric_and_split(key): i for key, i in of.items()} for side, of in record.intervals.items()}
    titles = {"student": "student", "teacher": "teacher", "control": "student without teacher"}
    rows = [
        [code(metric), escaped(split)]
        + [
            _cell(values.get((metric, split)), intervals.get(side, {}).get((metric, split)))
            for side, values in sides.items()
        ]
        for metric, split in names
    ]
    notes = []
    if any(intervals.values()):
        notes.append("Brackets hold 95 % intervals.")
    if "control" in sides:
        notes.append("The student without teacher is the same student, trained on the labels alone.")
    header = ["metric", "split", *(titles[side] for side in sides)]
    return "\n\n".join([table(header, rows), *([" ".join(notes)] if notes else [])])


def _cell(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


def _sizes(record: Record) -> str:
    rows = [
        [title, f"{model.num_parameters:,}", _number(model.num_hidden_layers), f"{model.num_bytes / 1e6:,.1f} MB"]
        for title, model in (("student", record.student), ("teacher", record.teacher))
        if model
    ]
    text = table(["", "parameters", "layers", "weights in memory"], rows)
    if record.teacher and record.teacher.num_parameters:
        share = record.student.num_parameters / record.teacher.num_parameters
        text += f"\n\nThe student has {share:.1%} of the teacher's parameters."
    return text


def _number(value: int | None) -> str:
    return "n/a" if value is None else str(value)


def _method(record: Record) -> str:
    parts = []
    if record.objectives:
        rows = [[code(o.name), code(o.objective), _weight(o.weight), _settings(o.settings)] for o in record.objectives]
        parts.append("The loss is the weighted sum of:\n\n" + table(["term", "objective", "weight", "settings"], rows))
    if record.teacher_cache is not None:
        kept = ", ".join(f"{code(name)} as {code(how)}" for name, how in record.teacher_cache.codecs.items())
        parts.append(
            "The teacher was run once over the training rows, and its targets were read from a cache of "
            f"{kept} (fingerprint {code(record.teacher_cache.fingerprint)})."
        )
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


def _weight(weight: float | str) -> str:
    return f"{weight:g}" if isinstance(weight, int | float) else escaped(weight)


def _settings(settings: Mapping[str, object]) -> str:
    return escaped(", ".join(f"{key}={value}" for key, value in settings.items())) or "n/a"


def _data(record: Record) -> str:
    data = record.data
    source = f"[{escaped(data.id)}](https://huggingface.co/datasets/{data.id})" if data.id else escaped(data.name)
    config = f", configuration {code(data.config)}" if data.config else ""
    sizes = ", ".join(f"{escaped(split)} {count:,}" for split, count in data.sizes.items())
    return f"Data: {source}{config}" + (f"; rows: {sizes}." if sizes else ".")


def _registering(student: ModelFacts) -> str:
    """What comes before the snippet where transformers alone does not know the class."""
    known_here = {model_class.__name__ for model_class in AUTO_CLASSES.values()}
    return "import hf_distill  # makes the class known to transformers\n" if student.class_name in known_here else ""


def _snippet(task: str, repo_id: str | None) -> str:
    name = repo_id if repo_id and is_hub_id(repo_id) else "."
    kind = TASKS.get(task)
    if kind and task in WITH_PIPELINE:
        maker = f"pipeline({kind.pipeline_tag!r}, model={name!r})"
        return f"from transformers import pipeline\n\nmodel = {maker}\n{SNIPPETS[task]}"
    auto_class = kind.auto_class if kind else "AutoModel"
    last = SNIPPETS.get(task, "print(model(**tokenizer('An example text.', return_tensors='pt')))")
    return (
        f"from transformers import {auto_class}, AutoTokenizer\n\n"
        f"tokenizer = AutoTokenizer.from_pretrained({name!r})\n"
        f"model = {auto_class}.from_pretrained({name!r})\n{last}"
    )


def _reproduction(record: Record) -> str:
    seeds = ", ".join(f"{escaped(name)} {seed}" for name, seed in record.seeds.items())
    told = "Everything that was set is in `distillation.json`." + (f" Seeds: {seeds}." if seeds else "")
    if not record.command:
        return told
    return f"{shell(record.command)}\n\n{told} Paths outside the working directory are cut to their last part."


def _limits(record: Record) -> str:
    lines = []
    if record.metrics:
        lines.append("The metrics hold for the data named above; other kinds of text and languages were not measured.")
        lines.append("They come from one run; another seed gives somewhat different ones.")
    if record.teacher:
        lines.append(
            "It learned from its teacher's outputs: expect the teacher's mistakes and biases, and some of its own."
        )
        if not record.teacher_metrics:
            lines.append("The teacher was not measured on the same data.")
        if not record.control_metrics:
            lines.append("No student was trained without the teacher, so what the teacher added is not known.")
    return "\n".join(f"- {text}" for text in lines)


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
