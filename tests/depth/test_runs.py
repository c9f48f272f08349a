"""Runs in part against the whole model: which parts run of which family, equal values and gradients, the model
untouched."""

from __future__ import annotations

import re

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.depth import Run, shallow
from hf_distill.depth.blocks import RowAttention, RowOfAttention
from hf_distill.errors import IncompatiblePair
from tests.depth.compared import compare, shown, signals
from tests.tiny_models import (
    BARE,
    CLASSIFIER,
    DECODERS,
    ENCODER_DECODERS,
    FAMILIES,
    SPANS,
    TOKENS,
    batch,
    config,
    tiny,
)

FIRST = ("bert", "roberta", "distilbert", "electra", "albert", "mpnet", "modernbert", "deberta-v2")
"""Families whose sequence classifier reads the first position alone."""

WITHOUT_PROJECTIONS = ("mobilebert", "ib_bert", "deberta-v2")
"""A bottleneck feeds the projections of the first two; those of DeBERTa's queries and keys run for positions, too."""

EAGER_ONLY = ("mpnet", "deberta-v2")

SDPA = [(family, "sdpa") for family in FAMILIES if family not in EAGER_ONLY]
EAGER = [(family, "eager") for family in FAMILIES]

PROJECTED = "the last one as far as its projections"


def stack_of(family: str) -> str:
    return "encoder" if family in ENCODER_DECODERS else ""


def model(family: str, head: str = "", attention: str = "eager", **changes) -> nn.Module:
    made = tiny(family, head, **changes)
    made.set_attn_implementation(attention)
    return made


# ---- layers ----


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("names", [("hidden.2", "hidden.1"), ("hidden.0",), ("final", "hidden.1"), ("embeddings",)])
def test_it_ends_at_the_deepest_layer_that_is_read(family: str, names: tuple[str, ...]) -> None:
    stack = stack_of(family)
    description = compare(model(family), signals(*names, stack=stack), batch(family))
    depth = {"hidden.2": 2, "hidden.0": 0, "embeddings": 0, "final": 3}[names[0]]
    beside = f" of the {stack}" if stack else ""
    assert description == f"{depth} of 3 layers{beside}, without a head"


@pytest.mark.parametrize(("family", "attention"), EAGER + SDPA)
@pytest.mark.parametrize("names", [("queries.2", "keys.2", "values.2"), ("values.3", "hidden.1")])
def test_it_ends_at_projections(family: str, attention: str, names: tuple[str, ...]) -> None:
    description = compare(model(family, "", attention), signals(*names, stack=stack_of(family)), batch(family))
    whole_layer = ("mobilebert", "ib_bert") if names[0] == "values.3" else WITHOUT_PROJECTIONS
    assert (PROJECTED in description) == (family not in whole_layer)


@pytest.mark.parametrize("family", FAMILIES)
def test_rotated_projections_and_scores_end_there_too(family: str) -> None:
    stack, without = stack_of(family), WITHOUT_PROJECTIONS
    rotated = signals("rotated_queries.2", "rotated_keys.2", stack=stack)
    assert (PROJECTED in compare(model(family), rotated, batch(family))) == (family not in without)
    if family == "deberta-v2":
        return
    scores = compare(model(family), signals("scores.2", stack=stack), batch(family))
    assert (PROJECTED in scores) == (family not in (*without, "t5")), "T5's attention returns what is added to scores"


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_decoders_are_cut_above_whole_encoders(family: str) -> None:
    read = signals("values.2", stack="decoder") + signals("hidden.1", stack="encoder")
    assert compare(model(family), read, batch(family)) == f"2 of 3 layers of the decoder, {PROJECTED}, without a head"
    final = compare(model(family), signals("final", stack="decoder"), batch(family))
    assert final == "3 of 3 layers of the decoder, without a head"
    assert compare(model(family), signals("logits"), batch(family)) == "the whole model"


def test_of_layers_that_share_weights_as_many_run_as_are_read() -> None:
    shared = {"num_hidden_groups": 2, "inner_group_num": 2}
    read = signals("hidden.3", "queries.6", "keys.2")
    assert PROJECTED in compare(tiny("albert", layers=4, **shared), read, batch("albert"))
    classifier = tiny("albert", CLASSIFIER, layers=4, **shared)
    read = signals("logits", "hidden.3", "queries.2", "hidden.7")
    assert "first position" in compare(classifier, read, batch("albert"))


