"""Depth and width by measured importance, beside the same worked out token by token, or with layers taken out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from hf_distill import students
from hf_distill.anatomy import Anatomy
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.students.block_importance import Kept
from hf_distill.students.importance import LAYOUTS, Ranking
from hf_distill.students.layers import cut_layers
from hf_distill.students.shape import cut_shape
from tests.tiny_models import batch, tiny


def labelled(family: str, seed: int = 1) -> dict[str, Tensor]:
    found = batch(family, seed)
    return found | {"labels": found["input_ids"].masked_fill(found["attention_mask"] == 0, -100)}


def kept(family: str, number: int, pick: str, **more) -> Kept:
    batches = [labelled(family), labelled(family, 2)]
    return cut_layers(tiny(family, layers=5), number, pick, calibration=batches, **more)[1]


def tokens_of(inputs: dict[str, Tensor]) -> list[tuple[int, int]]:
    return [(row, place) for row, length in enumerate(inputs["attention_mask"].sum(1)) for place in range(length)]


def states_of(teacher: PreTrainedModel, inputs: dict[str, Tensor]) -> dict[int, Tensor]:
    """What goes into the first block, and what comes out of each."""
    states: dict[int, Tensor] = {}

    def keep(number: int):
        def hook(module, args, output):
            states.setdefault(0, args[0])
            states[number] = output if isinstance(output, Tensor) else output[0]

        return hook

    handles = [block.register_forward_hook(keep(i)) for i, block in enumerate(Anatomy.of(teacher).blocks(), start=1)]
    with torch.no_grad():
        teacher(**inputs)
    for handle in handles:
        handle.remove()
    return states


def cosine_by_loops(family: str, below: int, above: int) -> float:
    """The mean cosine of two of the teacher's states, over the tokens of both batches."""
    teacher, found = tiny(family, layers=5).double(), []
    for seed in (1, 2):
        inputs = batch(family, seed)
        states = states_of(teacher, inputs)
        for at in tokens_of(inputs):
            x, y = (states[layer][at].tolist() for layer in (below, above))
            dot = sum(a * b for a, b in zip(x, y, strict=True))
            found.append(dot / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y)))
    return sum(found) / len(found)


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_blocks_that_change_little_go_first(family):
    found = kept(family, 2, "importance")
    by_loops = [1 - cosine_by_loops(family, layer, layer + 1) for layer in range(5)]
    assert found.scores[""] == pytest.approx(by_loops, abs=1e-5)
    assert found.layers[""] == sorted(sorted(range(1, 6), key=lambda layer: by_loops[layer - 1])[-2:])


def test_a_run_of_blocks_that_changes_little_goes_as_one():
    found = kept("llama", 3, "importance", contiguous=True)
    by_loops = [1 - cosine_by_loops("llama", layer, layer + 2) for layer in range(4)]
    assert found.scores[""] == pytest.approx(by_loops, abs=1e-5)
    first = by_loops.index(min(by_loops)) + 1
    assert found.layers[""] == [layer for layer in range(1, 6) if layer not in (first, first + 1)]
    assert kept("llama", 5, "importance", contiguous=True).layers[""] == [1, 2, 3, 4, 5]


