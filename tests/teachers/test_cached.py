"""Training from a teacher's cache is training with the teacher."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from hf_distill import AttentionMSE, DistillationTrainer, HiddenCosine, HiddenMSE, Labels, MiniLMv2, SoftTargets
from hf_distill.activations import Signal
from hf_distill.errors import CacheMismatch, DistillationError, IncompatiblePair
from hf_distill.hub.trained import record_of
from hf_distill.teachers import Cached, Frozen
from hf_distill.teachers import cached as cached_module
from hf_distill.teachers.cache import codecs
from hf_distill.teachers.cache.codecs import Codec
from hf_distill.teachers.cache.folder import CacheFolder
from hf_distill.teachers.cache.plan import HEAD_STATE
from tests import tiny, tiny_models

TASKS = [name for name in tiny.TASK_NAMES if name != "seq2seq_lm"]


def soft_and_hidden() -> Any:
    return SoftTargets(temperature=2.0) + Labels() + HiddenMSE(layer_map="final")


def trainer(
    task: str,
    *,
    cache: Path | None = None,
    codec: Codec | None = None,
    objectives: Any = None,
    rows: Any = None,
    teacher: Any = None,
    student: PreTrainedModel | None = None,
    pad: int = 0,
    **arguments: Any,
) -> DistillationTrainer:
    made = DistillationTrainer(
        model=tiny.model(task, seed=4) if student is None else student,
        teacher=tiny.model(task, layers=3, seed=3) if teacher is None else teacher,
        objectives=objectives or soft_and_hidden(),
        args=tiny.arguments(**arguments),
        train_dataset=tiny.rows(task, 24, shortest=9, longest=9) if rows is None else rows,
        data_collator=tiny.Pad(pad),
    )
    if cache is not None:
        made.cache_teacher(cache, codec=codec)
    return made


def float32() -> Codec:
    return codecs.make("float32", {})


@pytest.mark.parametrize("task", TASKS)
def test_in_float32_weights_are_equal_bit_by_bit(task: str, tmp_path: Path) -> None:
    plain = trainer(task, learning_rate=0.01)
    cached = trainer(task, cache=tmp_path / "cache", codec=float32(), learning_rate=0.01)
    assert isinstance(cached.teacher, Cached)
    plain.train()
    cached.train()
    assert tiny.distance(plain.model, cached.model) == 0.0


@pytest.mark.parametrize("task", ["single_label", "token_classification", "question_answering", "causal_lm"])
def test_batches_epochs_accumulation_padding_and_workers_do_not_matter(task: str, tmp_path: Path) -> None:
    rows = tiny.rows(task, 22)
    settings = {"max_steps": -1, "num_train_epochs": 2, "learning_rate": 0.01, "rows": rows}
    trainer(task, cache=tmp_path / "cache", codec=float32(), rows=rows)
    plain = trainer(task, train_sampling_strategy="group_by_length", **settings)
    cached = trainer(
        task,
        teacher=Cached(tmp_path / "cache"),
        train_sampling_strategy="group_by_length",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        dataloader_num_workers=2,
        pad=5,
        **settings,
    )
    plain.train()
    cached.train()
    assert plain.state.global_step == cached.state.global_step == 6
    assert tiny.distance(plain.model, cached.model) < 2e-6


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_the_bytes_stay_close(name: str, tmp_path: Path) -> None:
    plain, cached = trainer("masked_lm"), trainer("masked_lm", cache=tmp_path / "cache", codec=codecs.make(name, {}))
    plain.train()
    cached.train()
    assert 0.0 < tiny.distance(plain.model, cached.model) < {"float16": 5e-5, "bfloat16": 5e-3}[name]


def test_queries_keys_and_values_are_kept_too(tmp_path: Path) -> None:
    def objectives() -> Any:
        return MiniLMv2(relation_heads=2) + HiddenCosine(layer_map="final")

    plain = trainer("masked_lm", objectives=objectives())
    cached = trainer("masked_lm", objectives=objectives(), cache=tmp_path / "cache", codec=float32())
    plain.train()
    cached.train()
    assert tiny.distance(plain.model, cached.model) == 0.0
    assert {"queries[3]", "keys[3]", "values[3]", "hidden[3]"} == {s.name for s in cached.teacher.facts.signals}


# ---- language models ----


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary whose logits go through the head in chunks."""
    monkeypatch.setattr(tiny, "VOCABULARY", 4200)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("task", ["masked_lm", "causal_lm"])
