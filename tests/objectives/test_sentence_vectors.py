"""Objectives over sentence vectors, against loops in plain numbers and another library's components."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from hf_distill import objectives
from hf_distill.activations import MAIN, Activations, EnsembleActivations, Needs, Signal
from hf_distill.anatomy import Shape
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.member_logits import Combining
from hf_distill.objectives import Objective, Pair
from hf_distill.objectives.batch_relations import BatchRelation
from hf_distill.objectives.contrast import Contrast
from hf_distill.objectives.sentence_vectors import principal_directions
from hf_distill.passes import Beside
from hf_distill.sentences import SentenceEmbedding
from hf_distill.tasks import TASKS
from tests.shapes import shape

OVER_TEXTS = [
    name
    for name in objectives.names()
    if objectives.get(name).relates_batch and issubclass(objectives.get(name), BatchRelation)
]
DRAW = torch.Generator().manual_seed(5)


def drawn(rows: int, width: int) -> Tensor:
    return torch.randn(rows, width, generator=DRAW, dtype=torch.float64)


U, V, W = (drawn(4, 4) for _ in range(3))
TRANSLATION, POSITIVE, NEGATIVE = (Beside(column=name) for name in ("translation", "positive", "negative"))
BATCH = {"input_ids": torch.ones(4, 2, dtype=torch.long), "margin": torch.tensor([0.5, -1.0, 3.0, 0.0])}


def pair(ours: int = 4, theirs: int = 4, normalize: bool = False, task: str = "embeddings") -> Pair:
    vectors = SentenceEmbedding("mean", normalize)
    sides = [shape(2, width) for width in (ours, theirs)]
    sides = [type(side)(**{**side.__dict__, "sentence": vectors}) for side in sides]
    return Pair.from_shapes(*sides, TASKS[task])


def bound(name: str, of: Pair | None = None, **settings: Any) -> Objective:
    objective = objectives.make(name, settings)
    objective.bind(pair() if of is None else of)
    return objective.double()


def shown(main: Tensor, **beside: Tensor) -> Activations:
    found = Activations(mask=torch.ones(len(main), 2), sentence=main)
    found.passes = {Beside(column=name): Activations(sentence=vectors) for name, vectors in beside.items()}
    return found


def dot(one: Tensor, other: Tensor) -> float:
    return sum(float(a) * float(b) for a, b in zip(one, other, strict=True))


def cosine(one: Tensor, other: Tensor) -> float:
    return dot(one, other) / math.sqrt(dot(one, one) * dot(other, other))


def square(one: Tensor, other: Tensor) -> float:
    return sum((float(a) - float(b)) ** 2 for a, b in zip(one, other, strict=True)) / len(one)


def test_distances_of_vectors() -> None:
    rows = range(4)
    assert float(bound("embedding_mse")(shown(U), shown(V), BATCH)) == pytest.approx(
        sum(square(U[i], V[i]) for i in rows)
    )
    expected = sum(1 - cosine(U[i], V[i]) for i in rows)
    assert float(bound("embedding_cosine")(shown(U), shown(V), BATCH)) == pytest.approx(expected)
    found = bound("multilingual_mse")(shown(U, translation=W), shown(V), BATCH)
    assert float(found) == pytest.approx(sum(square(U[i], V[i]) + square(W[i], V[i]) for i in rows) / 2)
    units = [vectors / vectors.norm(dim=-1, keepdim=True) for vectors in (U, V)]
    mse, cos = (bound(name)(*map(shown, units), BATCH) for name in ("embedding_mse", "embedding_cosine"))
    torch.testing.assert_close(cos, 4 / 2 * mse)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_margins_of_a_teacher_and_of_a_column(similarity: str) -> None:
    like = dot if similarity == "dot" else cosine
    query, positive, negative = drawn(4, 6), drawn(4, 6), drawn(4, 6)
    ours = [like(U[i], V[i]) - like(U[i], W[i]) for i in range(4)]
    theirs = [like(query[i], positive[i]) - like(query[i], negative[i]) for i in range(4)]
    student, teacher = shown(U, positive=V, negative=W), shown(query, positive=positive, negative=negative)
    found = bound("margin_mse", pair(4, 6), similarity=similarity)(student, teacher, BATCH)
    assert float(found) == pytest.approx(sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)))
    objective = bound("margin_mse", similarity=similarity, margins="column")
    given = BATCH["margin"].tolist()
    assert float(objective(student, None, BATCH)) == pytest.approx(
        sum((a - b) ** 2 for a, b in zip(ours, given, strict=True))
    )
    assert not objective.needs().teacher
    assert not objective.needs_teacher
    with pytest.raises(DataError, match=r"the batch has no column 'margin', only input_ids"):
        objective(student, None, {"input_ids": BATCH["input_ids"]})


@pytest.mark.parametrize(
    ("settings", "normalize", "remarked"),
    [({"similarity": "cosine"}, False, 1), ({}, True, 1), ({}, False, 0)],
)
def test_margins_that_cosines_cannot_reach_are_remarked_on(
    settings: dict[str, Any], normalize: bool, remarked: int
) -> None:
    objective = bound("margin_mse", pair(normalize=normalize), margins="column", **settings)
    objective(shown(U, positive=V, negative=W), None, BATCH | {"margin": torch.tensor([2.0, -2.0, 0.0, 1.0])})
    assert objective.remarks() == []
    objective(shown(U, positive=V, negative=W), None, BATCH)
    assert len(objective.remarks()) == remarked


def test_rows_of_the_similarity_matrix_of_two_sentence_encoders() -> None:
    """KL between the laws of each text's similarities to the others, at a temperature; widths may differ."""
    teacher = drawn(4, 6)
    found = bound("similarity_distribution", pair(4, 6), pool="sentence", student_temperature=0.2)(
        shown(U), shown(teacher), BATCH
    )

    def law(vectors: Tensor, i: int, temperature: float) -> list[float]:
        powers = [math.exp(cosine(vectors[i], vectors[j]) / temperature) for j in range(4) if j != i]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for i in range(4):
        p, q = law(teacher, i, 0.05), law(U, i, 0.2)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(found) == pytest.approx(total / 4)