def mean_loss(model: PreTrainedModel, family: str) -> float:
    total, number = 0.0, 0
    for seed in (1, 2):
        inputs = labelled(family, seed)
        labels = inputs.pop("labels")[:, 1:]
        with torch.no_grad():
            logits = model(**inputs).logits[:, :-1].double()
        total += float(functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
        number += int((labels != -100).sum())
    return total / number


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("length", [1, 3])
def test_the_rise_of_the_loss_is_that_of_a_student_without_the_layers(family, length):
    found = kept(family, 5 - length, "loss_rise", contiguous=length > 1)
    teacher = tiny(family, layers=5)
    whole, rises = mean_loss(teacher, family), []
    for first in range(1, 7 - length):
        others = [layer for layer in range(1, 6) if not first <= layer < first + length]
        rises.append(mean_loss(students.from_layers(teacher, others), family) - whole)
    assert found.scores[""] == pytest.approx(rises, abs=2e-5)
    first = rises.index(min(rises)) + 1
    assert found.layers[""] == [layer for layer in range(1, 6) if not first <= layer < first + length]


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("pick", ["importance", "loss_rise"])
def test_each_stack_of_an_encoder_decoder_is_chosen_by_itself(family, pick):
    inputs = batch(family)
    inputs["labels"] = inputs.pop("decoder_input_ids")
    inputs.pop("decoder_attention_mask")
    teacher = tiny(family)
    student, found = cut_layers(teacher, 2, pick, decoder_layers=1, calibration=[inputs])
    assert {stack: len(layers) for stack, layers in found.layers.items()} == {"encoder": 2, "decoder": 1}
    by_hand = students.from_layers(teacher, found.layers["encoder"], decoder_layers=found.layers["decoder"])
    assert all(torch.equal(tensor, by_hand.state_dict()[name]) for name, tensor in student.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())


@pytest.mark.parametrize(
    ("family", "layers", "settings", "words"),
    [
        ("llama", 2, {"pick": "importance"}, "pick 'importance' needs calibration"),
        ("llama", 2, {"pick": "spread", "calibration": []}, "pick 'spread' has no use for calibration"),
        ("llama", 2, {"pick": "importance", "calibration": []}, "calibration has no batch"),
        ("llama", 4, {"pick": "importance", "calibration": [batch("llama")]}, "4 layers are asked .* teacher has 3"),
        ("llama", [1], {"pick": "loss_rise", "calibration": []}, "given one by one, so pick 'loss_rise' has nothing"),
        ("llama", 2, {"pick": "first", "contiguous": True}, "contiguous goes with a pick that is measured"),
        ("albert", 1, {"pick": "loss_rise", "calibration": [labelled("albert")]}, "share their blocks"),
    ],
)
def test_refused_layers(family, layers, settings, words):
    with pytest.raises(IncompatiblePair, match=words):
        students.from_layers(tiny(family), layers, **settings)


def test_a_loss_needs_labels():
    with pytest.raises(DataError, match="labels"):
        students.from_layers(tiny("llama"), 2, "loss_rise", calibration=[batch("llama")])


# --- width ----------------------------------------------------------------------------------------


def score(texts: list[list[float]], over_tokens: str, over_texts: str) -> float:
    """Of one dimension, from its activations text by text."""

    def joined(values: list[float], how: str) -> float:
        mean = sum(values) / len(values)
        return {
            "mean": sum(map(abs, values)) / len(values),
            "l2": math.sqrt(sum(v * v for v in values)),
            "var": sum((v - mean) ** 2 for v in values) / len(values),
        }[how]

    return joined([joined(values, over_tokens) for values in texts], over_texts)


def largest(scores: list[float], number: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:number])


@pytest.mark.parametrize(("over_tokens", "over_texts"), [(None, None), ("l2", "mean"), ("var", "l2"), ("mean", "var")])
def test_a_llama_is_cut_by_its_activations(over_tokens, over_texts):
    teacher, inputs = tiny("llama", layers=2), batch("llama")
    seen: dict[str, Tensor] = {}
    handles = []
    for i, block in enumerate(teacher.model.layers):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            module = block.get_submodule(name)
            handles.append(
                module.register_forward_pre_hook(lambda _, args, k=f"{i}.{name}": seen.update({k: args[0]}))
            )
        for name in ("input_layernorm", "post_attention_layernorm"):
            module = block.get_submodule(name)
            handles.append(module.register_forward_hook(lambda _, args, out, k=f"{i}.{name}": seen.update({k: out})))
    with torch.no_grad():
        teacher(**inputs)
    for handle in handles:
        handle.remove()
    lengths, how = inputs["attention_mask"].sum(1).tolist(), (over_tokens or "mean", over_texts or "l2")

    def scores(name: str) -> list[float]:
        values = seen[name].double()
        return [
            score([values[row, :n, i].tolist() for row, n in enumerate(lengths)], *how)
            for i in range(values.shape[-1])
        ]

    norms = [scores(f"{i}.{name}") for i in range(2) for name in ("input_layernorm", "post_attention_layernorm")]
    hidden = largest([sum(values) for values in zip(*norms, strict=True)], 16)
    student = students.from_shape(
        teacher, hidden_size=16, num_attention_heads=2, num_key_value_heads=1, intermediate_size=20,
        initialisation="importance", calibration=[inputs], ranking="activations", over_tokens=over_tokens,
        over_texts=over_texts,
    )  # fmt: skip
    words = teacher.model.embed_tokens.weight
    assert torch.equal(student.model.embed_tokens.weight, words[:, hidden])
    for i, (mine, theirs) in enumerate(zip(student.model.layers, teacher.model.layers, strict=True)):
        inner = largest(scores(f"{i}.mlp.down_proj"), 20)
        assert torch.equal(mine.mlp.gate_proj.weight, theirs.mlp.gate_proj.weight[inner][:, hidden])
        assert torch.equal(mine.mlp.down_proj.weight, theirs.mlp.down_proj.weight[hidden][:, inner])
        of_heads = [s * s for s in scores(f"{i}.self_attn.o_proj")]
        group = largest([sum(of_heads[16 * g : 16 * g + 16]) for g in range(2)], 1)[0]
        rows = list(range(16 * group, 16 * group + 16))
        assert torch.equal(mine.self_attn.q_proj.weight, theirs.self_attn.q_proj.weight[rows][:, hidden])
        keys = list(range(8 * group, 8 * group + 8))
        assert torch.equal(mine.self_attn.v_proj.weight, theirs.self_attn.v_proj.weight[keys][:, hidden])
        assert torch.equal(mine.self_attn.o_proj.weight, theirs.self_attn.o_proj.weight[hidden][:, rows])


