"""Students of another shape: published sizes, right configurations, and cuts that keep what matters."""

from __future__ import annotations

import math

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)
from transformers.pytorch_utils import Conv1D

from hf_distill import students
from hf_distill.anatomy import Anatomy
from hf_distill.errors import IncompatiblePair
from hf_distill.students.importance import LAYOUTS
from hf_distill.students.shape import INTERMEDIATE
from tests.tiny_models import CLASSIFIER, FURTHER, LANGUAGE, SPANS, batch, tiny


def outputs(model: PreTrainedModel, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        output = model(**inputs)
    return [value for value in output.values() if isinstance(value, Tensor)]


# --- sizes ----------------------------------------------------------------------------------------


def on_meta(kind: type[PreTrainedModel], **settings) -> PreTrainedModel:
    """A model of the published size, without memory."""
    with torch.device("meta"):
        return kind(settings.pop("config", None) or BertConfig(**settings))


def millions(model: nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize(
    ("layers", "width", "inside", "published"),
    [(4, 312, 1200, 14.5), (6, 768, 3072, 67), (6, 384, 1536, 22.7), (12, 384, 1536, 33.4)],
    ids=["TinyBERT4", "TinyBERT6", "MiniLM-L6-H384", "MiniLM-L12-H384"],
)
def test_published_shapes_have_their_published_sizes(layers, width, inside, published):
    teacher = on_meta(BertModel)
    assert millions(teacher) == pytest.approx(109.5, abs=0.05)
    student = students.from_shape(
        teacher, num_hidden_layers=layers, hidden_size=width, num_attention_heads=12, intermediate_size=inside
    )
    assert millions(student) == pytest.approx(published, rel=0.015)


def test_published_students_by_layers_have_their_published_sizes():
    roberta = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
    found = {
        "DistilBERT": students.as_distilbert(on_meta(BertModel)),
        "DistilRoBERTa": students.from_layers(on_meta(RobertaForMaskedLM, config=roberta), 6, "distilbert"),
        "DistilGPT2": students.from_layers(on_meta(GPT2LMHeadModel, config=GPT2Config()), 6, "distilbert"),
    }
    assert {name: round(millions(model)) for name, model in found.items()} == {
        "DistilBERT": 66, "DistilRoBERTa": 82, "DistilGPT2": 82,
    }  # fmt: skip
    assert (found["DistilGPT2"].config.n_layer, found["DistilRoBERTa"].config.num_hidden_layers) == (6, 6)


SMALLER = {"num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 20}
"""Of teachers with 3 or 4 layers, a width of 32, 4 heads and 48 inside."""


def smaller(family: str) -> dict[str, int]:
    """MPNet's blocks share one bias for each head, so its heads stay."""
    return SMALLER | ({"num_attention_heads": 4} if family == "mpnet" else {})


@pytest.mark.parametrize("family", INTERMEDIATE)
def test_a_random_student_of_every_family(family, tmp_path):
    teacher, inputs = tiny(family, layers=4), batch(family)
    torch.manual_seed(3)
    student = students.from_shape(teacher, **smaller(family))
    shape = Anatomy.of(student).shape.stack()
    assert (shape.num_hidden_layers, shape.hidden_size) == (2, 24)
    assert shape.num_attention_heads == smaller(family)["num_attention_heads"]
    assert getattr(student.config, INTERMEDIATE[family]) == 20
    expected = outputs(student, inputs)
    assert expected[0].shape[-1] == 96
    student.save_pretrained(tmp_path)
    loaded = getattr(transformers, LANGUAGE[family]).from_pretrained(tmp_path, attn_implementation="eager")
    assert type(loaded) is type(teacher)
    torch.testing.assert_close(outputs(loaded, inputs)[0], expected[0], rtol=0, atol=1e-6)
    torch.manual_seed(3)
    again = students.from_shape(teacher, **smaller(family))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in student.state_dict().items())
    torch.manual_seed(4)
    other = students.from_shape(teacher, **smaller(family))
    assert not torch.equal(other.get_input_embeddings().weight, student.get_input_embeddings().weight)


def test_what_is_not_given_stays_the_teachers():
    teacher = tiny("bert", CLASSIFIER, hidden_dropout_prob=0.3)
    student = students.from_shape(teacher, num_hidden_layers=2)
    expected = teacher.config.to_diff_dict() | {"num_hidden_layers": 2}
    found = student.config.to_diff_dict()
    assert {name: found.get(name) for name in expected if name != "dtype"} == {
        name: value for name, value in expected.items() if name != "dtype"
    }
    assert not student.training


def test_sizes_that_follow_others():
    student = students.from_shape(tiny("llama"), hidden_size=24, num_attention_heads=2)
    assert (student.config.num_key_value_heads, student.config.head_dim) == (1, 8)
    student = students.from_shape(tiny("llama"), num_attention_heads=4, num_key_value_heads=4)
    assert student.config.num_key_value_heads == 4
    student = students.from_shape(tiny("electra", embedding_size=32), hidden_size=24)
    assert student.config.embedding_size == 24
    student = students.from_shape(tiny("electra", embedding_size=16), hidden_size=24)
    assert student.config.embedding_size == 16
    student = students.from_shape(tiny("gpt2"), hidden_size=24)
    assert student.config.n_inner == 128
    types = students.from_shape(tiny("qwen3", layers=4), num_hidden_layers=2, hidden_size=16).config.layer_types
    assert types == ["sliding_attention", "sliding_attention"]  # of the teacher's layers 2 and 4


# --- cuts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "head"),
    [(family, head) for head in ("", CLASSIFIER, SPANS) for family in LAYOUTS if not head or family not in FURTHER],
)
def test_with_nothing_cut_it_gives_the_teachers_output(family, head):
    teacher, inputs = tiny(family, head), batch(family)
    student = students.from_shape(teacher, initialisation="importance", calibration=[inputs])
    for mine, theirs in zip(outputs(student, inputs), outputs(teacher, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def columns(module: nn.Module) -> Tensor:
    """The weights of a linear layer as `[outputs, inputs]`, to be written to."""
    weight = module.weight.data
    return weight.t() if isinstance(module, Conv1D) else weight


@pytest.mark.parametrize("family", LAYOUTS)
def test_silent_neurons_are_cut_without_a_trace(family):
    teacher, inputs = tiny(family), batch(family)
    generator = torch.Generator().manual_seed(5)
    for block in dict.fromkeys(Anatomy.of(teacher).blocks()):
        reads = columns(block.get_submodule(LAYOUTS[family].narrowing))
        reads[:, torch.randperm(reads.shape[1], generator=generator)[20:]] = 0
    student = students.from_shape(teacher, intermediate_size=20, initialisation="importance", calibration=[inputs])
    assert columns(Anatomy.of(student).blocks()[1].get_submodule(LAYOUTS[family].narrowing)).shape == (32, 20)
    torch.testing.assert_close(outputs(student, inputs)[0], outputs(teacher, inputs)[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize(
    ("groups", "loud"),
    [(1, [(0, 1), (2, 3), (0, 1)]), (2, [(0, 2), (1, 2), (1, 3)])],
    ids=["a whole group of heads", "one head of each group"],
)
def test_silent_heads_are_cut_without_a_trace(family, groups, loud):
    teacher, inputs = tiny(family), batch(family)
    size = teacher.config.head_dim
    for block, heads in zip(teacher.model.layers, loud, strict=True):
        for head in set(range(4)) - set(heads):
            block.self_attn.o_proj.weight.data[:, head * size : (head + 1) * size] = 0
    student = students.from_shape(
        teacher, num_attention_heads=2, num_key_value_heads=groups, initialisation="importance", calibration=[inputs]
    )
    assert student.model.layers[0].self_attn.q_proj.weight.shape == (2 * size, 32)
    assert student.model.layers[0].self_attn.k_proj.weight.shape == (groups * size, 32)
    torch.testing.assert_close(outputs(student, inputs)[0], outputs(teacher, inputs)[0], rtol=1e-4, atol=2e-5)


def largest(scores: list[float], number: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:number])


class ByLoops:
    """What is kept of a BERT or GPT-2 of width 32 with 4 heads, worked out token by token from its own outputs."""

    def __init__(self, teacher: PreTrainedModel, inputs: dict[str, Tensor], layers: list[int]) -> None:
        self.teacher, self.layers = teacher, layers
        output = teacher(**inputs, output_hidden_states=True, output_attentions=True)
        rows, lengths = range(len(inputs["input_ids"])), inputs["attention_mask"].sum(dim=1).tolist()
        self.tokens = [(row, place) for row in rows for place in range(lengths[row])]
        self.states, self.attentions = output.hidden_states, output.attentions

    def hidden(self, number: int) -> list[int]:
        total = [0.0] * 32
        for layer in (0, *self.layers):
            sums = [sum(abs(float(self.states[layer][at][i])) for at in self.tokens) for i in range(32)]
            total = [value + mine / (sum(sums) / 32) for value, mine in zip(total, sums, strict=True)]
        return largest(total, number)

    def block(self, layer: int, heads: int, size: int, inner: int) -> dict[str, list[int]]:
        """Indices into queries, values and neurons of one block."""
        states, attention = self.states[layer - 1], self.attentions[layer - 1]
        block = self.teacher.bert.encoder.layer[layer - 1]
        self_attention, joined = block.attention.self, block.attention.output.dense.weight
        query, key, value = (part(states) for part in (self_attention.query, self_attention.key, self_attention.value))
        mixed = torch.empty_like(value)
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            mixed[..., part] = attention[:, head] @ value[..., part]
        adds = [
            sum(float(mixed[at][i]) ** 2 for at in self.tokens) * float((joined[:, i] ** 2).sum()) for i in range(32)
        ]
        kept = largest([sum(adds[8 * head : 8 * head + 8]) for head in range(4)], heads)
        compares = [
            sum(float(query[at][i]) ** 2 for at in self.tokens) * sum(float(key[at][i]) ** 2 for at in self.tokens)
            for i in range(32)
        ]
        after = block.attention.output(mixed, states)
        neurons, reads = block.intermediate(after), block.output.dense.weight
        loud = [
            sum(float(neurons[at][j]) ** 2 for at in self.tokens) * float((reads[:, j] ** 2).sum()) for j in range(48)
        ]
        return {
            "queries": [8 * head + i for head in kept for i in largest(compares[8 * head : 8 * head + 8], size)],
            "values": [8 * head + i for head in kept for i in largest(adds[8 * head : 8 * head + 8], size)],
            "inner": largest(loud, inner),
        }


@pytest.mark.parametrize(("width", "heads"), [(16, 2), (24, 4)], ids=["heads", "width of heads"])
@torch.no_grad()
def test_what_is_kept_of_a_bert(width, heads):
    teacher, inputs = tiny("bert", CLASSIFIER, layers=4), batch("bert")
    size, by_loops = width // heads, ByLoops(teacher, inputs, [2, 4])
    student = students.from_shape(
        teacher, num_hidden_layers=2, hidden_size=width, num_attention_heads=heads, intermediate_size=20,
        initialisation="importance", calibration=[inputs],
    )  # fmt: skip
    hidden = by_loops.hidden(width)
    assert hidden != list(range(width))
    words = teacher.bert.embeddings.word_embeddings.weight
    assert torch.equal(student.bert.embeddings.word_embeddings.weight, words[:, hidden])
    assert torch.equal(student.classifier.weight, teacher.classifier.weight[:, hidden])
    assert torch.equal(student.bert.pooler.dense.weight, teacher.bert.pooler.dense.weight[hidden][:, hidden])
    for mine, layer in zip(student.bert.encoder.layer, (2, 4), strict=True):
        theirs, kept = teacher.bert.encoder.layer[layer - 1], by_loops.block(layer, heads, size, 20)
        my_self, their_self = mine.attention.self, theirs.attention.self
        scale = math.sqrt(size / 8)
        for name in ("query", "key", "value"):
            rows = kept["values" if name == "value" else "queries"]
            factor = scale if name == "query" else 1.0
            expected = getattr(their_self, name)
            torch.testing.assert_close(getattr(my_self, name).weight, factor * expected.weight[rows][:, hidden])
            torch.testing.assert_close(getattr(my_self, name).bias, factor * expected.bias[rows])
        joined = theirs.attention.output
        assert torch.equal(mine.attention.output.dense.weight, joined.dense.weight[hidden][:, kept["values"]])
        assert torch.equal(mine.attention.output.LayerNorm.weight, joined.LayerNorm.weight[hidden])
        assert torch.equal(mine.intermediate.dense.weight, theirs.intermediate.dense.weight[kept["inner"]][:, hidden])
        assert torch.equal(mine.intermediate.dense.bias, theirs.intermediate.dense.bias[kept["inner"]])
        assert torch.equal(mine.output.dense.weight, theirs.output.dense.weight[hidden][:, kept["inner"]])
        assert torch.equal(mine.output.dense.bias, theirs.output.dense.bias[hidden])


@torch.no_grad()
def test_fused_projections_are_cut_in_their_three_parts():
    """GPT-2 and a BERT-like family choose alike; here queries, keys and values of GPT-2 among themselves."""
    teacher, inputs = tiny("gpt2"), batch("gpt2")
    student = students.from_shape(
        teacher, hidden_size=24, num_attention_heads=4, initialisation="importance", calibration=[inputs]
    )
    theirs, mine = teacher.transformer.h[0], student.transformer.h[0]
    hidden = rows_of(student.transformer.wte.weight.t(), teacher.transformer.wte.weight.t())
    query, key, value = mine.attn.c_attn.weight.t().split(24)
    whole = [part[:, hidden] for part in theirs.attn.c_attn.weight.t().split(32)]
    carried = rows_of(value, whole[2])
    assert rows_of(query / math.sqrt(6 / 8), whole[0]) == rows_of(key, whole[1])
    assert [carried.count(i) for i in range(32)] == [int(i in carried) for i in range(32)]
    assert [sum(8 * head <= i < 8 * head + 8 for i in carried) for head in range(4)] == [6] * 4
    torch.testing.assert_close(mine.attn.c_proj.weight, theirs.attn.c_proj.weight[carried][:, hidden])


def rows_of(part: Tensor, whole: Tensor) -> list[int]:
    """Which rows of `whole` the rows of `part` are."""
    distances = torch.cdist(part.double(), whole.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert float(distances.min(dim=1).values.max()) < 1e-6
    return distances.argmin(dim=1).tolist()


CUT = {
    "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 20, "num_hidden_layers": 2,
    "initialisation": "importance",
}  # fmt: skip


@pytest.mark.parametrize("family", LAYOUTS)
def test_a_cut_student_of_every_family(family, tmp_path):
    teacher, inputs = tiny(family, layers=4), batch(family)
    if family == "mpnet":
        with pytest.raises(IncompatiblePair, match=r"relative_attention_bias.weight of the teacher cannot be cut"):
            students.from_shape(teacher, calibration=[inputs], **CUT)
    settings = CUT | ({"num_attention_heads": 4} if family == "mpnet" else {})
    settings |= {"hidden_size": 24, "num_attention_heads": 4} if family == "electra" else {}
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    random = torch.get_rng_state()
    student = students.from_shape(teacher, calibration=[inputs], **settings)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())
    shared = {tensor.untyped_storage().data_ptr() for tensor in teacher.state_dict().values()}
    assert not any(tensor.untyped_storage().data_ptr() in shared for tensor in student.state_dict().values())
    assert (student.get_input_embeddings().weight is student.get_output_embeddings().weight) == (
        teacher.get_input_embeddings().weight is teacher.get_output_embeddings().weight
    )
    student.save_pretrained(tmp_path)
    loaded = getattr(transformers, LANGUAGE[family]).from_pretrained(tmp_path, attn_implementation="eager")
    torch.testing.assert_close(outputs(loaded, inputs)[0], outputs(student, inputs)[0], rtol=0, atol=1e-6)


def test_padding_batching_and_modes_change_nothing():
    teacher, inputs = tiny("bert", hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5), batch("bert")
    expected = students.from_shape(teacher, calibration=[inputs], **CUT).state_dict()
    padded = {name: torch.nn.functional.pad(value, (0, 5)) for name, value in inputs.items()}
    single = [{name: value[row : row + 1] for name, value in inputs.items()} for row in range(3)]
    teacher.train()
    teacher.bert.pooler = None
    for batches in ([padded], single, iter([inputs])):
        found = students.from_shape(teacher, calibration=batches, **CUT)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())
        assert teacher.training
        assert not found.training


IDS, NO_TEXT = torch.ones(1, 3, dtype=torch.long), torch.zeros(1, 3, dtype=torch.long)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "calibration has no batch"),
        ([{"attention_mask": IDS}], "holds neither input_ids nor inputs_embeds"),
        ([{"input_ids": "x"}], "a batch of calibration is {'input_ids': 'x'}; it must map names to tensors"),
        ({"input_ids": IDS}, "a batch of calibration is 'input_ids'; .*Give a list of batches"),
        ([IDS], "a batch of calibration is tensor"),
        ([{"input_ids": IDS, "attention_mask": NO_TEXT}], "calibration has no batch with text"),
    ],
)
def test_a_failed_calibration_leaves_the_teacher_as_it_was(batches, words):
    teacher = tiny("bert").train()
    with pytest.raises(IncompatiblePair, match=words):
        students.from_shape(teacher, calibration=batches, **CUT)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())
    assert all(module.training for module in teacher.modules())


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "arguments", "words"),
    [
        ("bert", {"num_hidden_layers": 5}, "from_shape: 5 layers are asked for, but the teacher has 3"),
        ("bert", {"hidden_size": 30}, "hidden_size 30 must be a multiple of num_attention_heads 4"),
        ("bert", {"hidden_size": 0}, "hidden_size must be a whole number, at least 1, not 0"),
        ("bert", {"num_attention_heads": True}, "num_attention_heads must be a whole number"),
        ("bert", {"intermediate_size": 4.0}, "intermediate_size must be a whole number, at least 1, not 4.0"),
        ("bert", {"num_hidden_layers": 2.0}, "from_shape: layers must be a whole number or a list of them, not 2.0"),
        ("modernbert", {"hidden_size": 20}, "20 / 4 = 5 is odd, and rotary position embeddings turn pairs"),
        ("bert", {"num_key_value_heads": 2}, "'bert' does not group its heads"),
        ("llama", {"num_attention_heads": 1, "hidden_size": 8}, "1 heads do not fall into groups of 2"),
        ("llama", {"num_key_value_heads": 3}, "4 heads do not fall into 3"),
        ("bert", {"initialisation": "zeros"}, "initialisation must be random or importance, not 'zeros'"),
        ("bert", {"initialisation": "importance"}, "'importance' needs calibration"),
        ("bert", {"calibration": []}, "'random' has no use for calibration"),
        ("bert", {"initialisation": "importance", "calibration": []}, "calibration has no batch"),
        ("t5", {"hidden_size": 16}, "family 't5' cannot be resized; those of bert, roberta"),
        ("mobilebert", {"hidden_size": 16}, "family 'mobilebert' cannot be resized"),
        ("gemma2", {"hidden_size": 16}, "family 'gemma2' cannot be resized"),
    ],
)
def test_refusals(family, arguments, words):
    with pytest.raises(IncompatiblePair, match=words):
        students.from_shape(tiny(family), **arguments)


