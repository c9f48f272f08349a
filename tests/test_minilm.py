"""MiniLM's relations on real models: against eager attention, packed and padded text, heads, rotation, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from hf_distill import DistillationTrainer
from hf_distill.activations import Activations, Signal
from hf_distill.anatomy import Anatomy, Shape, StackShape
from hf_distill.capture import Capture
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.objectives import Objective, Pair
from hf_distill.objectives.relation.minilm import MiniLM
from hf_distill.objectives.relation.minilm_v2 import MiniLMv2
from hf_distill.tasks import TASKS
from tests import tiny as tiny_tasks
from tests.shapes import shape
from tests.tiny_models import ENCODER_DECODERS, batch, tiny

PLAIN = [
    (family, "") for family in ("bert", "roberta", "distilbert", "electra", "albert", "mobilebert", "gpt2")
] + [("bart", "encoder"), ("bart", "decoder")]  # fmt: skip
ROTARY = ["modernbert", "llama", "qwen3"]
Batch = dict[str, Tensor]


def pair_of(student: nn.Module, teacher: nn.Module) -> Pair:
    return Pair.from_shapes(Anatomy.of(student).shape, Anatomy.of(teacher).shape, TASKS["masked_lm"])


def shown(model: nn.Module, signals: frozenset[Signal], inputs: Batch) -> Activations:
    capture = Capture(Anatomy.of(model), signals, "teacher")
    activations = capture(inputs)[1]
    capture.close()
    return activations


def captured_value(objective: Objective, student: nn.Module, teacher: nn.Module, inputs: Batch) -> Tensor:
    objective.bind(pair_of(student, teacher))
    needs = objective.needs()
    return objective(shown(student, needs.student, inputs), shown(teacher, needs.teacher, inputs), inputs)


def eager_value(student: nn.Module, teacher: nn.Module, inputs: Batch, stack: str, layers: tuple[int, int]) -> Tensor:
    """KL of the two models' own attention probabilities: mean over heads and real queries, summed over examples."""
    q, p = (
        model(**inputs, output_attentions=True)[f"{stack}_attentions" if stack else "attentions"][layer - 1].double()
        for model, layer in zip((student, teacher), layers, strict=True)
    )
    mask = inputs["decoder_attention_mask" if stack == "decoder" else "attention_mask"]
    total = torch.zeros((), dtype=torch.float64)
    for example, real in enumerate(mask.bool()):
        rows = torch.special.xlogy(p[example], p[example]) - torch.special.xlogy(p[example], q[example])
        total = total + rows.sum(-1)[:, real].mean()
    return total


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=tolerance)


# ---- captured relations are those of eager attention ----


@pytest.mark.parametrize(("family", "stack"), PLAIN)
def test_query_key_relations_are_the_eager_attentions(family: str, stack: str) -> None:
    """Of the last layers; of MobileBERT's first ones, as the attention of later ones is all or nothing here."""
    student, teacher, inputs = tiny(family, layers=2, seed=5), tiny(family, layers=3), batch(family)
    heads = Anatomy.of(student).shape.stack(stack).num_attention_heads
    layers = (1, 1) if family == "mobilebert" else (2, 3)
    where = {"stack": stack, "student_layer": layers[0], "teacher_layer": layers[1]}
    attention, values = (
        captured_value(MiniLMv2(relations={name: 1.0}, relation_heads=heads, **where), student, teacher, inputs)
        for name in ("qk", "vv")
    )
    expected = eager_value(student, teacher, inputs, stack, layers)
    assert expected > 0.01
    close(attention, expected)
    close(captured_value(MiniLM(**where), student, teacher, inputs), expected + values)


@pytest.mark.parametrize("family", ROTARY)
def test_rotated_relations_are_the_eager_attentions(family: str) -> None:
    """Of the first layers, which see all the text; grouped keys serve every head of their group."""
    student, teacher, inputs = tiny(family, layers=1, seed=5), tiny(family, layers=2), batch(family)
    heads = Anatomy.of(student).shape.stack().num_key_value_heads
    expected = eager_value(student, teacher, inputs, "", (1, 1))
    values = captured_value(
        MiniLMv2(relations={"vv": 1.0}, relation_heads=heads, teacher_layer=1), student, teacher, inputs
    )
    after, before = (
        captured_value(MiniLM(teacher_layer=1, rope=rope), student, teacher, inputs) for rope in ("after", "before")
    )
    close(after - values, expected)
    assert (before - after).abs() > 1e-3