@pytest.mark.parametrize("family", ["qwen2", "cohere", "opt", "modernbert"])
def test_silent_heads_and_neurons_leave_no_trace_in_further_families(family):
    """Half of the heads, or groups of them, and half of the neurons are not read; the student lacks just these."""
    teacher, inputs, layout = tiny(family), batch(family), LAYOUTS[family]
    for block in Anatomy.of(teacher).blocks():
        block.get_submodule(layout.narrowing).weight.data[:, ::2] = 0
        block.get_submodule(layout.joined).weight.data[:, :16] = 0
    with torch.no_grad():
        expected = teacher(**inputs).logits
        real = inputs["attention_mask"].bool()
        cut = {"intermediate_size": 24, "initialisation": "importance", "calibration": [inputs]}
        student = students.from_shape(teacher, **cut)
        torch.testing.assert_close(student(**inputs).logits[real], expected[real], rtol=1e-4, atol=2e-5)
        if family in ("qwen2", "cohere"):
            student = students.from_shape(teacher, num_attention_heads=2, **cut)
            assert student.config.head_dim == 8
            assert Anatomy.of(student).shape.stack().num_key_value_heads == 1
            torch.testing.assert_close(student(**inputs).logits[real], expected[real], rtol=1e-4, atol=2e-5)


def test_step_by_step_everything_is_measured_anew():
    teacher, batches = tiny("llama", layers=5), [labelled("llama")]
    sizes = {"num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    settings = {"initialisation": "importance", "calibration": batches, "pick": "loss_rise", "ranking": "activations"}
    half = {"num_hidden_layers": 4, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 36}
    between = students.from_shape(teacher, **half, num_key_value_heads=2, **settings)
    expected = students.from_shape(between, **sizes, num_key_value_heads=1, **settings)
    found, cut = cut_shape(
        teacher, sizes | {"num_key_value_heads": None}, initialisation="importance", calibration=iter(batches),
        pick="loss_rise", contiguous=False, ranking=Ranking("activations"), steps=2,
    )  # fmt: skip
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in found.state_dict().items())
    assert torch.equal(found.model.embed_tokens.weight, teacher.model.embed_tokens.weight[:, cut.hidden])
    for mine, layer in zip(found.model.layers, cut.kept.layers[""], strict=True):
        assert torch.isin(mine.mlp.down_proj.weight, teacher.model.layers[layer - 1].mlp.down_proj.weight).all()


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"ranking": "activation"}, DistillationError, "ranking is 'activation' .did you mean 'activations'"),
        ({"ranking": "activations", "over_texts": "sum"}, DistillationError, "over_texts is 'sum'"),
        ({"over_tokens": "l2"}, DistillationError, "over_tokens is 'l2', and ranking is 'added'"),
        ({"steps": 0}, DistillationError, "steps is 0; it must be a whole number from 1 on"),
        ({"initialisation": "random", "calibration": None, "steps": 2}, IncompatiblePair, "steps says what is kept"),
        ({"initialisation": "random", "calibration": None, "pick": "importance"}, IncompatiblePair, "pick says what"),
    ],
)
def test_refused_ways_to_measure(settings, error, words):
    given = {"initialisation": "importance", "calibration": [batch("llama")], "hidden_size": 16} | settings
    with pytest.raises(error, match=words):
        students.from_shape(tiny("llama"), **given)
