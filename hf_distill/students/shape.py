"""A student of the teacher's class with another depth and width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill.anatomy import Anatomy
from hf_distill.errors import IncompatiblePair
from hf_distill.objectives.settings import check_count
from hf_distill.students.block_importance import MEASURED, Kept
from hf_distill.students.copying import copy_weights, finished, new, plain_copy
from hf_distill.students.importance import Aggregation, Ranking
from hf_distill.students.layers import kept_layers, shallower, sources_of
from hf_distill.students.prune import cut_weights, heads_of_group, inner_size

MAKER = "from_shape"
INITIALISATIONS = ("random", "importance")
INTERMEDIATE = {
    "bert": "intermediate_size",
    "roberta": "intermediate_size",
    "electra": "intermediate_size",
    "albert": "intermediate_size",
    "mpnet": "intermediate_size",
    "modernbert": "intermediate_size",
    "llama": "intermediate_size",
    "mistral": "intermediate_size",
    "qwen2": "intermediate_size",
    "qwen3": "intermediate_size",
    "cohere": "intermediate_size",
    "opt": "ffn_dim",
    "distilbert": "hidden_dim",
    "gpt2": "n_inner",
}
"""Entry of the configuration with the width inside the feed-forward layers, for each family that can be resized."""


Sizes = Mapping[str, int | None]


@dataclass(frozen=True)
class Cut:
    """What a student kept of its teacher: `layers` and the scores they were chosen by (`Kept`), and the hidden
    dimensions, counted from 0; these are None where the width was drawn at random."""

    kept: Kept
    hidden: list[int] | None = None


def from_shape(
    teacher: nn.Module,
    *,
    num_hidden_layers: int | None = None,
    hidden_size: int | None = None,
    num_attention_heads: int | None = None,
    num_key_value_heads: int | None = None,
    intermediate_size: int | None = None,
    initialisation: Literal["random", "importance"] = "random",
    calibration: Iterable[Mapping[str, Tensor]] | None = None,
    pick: str = "spread",
    contiguous: bool = False,
    ranking: Literal["added", "activations"] = "added",
    over_texts: Aggregation | None = None,
    over_tokens: Aggregation | None = None,
    steps: int = 1,
) -> PreTrainedModel:
    """A model of the teacher's class and vocabulary with other sizes; what is not given stays the teacher's.

    Published shapes: TinyBERT 4 layers, 312 wide, 12 heads, 1200 inside (Jiao et al., 2020, arXiv:1909.10351); MiniLM
    6 or 12 layers, 384 wide, 12 heads, 1536 inside (Wang et al., 2020, arXiv:2002.10957).

    `initialisation` is `random`, as the class draws its weights (from torch's random state), or `importance`: depth is
    cut by `pick` and `contiguous` as in `from_layers`, width to what matters most on the batches of `calibration`, see
    `prune.cut_weights`; with nothing cut the student then gives the teacher's output exactly. `ranking` says what
    dimensions, heads and neurons are ranked by: what they add to the output (`added`), or their activations alone,
    aggregated over the tokens of a text by `over_tokens` (mean) and then `over_texts` (l2), as Minitron does
    (`activations`; Muralidharan et al., 2024, arXiv:2407.14679). With several `steps` every size goes down in so many
    equal ones, and importance is measured anew on what each has left (Minitron's iterative form, without training in
    between).

    A head is `hidden_size / num_attention_heads` wide; where heads are grouped (Llama, Qwen and their kin) its width
    stays the teacher's, as rotary frequencies depend on it. `num_key_value_heads` then keeps the teacher's ratio. An
    embedding size equal to the teacher's width (ELECTRA, OPT) becomes the student's; another one stays, and a student
    that was cut cannot be as wide as that, as its class would build no projection between the two.

    The student is in float32 and in eval mode, on the teacher's device. On the meta device, sizes can be counted
    without memory.

    Raises: `IncompatiblePair` for a family that cannot be resized, sizes that do not fit each other or (`importance`)
    exceed the teacher's, and a `calibration` that is missing, empty, or has no use; `DistillationError` for a ranking
    that does not exist.
    """
    sizes = {
        "num_hidden_layers": num_hidden_layers,
        "hidden_size": hidden_size,
        "num_attention_heads": num_attention_heads,
        "num_key_value_heads": num_key_value_heads,
        "intermediate_size": intermediate_size,
    }
    return cut_shape(
        teacher,
        sizes,
        initialisation=initialisation,
        calibration=calibration,
        pick=pick,
        contiguous=contiguous,
        ranking=Ranking(ranking, over_texts, over_tokens),
        steps=steps,
    )[0]


def cut_shape(
    teacher: nn.Module,
    sizes: Sizes,
    *,
    initialisation: str,
    calibration: Iterable[Mapping[str, Tensor]] | None,
    pick: str,
    contiguous: bool,
    ranking: Ranking,
    steps: int,
) -> tuple[PreTrainedModel, Cut]:
    """The student of `from_shape`, and what it kept."""
    _check_initialisation(initialisation, calibration, pick, ranking, steps)
    base = plain_copy(teacher, MAKER)
    if calibration is None:
        anatomy = Anatomy.of(base)
        chosen = _layers(anatomy, sizes["num_hidden_layers"], pick, contiguous, None)
        config = _resized(anatomy, shallower(anatomy, chosen.layers, MAKER), sizes)
        return finished(new(type(base), config, base), base), Cut(chosen)
    batches, stages = list(calibration), [sizes]
    if steps > 1:
        anatomy = Anatomy.of(base)
        first = _layers(anatomy, sizes["num_hidden_layers"], "first", False, None)
        stages = [*_sizes_between(anatomy, Anatomy.of(_of_size(anatomy, first, sizes)), steps), sizes]
    student, kept, hidden = base, Kept({}, {}), list(range(Anatomy.of(base).shape.stack().hidden_size))
    for stage in stages:
        student, cut = _cut_once(student, stage, batches, pick, contiguous, ranking)
        before = kept.layers.get("")
        layers = [before[layer - 1] for layer in cut.kept.layers[""]] if before else cut.kept.layers[""]
        kept, hidden = Kept({"": layers}, cut.kept.scores), [hidden[i] for i in cut.hidden or ()]
    return finished(student, base), Cut(kept, hidden)


def _check_initialisation(initialisation: str, calibration: Any, pick: str, ranking: Ranking, steps: int) -> None:
    if initialisation not in INITIALISATIONS:
        raise IncompatiblePair(
            f"{MAKER}: initialisation must be {' or '.join(INITIALISATIONS)}, not {initialisation!r}."
        )
    if (calibration is not None) != (initialisation == "importance"):
        raise IncompatiblePair(
            f"{MAKER}: initialisation {initialisation!r} {'needs' if calibration is None else 'has no use for'} "
            "calibration, batches on which importance is measured."
        )
    check_count(MAKER, "steps", steps, 1)
    given = {"pick": pick in MEASURED, "ranking": ranking.by != "added", "steps": steps > 1}
    idle = [name for name, is_given in given.items() if is_given]
    if initialisation == "random" and idle:
        raise IncompatiblePair(
            f"{MAKER}: {idle[0]} says what is kept of the teacher, and initialisation 'random' keeps nothing of it; "
            "set initialisation='importance'."
        )


def _cut_once(
    base: PreTrainedModel,
    sizes: Sizes,
    batches: list[Mapping[str, Tensor]],
    pick: str,
    contiguous: bool,
    ranking: Ranking,
) -> tuple[PreTrainedModel, Cut]:
    anatomy = Anatomy.of(base)
    kept = _layers(anatomy, sizes["num_hidden_layers"], pick, contiguous, batches)
    student = _of_size(anatomy, kept, sizes)
    sources = sources_of(anatomy, student, kept.layers, MAKER)
    tensors, hidden = cut_weights(anatomy, student, sources, kept.layers[""], batches, ranking)
    copy_weights(student, base, sources, tensors)
    return student.to(base.device).eval(), Cut(kept, hidden)


def _of_size(anatomy: Anatomy, kept: Kept, sizes: Sizes) -> PreTrainedModel:
    """A model of these sizes with weights that mean nothing."""
    config = _resized(anatomy, shallower(anatomy, kept.layers, MAKER), sizes)
    with torch.random.fork_rng(devices=[]):
        return new(type(anatomy.base), config, anatomy.base)


def _sizes_between(teacher: Anatomy, student: Anatomy, steps: int) -> list[Sizes]:
    """The sizes after each of the steps but the last: evenly spaced, and such that heads and width fit each other."""
    big, small = teacher.shape.stack(), student.shape.stack()
    grouped = hasattr(teacher.base.config, "num_key_value_heads")
    inner = [inner_size(side) for side in (teacher, student)]
    found: list[Sizes] = []
    heads, groups, width = big.num_attention_heads, big.num_key_value_heads, big.hidden_size
    for share in (step / steps for step in range(1, steps)):
        many = _between(big.num_key_value_heads, small.num_key_value_heads, share)
        sharing = _between(heads_of_group(big), heads_of_group(small), share)
        fitting = [
            size
            for size in range(small.hidden_size, width + 1)
            if size % (many * sharing) == 0
            and (grouped or small.head_size <= size // (many * sharing) <= width // heads)
        ]
        if fitting:
            aim = _between(big.hidden_size, small.hidden_size, share)
            heads, groups, width = many * sharing, many, sorted((abs(size - aim), size) for size in fitting)[0][1]
        found.append(
            {
                "num_hidden_layers": _between(big.num_hidden_layers, small.num_hidden_layers, share),
                "hidden_size": width,
                "num_attention_heads": heads,
                "num_key_value_heads": groups if grouped else None,
                "intermediate_size": _between(inner[0], inner[1], share),
            }
        )
    return found


def _between(start: int, end: int, share: float) -> int:
    return round(start + (end - start) * share)


def _layers(anatomy: Anatomy, number: int | None, pick: str, contiguous: bool, batches: Any) -> Kept:
    family = anatomy.shape.family
    if family not in INTERMEDIATE or len(anatomy.shape.stacks) != 1:
        raise IncompatiblePair(
            f"{MAKER}: models of family {family!r} cannot be resized; those of {', '.join(INTERMEDIATE)} can."
        )
    depth = anatomy.shape.stack().num_hidden_layers
    return kept_layers(anatomy, depth if number is None else number, pick, None, contiguous, batches, MAKER)


def _resized(anatomy: Anatomy, config: Any, given: Mapping[str, int | None]) -> Any:
    """The configuration with the given sizes."""
    for name, size in given.items():
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise IncompatiblePair(f"{MAKER}: {name} must be a whole number, at least 1, not {size!r}.")
    teacher, family = anatomy.shape.stack(), anatomy.shape.family
    hidden = given["hidden_size"] or teacher.hidden_size
    heads = given["num_attention_heads"] or teacher.num_attention_heads
    if hidden % heads:
        raise IncompatiblePair(f"{MAKER}: hidden_size {hidden} must be a multiple of num_attention_heads {heads}.")
    _check_rotation(anatomy, config, hidden, heads)
    for name in ("embedding_size", "word_embed_proj_dim"):
        if getattr(config, name, None) == teacher.hidden_size:
            setattr(config, name, hidden)
    config.hidden_size, config.num_attention_heads = hidden, heads
    if given["intermediate_size"] is not None:
        setattr(config, INTERMEDIATE[family], given["intermediate_size"])
    elif family == "gpt2" and config.n_inner is None:
        config.n_inner = 4 * teacher.hidden_size
    _group_heads(anatomy, config, given["num_key_value_heads"])
    return config


def _check_rotation(anatomy: Anatomy, config: Any, hidden: int, heads: int) -> None:
    """Whether rotary position embeddings, which turn pairs of dimensions, find them in every head."""
    rotated = anatomy.row is not None and anatomy.row.scores == "rotary" and not hasattr(config, "num_key_value_heads")
    if rotated and hidden // heads % 2:
        raise IncompatiblePair(
            f"{MAKER}: hidden_size / num_attention_heads = {hidden} / {heads} = {hidden // heads} is odd, and rotary "
            "position embeddings turn pairs of dimensions; change one of the two."
        )


def _group_heads(anatomy: Anatomy, config: Any, given: int | None) -> None:
    teacher, heads = anatomy.shape.stack(), config.num_attention_heads
    if not hasattr(config, "num_key_value_heads"):
        if given is not None:
            raise IncompatiblePair(
                f"{MAKER}: num_key_value_heads is given, but {anatomy.shape.family!r} does not group its heads."
            )
        return
    if hasattr(config, "head_dim") or config.hidden_size // heads != teacher.head_size:
        config.head_dim = teacher.head_size
    group = teacher.num_attention_heads // teacher.num_key_value_heads
    groups = heads // group if given is None else given
    if groups < 1 or heads % groups or (given is None and heads % group):
        raise IncompatiblePair(
            f"{MAKER}: {heads} heads do not fall into {given or f'groups of {group} as the teacher has'}; give a "
            "num_key_value_heads that divides num_attention_heads."
        )
    config.num_key_value_heads = groups
