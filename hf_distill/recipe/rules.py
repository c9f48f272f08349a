"""What the parts of a recipe demand of each other.

The rules read plain data, so that they speak up also when something else is wrong; what has the wrong shape they pass
over, as the schema tells that.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hf_distill import objectives
from hf_distill.recipe.problems import Path, Problem

COMMIT = re.compile(r"[0-9a-f]{40}")
WEIGHING = ("weight", "name", "on")
"""The keys beside the objective's own in an entry of `objectives`."""
MADE = {
    "from_layers": "layers",
    "distilbert": "layers",
    "from_shape": "class and the vocabulary",
    "mobilebert": "vocabulary and the labels",
    "ib_bert": "vocabulary and the labels",
}
"""The ways to make a student, and what of a teacher it takes."""
KINDS = ("text_columns", "question_answering", "token_classification", "text")
"""The keys of `data` that say what the rows are."""
OF_TEXTS = ("package", "where", "label_column", "label_names", "deduplicate")
"""The keys of `data` that go with `text_columns`."""
TEACHERS = ("model", "package", "ensemble", "moving_average", "peers")
"""The kinds of teachers."""
OF_STUDENTS = ("moving_average", "peers")
"""Those that change with the student, and that no student is made from."""
PREVIOUS = "previous"
"""The stage before, as the teacher of a stage."""
SOURCES = ("files", "package", "hub")
"""The keys of `data` that say where its rows are; `text` says so itself."""
MAX_LAYERS = 100
"""The most stages that one entry of `stages` may stand for."""
MAX_NAME = 64
"""The longest name of a stage."""


def broken(data: Mapping[str, Any]) -> list[Problem]:
    """The rules that the data breaks."""
    of_rows, of_models = (_task, _data, _text, _augmentation), (_models, _shape, _teacher, _kinds_of_teacher, _cache)
    checks = (_alternatives, *of_rows, *of_models, _stages, _chains, _quantized, _on, _progressive, _budgets)
    return [problem for check in checks for problem in check(data)]


