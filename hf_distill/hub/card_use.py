"""What a card tells a reader who wants to use a student: how, what for, and within what limits."""

from __future__ import annotations

from hf_distill.hub.card_example import example
from hf_distill.hub.markdown import block, code, escaped
from hf_distill.hub.record import ModelFacts, Record

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


def limits(record: Record, license: str | None) -> str:
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
        linked = [f"[{escaped(each.id)}](https://huggingface.co/{each.id})" for each in teachers if each.id]
        if linked:
            lines.append(f"What the card of {' and '.join(linked)} says of limits and intended use holds here, too.")
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


def inherited_license(record: Record) -> str | None:
    """The licence that all of the teachers have."""
    found = {each.license for each in teachers_of(record)}
    return found.pop() if len(found) == 1 else None


def _terms(record: Record, license: str | None) -> str:
    """The licence, and where it comes from; that of a teacher from elsewhere is said, too."""
    stated = {each.license for each in teachers_of(record)} - {None, license}
    if license is None and len(stated) > 1:
        return f"The teachers have different licences ({_listed(stated)}); the student's must satisfy all of them."
    if license is None:
        return "No licence is stated: ask whoever published it, and look at the terms of its teacher and of its data."
    if license == inherited_license(record):
        return f"Licence: {code(license)}, the teacher's. The data may have terms of their own."
    added = f" That of a teacher is {_listed(stated)}." if stated else ""
    return f"Licence: {code(license)}.{added} The data may have terms of their own."


def _listed(names: set[str | None]) -> str:
    return ", ".join(code(name) for name in sorted(filter(None, names)))