@pytest.mark.parametrize("name", OVER_TEXTS)
def test_relations_of_vectors_are_those_of_states_and_need_no_stack(name: str) -> None:
    """Of models of a family without a row of anatomy, whose vectors have a width of their own."""
    teacher, mask = drawn(4, 6), torch.ones(4, 1, dtype=torch.long)
    batch = {"attention_mask": mask}
    sides = [Shape("made_up", {}, 0, 30, None, SentenceEmbedding("mean", False, width)) for width in (4, 6)]
    torch.manual_seed(1)
    found = bound(name, Pair.from_shapes(*sides, TASKS["embeddings"]), pool="sentence")
    torch.manual_seed(1)
    of_states = bound(name, Pair.from_shapes(shape(2, 4), shape(2, 6), TASKS["encoder"]))
    expected = of_states(
        *(Activations(mask=mask, hidden={2: vectors.unsqueeze(1)}) for vectors in (U, teacher)), batch
    )
    assert torch.equal(found(shown(U), shown(teacher), batch), expected)
    assert found.needs() == Needs.of([Signal("sentence")], [Signal("sentence")])
    with pytest.raises(DistillationError, match=rf"{name}: stack is 'encoder', and pool='sentence' reads the vectors"):
        objectives.make(name, {"pool": "sentence", "stack": "encoder"})


@pytest.mark.parametrize("name", ["crd", "crd_memory"])
def test_contrast_maps_vectors_as_wide_as_dense_layers_make_them(name: str) -> None:
    sides = [replace(shape(2, 4), sentence=SentenceEmbedding("mean", False, width)) for width in (3, 8)]
    objective = bound(name, Pair.from_shapes(*sides, TASKS["embeddings"]), pool="sentence", layer_map="uniform")
    assert isinstance(objective, Contrast)
    widths = [[each.in_features for each in maps] for maps in (objective.student_maps, objective.teacher_maps)]
    assert widths == [[3], [8]]


def test_a_memory_of_sentence_vectors() -> None:
    torch.manual_seed(1)
    objective = bound("crd_memory", pool="sentence", negatives=2, drawn="any")
    objective.see_rows(8, None)
    found = objective(shown(U), shown(V), BATCH | {"row_index": torch.arange(4)})
    found.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in objective.parameters())


def test_several_teachers_vote_by_their_sentence_vectors() -> None:
    generator = torch.Generator().manual_seed(3)
    teachers = {f"t{i}": torch.randn(4, width, generator=generator).double() for i, width in enumerate((3, 8))}
    ours = replace(shape(2, 4), sentence=SentenceEmbedding("mean", False))
    pairs = {}
    for name, vectors in teachers.items():
        theirs = replace(shape(3, 4), sentence=SentenceEmbedding("mean", False, vectors.shape[-1]))
        pairs[name] = Pair.from_shapes(ours, theirs, TASKS["embeddings"])
    together = Pair.together(pairs, Combining(2))
    objective = bound("voted_triplets", together, pool="sentence", weights=[1.0, 3.0])
    assert objective.needs().teacher == {Signal("sentence", member=name) for name in teachers}
    found = objective(shown(U), EnsembleActivations({k: shown(v) for k, v in teachers.items()}), BATCH)
    heavier = bound("voted_triplets", pairs["t1"], pool="sentence")(shown(U), shown(teachers["t1"]), BATCH)
    torch.testing.assert_close(found, heavier)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("cka", {"rows": "tokens"}, r"cka: rows='tokens' .* set rows='pooled'"),
        ("similarity_preserving", {"flatten": True}, r"flatten .* pool='sentence' .* set flatten=False"),
    ],
)
def test_a_vector_has_no_tokens(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        objectives.make(name, settings | {"pool": "sentence"})


def test_principal_components_are_those_of_another_library() -> None:
    texts = drawn(50, 6) * torch.tensor([3.0, 1.0, 5.0, 0.5, 2.0, 1.5]) + 7.0
    expected = PCA(n_components=3).fit(texts.numpy()).components_.T
    found = principal_directions(texts, 3).numpy()
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-9)
    assert (np.take_along_axis(found, np.abs(found).argmax(axis=0)[None], 0) > 0).all()