def test_a_convolution_behind_the_first_block_runs_where_it_is_read() -> None:
    inputs = batch("deberta-v2")
    assert "1 of 3" in compare(tiny("deberta-v2"), signals("hidden.1"), inputs)
    assert PROJECTED in compare(tiny("deberta-v2"), signals("values.1"), inputs)
    one_layer = tiny("deberta-v2", CLASSIFIER, layers=1)
    assert compare(one_layer, signals("logits"), inputs) == "the whole model"


# ---- one position ----


@pytest.mark.parametrize(("family", "attention"), [pair for pair in EAGER + SDPA if stack_of(pair[0]) == ""])
def test_a_classifier_computes_its_last_layer_for_the_position_it_reads(family: str, attention: str) -> None:
    position = "first" if family in FIRST else "last" if family in DECODERS else ""
    classifier = model(family, CLASSIFIER, attention)
    for read in (signals("logits"), signals("logits", "hidden.2", "hidden.0", "keys.1")):
        description = compare(classifier, read, batch(family))
        expected = f"3 of 3 layers, the last one for the {position} position alone" if position else "the whole model"
        assert description == expected


@pytest.mark.parametrize("family", [*FIRST, *DECODERS])
def test_what_is_read_at_all_positions_of_the_last_layer_keeps_it_whole(family: str) -> None:
    for name in ("hidden.3", "values.3", "final"):
        assert compare(model(family, CLASSIFIER), signals("logits", name), batch(family)) == "the whole model"
    assert compare(model(family, TOKENS), signals("logits"), batch(family)) == "the whole model"


@pytest.mark.parametrize("family", [*FIRST, *DECODERS])
def test_spans_are_read_at_all_positions(family: str) -> None:
    assert compare(model(family, SPANS), signals("start_logits", "end_logits"), batch(family)) == "the whole model"


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_classifiers_with_two_stacks_of_one_layer_run_whole(family: str) -> None:
    made = tiny(family, CLASSIFIER, layers=1)
    assert compare(made, signals("logits"), {n: v[:1] for n, v in batch(family).items() if "decoder" not in n}) == (
        "the whole model"
    )


def test_a_mean_over_the_text_reads_all_positions() -> None:
    classifier = tiny("modernbert", CLASSIFIER, classifier_pooling="mean")
    assert compare(classifier, signals("logits"), batch("modernbert")) == "the whole model"


@pytest.mark.parametrize("family", ["bert", "albert", "mpnet", "roberta"])
def test_a_pooled_state_is_the_first_position_s(family: str) -> None:
    assert "first position" in compare(tiny(family, BARE), signals("pooled", "hidden.1"), batch(family))


def test_attentions_that_take_one_query_are_asked_for_one() -> None:
    kinds = {}
    for family in (*FIRST, *DECODERS):
        run = shallow(Anatomy.of(model(family, CLASSIFIER)), signals("logits"))
        found = {type(made.module) for made in run.views._made} | {
            type(child) for made in run.views._made for child in made.children.values()
        }
        kinds[family] = [kind for kind in (RowAttention, RowOfAttention) if kind in found]
    assert kinds == {family: [RowOfAttention if family in EAGER_ONLY else RowAttention] for family in kinds}


def left_padded(family: str) -> dict[str, Tensor]:
    inputs = batch(family)
    rows = range(len(inputs["input_ids"]))
    shifts = [int((inputs["attention_mask"][row] == 0).sum()) for row in rows]
    return {name: torch.stack([values[row].roll(shifts[row]) for row in rows]) for name, values in inputs.items()}


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_last_token_is_found_wherever_the_padding_is(family: str, attention: str) -> None:
    classifier, read = model(family, CLASSIFIER, attention), signals("logits", "hidden.1")
    compare(classifier, read, left_padded(family))
    inputs = batch(family)
    compare(classifier, read, {"input_ids": inputs["input_ids"]})  # padding that no mask hides
    compare(classifier, read, {"inputs_embeds": torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))})
    run = shallow(Anatomy.of(classifier), read)
    classifier.config.pad_token_id = None
    one = {"input_ids": inputs["input_ids"][:1]}
    part, whole = (shown(classifier, read, one, each) for each in (run, Run.whole(Anatomy.of(classifier))))
    torch.testing.assert_close(part.values, whole.values)


