"""A diagnosis in plain text."""

from __future__ import annotations

from collections.abc import Iterator

from hf_distill.inspection.cost import Expected
from hf_distill.inspection.diagnosis import Diagnosis
from hf_distill.inspection.drawing import drawn
from hf_distill.inspection.explanation import described, made_how
from hf_distill.inspection.layout import item, number_of, size, title
from hf_distill.inspection.memory import free_bytes


def report(found: Diagnosis, rows: int | None = None) -> str:
    """What was found, section by section, and the verdict at the end. With the number of training `rows`, what an
    epoch takes as well.
    """
    lines = [
        *_models(found),
        *_layers(found),
        *_objectives(found),
        *_parameters(found),
        *_costs(found, rows),
        *_verdict(found),
    ]
    return "\n".join(lines).lstrip("\n")


def _models(found: Diagnosis) -> Iterator[str]:
    yield from title("Models")
    teachers = found.blueprint.members or {"": found.blueprint.teacher}
    for name, model in teachers.items():
        if model is not None:
            yield from item(f"teacher {name}".rstrip(), described(model))
    yield from item("student", f"{described(found.blueprint.student)}; {made_how(found.recipe)}")
    yield from item("task", found.blueprint.kind.name)
    for each in found.comparisons:
        yield from item(each.name, each.found + (" (does not fit)" if each.problem else ""))


def _layers(found: Diagnosis) -> Iterator[str]:
    if found.depths is None:
        return
    for names, pairs in found.layer_maps():
        yield from title(f"Layers: {names}")
        yield from drawn(pairs, *found.depths)


def _objectives(found: Diagnosis) -> Iterator[str]:
    if not found.verdicts:
        why = "there is no teacher" if found.blueprint.teacher is None else "the models make no pair"
        yield from [*title("Objectives"), f"  not tried, as {why}"]
        return
    fitting = [each.name for each in found.verdicts if not each.refusal]
    yield from title(f"Objectives: {len(fitting)} of {len(found.verdicts)} apply to this pair, as they are by default")
    yield from item("", ", ".join(fitting), column=0)
    yield ""
    yield "  The others, and why not:"
    reasons: dict[str, list[str]] = {}
    for each in found.verdicts:
        if each.refusal:
            reasons.setdefault(each.refusal, []).append(each.name)
    for reason, names in reasons.items():
        yield from item("", ", ".join(names), column=0)
        yield from item("", reason, column=4)


def _parameters(found: Diagnosis) -> Iterator[str]:
    yield from title("Parameters")
    for name, trained in found.trained.items():
        for number, (what, text) in enumerate(trained.told()):
            yield from item(name if number == 0 else "", f"{what}: {text}", column=16)
    if not found.trained:
        yield "  not known, as no stage fits"


def _costs(found: Diagnosis, rows: int | None) -> Iterator[str]:
    yield from title("Cost of a step, here")
    for name, expected in found.costs.items():
        yield from item(name, _cost(expected), column=16)
        if rows is not None:
            steps = expected.steps_of(rows)
            hours = steps * expected.cost.seconds / 3600
            yield from item("", f"an epoch of {rows} rows: {steps} steps, {hours:.2f} hours", column=16)
    if found.costs:
        yield from item("free", f"{size(free_bytes())} of memory", column=16)
    if found.unmeasured:
        yield from item("", f"not measured: {found.unmeasured}", column=0)


def _cost(expected: Expected) -> str:
    cost, batches = expected.cost, expected.accumulated
    shape = f"{f'{batches} times ' if batches > 1 else ''}{expected.batch} rows of {expected.length} tokens"
    times = f"{cost.cpu_seconds:.3g} CPU seconds, {cost.seconds:.3g} seconds"
    text = f"{shape}: {times}, {size(cost.peak_bytes)} held at most"
    if cost.accelerator_bytes:
        text += f", and {size(cost.accelerator_bytes)} on the accelerator"
    if expected.measured < expected.batch:
        text += f" (reckoned from steps of up to {expected.measured} rows)"
    return text


def _verdict(found: Diagnosis) -> Iterator[str]:
    number = len(found.problems)
    if not number:
        yield from title("It fits")
        yield "  Nothing is against this recipe. Only its data were not looked at."
        return
    yield from title(f"It does not fit: {number_of(number, 'problem')}")
    for place, problem in enumerate(found.problems, start=1):
        yield from item(f"{place}.", problem, column=4)