def test_t5_relations_are_those_of_its_content() -> None:
    """Without position bias, and with queries larger by the root of the head size, which T5 does not divide by."""
    models = [tiny("t5", layers=1, seed=seed) for seed in (5, 0)]
    inputs = batch("t5")
    for model in models:
        model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.data.zero_()
    expected = eager_value(models[0], models[1], inputs, "encoder", (1, 1))
    for model in models:
        model.encoder.block[0].layer[0].SelfAttention.q.weight.data.mul_(math.sqrt(16))
    found = captured_value(
        MiniLMv2(relations={"qk": 1.0}, relation_heads=4, stack="encoder"), models[0], models[1], inputs
    )
    assert expected > 0.1
    close(found, expected)


def test_the_attention_function_does_not_matter() -> None:
    student, teacher, inputs = tiny("llama", layers=2, seed=5), tiny("llama"), batch("llama")
    expected = captured_value(MiniLMv2(), student, teacher, inputs)
    student.set_attn_implementation("sdpa")
    teacher.set_attn_implementation("sdpa")
    close(captured_value(MiniLMv2(), student, teacher, inputs), expected)


def test_attention_dropout_does_not_reach_the_relations() -> None:
    student = tiny("bert", layers=1, seed=5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    teacher, inputs = tiny("bert"), batch("bert")
    expected = captured_value(MiniLM(), student, teacher, inputs)
    close(captured_value(MiniLM(), student.train(), teacher, inputs), expected, 0.0)


# ---- the gradient of a whole step ----


def textbook(model: nn.Module, layer: int, inputs: Batch) -> dict[str, Tensor]:
    """Queries, keys and values by projecting the hidden states once more."""
    states = model(**inputs, output_hidden_states=True).hidden_states[layer - 1]
    attention = model.bert.encoder.layer[layer - 1].attention.self
    return {name[0]: getattr(attention, name)(states) for name in ("query", "key", "value")}


def log_relations(projection: Tensor, mask: Tensor, heads: int) -> Tensor:
    parts = projection.unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = parts @ parts.transpose(2, 3) / math.sqrt(parts.shape[-1])
    return torch.log_softmax(scores.masked_fill(~mask[:, None, None].bool(), -1e30), dim=-1)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_the_students_gradient_is_that_of_the_textbook_loss(heads: int) -> None:
    student, teacher = tiny("bert", layers=2, seed=5, hidden_size=16), tiny("bert")
    inputs = batch("bert")
    mask = inputs["attention_mask"]
    with torch.no_grad():
        targets = textbook(teacher, 2, inputs)
    loss = torch.zeros(())
    for name, projection in textbook(student, 1, inputs).items():
        log_p, log_q = (log_relations(each, mask, heads) for each in (targets[name], projection))
        rows = (log_p.exp() * (log_p - log_q)).sum(-1).mean(1) * mask
        loss = loss + (rows.sum(1) / mask.sum(1)).sum()
    parameters = [p for name, p in student.named_parameters() if "layer.0" in name and "self" in name]
    expected = torch.autograd.grad(loss, parameters)
    objective = MiniLMv2(relation_heads=heads, teacher_layer=2, student_layer=1)
    found = captured_value(objective, student, teacher, inputs)
    close(found, loss)
    assert int(objective.count(inputs, TASKS["masked_lm"])) == 3
    for mine, theirs in zip(torch.autograd.grad(found, parameters), expected, strict=True):
        close(mine, theirs)


def test_it_trains(tmp_path: Any) -> None:
    """A trainer with nothing but relations: the loss falls, and what they do not reach stays as it was."""
    student = tiny_tasks.model("masked_lm", layers=2, hidden=32, seed=1)
    head = student.cls.predictions.transform.dense.weight.clone()
    trainer = DistillationTrainer(
        model=student,
        teacher=tiny_tasks.model("masked_lm", layers=4, hidden=48, seed=2),
        objectives=MiniLM() + MiniLMv2(relation_heads=8, teacher_layer=3),
        args=tiny_tasks.arguments(max_steps=30, learning_rate=0.05, logging_steps=1),
        train_dataset=tiny_tasks.rows("masked_lm"),
        data_collator=tiny_tasks.Pad(0),
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(student.cls.predictions.transform.dense.weight, head)


# ---- made-up activations ----


def drawn(seed: int, examples: int = 1, length: int = 6, queries: int = 8, keys: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"queries": queries, "keys": keys, "values": keys}
    return {name: torch.randn(examples, length, size, generator=generator).double() for name, size in sizes.items()}


def stack(heads: int = 2, key_heads: int = 2, size: int = 4, causal: bool = False, layers: int = 2) -> StackShape:
    return StackShape(layers, heads * size, heads, key_heads, size, causal)


def bound(objective: Objective, student: StackShape, teacher: StackShape | None = None) -> Objective:
    sides = [Shape("made_up", {"": each}, 5, 30, None) for each in (student, teacher or student)]
    objective.bind(Pair.from_shapes(sides[0], sides[1], TASKS["masked_lm"]))
    return objective


def value(objective: Objective, student: dict[str, Tensor], teacher: dict[str, Tensor], **columns: Tensor) -> Tensor:
    examples, length = student["queries"].shape[:2]
    mask = columns.setdefault("attention_mask", torch.ones(examples, length, dtype=torch.long))
    columns["input_ids"] = torch.zeros_like(mask)
    sides = [
        Activations(mask=mask, **{name: {layer: tensor} for name, tensor in side.items()})
        for side, layer in zip((student, teacher), objective.layers, strict=True)
    ]
    return objective(sides[0], sides[1], columns)


BOTH = pytest.mark.parametrize("make", [MiniLM, MiniLMv2], ids=["minilm", "minilm_v2"])


@BOTH
@pytest.mark.parametrize("causal", [True, False])
def test_a_packed_row_is_its_documents(make: type[Objective], causal: bool) -> None:
    """A row of 4 and 2 tokens and 1 of padding equals two rows, one padded on the left."""
    objective = bound(make(reduction="token_mean", causal=causal), stack())
    student, teacher = drawn(1), drawn(2)
    padded = [{name: nn.functional.pad(t, (0, 0, 0, 1)) for name, t in side.items()} for side in (student, teacher)]
    packed = value(
        objective,
        *padded,
        attention_mask=torch.tensor([[1, 1, 1, 1, 1, 1, 0]]),
        position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 1]]),
    )
    rows = [
        {name: torch.cat([t[:, :4], nn.functional.pad(t[:, 4:], (0, 0, 2, 0))]) for name, t in side.items()}
        for side in (student, teacher)
    ]
    apart = value(objective, *rows, attention_mask=torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]))
    together = value(objective, student, teacher)
    close(packed, apart, 1e-12)
    assert (together - apart).abs() > 1e-2


