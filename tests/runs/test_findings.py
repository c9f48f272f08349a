"""What the report shows of each kind of task, from answers as a run keeps them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from hf_distill import students
from hf_distill.data.question_answering import Questions
from hf_distill.data.speech import SpokenTexts
from hf_distill.data.text import TextData
from hf_distill.data.token_classification import TaggedTokens
from hf_distill.evaluation.findings import Findings
from hf_distill.evaluation.spans import Answer
from hf_distill.recipe.sections.data import QuestionAnswering as SpanSettings
from hf_distill.recipe.sections.data import Speech as SpeechSettings
from hf_distill.recipe.sections.data import TokenClassification as TagSettings
from hf_distill.runs import findings
from hf_distill.runs.measuring import Answers
from hf_distill.runs.workload import Workload
from hf_distill.runs.workloads.pretraining import MaskedWords
from hf_distill.runs.workloads.question_answering import QuestionAnswering
from hf_distill.runs.workloads.speech import Heard, Speech
from hf_distill.runs.workloads.text_classification import TextClassification
from hf_distill.runs.workloads.token_classification import Tagged, TokenClassification
from hf_distill.runs.workloads.words import Words
from tests import tiny_models, tiny_runs


def rows(**columns: list[Any]) -> DatasetDict:
    return DatasetDict({"validation": Dataset.from_dict(columns)})


def of(workload: Workload, teacher: Any, student: Any) -> Findings:
    kept = {"teacher": teacher, "student": student}
    return findings.of_answers(workload, {role: Answers({"validation": each}, {}) for role, each in kept.items()})


def test_classes_of_pairs_of_texts() -> None:
    splits = rows(premise=["one", "two", "three"], hypothesis=["a", "b", "c"], label=[0, 1, 1])
    text = TextData(splits, ("premise", "hypothesis"), ("no", "yes"), "single_label", {})
    teacher = np.log([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    student = np.log([[0.7, 0.3], [0.75, 0.25], [0.6, 0.4]])
    found = of(TextClassification("rte", text, ("accuracy",)), teacher, student)
    assert found.parting is not None
    assert (found.parting.both, found.parting.only_teacher, found.parting.neither_alike) == (1, 1, 1)
    (example,) = found.examples
    assert (example.text, example.truth, example.teacher, example.student) == ("two | b", "yes", "yes", "no")
    assert (example.teacher_confidence, example.student_confidence) == (pytest.approx(0.8), pytest.approx(0.75))
    assert found.confusion is not None
    assert found.confusion.classes == ["no", "yes"]
    assert found.confusion.counts["student"] == [[1, 0], [2, 0]]
    assert found.reliability["student"].error == pytest.approx((abs(1 - 0.7) + abs(0 - 0.75) + abs(0 - 0.6)) / 3)


def test_scores_of_texts() -> None:
    text = TextData(rows(sentence=["one", "two"], label=[1.0, 3.5]), ("sentence",), (), "regression", {})
    found = of(TextClassification("x", text, ("pearson",)), np.array([[1.0], [3.0]]), np.array([[1.5], [2.0]]))
    assert found.scores is not None
    assert found.scores.model_dump() == {"truth": [1.0, 3.5], "found": {"teacher": [1.0, 3.0], "student": [1.5, 2.0]}}
    assert [(each.text, each.student) for each in found.examples] == [("two", "2.000"), ("one", "1.500")]
    assert (found.parting, found.confusion, found.reliability) == (None, None, {})


def test_an_unlabelled_split_shows_nothing() -> None:
    text = TextData(rows(sentence=["one"]), ("sentence",), ("no", "yes"), "single_label", {})
    assert of(TextClassification("x", text, ("accuracy",)), np.zeros((1, 2)), np.zeros((1, 2))) == Findings()


def test_tags_of_tokens_in_their_sentence() -> None:
    """The last token was cut off for both: it counts as O, is never sure, and stands in no table."""
    splits = rows(tokens=[["Ann", "sees"], ["in", "Rome", "."]], tags=[[1, 0], [0, 2, 0]])
    data = TaggedTokens(splits, ("O", "B-PER", "B-LOC"), {})
    best = {"teacher": [1, 0, 0, 2, 1], "student": [1, 0, 0, 1, 1]}
    seen = np.array([True, True, True, True, False])
    given = {role: Tagged(4.0 * np.eye(3)[said], seen) for role, said in best.items()}
    found = of(TokenClassification("ner", data, TagSettings(tags_column="tags")), given["teacher"], given["student"])
    assert found.parting is not None
    assert (found.parting.items, found.parting.both, found.parting.only_teacher) == ("tokens", 4, 1)
    assert [(each.text, each.truth, each.student) for each in found.examples] == [("in [Rome] .", "B-LOC", "B-PER")]
    assert found.confusion is not None
    assert np.sum(found.confusion.counts["teacher"]) == sum(found.reliability["teacher"].counts) == 4


def test_answers_to_questions() -> None:
    golden = [{"text": ["The Rhine"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    splits = rows(id=["1", "2"], question=["Which river?", "Who?"], context=["The Rhine.", "None."], answers=golden)
    settings = SpanSettings(version_2_with_negative=True)
    workload = QuestionAnswering("squad", Questions(splits, {}), settings, ("f1",))
    found = of(workload, [Answer("rhine", 0.0), Answer("", 1.0)], [Answer("the rhine", 0.0), Answer("None", 0.2)])
    assert found.parting is not None
    assert (found.parting.items, found.parting.both, found.parting.only_teacher) == ("questions", 1, 1)
    (example,) = found.examples
    expected = ("Who?", "(no answer)", "(no answer)", "None")
    assert (example.text, example.truth, example.teacher, example.student) == expected
    assert (found.confusion, found.reliability) == (None, {})


def test_predicted_words_are_counted_and_not_shown() -> None:
    wanted = np.array([5, 6, 7])
    teacher, student = (Words(np.array(said), wanted, np.zeros(3)) for said in ([5, 6, 8], [5, 9, 9]))
    found = of(words(), teacher, student)
    assert found.parting is not None
    assert (found.parting.items, found.parting.total) == ("predicted words", 3)
    assert (found.parting.both, found.parting.only_teacher, found.parting.neither_apart) == (1, 1, 1)
    assert found.examples == []


def words() -> MaskedWords:
    made = MaskedWords.__new__(MaskedWords)
    assert made.reported_split == "validation"
    return made


def test_sounds_are_right_as_a_whole() -> None:
    workload = Speech("x", SpokenTexts(rows(text=["a", "b"]), {}), SpeechSettings(), {})
    teacher, student = (Heard(said, [(3,), (4, 5)], 2) for said in ([(3,), (4, 5)], [(3,), (4,)]))
    found = of(workload, teacher, student)
    assert found.parting is not None
    assert (found.parting.both, found.parting.only_teacher, found.examples) == (1, 1, [])


# ---- models ----


def test_layers_that_objectives_pair_are_shown() -> None:
    teacher = tiny_models.tiny("bert", layers=4)
    student = students.from_layers(teacher, layers=[2, 4])
    maps = {"final": [(2, 4)], "hidden": [(0, 0), (1, 2), (2, 4)], "gone": [(3, 4), (2, 9)]}
    assert findings.matched(student, teacher, maps) == [(1, 2), (2, 4)]
    assert findings.matched(student, teacher, {"emb": [(0, 0)]}) == [(0, 0), (1, 2), (2, 4)]
    texts = [tiny_runs.sentence(row)[0] for row in range(6)]
    found = findings.of_models(student, teacher, tiny_runs.tokenizer(), texts, 16, maps)
    assert found.likeness is not None
    assert found.attention is not None
    assert [each.teacher_layer for each in found.attention.pairs] == [2, 4]


def test_what_a_family_does_not_show_is_left_out_with_a_message(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_models.tiny("t5")
    with caplog.at_level(logging.INFO):
        found = findings.of_models(model, model, tiny_runs.tokenizer(), ["a good film"], 16, {})
    assert found == Findings()
    assert caplog.text.count("the report leaves something out") == 2
    assert findings.of_models(model, model, tiny_runs.tokenizer(), [], 16, {}) == Findings()
