"""Hypotheses of teachers: what is refused, left out and counted, and training on them, of texts and of sounds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq

from hf_distill import DistillationTrainer, losses, objectives
from hf_distill.activations import Activations
from hf_distill.anatomy import Anatomy
from hf_distill.data.hypotheses import WithHypotheses
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.objectives import Objective, Pair
from hf_distill.objectives.hypotheses import PLACE, SCORES, TEXTS, hypothesis_weights
from hf_distill.objectives.response.ctc_nbest_kd import CTCNBestKD
from hf_distill.objectives.response.labels import Labels
from hf_distill.objectives.response.nbest_kd import NBestKD
from hf_distill.objectives.response.soft_targets import SoftTargets
from hf_distill.tasks import CTC, TASKS, task_of
from tests import sounds, tiny, writers
from tests.shapes import shape

# ---- weights ----


def test_absent_hypotheses_weigh_nothing() -> None:
    scores = torch.tensor([[-1.0, -math.inf, -2.0], [-math.inf] * 3], dtype=torch.float64)
    soft = hypothesis_weights(scores, "teacher", 2.0)
    first = 1 / (1 + math.exp(-0.5))
    assert soft[0].tolist() == pytest.approx([first, 0.0, 1 - first])
    assert hypothesis_weights(scores, "uniform")[0].tolist() == [0.5, 0.0, 0.5]
    assert hypothesis_weights(scores, "best")[0].tolist() == [1.0, 0.0, 0.0]
    assert not any(hypothesis_weights(scores, each)[1].any() for each in ("teacher", "uniform", "best"))


def test_of_equally_good_hypotheses_the_first_is_the_best() -> None:
    assert hypothesis_weights(torch.tensor([-3.0, -1.0, -1.0]), "best").tolist() == [0.0, 1.0, 0.0]


# ---- refusals ----


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"weights": "softmax"}, {"length_normalize": 1}])
def test_settings_of_nbest_kd(settings: dict[str, Any]) -> None:
    with pytest.raises(DistillationError, match=f"nbest_kd: {next(iter(settings))} is"):
        NBestKD(**settings)


@pytest.mark.parametrize("settings", [{"temperature": -1.0}, {"weights": 3}, {"blank": -1}])
def test_settings_of_ctc_nbest_kd(settings: dict[str, Any]) -> None:
    with pytest.raises(DistillationError, match=f"ctc_nbest_kd: {next(iter(settings))} is"):
        CTCNBestKD(**settings)


def test_tasks_that_write_no_texts_are_refused() -> None:
    ours = shape(num_logits=3)
    for task in ("single_label", "masked_lm"):
        with pytest.raises(IncompatiblePair, match=f"the task is {task}; the tasks that write"):
            NBestKD().bind(Pair.from_shapes(ours, None, TASKS[task]))
        with pytest.raises(IncompatiblePair, match=f"the task is {task}; take a model for CTC"):
            CTCNBestKD().bind(Pair.from_shapes(ours, None, TASKS[task]))
    with pytest.raises(IncompatiblePair, match="the blank is 3, and the student has the symbols 0 to 2"):
        CTCNBestKD(blank=3).bind(Pair.from_shapes(ours, None, CTC()))


def test_texts_that_are_longer_than_their_sounds_are_told_of() -> None:
    """Four frames hold `1 1 2`, with the blank between the equal ones, and not `1 1 1`."""
    objective = Labels()
    objective.bind(Pair.from_shapes(shape(num_logits=3), None, CTC()))
    whole = {"attention_mask": torch.ones(2, 4, dtype=torch.long), "labels": torch.tensor([[1, 1, 2], [-100] * 3])}
    assert objective.count(whole, CTC()) == 1
    assert objective.remarks() == []
    longer = {**whole, "labels": torch.tensor([[1, 1, 2], [1, 1, 1]])}
    assert objective.count(longer, CTC()) == 1
    assert objective.remarks() == ["a text has more symbols than its sound has frames for; it does not count"]


def test_frames_are_no_rows_of_a_discriminator_or_a_flow() -> None:
    ours = shape(num_logits=3)
    with pytest.raises(IncompatiblePair, match=r"holistic_kd: .* frames of a ctc task do not answer to each other"):
        objectives.make("holistic_kd", {}).bind(Pair.from_shapes(ours, ours, CTC()))
    with pytest.raises(IncompatiblePair, match=r"knowledge_flow: kl is .* a ctc task has frames\. Set kl=0"):
        objectives.make("knowledge_flow", {}).bind(Pair.from_shapes(ours, ours, CTC()))


@pytest.mark.parametrize("name", ["soft_targets", "dkd", "nbest_kd"])
def test_frames_are_not_compared_one_by_one(name: str) -> None:
    ours = shape(num_logits=3)
    with pytest.raises(IncompatiblePair, match=rf"{name}.*frames of a ctc task do not answer to each other"):
        objectives.make(name, {}).bind(Pair.from_shapes(ours, ours, CTC()))


@pytest.mark.parametrize("absent", [SCORES, PLACE])
def test_rows_without_hypotheses_are_refused(absent: str) -> None:
    objective = NBestKD()
    pair = Pair.from_shapes(shape(num_logits=5, encoder_decoder=True), None, TASKS["seq2seq_lm"])
    objective.bind(pair)
    batch = {"labels": torch.tensor([[1, 2]]), SCORES: torch.tensor([[-1.0]]), PLACE: torch.tensor([0])}
    del batch[absent]
    with pytest.raises(DataError, match=f"has no column '{absent}'"):
        objective(Activations(logits=torch.zeros(1, 2, 5)), None, batch)


def test_label_smoothing_is_that_of_labels() -> None:
    """Of one hypothesis a source the loss is the labels', with the arguments' smoothing or without."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    batch = {"labels": torch.tensor([[1, 2, -100], [3, 0, 4]]), SCORES: torch.tensor([[-1.0], [-2.0]])}
    batch[PLACE] = torch.zeros(2, dtype=torch.long)
    ours = shape(num_logits=5, encoder_decoder=True)
    pair = Pair.from_shapes(ours, None, TASKS["seq2seq_lm"], label_smoothing=0.2)
    found = []
    for objective in (NBestKD(), Labels()):
        objective.bind(pair)
        found.append(objective(Activations(logits=logits), None, batch))
    log_q, total = logits.log_softmax(-1), 0.0
    for row, place in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2)):
        at = log_q[row, place]
        total -= 0.8 * float(at[int(batch["labels"][row, place])]) + 0.2 * float(at.mean())
    assert [float(each) for each in found] == pytest.approx([total, total])
    smoothed = Pair.from_shapes(shape(num_logits=5), None, CTC(), label_smoothing=0.2)
    with pytest.raises(IncompatiblePair, match=r"ctc_nbest_kd.*smoothing of 0\.2 .*Set label_smoothing_factor=0"):
        CTCNBestKD().bind(smoothed)


