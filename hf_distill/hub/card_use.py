"""What a card tells a reader who wants to use a student: how, what for, and within what limits."""

from __future__ import annotations

from hf_distill.hub.card_example import example
from hf_distill.hub.license import OTHER, License
from hf_distill.hub.markdown import block, code, escaped
from hf_distill.hub.record import ModelFacts, Origin, Record

PURPOSES = {
    "single_label": "to sort texts into the classes that it was trained on",
    "multi_label": "to say which of the classes that it was trained on hold for a text",
    "regression": "to give texts, or pairs of them, the score that it was trained on",
    "token_classification": "to mark the words of a text with the tags that it was trained on",
    "question_answering": "to find the answer to a question in a text that is given with it",
    "masked_lm": "to be trained further for a task, or to fill in hidden words",
    "causal_lm": "to go on with texts of the kind that it was trained on",
    "seq2seq_lm": "to rewrite texts in the way that it was trained on",
    "ctc": "to write down what is said in recordings of the kind that it was trained on",
    "encoder": "to be trained further for a task",
    "embeddings": "to give sentences vectors, which are near each other where the sentences mean much the same",
}


def usage(record: Record, repo_id: str | None) -> str:
    """A program that runs the student."""
    return block(example(record, repo_id), "python")


def intended_use(record: Record) -> str:
    """What the student was made for."""
    purpose = PURPOSES.get(record.task, "for the task that it was trained on")
    teacher = record.teacher
    is_smaller = teacher is not None and record.student.num_parameters < teacher.num_parameters
    smaller = ", with fewer parameters than its teacher" if is_smaller else ""
    return (
        f"It is made {purpose}{smaller}. The figures above hold for texts like those of "
        f"{escaped(record.data.name)}: measure it on your own before you rely on it, and let no answer of it alone "
        "decide about a person."
    )


def limits(record: Record, license: License) -> str:
    """What is not known, what was handed down, and on what terms it may be used."""
    lines = []
    if record.metrics:
        lines.append("The metrics hold for the data named above; other kinds of text and languages were not measured.")
        lines.append("They come from one run; another seed gives somewhat different ones.")
    teachers = teachers_of(record)
    if teachers:
        lines.append(
            "It learned from its teacher's outputs: expect the teacher's mistakes and biases, and some of its own."
        )
    named = [*(each.id for each in teachers), *(each.id for each in starts_of(record))]
    linked = [linked_id(name) for name in named if name]
    if linked:
        lines.append(f"What the card of {' and '.join(linked)} says of limits and intended use holds here, too.")
    if teachers:
        if not record.teacher_metrics:
            lines.append("The teacher was not measured on the same data.")
        if not record.control_metrics:
            lines.append("No student was trained without the teacher, so what the teacher added is not known.")
    lines.append(_terms(record, license))
    return "\n".join(f"- {text}" for text in lines)


def teachers_of(record: Record) -> list[ModelFacts]:
    """All of them."""
    return [each for each in (record.teacher, *record.other_teachers) if each is not None]


def is_adapter(student: ModelFacts) -> bool:
    """Whether its files are those of an adapter, which needs the model that it is one of."""
    return student.adapter_of is not None or any(name.startswith("adapter_") for name in student.files)


def starts_of(record: Record) -> list[Origin]:
    """The models that the student started from, and that are not told as a teacher, or as what an adapter is of."""
    told = {record.student.adapter_of, *(each.id for each in teachers_of(record))} - {None}
    return [each for each in record.starts if each.id not in told]


def linked_id(repo_id: str) -> str:
    """A repository of the Hub, with a link to it."""
    return f"[{escaped(repo_id)}](https://huggingface.co/{repo_id})"


def stated_license(record: Record, asked: str | None) -> License:
    """The licence that is asked for, or the one that all models have that the student comes from."""
    inherited = _inherited(record)
    return inherited if asked is None or asked == inherited.license else License(asked)


def _sources(record: Record) -> list[ModelFacts | Origin]:
    """The models whose licences hold for the student."""
    return [*teachers_of(record), *record.starts]


def _inherited(record: Record) -> License:
    sources = _sources(record)
    if len({_terms_of(each) for each in sources}) != 1:
        return License()
    return License(sources[0].license, sources[0].license_name, sources[0].license_link)


def _terms_of(model: ModelFacts | Origin) -> tuple[str | None, str | None]:
    """What is the same for models of the same licence: two that the Hub does not know go by their names."""
    own = model.license_name or model.license_link or model.id
    return (model.license, own if model.license == OTHER else None)


def _terms(record: Record, license: License) -> str:
    """The licence, and where it comes from; that of a model from elsewhere is said, too."""
    stated = {_named(each) for each in _sources(record) if each.license}
    if license.license is None and len(stated) > 1:
        differ = f"{_all_of(record)} have different licences ({_listed(stated)})"
        return f"{differ}; the student's must satisfy all of them."
    if license.license is None:
        start = f", of {_begun(record)}" if record.starts else ""
        return (
            f"No licence is stated: ask whoever published it, and look at the terms of its teacher{start} and of its "
            "data."
        )
    shown = f"[{_named(license)}]({license.license_link})" if license.license_link else _named(license)
    if license == _inherited(record):
        return f"Licence: {shown}, {_whose(record)}. The data may have terms of their own."
    others = stated - {_named(license)}
    model = "model that it comes from" if record.starts else "teacher"
    added = f" That of a {model} is {_listed(others)}." if others else ""
    return f"Licence: {shown}.{added} The data may have terms of their own."


def _named(model: License | ModelFacts | Origin) -> str:
    return code(model.license_name or model.license or "")


def _all_of(record: Record) -> str:
    """Whose licences there are."""
    if not record.starts:
        return "The teachers"
    return f"Its teacher and {_begun(record)}" if record.teacher is not None else _begun(record).capitalize()


def _whose(record: Record) -> str:
    """Whose licence it is."""
    if not record.starts:
        return "the teacher's"
    return f"that of {'the teacher and of ' if record.teacher is not None else ''}{_begun(record)}"


def _begun(record: Record) -> str:
    return f"the model{'' if len(record.starts) == 1 else 's'} that it starts from"


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