def test_a_bidirectional_family_that_is_made_causal_sees_no_later_position() -> None:
    for attention in ("eager", "sdpa"):
        classifier = model("bert", CLASSIFIER, attention, is_decoder=True)
        compare(classifier, signals("logits"), {"input_ids": batch("bert")["input_ids"][:1, :6]})


# ---- the model ----


def state_of(module: nn.Module) -> dict:
    kept = {}
    for name, child in module.named_modules():
        kept[name] = {key: value for key, value in vars(child).items() if not isinstance(value, dict)}
        kept[name] |= {key: dict(value) for key, value in vars(child).items() if isinstance(value, dict)}
    return kept


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_stays_as_it_is(family: str) -> None:
    made = model(family, CLASSIFIER if stack_of(family) == "" else "")
    names = list(made.state_dict())
    weights = [tensor.clone() for tensor in made.state_dict().values()]
    config, state, inputs = made.config.to_dict(), state_of(made), batch(family)
    expected = made(**inputs).logits
    read = signals("logits") if stack_of(family) == "" else signals("queries.2", stack="encoder")
    shown(made, read, inputs, shallow(Anatomy.of(made), read))
    for parameter in made.parameters():
        parameter.grad = None
    assert list(made.state_dict()) == names
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), weights, strict=True))
    assert state_of(made) == state
    assert made.config.to_dict() == config
    assert torch.equal(made(**inputs).logits, expected)


def test_a_run_follows_the_model() -> None:
    """Mode, weights in another place, other embeddings, and dropout's new draws."""
    made = tiny("bert", CLASSIFIER, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    inputs, read = batch("bert"), signals("logits")
    capture = Capture(Anatomy.of(made), read, "teacher", run=shallow(Anatomy.of(made), read))

    def logits() -> Tensor:
        with torch.no_grad():
            return capture(inputs)[1].logits

    assert torch.equal(logits(), logits())
    made.train()
    assert not torch.equal(logits(), logits())
    made.eval().double()
    assert logits().dtype == torch.float64
    torch.testing.assert_close(logits(), made(**inputs).logits.detach())
    made.resize_token_embeddings(200, mean_resizing=False)
    made.classifier = nn.Linear(32, 5).double()
    torch.testing.assert_close(logits(), made(**inputs).logits.detach())


def test_dropout_keeps_its_law() -> None:
    """The mean over many draws is that of the whole model, within four standard errors."""
    made = tiny("bert", CLASSIFIER, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2).train()
    rows = {name: value[:1].expand(4000, -1) for name, value in batch("bert").items()}
    anatomy, read = Anatomy.of(made), signals("logits")
    torch.manual_seed(0)
    draws = []
    for run in (Run.whole(anatomy), shallow(anatomy, read)):
        capture = Capture(anatomy, read, "teacher", run=run)
        with torch.no_grad():
            draws.append(capture(rows)[1].logits)
        capture.close()
    whole, part = draws
    error = (whole.var(0) / 4000 + part.var(0) / 4000).sqrt()
    assert float(((whole.mean(0) - part.mean(0)) / error).abs().max()) < 4
    assert float((part.std(0) / whole.std(0) - 1).abs().max()) < 0.1


# ---- adapters and checkpointing ----


def with_lora(family: str, targets: list[str]) -> nn.Module:
    torch.manual_seed(0)
    settings = LoraConfig(
        r=4, target_modules=targets, fan_in_fan_out=family == "gpt2", lora_dropout=0.0, task_type=TaskType.SEQ_CLS
    )
    adapted = get_peft_model(tiny(family, CLASSIFIER), settings)
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            nn.init.normal_(module.lora_B["default"].weight, std=0.3)
    return adapted.eval()


@pytest.mark.parametrize(
    ("family", "targets"),
    [("bert", ["query", "value"]), ("gpt2", ["c_attn"]), ("llama", ["q_proj", "k_proj", "o_proj"])],
)
@pytest.mark.parametrize("names", [("logits",), ("queries.3", "values.3"), ("hidden.2",)])
def test_adapted_models_run_in_part(family: str, targets: list[str], names: tuple[str, ...]) -> None:
    adapted = with_lora(family, targets)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert "whole" not in compare(adapted, signals(*names), batch(family))
    assert any("lora" in name for name in trained)
    assert any("score" in name or "classifier" in name for name in trained)


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "gpt2", "llama", "deberta-v2"])
@pytest.mark.parametrize("names", [("logits", "hidden.2"), ("values.3", "hidden.1")])
def test_layers_are_checkpointed_as_in_the_model(family: str, names: tuple[str, ...]) -> None:
    made = model(family, CLASSIFIER)
    enable = getattr(made, "activation_checkpointing_enable", None) or made.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    made.train()
    for module in made.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if hasattr(made.config, "attention_dropout"):
        made.config.attention_dropout = 0.0
    assert "whole" not in compare(made, signals(*names), batch(family))