@BOTH
def test_documents_are_those_of_the_encoder(make: type[Objective]) -> None:
    """The positions are of the text that an encoder reads, not of a decoder's; as in the objectives over scores."""
    mask = torch.ones(1, 6, dtype=torch.long)
    batch = {"input_ids": mask, "attention_mask": mask, "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1]])}
    found = {}
    for name in ("", "encoder", "decoder"):
        objective = make(stack=name, causal=False)
        one = shape(2, 12, encoder_decoder=bool(name))
        objective.bind(Pair.from_shapes(one, one, TASKS["single_label"]))
        generator = torch.Generator().manual_seed(4)
        sides = []
        for _ in range(2):
            fields = {word: {2: torch.randn(1, 6, 12, generator=generator)} for word in ("queries", "keys", "values")}
            plain = Activations(mask=mask, **fields)
            sides.append(Activations(mask=mask, **{name: plain}) if name else plain)
        found[name] = float(objective(*sides, batch))
    assert found["encoder"] == pytest.approx(found[""], rel=1e-6)
    assert abs(found["decoder"] - found[""]) > 1e-2


@pytest.mark.parametrize("rope", ["before", "after"])
def test_a_packed_batch_of_a_real_model(rope: str) -> None:
    """Llama keeps packed documents apart in its own attention; with the relations doing so, nothing leaks."""
    student, teacher = tiny("llama", layers=2, seed=5), tiny("llama")
    ids = torch.randint(3, 96, (1, 9), generator=torch.Generator().manual_seed(3))
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]])
    objective = MiniLMv2(reduction="token_mean", rope=rope)
    packed = captured_value(objective, student, teacher, {"input_ids": ids, "position_ids": positions})
    apart = sum(captured_value(objective, student, teacher, {"input_ids": part}) for part in (ids[:, :5], ids[:, 5:]))
    assert apart > 0.1
    close(packed, apart)


