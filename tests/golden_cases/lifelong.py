"""Golden cases of students that learn new labels and keep the old ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_distill.activations import Activations, EnsembleActivations
from hf_distill.data.exemplars import exemplar_herding
from hf_distill.member_logits import Combining
from hf_distill.objectives import Pair
from hf_distill.tasks import TASKS
from tests.golden_cases.base import Setup, bound
from tests.shapes import shape

Values = dict[str, Any]


def grown(
    student: Tensor, teachers: dict[str, tuple[Tensor, int]], labels: Tensor | None, *terms: Any
) -> list[Tensor]:
    """The mean of each term, each on one of the teachers, whose classes are the student's from a column on."""
    ours, pairs = student.shape[-1], {}
    for name, (logits, start) in teachers.items():
        theirs = logits.shape[-1]
        columns = tuple(i - start if start <= i < start + theirs else -1 for i in range(ours))
        shapes = (shape(num_logits=ours), shape(num_logits=theirs))
        pairs[name] = Pair.from_shapes(*shapes, TASKS["single_label"], teacher_columns=columns)
    pair = Pair.together(pairs, Combining(len(pairs)))
    shown = EnsembleActivations({name: Activations(logits=logits) for name, (logits, _) in teachers.items()})
    ids = torch.zeros(len(student), 1, dtype=torch.long)
    batch = {"input_ids": ids, **({} if labels is None else {"labels": labels})}
    found = []
    for member, name, settings in terms:
        own = pair.of_member(member)
        setup = Setup(bound(own, (1.0, name, settings)), own, Activations(logits=student), shown.member(member), batch)
        found.append(setup.loss())
    return found


def forgetting(settings: Values, inputs: Values) -> Values:
    """The heads side by side: the new one, then each old one, the model before being a teacher of each."""
    now, recorded = (
        [torch.tensor(head, dtype=torch.float64) for head in as_lists(inputs[f"old_heads_{when}"])]
        for when in ("now", "recorded")
    )
    student = torch.cat([inputs["new_logits"], *now], dim=1).double()
    starts = [inputs["new_logits"].shape[1]]
    for head in now:
        starts.append(starts[-1] + head.shape[1])
    teachers = {f"head_{i}": (head, starts[i]) for i, head in enumerate(recorded)}
    term = ("learning_without_forgetting", {"temperature": settings["temperature"]})
    old = grown(student, teachers, None, *((name, *term) for name in teachers))
    everything = torch.cat(recorded, dim=1)
    (new,) = grown(student, {"all": (everything, starts[0])}, inputs["labels"], ("all", "labels", {"classes": "new"}))
    return {"new": new, "old": torch.stack(old), "total": new + settings["lam"] * sum(old)}


def retrospection(settings: Values, inputs: Values) -> Values:
    student, expert, old = (inputs[f"{side}_logits"].double() for side in ("student", "expert", "old"))
    teachers = {"expert": (expert, old.shape[1]), "previous": (old, 0)}
    terms = [
        (name, "learning_without_forgetting", {"temperature": settings[key]})
        for name, key in (("expert", "temperature_expert"), ("previous", "temperature_old"))
    ]
    distillation, keeping = grown(student, teachers, None, *terms)
    total = settings["lam1"] * distillation + settings["lam2"] * keeping
    return {"distillation": distillation, "retrospection": keeping, "total": total}


def herding(settings: Values, inputs: Values) -> list[int]:
    return exemplar_herding(inputs["features"].double(), settings["m"], normalize=settings["normalize"])


def as_lists(heads: Any) -> list[Any]:
    found: list[Any] = heads.tolist() if isinstance(heads, Tensor) else heads
    return found


VALUES = {
    "learning_without_forgetting": forgetting,
    "distillation_retrospection": retrospection,
    "exemplar_herding": herding,
}