# ---- texts ----


def rows_of_texts() -> Dataset:
    """Six sources, of one, two and three hypotheses, each hypothesis a row."""
    rows = tiny.rows("seq2seq_lm", number=12)
    numbers = [1, 2, 3, 1, 2, 3]
    scores = [[-0.5 - place for place in range(n)] + [-math.inf] * (3 - n) for n in numbers]
    places = [(source, place) for source, n in enumerate(numbers) for place in range(n)]
    for row, (source, place) in zip(rows, places, strict=True):
        row |= {PLACE: place, SCORES: scores[source], "labels": [max(token, 3) for token in row["labels"]]}
    return Dataset.from_list(rows)


@pytest.mark.parametrize(("batch_size", "in_chunks"), [(12, False), (5, False), (12, True)])
def test_a_student_learns_the_weighted_mean_over_sources(
    batch_size: int, in_chunks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of plain gradient descent against the loss written out, however the rows are cut into batches, and with
    logits that are whole or in chunks, as those of large vocabularies are where there is a teacher."""
    rows, student = rows_of_texts(), writers.writer()
    if in_chunks:
        monkeypatch.setattr("hf_distill.objectives.pair.LARGE_VOCABULARY", 1)
    args = tiny.arguments(
        max_steps=1, per_device_train_batch_size=batch_size, gradient_accumulation_steps=-(-12 // batch_size)
    )
    trainer = DistillationTrainer(
        model=student,
        teacher=writers.writer(seed=1) if in_chunks else None,
        objectives=NBestKD(temperature=2.0),
        args=args,
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(writers.tokenizer()),
        processing_class=writers.tokenizer(),
    )
    assert (trainer.distillation._vocabulary is not None) is in_chunks
    trainer.train()
    expected = writers.writer().train()
    total = torch.zeros(())
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        log_q = expected(input_ids=ids, labels=labels).logits.log_softmax(-1)
        own = torch.tensor([score / 2.0 for score in row[SCORES]]).softmax(0)[row[PLACE]]
        total = total - own * log_q[0, torch.arange(labels.shape[1]), labels[0]].sum() / 6
    total.backward()
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter -= 0.1 * parameter.grad
    assert tiny.distance(student, expected) < 2e-6
    assert trainer.state.log_history[0]["loss"] == pytest.approx(float(total.detach()), rel=1e-5)


def test_a_step_of_less_than_a_source_weighs_as_much_as_others() -> None:
    """The only row of its step is one of two hypotheses: half a source, by which its loss is divided."""
    rows, student = Dataset.from_list([rows_of_texts()[1]]), writers.writer()
    trainer = DistillationTrainer(
        model=student,
        objectives=NBestKD(weights="uniform"),
        args=tiny.arguments(max_steps=1, per_device_train_batch_size=1),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(writers.tokenizer()),
        processing_class=writers.tokenizer(),
    )
    trainer.train()
    ids, labels = torch.tensor([rows[0]["input_ids"]]), torch.tensor([rows[0]["labels"]])
    log_q = writers.writer().train()(input_ids=ids, labels=labels).logits.log_softmax(-1)
    alone = -log_q[0, torch.arange(labels.shape[1]), labels[0]].sum()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(float(alone.detach()), rel=1e-5)


# ---- sounds ----


def test_the_loss_of_labels_is_the_models_own() -> None:
    model = sounds.hearing().eval()
    task = task_of(model)
    assert isinstance(task, CTC)
    assert (task.name, task.blank, Anatomy.of(model).shape.num_logits) == ("ctc", 0, 8)
    batch = sounds.collate([{name: row[name] for name in ("input_values", "labels")} for row in sounds.rows()])
    output = model(**batch)
    objective = Labels()
    objective.bind(Pair.of(Anatomy.of(model), None, task))
    shown = Activations(mask=batch["attention_mask"], logits=output.logits)
    assert float(objective(shown, None, batch).detach()) == pytest.approx(float(output.loss.detach()), rel=1e-5)
    assert int(objective.count(batch, task)) == 3
    frames = model._get_feat_extract_output_lengths(batch["attention_mask"].sum(-1))
    assert task.num_frames(batch).tolist() == frames.tolist() == [9, 6, 12]
    without = {"input_values": batch["input_values"]}
    assert task.num_frames(without).tolist() == [12, 12, 12]


def test_labels_may_be_ignored_anywhere() -> None:
    task, batch = CTC(), {"input_values": torch.zeros(1, 6), "labels": torch.tensor([[-100, 2, -100, 1]])}
    assert task.targets(batch)[0].tolist() == [[2, 1, -100, -100]]


def test_a_hypothesis_of_too_many_symbols_is_left_out_and_the_others_are_weighed_anew() -> None:
    objective, task = CTCNBestKD(), CTC()
    objective.bind(Pair.from_shapes(shape(num_logits=5), None, task))
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # The second and third need four frames: one of equal symbols apart, one of four symbols.
    texts = torch.tensor([[[1, 2, -100, -100], [1, 1, 2, -100], [1, 2, 3, 4], [3, -100, -100, -100]]] * 2)
    scores = torch.tensor([[-1.0, -0.1, -0.2, -2.0], [-math.inf, -0.1, -0.2, -math.inf]], dtype=torch.float64)
    batch = {"attention_mask": torch.ones(2, 3, dtype=torch.long), TEXTS: texts, SCORES: scores}
    found = objective(Activations(mask=batch["attention_mask"], logits=logits), None, batch)
    log_q = logits[0].log_softmax(-1)
    paths = {(1, 2): ["112", "122", "012", "102", "120"], (3,): ["333", "330", "033", "300", "030", "003"]}
    nll = {
        text: -torch.stack([sum(log_q[t, int(symbol)] for t, symbol in enumerate(path)) for path in each]).logsumexp(0)
        for text, each in paths.items()
    }
    first = 1 / (1 + math.exp(-1.0))
    assert float(found) == pytest.approx(float(first * nll[1, 2] + (1 - first) * nll[3,]), rel=1e-12)
    assert int(objective.count(batch, task)) == 1
    assert any("no hypothesis that its frames suffice for" in text for text in objective.remarks())


def test_symbols_that_there_are_not_are_refused() -> None:
    """torch reads other memory for them."""
    with pytest.raises(IndexError, match="index 5 is out of bounds"):
        losses.ctc_loss(torch.zeros(1, 4, 5), torch.tensor([[1, 5]]), 0)


def test_a_student_that_hears_learns_from_hypotheses_and_is_evaluated_by_its_labels() -> None:
    student = sounds.hearing()
    trainer = DistillationTrainer(
        model=student,
        objectives=CTCNBestKD() + 0.5 * Labels(),
        args=tiny.arguments(max_steps=8, per_device_train_batch_size=3, learning_rate=0.02),
        train_dataset=Dataset.from_list(sounds.rows()),
        eval_dataset=Dataset.from_list(sounds.rows()),
        data_collator=WithHypotheses(sounds.collate),
    )
    before = trainer.evaluate()["eval_loss"]
    batch = sounds.collate([{name: row[name] for name in ("input_values", "labels")} for row in sounds.rows()])
    with torch.no_grad():
        assert before == pytest.approx(float(sounds.hearing().eval()(**batch).loss) / 3, rel=1e-5)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    logs = [entry for entry in trainer.state.log_history if "objective/ctc_nbest_kd" in entry]
    assert logs[-1]["objective/ctc_nbest_kd"] < logs[0]["objective/ctc_nbest_kd"]


@pytest.mark.parametrize(
    ("labels", "texts", "objective", "column"),
    [([0, 3], [[3]], Labels, "labels"), ([3], [[3], [3, 0]], CTCNBestKD, "hypotheses")],
)
def test_symbols_that_are_the_blank_are_refused_before_a_step(
    labels: list[int], texts: list[list[int]], objective: type[Objective], column: str
) -> None:
    """torch takes them for what stands between symbols, and the loss is of another text. Labels padded with the
    blank's id are the common case."""
    rows = sounds.rows()
    rows[1] |= {"labels": labels, TEXTS: texts, SCORES: [-1.0] * len(texts)}
    trainer = DistillationTrainer(
        model=sounds.hearing(),
        objectives=objective(),
        args=tiny.arguments(max_steps=1, per_device_train_batch_size=3),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        data_collator=sounds.collate if objective is Labels else WithHypotheses(sounds.collate),
    )
    words = rf"row \d of a batch has the symbol 0 in '{column}', which is the blank .*pad with -100"
    with pytest.raises(DataError, match=words):
        trainer.train()
    with pytest.raises(DataError, match="the symbol 0 in"):
        trainer.evaluate()


def test_an_evaluation_hears_nothing_behind_the_end_of_a_sound() -> None:
    model = sounds.hearing()
    trainer = DistillationTrainer(model=model, args=tiny.arguments(), data_collator=sounds.collate)
    rows = [{name: row[name] for name in ("input_values", "labels")} for row in sounds.rows()]
    found = torch.tensor(trainer.predict(Dataset.from_list(rows)).predictions)
    for row, heard in zip(rows, found, strict=True):
        alone = sounds.collate([row])
        with torch.no_grad():
            logits = model.eval()(**alone).logits[0]
        assert torch.allclose(heard[: len(logits)], logits, atol=1e-5)
        assert heard[len(logits) :].argmax(-1).tolist() == [0] * (len(heard) - len(logits))
    assert found.shape[1] > 10


def test_a_frozen_teacher_of_sounds_has_nothing_to_compare() -> None:
    with pytest.raises(IncompatiblePair, match="frames of a ctc task"):
        DistillationTrainer(
            model=sounds.hearing(),
            teacher=sounds.hearing(1),
            objectives=SoftTargets(),
            args=tiny.arguments(),
            train_dataset=Dataset.from_list(sounds.rows()),
            data_collator=sounds.collate,
        )