@pytest.mark.parametrize(
    ("family", "arguments", "words"),
    [
        ("bert", {"hidden_size": 64}, "hidden_size is 64, the teacher's 32"),
        ("bert", {"intermediate_size": 49}, "intermediate_size is 49, the teacher's 48"),
        ("bert", {"num_attention_heads": 2}, "hidden_size / num_attention_heads is 16, the teacher's 8"),
        ("llama", {"num_key_value_heads": 4}, "num_key_value_heads is 4, the teacher's 2"),
        ("llama", {"num_key_value_heads": 1}, "for each of the key-value heads is 4, the teacher's 2"),
        ("modernbert", {"hidden_size": 16}, "heads are 4 wide, the teacher's 8; in 'modernbert' positions turn pairs"),
    ],
)
def test_refused_cuts(family, arguments, words):
    with pytest.raises(IncompatiblePair, match=words):
        students.from_shape(tiny(family), initialisation="importance", calibration=[batch(family)], **arguments)


def test_a_projection_behind_the_embeddings_is_not_lost_without_a_word():
    teacher = tiny("electra")
    assert teacher.config.embedding_size == 16
    cut = {"hidden_size": 16, "initialisation": "importance", "calibration": [batch("electra")]}
    lost = r"electra\.embeddings_project\.bias of the teacher would be lost, as the student of 16 hidden dimensions"
    with pytest.raises(IncompatiblePair, match=lost):
        students.from_shape(teacher, **cut)
    assert students.from_shape(teacher, **cut | {"hidden_size": 12}).config.hidden_size == 12
    assert students.from_shape(teacher, hidden_size=16).config.hidden_size == 16, "nothing is copied"