@BOTH
def test_positions_of_another_shape_are_refused(make: type[Objective]) -> None:
    objective = bound(make(), stack())
    with pytest.raises(DataError, match=r"position_ids have the shape \(3, 1, 6\)"):
        value(objective, drawn(1), drawn(2), position_ids=torch.zeros(3, 1, 6, dtype=torch.long))


@BOTH
def test_a_causal_model_on_either_side_hides_the_future(make: type[Objective]) -> None:
    student, teacher = drawn(1), drawn(2)
    given = {causal: value(bound(make(causal=causal), stack()), student, teacher) for causal in (True, False)}
    assert (given[True] - given[False]).abs() > 1e-2
    for mine, theirs in ((True, False), (False, True), (True, True), (False, False)):
        found = value(bound(make(), stack(causal=mine), stack(causal=theirs)), student, teacher)
        assert torch.equal(found, given[mine or theirs])


@BOTH
def test_the_first_token_of_a_causal_text_counts_and_costs_nothing(make: type[Objective]) -> None:
    objective = bound(make(), stack(causal=True))
    student, teacher = ({name: tensor[:, :1] for name, tensor in drawn(seed).items()} for seed in (1, 2))
    found = value(objective, student, teacher)
    assert found == 0
    mask = torch.tensor([[1]])
    assert int(objective.count({"input_ids": mask, "attention_mask": mask}, TASKS["masked_lm"])) == 1


def test_a_rotation_inside_each_relation_head_does_not_matter() -> None:
    """A relation knows inner products alone: turn the student's queries by 30 degrees in both heads of four."""
    objective = bound(MiniLMv2(relation_heads=2), stack())
    student, teacher = drawn(1), drawn(2)
    expected = value(objective, student, teacher)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()).Q
    turned = {name: (tensor.unflatten(-1, (2, 4)) @ turn).flatten(-2) for name, tensor in student.items()}
    assert (turned["queries"] - student["queries"]).abs().max() > 0.1
    close(value(objective, turned, teacher), expected, 1e-12)


@BOTH
def test_the_order_of_heads_does_not_matter(make: type[Objective]) -> None:
    settings = {"relation_heads": 4} if make is MiniLMv2 else {}
    objective = bound(make(**settings), stack(heads=4, key_heads=4, size=2))
    sides = drawn(1), drawn(2)
    expected = value(objective, *sides)
    swapped = [
        {name: tensor.unflatten(-1, (4, 2))[..., [2, 0, 3, 1], :].flatten(-2) for name, tensor in side.items()}
        for side in sides
    ]
    close(value(objective, *swapped), expected, 1e-12)


def test_grouped_keys_are_not_repeated() -> None:
    """Repeated keys and values would double the width of a relation head and so change its scale."""
    student, teacher = drawn(1, keys=4), drawn(2, keys=4)
    grouped = value(bound(MiniLMv2(relation_heads=1), stack(key_heads=1)), student, teacher)
    repeated = [
        {name: tensor if name == "queries" else torch.cat([tensor, tensor], -1) for name, tensor in side.items()}
        for side in (student, teacher)
    ]
    other = value(bound(MiniLMv2(relation_heads=1), stack()), *repeated)
    assert (grouped - other).abs() > 1e-2


def test_models_with_other_heads_and_groups_fit() -> None:
    student, teacher = drawn(1, queries=12, keys=4), drawn(2, queries=16, keys=8)
    objective = bound(MiniLMv2(relation_heads=4), stack(6, 2, 2), stack(4, 2, 4))
    assert value(objective, student, teacher) > 0.1