def _section(data: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    value: Any = data
    for key in keys:
        value = value.get(key)
        if not isinstance(value, Mapping):
            return {}
    return value  # type: ignore[no-any-return]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _alternatives(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Of some keys exactly one is given."""
    for path, keys in (
        ((), ("task", "data")),
        *([] if _section(data, "data", "text") else [(("data",), SOURCES)]),
        (("data",), KINDS),
        (("teacher",), TEACHERS),
        (("student",), ("model", *MADE)),
    ):
        if not path or isinstance(data.get(path[0]), Mapping):
            yield from _one_of(path, _section(data, *path), keys)
    for here, member in _members(data):
        yield from _one_of(here, member, ("model", "package"))
    for here, student in _students(data)[1:]:
        yield from _one_of(here, student, ("model", *MADE))


def _one_of(path: Path, section: Mapping[str, Any], keys: Sequence[str]) -> Iterator[Problem]:
    given = [key for key in keys if section.get(key) is not None]
    if len(given) != 1:
        found = " and ".join(given) if given else "neither" if len(keys) == 2 else "none of them"
        yield Problem(path, f"give exactly one of {', '.join(keys[:-1])} and {keys[-1]}; found {found}.")


def _members(data: Mapping[str, Any]) -> list[tuple[Path, Mapping[str, Any]]]:
    """The members of several teachers, and where they stand."""
    members = _section(data, "teacher", "ensemble", "members")
    return [(("teacher", "ensemble", "members", n), m) for n, m in members.items() if isinstance(m, Mapping)]


def _students(data: Mapping[str, Any]) -> list[tuple[Path, Mapping[str, Any]]]:
    """The student of the recipe, then those that stages start with, and where they stand."""
    stages = enumerate(_list(data.get("stages")))
    own = [(("stages", i, "student"), stage["student"]) for i, stage in stages if _has_student(stage)]
    return [(("student",), _section(data, "student")), *own]


def _has_student(stage: Any) -> bool:
    return isinstance(stage, Mapping) and isinstance(stage.get("student"), Mapping)


def _task(data: Mapping[str, Any]) -> Iterator[Problem]:
    if data.get("dataset_dir") is not None and data.get("data") is not None:
        yield Problem(("dataset_dir",), "holds copies of a GLUE task; with a data section give the files there.")


def _data(data: Mapping[str, Any]) -> Iterator[Problem]:
    section = _section(data, "data")
    if section.get("text_columns") is not None:
        if section.get("label_column") is None:
            yield Problem(("data", "label_column"), "is missing.")
        if section.get("hub") is not None:
            yield Problem(("data", "hub"), "does not go with text_columns; give files, or name a GLUE task as task.")
    elif any(section.get(key) is not None for key in KINDS):
        for key in (key for key in OF_TEXTS if section.get(key)):
            yield Problem(("data", key), "goes with text_columns, texts that have a label each; leave it out.")
    columns = _list(section.get("text_columns"))
    if section.get("label_column") is not None and section["label_column"] in columns:
        yield Problem(("data", "label_column"), f"{section['label_column']!r} is a text column as well.")
    parts = [_section(section, "split").get(name, 0) for name in ("validation", "test")]
    if all(isinstance(part, int | float) for part in parts) and sum(parts) >= 1:
        yield Problem(
            ("data", "split"), f"takes {parts[0]:g} + {parts[1]:g} of the training data; nothing would be left."
        )


def _text(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Raw text names its own sources; a stream ends by max_steps, and an encoder has no labels."""
    section, here = _section(data, "data", "text"), ("data", "text")
    if not section:
        return
    for key in (key for key in (*SOURCES, "split") if _section(data, "data").get(key) is not None):
        yield Problem(("data", key), "does not go with text, which names its sources itself; leave it out.")
    for split in ("train", "validation"):
        yield from _text_sources((*here, split), _list(section.get(split)), bool(section.get("streaming")))
    if section.get("streaming") is True:
        if not section.get("validation"):
            yield Problem((*here, "validation"), "is missing: no rows of a stream can be held out.")
        for i, stage in enumerate(_list(data.get("stages"))):
            steps = _section(stage, "arguments").get("max_steps") if isinstance(stage, Mapping) else None
            if not isinstance(steps, int) or steps < 1:
                text = "needs max_steps: a stream has no end, and no epochs."
                yield Problem(("stages", i, "arguments"), text)
        if _section(data, "max_samples").get("train") is not None:
            text = "does not go with a stream, whose rows are not counted; give its sources documents instead."
            yield Problem(("max_samples", "train"), text)
    masking = _section(section, "masking")
    if masking.get("smoothing") is None and masking.get("counts") is not None:
        yield Problem((*here, "masking", "counts"), "goes with smoothing, which is not given.")
    if masking.get("smoothing") is not None and masking.get("whole_word") is True:
        yield Problem((*here, "masking"), "smoothing weighs tokens and whole_word hides words; choose one of them.")
    if section.get("task") == "encoder":
        yield from _encoder(data)
    if section.get("task") == "causal_lm" and masking:
        yield Problem((*here, "masking"), "hides words, and a causal model predicts the next one; leave it out.")


def _budgets(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Batches with a budget are cut by the lengths of all rows of an epoch, the same in every epoch."""
    text = _section(data, "data", "text")
    weighed = any(isinstance(source, Mapping) and source.get("weight") for source in _list(text.get("train")))
    for i, stage in enumerate(_list(data.get("stages"))):
        if isinstance(stage, Mapping) and stage.get("tokens_per_batch") is not None:
            here = ("stages", i, "tokens_per_batch")
            if text.get("streaming") is True:
                yield Problem(here, "needs the lengths of all rows, and those of a stream are not known.")
            elif weighed:
                yield Problem(here, "does not go with weights of sources, which give every epoch other rows.")


def _text_sources(path: Path, sources: list[Any], streaming: bool) -> Iterator[Problem]:
    known = [(i, source) for i, source in enumerate(sources) if isinstance(source, Mapping)]
    for i, source in known:
        given = [key for key in ("files", "hub") if source.get(key) is not None]
        if len(given) != 1:
            yield Problem((*path, i), f"give exactly one of files and hub; found {' and '.join(given) or 'neither'}.")
    weighed = [i for i, source in known if source.get("weight") is not None]
    if path[-1] == "validation" and weighed:
        yield Problem((*path, weighed[0], "weight"), "is for training text; all rows of validation text count.")
    elif weighed and len(weighed) < len(known):
        yield Problem(path, "has weights for some of its sources; give one to each, or to none.")
    elif streaming and not weighed and len(known) > 1 and path[-1] == "train":
        yield Problem(path, "needs a weight for each source of a stream, as none knows its size.")


def _encoder(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What needs labels does not go with models without a head."""
    for path in (("control",), ("teacher", "fine_tune"), ("data", "text", "masking")):
        if _section(data, *path[:-1]).get(path[-1]):
            yield Problem(path, "needs labels, and an encoder has none; leave it out.")


def _augmentation(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Augmented rows are made of labelled texts, where a stage reads them."""
    stages = [(i, stage) for i, stage in enumerate(_list(data.get("stages"))) if isinstance(stage, Mapping)]
    asking = [i for i, stage in stages if stage.get("rows") == "augmented"]
    if data.get("augmentation") is None:
        for i in asking:
            text = "are augmented, and the recipe has no augmentation; add it, or take the original rows."
            yield Problem(("stages", i, "rows"), text)
        return
    section = _section(data, "data")
    kind = next((key for key in KINDS if key != "text_columns" and section.get(key) is not None), None)
    if kind is not None:
        yield Problem(("augmentation",), f"is for texts with a label, and the data have {kind}; leave it out.")
    elif not asking:
        yield Problem(("augmentation",), "is read by no stage; give one of them rows: augmented.")


def _models(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Code and revisions belong to a model that is named, and foreign code to one commit of it."""
    teacher = (("teacher",), _section(data, "teacher"))
    for path, section in (teacher, *_members(data), *_students(data)):
        role = path[-1]
        if section.get("model") is None:
            for key in ("revision", "trust_remote_code"):
                if section.get(key):
                    yield Problem((*path, key), f"goes with model, and {role} has none.")
        elif section.get("trust_remote_code") is True and not COMMIT.fullmatch(str(section.get("revision"))):
            text = "runs code out of the model's repository; give the commit you have read as revision: <40 digits>."
            yield Problem((*path, "trust_remote_code"), text)


def _shape(data: Mapping[str, Any]) -> Iterator[Problem]:
    for path, student in _students(data):
        section = _section(student, "from_shape")
        if section.get("calibration_rows") is not None and section.get("initialisation") != "importance":
            text = "goes with initialisation: importance, and there is none; leave it out."
            yield Problem((*path, "from_shape", "calibration_rows"), text)
        is_cut = section.get("initialisation") == "importance" or student.get("from_layers") is not None
        if student.get("few_sample") is not None and not is_cut:
            text = "corrects what was cut: it goes with from_layers, or from_shape with initialisation: importance."
            yield Problem((*path, "few_sample"), text)


def _stages(data: Mapping[str, Any]) -> Iterator[Problem]:
    stages = [(i, stage) for i, stage in enumerate(_list(data.get("stages"))) if isinstance(stage, Mapping)]
    # A stage names a folder, and some file systems do not tell A from a.
    yield from _repeated([(("stages", i, "name"), name) for i, stage in stages for name in _names(stage)], "stages")
    for i, stage in stages:
        for j, group in enumerate(_list(stage.get("train"))):
            given = [key for key in ("parameters", "layers") if isinstance(group, Mapping) and group.get(key)]
            if isinstance(group, Mapping) and len(given) != 1:
                found = " and ".join(given) or "neither"
                yield Problem(("stages", i, "train", j), f"give exactly one of parameters and layers; found {found}.")
        entries = [(j, entry) for j, entry in enumerate(_list(stage.get("objectives"))) if isinstance(entry, Mapping)]
        named = [(("stages", i, "objectives", j, "name"), entry.get("name")) for j, entry in entries]
        yield from _repeated(named, "objectives of this stage")
        learned = [j for j, entry in entries if _is_learned(entry.get("weight"))]
        if len(learned) == 1:
            text = "is learned, and no other weight of the stage is: alone it would only rescale the learning rate."
            yield Problem(("stages", i, "objectives", learned[0], "weight"), text)


def _is_learned(weight: Any) -> bool:
    return weight == "learned" or (isinstance(weight, Mapping) and "learned" in weight)


def _chains(data: Mapping[str, Any]) -> Iterator[Problem]:
    """The teacher of a stage is the student of an earlier one."""
    before: list[Any] = []
    for i, stage in enumerate(_list(data.get("stages"))):
        if not isinstance(stage, Mapping):
            continue
        here, teacher = ("stages", i, "teacher"), stage.get("teacher")
        if stage.get("name") == PREVIOUS:
            yield Problem(("stages", i, "name"), f"{PREVIOUS!r} means the stage before, as a teacher; choose another.")
        if teacher is not None and not before:
            yield Problem(here, "is the student of an earlier stage, and this is the first; leave it out.")
        elif isinstance(teacher, str) and teacher not in (PREVIOUS, *before):
            known = ", ".join(map(str, before))
            yield Problem(here, f"is the student of an earlier stage ({known}) or {PREVIOUS}; given {teacher!r}.")
        if isinstance(stage.get("progressive"), Mapping):
            for key in (key for key in ("student", "teacher") if stage.get(key) is not None):
                text = "does not go with progressive, which makes several stages of this; start with a stage before."
                yield Problem(("stages", i, key), text)
        before += _names(stage)


def _quantized(data: Mapping[str, Any]) -> Iterator[Problem]:
    """One kind of grid at a time; where its points are learned, nothing else trains."""
    for i, stage in enumerate(_list(data.get("stages"))):
        if not isinstance(stage, Mapping) or stage.get("quantize_points") is None:
            continue
        for key in ("quantize_uniform", "progressive"):
            if stage.get(key) is not None:
                yield Problem(("stages", i, key), "does not go with quantize_points; give the two a stage each.")
        if stage.get("train", "all") != "all":
            text = "does not go with quantize_points, of which the points alone train; leave it out."
            yield Problem(("stages", i, "train"), text)
        if data.get("control") is True and i == len(_list(data.get("stages"))) - 1:
            text = "is trained as the last stage is, and learned points alone are no student; leave it out."
            yield Problem(("control",), text)


def _on(data: Mapping[str, Any]) -> Iterator[Problem]:
    """A term is on one of several teachers, or of several peers."""
    members: Sequence[Any] = list(_section(data, "teacher", "ensemble", "members"))
    if _section(data, "teacher").get("peers") is not None:
        count = _section(data, "teacher", "peers").get("count", 1)
        members = [f"peer_{n}" for n in range(1, count + 1)] if isinstance(count, int) and count <= MAX_LAYERS else []
    for i, stage in enumerate(_list(data.get("stages"))):
        for j, entry in enumerate(_list(stage.get("objectives")) if isinstance(stage, Mapping) else []):
            member = entry.get("on") if isinstance(entry, Mapping) else None
            here = ("stages", i, "objectives", j, "on")
            if not isinstance(member, str):
                continue
            if not members or stage.get("teacher") is not None:
                text = "names one of several teachers (ensemble, peers), and there are not several; leave it out."
                yield Problem(here, text)
            elif member not in members:
                yield Problem(here, f"names one of the teachers {', '.join(map(str, members))}; given {member!r}.")


def numbered(name: str, layers: int) -> list[str]:
    """The names of the stages that a progressive one stands for: `transfer-01`, `transfer-02` ..."""
    digits = max(2, len(str(layers)))
    return [f"{name}-{layer:0{digits}d}" for layer in range(1, layers + 1)]


def _names(stage: Mapping[str, Any]) -> list[Any]:
    name, layers = stage.get("name"), _section(stage, "progressive").get("layers")
    if isinstance(name, str) and isinstance(layers, int) and 1 <= layers <= MAX_LAYERS:
        return numbered(name, layers)
    return [name]


def _progressive(data: Mapping[str, Any]) -> Iterator[Problem]:
    """A stage for each layer says everything but the layers."""
    for i, stage in enumerate(_list(data.get("stages"))):
        if not isinstance(stage, Mapping) or not isinstance(stage.get("progressive"), Mapping):
            continue
        layers, theirs = (stage["progressive"].get(key) for key in ("layers", "teacher_layers"))
        if isinstance(layers, int) and isinstance(theirs, list) and len(theirs) != layers:
            text = f"names {len(theirs)} layers of the teacher for {layers} of the student; give one for each."
            yield Problem(("stages", i, "progressive", "teacher_layers"), text)
        if stage.get("train", "all") != "all":
            yield Problem(("stages", i, "train"), "follows from progressive, stage by stage; leave it out.")
        name, last = stage.get("name"), _names(stage)[-1]
        if isinstance(name, str) and len(name) <= MAX_NAME < len(last):
            text = f"with the layer's number behind it {len(last)} characters are more than {MAX_NAME}; shorten it."
            yield Problem(("stages", i, "name"), text)
        yield from _layer_maps(("stages", i, "objectives"), _list(stage.get("objectives")))


def _layer_maps(path: Path, entries: list[Any]) -> Iterator[Problem]:
    """The objectives of a stage for each layer take a layer map, and it is not given."""
    for j, entry in enumerate(entries):
        for name in entry if isinstance(entry, Mapping) else ():
            if name not in objectives.names():
                continue
            if "layer_map" not in inspect.signature(objectives.get(name)).parameters:
                text = "has no layer_map, so it cannot compare one layer at each stage; give it a stage of its own."
                yield Problem((*path, j, name), text)
            elif isinstance(entry[name], Mapping) and "layer_map" in entry[name]:
                text = "follows from progressive, stage by stage; leave it out."
                yield Problem((*path, j, name, "layer_map"), text)


def _repeated(named: Sequence[tuple[Path, Any]], what: str) -> Iterator[Problem]:
    count = Counter(name.lower() for _, name in named if isinstance(name, str))
    for path, name in named:
        if isinstance(name, str) and count[name.lower()] > 1:
            yield Problem(
                path,
                f"{count[name.lower()]} {what} are named {name!r}; give each its own name (capitals do not count).",
            )


def _teacher(data: Mapping[str, Any]) -> Iterator[Problem]:
    kind = next((key for key in OF_STUDENTS if _section(data, "teacher").get(key) is not None), None)
    follows = kind is not None
    why = "the recipe's is made of the student; give a model" if follows else "the recipe has none; add teacher"
    if data.get("teacher") is not None and not follows:
        return
    for path, student in _students(data):
        for name, taken in MADE.items():
            if student.get(name) is not None:
                yield Problem((*path, name), f"takes the {taken} of a teacher, and {why}.")
    for i, stage in enumerate([] if follows else _list(data.get("stages"))):
        if isinstance(stage, Mapping) and stage.get("teacher") is not None:
            continue
        for j, entry in enumerate(_list(stage.get("objectives")) if isinstance(stage, Mapping) else []):
            for name in entry if isinstance(entry, Mapping) else ():
                if name in objectives.names() and objectives.get(name).needs_teacher:
                    text = "compares with a teacher, and the recipe has none; add teacher."
                    yield Problem(("stages", i, "objectives", j, name), text)


def _kinds_of_teacher(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What goes with some kinds of teachers alone."""
    section = _section(data, "teacher")
    ensemble, members = _section(section, "ensemble"), _section(section, "ensemble", "members")
    if ensemble and section.get("fine_tune") is not None:
        text = "trains one teacher on the labels, and there are several; train each by a recipe of its own."
        yield Problem(("teacher", "fine_tune"), text)
    weights = ensemble.get("weights")
    if isinstance(weights, list) and len(weights) != len(members):
        text = f"are {len(weights)} for {len(members)} teachers; give one for each."
        yield Problem(("teacher", "ensemble", "weights"), text)
    elif isinstance(weights, list) and all(weight == 0 for weight in weights):
        yield Problem(("teacher", "ensemble", "weights"), "are all 0; at least one teacher must count.")
    if weights is not None and ensemble.get("routing") is not None:
        text = "gives each row to one teacher, and weights are given as well; leave one of them out."
        yield Problem(("teacher", "ensemble", "routing"), text)
    for kind in (kind for kind in OF_STUDENTS if section.get(kind) is not None):
        for key in (key for key in ("fine_tune", "cache", "dtype") if section.get(key) is not None):
            yield Problem(("teacher", key), f"does not go with {kind}, which changes with the student.")
    if section.get("peers") is not None:
        yield from _peers(data)


def _peers(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Peers train whole, on floats, and learn from the student of their own stage."""
    for i, stage in enumerate(_list(data.get("stages"))):
        if not isinstance(stage, Mapping):
            continue
        given = [key for key in ("progressive", "quantize_uniform", "quantize_points") if stage.get(key) is not None]
        given += ["train"] if stage.get("train", "all") != "all" else []
        for key in given:
            text = "is about the student, and its peers (teacher.peers) train whole beside it; leave it out."
            yield Problem(("stages", i, key), text)


def _cache(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What a teacher shows of a row is written down once, so the row must be the same every time."""
    if _section(data, "teacher").get("cache") is None:
        return
    text, here = _section(data, "data", "text"), ("teacher", "cache")
    if text.get("streaming") is True:
        yield Problem(here, "needs rows that can be had by their number, and a stream has none; leave it out.")
    if text and text.get("task", "masked_lm") == "masked_lm":
        yield Problem(
            here, "cannot serve: words are hidden anew in every epoch, and the teacher must run; leave it out."
        )
    if _section(data, "teacher").get("dtype") is None:
        yield from _one_precision(data)


def _one_precision(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Without a dtype of its own a teacher runs under the mixed precision of the stage that writes its cache, and all
    stages read that."""
    stages = [(i, stage) for i, stage in enumerate(_list(data.get("stages"))) if isinstance(stage, Mapping)]
    for i, stage in stages[1:]:
        first, here = (_mixed(each) for each in (stages[0][1], stage))
        if here != first:
            text = (
                f"say {here} for stage {stage.get('name')!r}, and stage {stages[0][1].get('name')!r} says {first}: "
                "both read one cache of the teacher (teacher.cache), which runs under the precision of a stage. Give "
                "teacher.dtype, or the stages the same precision."
            )
            yield Problem(("stages", i, "arguments"), text)


def _mixed(stage: Mapping[str, Any]) -> str:
    given = _section(stage, "arguments")
    return next((name for name in ("bf16", "fp16") if given.get(name)), "neither bf16 nor fp16")