def test_a_language_model_is_kept_as_its_last_state_and_its_head(task: str, tmp_path: Path) -> None:
    objectives = [SoftTargets(temperature=2.0) + Labels() for _ in range(2)]
    plain = trainer(task, objectives=objectives[0])
    cached = trainer(task, objectives=objectives[1], cache=tmp_path / "cache", codec=float32())
    assert [(each.name, each.width) for each in cached.teacher.facts.signals] == [("final", 32)]
    plain.train()
    cached.train()
    assert tiny.distance(plain.model, cached.model) == 0.0


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("task", ["masked_lm", "causal_lm"])
def test_a_head_reads_the_axes_of_rotated_states(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the states that a product would lead back to; the first layer of the head is not the last of it in
    a masked language model."""
    rows = tiny.rows(task, 24, shortest=9, longest=9)
    trainer(task, cache=tmp_path / "cache", codec=codecs.make("rotated", {"bits": 3.0}), objectives=SoftTargets())
    in_axes = Cached(tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(cached_module, "read_axes", lambda *_: False)
        as_states = Cached(tmp_path / "cache")
    assert (in_axes.head.reads, getattr(as_states.head, "reads", None)) == (HEAD_STATE, None)
    batch = as_states.reading(tiny.Pad(3))(rows)
    for each in (in_axes, as_states):
        each.bind(frozenset({Signal("logits"), Signal("final")}))
        each.place(torch.device("cpu"), nullcontext)
    ours, theirs = in_axes.activations(batch), as_states.activations(batch)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=2e-5)
    assert torch.equal(ours.final, theirs.final)
    p, q = (each.logits.log_softmax(-1) for each in (theirs, ours))
    assert (p.exp() * (p - q)).sum(-1).abs().max() < 1e-6


@pytest.mark.usefixtures("wide")
def test_axes_are_read_for_the_head_and_states_for_objectives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objectives = [SoftTargets() + HiddenCosine(layer_map="final") for _ in range(2)]
    codec = codecs.make("rotated", {})
    made = trainer("causal_lm", cache=tmp_path / "cache", codec=codec, objectives=SoftTargets())
    assert made.distillation.reads().teacher == {HEAD_STATE}
    as_written = codecs.make("rotated", {})
    made = trainer("causal_lm", cache=tmp_path / "both", codec=as_written, objectives=objectives[0])
    assert {str(each) for each in made.distillation.reads().teacher} == {"head_state", "hidden[3]"}
    monkeypatch.setattr(cached_module, "read_axes", lambda *_: False)
    slow = trainer("causal_lm", teacher=Cached(tmp_path / "both"), objectives=objectives[1])
    made.train()
    slow.train()
    assert tiny.distance(made.model, slow.model) < 1e-6


@pytest.mark.usefixtures("wide")
def test_a_head_that_would_round_anew_reads_states(tmp_path: Path) -> None:
    half = Frozen(tiny.model("causal_lm", layers=3, seed=3), dtype=torch.bfloat16)
    codec = codecs.make("rotated", {})
    made = trainer("causal_lm", teacher=half, cache=tmp_path / "cache", codec=codec, objectives=SoftTargets())
    assert made.distillation.reads().teacher == {Signal("final")}


@pytest.mark.usefixtures("wide")
def test_logits_come_from_the_head_where_they_are_asked_for(tmp_path: Path) -> None:
    rows = tiny.rows("causal_lm", 4)
    teacher = tiny.model("causal_lm", layers=3, seed=3).eval()
    trainer("causal_lm", cache=tmp_path / "cache", codec=float32(), rows=rows, objectives=SoftTargets())
    cached = Cached(tmp_path / "cache")
    cached.bind(frozenset({Signal("logits")}))
    batch = tiny.Pad()(rows)
    with torch.no_grad():
        expected = teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    real = batch["attention_mask"].bool()
    shown = cached.activations(cached.reading(tiny.Pad())(rows)).logits
    torch.testing.assert_close(shown[real], expected[real], rtol=0, atol=1e-5)


@pytest.mark.usefixtures("wide")
def test_a_head_in_bfloat16_is_kept_in_it(tmp_path: Path) -> None:
    def teacher() -> Frozen:
        return Frozen(tiny.model("causal_lm", layers=3, seed=3), dtype=torch.bfloat16)

    plain = trainer("causal_lm", objectives=SoftTargets(), teacher=teacher())
    cached = trainer(
        "causal_lm",
        objectives=SoftTargets(),
        teacher=teacher(),
        cache=tmp_path / "c",
        codec=codecs.make("bfloat16", {}),
    )
    assert cached.teacher.facts.fingerprint["precision"] == "bfloat16"
    plain.train()
    cached.train()
    assert tiny.distance(plain.model, cached.model) == 0.0


@pytest.mark.usefixtures("wide")
def test_under_mixed_precision_the_teacher_is_written_and_read_in_it(tmp_path: Path) -> None:
    plain = trainer("causal_lm", objectives=SoftTargets(), bf16=True)
    cached = trainer("causal_lm", objectives=SoftTargets(), bf16=True, cache=tmp_path / "c", codec=float32())
    assert cached.teacher.facts.fingerprint["precision"] == "float32, autocast bfloat16"
    plain.train()
    cached.train()
    assert tiny.distance(plain.model, cached.model) == 0.0


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("task", ["masked_lm", "causal_lm"])
def test_the_largest_logits_give_the_loss_of_their_buckets(task: str, tmp_path: Path) -> None:
    settings = {"objectives": SoftTargets(temperature=1.5), "max_steps": 1}
    codec = codecs.make("top_k", {"k": 32, "temperatures": [1.0, 1.5]})
    cached = trainer(task, cache=tmp_path / "cache", codec=codec, **settings)
    model, teacher = tiny.model(task, seed=4), tiny.model(task, layers=3, seed=3).eval()
    batch = tiny.Pad()(tiny.rows(task, 24, shortest=9, longest=9)[:8])
    with torch.no_grad():
        ours, theirs = (
            m(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.double() / 1.5
            for m in (model.eval(), teacher)
        )
    counted = batch["attention_mask"].bool()
    if task == "causal_lm":
        ours, theirs, counted = ours[:, :-1], theirs[:, :-1], batch["labels"][:, 1:] != -100
    q, p = ours.softmax(-1)[counted], theirs.softmax(-1)[counted]
    kept = torch.zeros_like(p, dtype=torch.bool).scatter(-1, p.argsort(-1, descending=True)[:, :32], True)
    rest_p, rest_q = (law.masked_fill(kept, 0.0).sum(-1) for law in (p, q))
    parts = torch.where(kept, p * (p / q).log(), torch.zeros_like(p)).sum(-1)
    expected = 1.5**2 * (parts + rest_p * (rest_p / rest_q).log()).mean()
    cached.train()
    found = cached.state.log_history[0]["objective/soft_targets"]
    assert found == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.usefixtures("wide")
def test_the_largest_logits_are_refused_before_the_teacher_runs(tmp_path: Path) -> None:
    made = trainer("causal_lm", objectives=SoftTargets(temperature=2.0))
    with pytest.raises(IncompatiblePair, match=r"temperature is 2, .* the sum of the rest at 1"):
        made.cache_teacher(tmp_path / "cache", codec=codecs.make("top_k", {}))
    assert not (tmp_path / "cache").exists()
    trainer(
        "causal_lm",
        objectives=SoftTargets(temperature=1.0),
        cache=tmp_path / "cache",
        codec=codecs.make("top_k", {}),
    )
    with pytest.raises(IncompatiblePair, match="temperature is 2"):
        trainer("causal_lm", objectives=SoftTargets(temperature=2.0), teacher=Cached(tmp_path / "cache"))


# ---- the teacher goes ----


@pytest.mark.usefixtures("wide")
def test_the_teacher_is_not_in_memory_while_one_trains(tmp_path: Path) -> None:
    teacher = tiny.model("causal_lm", layers=3, seed=3)
    gone = weakref.ref(teacher)
    size = sum(parameter.numel() for parameter in teacher.parameters())
    made = trainer("causal_lm", teacher=teacher, cache=tmp_path / "cache", objectives=SoftTargets())
    del teacher
    gc.collect()
    assert gone() is None
    skeleton = made.teacher.anatomy.base
    kept = sum(parameter.numel() for parameter in skeleton.parameters() if parameter.device.type != "meta")
    assert kept == 4200 * 32 < size
    made.train()


def test_what_is_there_already_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tiny.rows("single_label", 20)
    trainer("single_label", rows=rows[:12], cache=tmp_path / "cache")
    teacher, seen = tiny.model("single_label", layers=3, seed=3), []
    teacher.register_forward_pre_hook(lambda *_: seen.append(1))
    trainer("single_label", rows=rows[4:12], teacher=teacher, cache=tmp_path / "cache")
    assert not seen
    made = trainer("single_label", rows=rows, teacher=teacher, cache=tmp_path / "cache")
    assert len(made.teacher.reader) == 20
    made.train()


def test_a_resumed_run_ends_where_a_straight_one_does(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 3, "cache": tmp_path / "cache"}
    straight = trainer("single_label", max_steps=6, **settings)
    straight.train()
    broken = trainer("single_label", max_steps=6, output_dir=str(tmp_path / "out"), **settings)
    broken.train(resume_from_checkpoint=str(Path(straight.args.output_dir) / "checkpoint-3"))
    assert tiny.distance(straight.model, broken.model) == 0.0


def test_a_model_without_a_head_is_evaluated_against_the_cache(tmp_path: Path) -> None:
    found = []
    for cache in (None, tmp_path / "cache"):
        made = DistillationTrainer(
            model=tiny.model("masked_lm", seed=4).bert,
            teacher=tiny.model("masked_lm", layers=3, seed=3).bert,
            objectives=HiddenMSE(layer_map="final"),
            args=tiny.arguments(),
            train_dataset=[{k: v for k, v in row.items() if k != "labels"} for row in tiny.rows("masked_lm", 16)],
            eval_dataset=[
                {k: v for k, v in row.items() if k != "labels"} for row in tiny.rows("masked_lm", 8, seed=5)
            ],
            data_collator=tiny.Pad(),
        )
        if cache is not None:
            made.cache_teacher(cache, codec=float32())
        made.train()
        found.append(made.evaluate()["eval_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_after_a_refusal_the_teacher_itself_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise CacheMismatch("no room")

    monkeypatch.setattr(tiny, "VOCABULARY", 1200)  # its states are written, and its logits are read
    plain, refused = (trainer("causal_lm", objectives=SoftTargets()) for _ in range(2))
    with monkeypatch.context() as patch:
        patch.setattr(CacheFolder, "append", full)
        with pytest.raises(CacheMismatch, match="no room"):
            refused.cache_teacher(tmp_path / "cache")
    assert isinstance(refused.teacher, Frozen)
    plain.train()
    refused.train()
    assert tiny.distance(plain.model, refused.model) == 0.0


def test_a_trainer_without_a_teacher_has_nothing_to_cache(tmp_path: Path) -> None:
    made = DistillationTrainer(model=tiny.model("single_label"), objectives=Labels(), args=tiny.arguments())
    with pytest.raises(DistillationError, match="no teacher to be cached"):
        made.cache_teacher(tmp_path / "cache")


def test_another_set_of_signals_is_an_error(tmp_path: Path) -> None:
    trainer("single_label", objectives=SoftTargets(), cache=tmp_path / "cache")
    with pytest.raises(CacheMismatch, match=r"holds logits of the teacher, and hidden\[3\] is read as well"):
        trainer("single_label", teacher=Cached(tmp_path / "cache"))
    with pytest.raises(CacheMismatch, match=r"hidden\[3\] is read as well"):
        trainer("single_label", cache=tmp_path / "cache")


def test_attention_scores_are_in_no_cache(tmp_path: Path) -> None:
    made = trainer("single_label", objectives=AttentionMSE(layer_map="final"))
    with pytest.raises(IncompatiblePair, match="scores"):
        made.cache_teacher(tmp_path / "cache")


def test_a_classifier_with_a_decoder_is_in_no_cache(tmp_path: Path) -> None:
    """Its decoder reads the source text once more; there is no target by which a row could be found."""
    made = DistillationTrainer(
        model=tiny_models.tiny("bart", tiny_models.CLASSIFIER, layers=2),
        teacher=tiny_models.tiny("bart", tiny_models.CLASSIFIER, layers=2),
        objectives=SoftTargets(),
        args=tiny.arguments(),
        train_dataset=tiny.rows("single_label", 8),
        data_collator=tiny.Pad(),
    )
    with pytest.raises(IncompatiblePair, match=r"has a decoder beside its encoder, .* Train with the teacher itself"):
        made.cache_teacher(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.mark.parametrize(
    ("family", "settings"), [("llama", {}), ("modernbert", {"classifier_pooling": "mean"}), ("bert", NO_DROPOUT)]
)
def test_many_labels_are_no_vocabulary(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    def made() -> DistillationTrainer:
        models = [
            tiny_models.tiny(family, tiny_models.CLASSIFIER, layers=n, seed=n, num_labels=1100, **settings)
            for n in (1, 2)
        ]
        return trainer(
            "single_label", student=models[0], teacher=models[1], objectives=SoftTargets(), learning_rate=0.01
        )

    plain, cached = made(), made()
    cached.cache_teacher(tmp_path / "cache", codec=float32())
    assert [(each.name, each.by_token) for each in cached.teacher.facts.signals] == [("logits", False)]
    plain.train()
    cached.train()
    assert tiny.distance(plain.model, cached.model) == 0.0


def test_record_and_card_tell_of_the_cache(tmp_path: Path) -> None:
    made = trainer("single_label", cache=tmp_path / "cache")
    made.train()
    made.create_model_card()
    record = record_of(made)
    assert record.teacher is not None
    assert record.teacher.num_hidden_layers == 3
    assert record.teacher_cache is not None
    assert record.teacher_cache.codecs == {"logits": "float32", "hidden[3]": "float16"}
    card = (Path(made.args.output_dir) / "README.md").read_text(encoding="utf-8")
    assert record.teacher_cache.fingerprint in card