# ---- what runs whole ----


@pytest.mark.parametrize("signal", [Signal("queries", 4), Signal("hidden", 1, "encoder"), Signal("start_logits")])
def test_a_signal_that_is_not_there_is_refused(signal: Signal) -> None:
    with pytest.raises(IncompatiblePair, match=re.escape(str(signal)) if not signal.stack else "encoder"):
        shallow(Anatomy.of(tiny("bert")), [signal])


def test_it_says_why_a_model_runs_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(made: nn.Module, read: list[Signal] | None = None) -> str:
        return shallow(Anatomy.of(made), read or signals("hidden.1")).description

    asked = tiny("bert")
    asked.config.output_hidden_states = True
    assert reason(asked) == "the whole model, as its config asks for the states of all layers"
    wrapped = tiny("bert")
    wrapped.bert.encoder.layer[0].forward = wrapped.bert.encoder.layer[0].forward
    assert reason(wrapped) == "the whole model, as a module's forward is not its own"
    compiled = tiny("bert")
    compiled.bert.encoder.layer[2].compile(backend="eager")
    assert reason(compiled) == "the whole model, as a module's forward is not its own"
    adapted = get_peft_model(tiny("bert", CLASSIFIER), LoraConfig(r=2, target_modules=["query"]))
    adapted.peft_config["default"].peft_type = "IA3"
    assert reason(adapted) == "the whole model, as its adapter is no plain LoRA"
    stranger = tiny("bert")
    stranger.config.model_type = "stranger"
    assert "no row in the family table" in reason(stranger, signals("logits"))
    chunked = tiny("bert", CLASSIFIER, chunk_size_feed_forward=1)
    assert compare(chunked, signals("logits"), batch("bert")) == "the whole model"
    assert shallow(Anatomy.of(tiny("bert")), []).is_whole


# ---- classes of one's own ----


class MeanHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(32, 3)

    def forward(self, hidden: Tensor, **_: object) -> Tensor:
        return self.out(hidden.mean(1))


class MeanPool(nn.Module):
    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.mean(1)


def test_a_head_or_a_pooler_of_one_s_own_sees_all_positions() -> None:
    pooled, classified = tiny("bert", CLASSIFIER), tiny("roberta", CLASSIFIER)
    pooled.bert.pooler, classified.classifier = MeanPool(), MeanHead()
    for made, name in ((pooled, "MeanPool"), (classified, "MeanHead")):
        description = compare(made, signals("logits"), batch(made.config.model_type))
        assert description == f"the whole model, as {name} is no class of transformers"


class Averaging(BertForSequenceClassification):
    """Reads the mask by itself."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> SequenceClassifierOutput:
        hidden = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1)
        return SequenceClassifierOutput(logits=self.classifier((hidden * weights).sum(1) / weights.sum(1)))


def test_a_forward_of_one_s_own_gets_the_mask_as_it_came() -> None:
    made = Averaging(config("bert"))
    made.set_attn_implementation("sdpa")
    made.eval()
    for given in (batch("bert"), {name: value[:1] for name, value in batch("bert").items()}):
        capture = Capture(Anatomy.of(made), signals("logits"), role="teacher")
        torch.testing.assert_close(capture(given)[1].logits, made(**given).logits, rtol=0, atol=0)


def test_a_mask_of_bfloat16_is_taken() -> None:
    given = batch("bert")
    capture = Capture(Anatomy.of(model("bert", CLASSIFIER, "sdpa")), signals("logits"), role="teacher")
    expected = capture(given)[1].logits
    found = capture(given | {"attention_mask": given["attention_mask"].bfloat16()})[1].logits
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