@pytest.mark.parametrize("normalize", [False, True])
def test_a_wider_teacher_is_projected_and_nothing_is_added_to_the_student(normalize: bool) -> None:
    objective = bound("embedding_mse", pair(4, 6, normalize))
    assert not list(objective.parameters())
    assert objective.asks_vectors == 20_000
    texts = drawn(50, 6)
    objective.take_vectors(texts)
    teacher = drawn(4, 6)
    target = teacher @ principal_directions(texts, 4)
    target = target / target.norm(dim=-1, keepdim=True) if normalize else target
    assert float(objective(shown(U), shown(teacher), BATCH)) == pytest.approx(
        sum(square(U[i], target[i]) for i in range(4))
    )
    again = bound("embedding_mse", pair(4, 6, normalize))
    again.load_state_dict(objective.state_dict())
    torch.testing.assert_close(again(shown(U), shown(teacher), BATCH), objective(shown(U), shown(teacher), BATCH))


def test_a_learned_projection_starts_at_the_components() -> None:
    objective = bound("embedding_cosine", pair(4, 6), projection="learned", pca_texts=30)
    assert objective.asks_vectors == 30
    texts, teacher = drawn(30, 6), drawn(4, 6)
    objective.take_vectors(texts)
    ours = U @ principal_directions(texts, 4).T
    found = objective(shown(U), shown(teacher), BATCH)
    assert float(found.detach()) == pytest.approx(sum(1 - cosine(ours[i], teacher[i]) for i in range(4)))
    found.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in objective.parameters())
    assert bound("embedding_cosine", pair(6, 4), projection="learned").asks_vectors == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(IncompatiblePair, match=r"vectors are 6 wide, the teacher's 4: principal components make"):
        bound("embedding_mse", pair(6, 4))
    with pytest.raises(IncompatiblePair, match=r"4 wide, the teacher's 6; set projection='pca' or 'learned'"):
        bound("embedding_mse", pair(4, 6), projection="none")
    with pytest.raises(DataError, match=r"4 training texts have 3 principal components at most, .* are 4 wide"):
        bound("embedding_mse", pair(4, 6)).take_vectors(drawn(4, 6))
    for name, settings in (("margin_mse", {}), ("multilingual_mse", {}), ("pkt", {"pool": "sentence"})):
        with pytest.raises(
            IncompatiblePair, match=rf"{name}: reads the vectors of sentence encoders, .* solve encoder"
        ):
            bound(name, pair(task="encoder"), **settings)
    with pytest.raises(DistillationError, match=r"projection is 'linear'.*pca, learned, none"):
        objectives.make("embedding_mse", {"projection": "linear"})
    with pytest.raises(DistillationError, match=r"pca_texts is 1; it must be a whole number from 2 on"):
        objectives.make("embedding_mse", {"pca_texts": 1})
    with pytest.raises(IncompatiblePair, match=r"shows vectors of shape \(4, 4\), the teacher \(3, 4\)"):
        bound("embedding_mse")(shown(U), shown(V[:3]), BATCH)


def test_a_text_beside_each_row_is_another_pass() -> None:
    ids = torch.ones(2, 3, dtype=torch.long)
    batch = {
        "input_ids": ids,
        "positive_input_ids": ids + 1,
        "positive_attention_mask": ids,
        "negative_input_ids": ids,
    }
    found = POSITIVE.batch(batch, {})
    assert {name: value.tolist() for name, value in found.items()} == {
        "input_ids": (ids + 1).tolist(),
        "attention_mask": ids.tolist(),
    }
    with pytest.raises(DataError, match=r"no text 'translation' beside each row \(columns translation_input_ids"):
        TRANSLATION.batch(batch, {})
    assert MAIN not in (POSITIVE, NEGATIVE)


def test_a_margin_that_is_not_what_the_student_is_judged_by_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    bound("margin_mse", pair(normalize=False), similarity="cosine", margins="column")
    bound("margin_mse", pair(normalize=True), similarity="cosine", margins="column")
    assert "judged by another" not in caplog.text
    bound("margin_mse", pair(normalize=False), similarity="dot", margins="column")
    assert (
        "margin_mse has the similarity 'dot', and the student's vectors are to be compared by 'cosine'" in caplog.text
    )