def test_weights_of_relations() -> None:
    student, teacher = drawn(1), drawn(2)
    single = {
        name: value(bound(MiniLMv2(relations={name: 1.0}), stack()), student, teacher) for name in ("qq", "vk", "kv")
    }
    mixed = value(bound(MiniLMv2(relations={"qq": 0.5, "vk": 2}), stack()), student, teacher)
    close(mixed, 0.5 * single["qq"] + 2 * single["vk"], 1e-12)
    assert (single["vk"] - single["kv"]).abs() > 1e-2


def test_only_the_projections_of_the_relations_are_read() -> None:
    objective = bound(MiniLMv2(relations={"qk": 1}, teacher_layer=1), stack())
    assert objective.needs().student == {Signal("queries", 2), Signal("keys", 2)}
    assert objective.needs().teacher == {Signal("queries", 1), Signal("keys", 1)}
    rotated = bound(MiniLM(rope="after", student_layer=1), stack())
    assert rotated.needs().student == {Signal("rotated_queries", 1), Signal("rotated_keys", 1), Signal("values", 1)}


# ---- rotary position embedding ----


def test_rotated_queries_and_keys_are_the_models_own() -> None:
    model, inputs = tiny("qwen3"), batch("qwen3")
    signals = [Signal(name, 2) for name in ("queries", "keys", "rotated_queries", "rotated_keys")]
    found = shown(model, frozenset(signals), inputs)
    cos, sin = model.model.rotary_emb(torch.zeros(3, 11, 32), torch.arange(11).expand(3, -1))
    heads = (
        found.queries[2].unflatten(-1, (4, 16)).transpose(1, 2),
        found.keys[2].unflatten(-1, (2, 16)).transpose(1, 2),
    )
    queries, keys = apply_rotary_pos_emb(*heads, cos, sin)
    torch.testing.assert_close(found.rotated_queries[2], queries.transpose(1, 2).flatten(2))
    torch.testing.assert_close(found.rotated_keys[2], keys.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_without_rotation_after_is_before(family: str) -> None:
    prefix = "encoder" if family in ENCODER_DECODERS else ""
    signals = frozenset(Signal(name, 2, prefix) for name in ("queries", "rotated_queries", "keys", "rotated_keys"))
    found = shown(tiny(family), signals, batch(family)).stack(prefix)
    assert torch.equal(found.rotated_queries[2], found.queries[2])
    assert torch.equal(found.rotated_keys[2], found.keys[2])


def test_relations_of_whole_rotated_heads_know_distances_alone() -> None:
    """In the first layer, where nothing else depends on positions; halves of heads would see the shift."""
    student, teacher, inputs = tiny("llama", layers=1, seed=5), tiny("llama"), batch("llama")
    objective = MiniLMv2(teacher_layer=1, relation_heads=2, rope="after")
    values = [
        captured_value(objective, student, teacher, inputs | {"position_ids": torch.arange(shift, shift + 11)[None]})
        for shift in (0, 7)
    ]
    close(values[1], values[0])


def test_a_rotated_head_is_not_cut() -> None:
    objective = MiniLMv2(relation_heads=4, rope="after")
    with pytest.raises(
        IncompatiblePair,
        match=r"does not divide all of .*student attention heads 8, student key heads 2, .*; it may be 1, 2\.",
    ):
        bound(objective, stack(8, 2, 4), stack(4, 4, 8))
    assert bound(MiniLMv2(relation_heads=4), stack(8, 2, 4), stack(4, 4, 8)).to_compare[0].heads == 4
    only_values = MiniLMv2(relation_heads=4, rope="after", relations={"vv": 1})
    assert bound(only_values, stack(8, 2, 4), stack(4, 4, 8)).to_compare[0].heads == 4


# ---- heads, layers, settings ----


@pytest.mark.parametrize(
    ("student", "teacher", "heads"),
    [
        ((12, 32), (12, 64), 48),
        ((12, 64), (16, 64), 64),
        ((12, 32), (16, 64), 64),
        ((12, 26), (12, 64), 24),
        ((2, 2), (2, 2), 1),
    ],
)
def test_the_default_number_of_relation_heads(student: tuple[int, int], teacher: tuple[int, int], heads: int) -> None:
    """Widths 384, 768, 1024, 312: the paper's 48 for a base teacher and 64 for a large one, where they divide."""
    sides = [stack(number, number, size) for number, size in (student, teacher)]
    objective = bound(MiniLMv2(), *sides)
    assert {relation.heads for relation in objective.to_compare} == {heads}
    assert objective.settings()["relation_heads"] is None


def test_relation_heads_must_divide_every_width() -> None:
    with pytest.raises(
        IncompatiblePair,
        match=r"relation_heads is 48, which does not divide all of student key width 312, .*teacher value width 768; "
        r"it may be 1, 2, 3, 4, 6, 8, 12, 24\.",
    ):
        bound(MiniLMv2(relation_heads=48), stack(12, 12, 26), stack(12, 12, 64))


def test_unequal_projections_are_no_relation() -> None:
    with pytest.raises(IncompatiblePair, match=r"'qk' pairs a query width of 32 with a key width of 8 in the student"):
        bound(MiniLMv2(relations={"qk": 1}), stack(8, 2, 4), stack(8, 8, 4))


@pytest.mark.parametrize(("student", "teacher"), [((4, 4), (2, 2)), ((4, 2), (4, 4))])
def test_v1_needs_equal_heads(student: tuple[int, int], teacher: tuple[int, int]) -> None:
    with pytest.raises(IncompatiblePair, match=r"minilm: the student has 4 attention heads .* or use minilm_v2"):
        bound(MiniLM(), stack(*student), stack(*teacher))


@BOTH
def test_a_layer_beyond_the_model_is_refused(make: type[Objective]) -> None:
    with pytest.raises(IncompatiblePair, match=r"teacher_layer is 21, and the teacher has layers 1 to 12; .* leave"):
        bound(make(teacher_layer=21), stack(), stack(layers=12))
    with pytest.raises(IncompatiblePair, match="student_layer is 3, and the student has layers 1 to 2"):
        bound(make(student_layer=3), stack(), stack(layers=12))
    assert bound(make(), stack(layers=3), stack(layers=12)).layers == (3, 12)


@BOTH
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"teacher_layer": 0}, "teacher_layer is 0; it must be a whole number from 1 on"),
        ({"teacher_layer": True}, "teacher_layer is True"),
        ({"student_layer": 2.0}, "student_layer is 2.0"),
        ({"student_layer": "last"}, "student_layer is 'last'"),
        ({"causal": 1}, "causal is 1; it must be true or false"),
        ({"rope": "befor"}, r"rope is 'befor' \(did you mean 'before'\?\)"),
        ({"reduction": "mean"}, "reduction is 'mean'; it may be example_mean, token_mean"),
        ({"stack": "both"}, "stack is 'both'"),
    ],
)
def test_settings_are_checked_where_they_enter(make: type[Objective], settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        make(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"relation_heads": 0}, "relation_heads is 0"),
        ({"relation_heads": 12.0}, "relation_heads is 12.0"),
        ({"relations": {}}, r"relations is {}; it must map pairs such as qq, kk or vv to weights"),
        ({"relations": ["qq"]}, r"relations is \['qq'\]"),
        ({"relations": {"qx": 1.0}}, "a name in relations is 'qx'; it may be qq, qk"),
        ({"relations": {"qq": 0.0}}, "the weight of qq in relations is 0.0; it must be a number above 0"),
        ({"relations": {"qq": float("inf")}}, "the weight of qq in relations is inf"),
        ({"relations": {"qq": True}}, "the weight of qq in relations is True"),
    ],
)
def test_relations_are_checked_where_they_enter(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        MiniLMv2(**settings)


@BOTH
def test_other_positions_are_refused(make: type[Objective]) -> None:
    with pytest.raises(IncompatiblePair, match="student shows 1 texts of 6 positions, the teacher 1 of 5"):
        value(bound(make(), stack()), drawn(1), drawn(2, length=5))


@BOTH
def test_a_stack_is_named_where_there_are_two(make: type[Objective]) -> None:
    two = shape(encoder_decoder=True)
    with pytest.raises(IncompatiblePair, match="'encoder' and 'decoder'"):
        make().bind(Pair.from_shapes(two, two, TASKS["seq2seq_lm"]))
