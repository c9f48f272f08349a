"""What language models answer word by word: in chunks as by hand, and whatever the padding."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from hf_distill import Labels, SoftTargets, chunks
from hf_distill.anatomy import Anatomy
from hf_distill.distillation import Distillation
from hf_distill.objectives import Pair
from hf_distill.tasks import IGNORED, task_of
from hf_distill.word_answers import WordReader, word_answers
from tests import tiny


@pytest.mark.parametrize("task", ["causal_lm", "seq2seq_lm"])
@pytest.mark.parametrize("in_part", [True, False])
@torch.no_grad()
def test_the_answers_are_those_of_whole_logits(task: str, in_part: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven rows a chunk, so that there are several."""
    monkeypatch.setattr(chunks.Sizes, "of", classmethod(lambda cls, *_given: cls(7, 7)))
    student, teacher = (tiny.model(task, seed=seed).double().eval() for seed in (0, 1))
    kind, rows = task_of(student), tiny.rows(task, 5)
    batch, padded = tiny.Pad()(rows), tiny.Pad(extra=9)(rows)
    ours, theirs = (WordReader(Anatomy.of(model), in_part=in_part) for model in (student, teacher))
    assert ours.in_chunks is in_part
    found = word_answers(ours, kind, batch, theirs)
    targets = kind.targets(batch)[0]
    log_q, log_p = (
        kind.at_rows(model(**batch).logits, kind.tokens[0]).log_softmax(-1) for model in (student, teacher)
    )
    for row, place in (targets != IGNORED).nonzero().tolist():
        best, loss, divergence = found[row, place].tolist()
        q, p = log_q[row, place], log_p[row, place]
        assert best == int(q.argmax())
        assert loss == pytest.approx(-float(q[targets[row, place]]))
        assert divergence == pytest.approx(float(functional.kl_div(q, p, reduction="sum", log_target=True)))
    assert (found[targets == IGNORED] == 0).all()
    torch.testing.assert_close(word_answers(ours, kind, padded, theirs)[:, : found.shape[1]], found)
    assert word_answers(ours, kind, batch).shape == (*targets.shape, 2)
    ours.close()


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("task", ["causal_lm", "seq2seq_lm"])
@torch.no_grad()
def test_a_student_that_was_changed_is_compared_with_its_teacher_as_before(task: str) -> None:
    """A teacher that is read by hooks lost them with the student's, and did not run in the next evaluation."""
    student, teacher = (tiny.model(task, seed=seed).double().eval() for seed in (0, 1))
    pair = Pair.of(Anatomy.of(student), Anatomy.of(teacher), task_of(student), tokenizer_size=tiny.VOCABULARY)
    before = [hooks(model) for model in (student, teacher)]
    distillation = Distillation(student, SoftTargets() + Labels(), pair)
    distillation.answer_in_words()
    distillation.answer_in_words(teacher)
    batch = tiny.Pad()(tiny.rows(task, 5))
    expected = distillation.eval()(batch).outputs.logits
    assert expected.shape[-1] == 3
    assert expected[..., 2].any()
    distillation.refresh(pair)
    torch.testing.assert_close(distillation.eval()(batch).outputs.logits, expected)
    distillation.close()
    assert [hooks(model) for model in (student, teacher)] == before
