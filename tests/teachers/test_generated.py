"""Texts that a teacher writes, their probabilities, and the folder that keeps them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from scipy.stats import chi2
from transformers import PreTrainedModel

from hf_distill.drawn_tokens import DRAWS, numbers_of
from hf_distill.errors import CacheMismatch, DataError, DistillationError, IncompatiblePair
from hf_distill.teachers import Generated, generated
from hf_distill.teachers.generated import UNANSWERED, digest_of_texts
from hf_distill.teachers.generation import Drawing, Hypothesis, Search, write
from tests import tiny, writers
from tests.on_policy import worlds

SEARCH = Search(beams=3, hypotheses=3, max_new_tokens=6)
TEXTS = writers.texts(5)


def probability(model: PreTrainedModel, source: list[int], ids: tuple[int, ...]) -> float:
    """log P of the ids behind one source, token by token, without padding."""
    total, given = 0.0, [0] if model.config.is_encoder_decoder else list(source)
    for token in ids:
        inputs = {"input_ids": torch.tensor([given])}
        if model.config.is_encoder_decoder:
            inputs = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([given])}
        with torch.no_grad():
            total += float(model(**inputs).logits[0, -1].double().log_softmax(-1)[token])
        given.append(token)
    return total


@pytest.mark.parametrize("task", ["seq2seq_lm", "causal_lm"])
def test_a_score_is_the_logarithm_of_the_probability_of_the_ids(task: str) -> None:
    model, tokenizer = writers.writer(task), writers.tokenizer(ends=task == "seq2seq_lm")
    found = list(write(model, tokenizer, TEXTS, SEARCH, batch_size=2))
    assert [len(row) for row in found] == [3] * len(TEXTS)
    assert {len(tokenizer(text)["input_ids"]) for text in TEXTS} > {3}, "no batch is padded"
    for text, row in zip(TEXTS, found, strict=True):
        for each in row:
            expected = probability(model, tokenizer(text)["input_ids"], each.ids)
            assert each.score == pytest.approx(expected, abs=1e-4)
            assert each.ended == (each.ids[-1] == writers.END)
            assert each.text == tokenizer.decode(each.ids, skip_special_tokens=True).strip()
    assert any(each.ended for row in found for each in row)


def test_the_model_is_left_in_the_mode_that_it_was_in() -> None:
    model = writers.writer().train()
    list(write(model, writers.tokenizer(), TEXTS[:1], SEARCH))
    assert model.training


def test_a_text_whose_end_is_forced_was_cut_off() -> None:
    model, search = writers.writer(), Search(beams=2, hypotheses=2, max_new_tokens=4)
    model.get_output_embeddings().weight.data[writers.END] = 0.0  # it never ends by itself
    model.generation_config.update(forced_eos_token_id=writers.END, return_dict_in_generate=True)
    (row,) = write(model, writers.tokenizer(), TEXTS[:1], search)
    assert [(len(each.ids), each.ids[-1], each.ended) for each in row] == [(4, writers.END, False)] * 2


def test_what_a_template_wrote_is_read_as_it_is_and_never_cut() -> None:
    """The tokenizer would put an end behind each text; what ends an answer is not told by the model."""
    model, plain = writers.writer("causal_lm"), writers.tokenizer(ends=False)
    wanted = list(write(model, plain, TEXTS, SEARCH, batch_size=1))
    model.generation_config.eos_token_id = None
    search = SEARCH.model_copy(update={"rendered": True, "max_source_length": 4, "ends": (writers.END,)})
    found = list(write(model, writers.tokenizer(), TEXTS, search, batch_size=2))
    has_room = [len(text.split()) <= 4 for text in TEXTS]
    assert {True, False} == set(has_room)
    for row, whole, fits in zip(found, wanted, has_room, strict=True):
        assert [(each.ids, each.ended) for each in row] == ([(each.ids, each.ended) for each in whole] if fits else [])
        assert [each.score for each in row] == pytest.approx([each.score for each in whole][: len(row)], abs=1e-4)
    assert any(each.ended for row in found for each in row)


# ---- what is drawn ----

DRAWING = Search(drawing=Drawing(temperature=1.5, top_k=9, top_p=0.9, seed=3), hypotheses=3, max_new_tokens=6)


def plain_writer(task: str) -> PreTrainedModel:
    """One that forbids itself nothing."""
    model = writers.writer(task)
    model.generation_config.update(suppress_tokens=None, min_new_tokens=None)
    return model


def drawn_by_itself(model: PreTrainedModel, source: list[int], place: int, turn: int) -> tuple[int, ...]:
    """What is drawn behind one source, token by token, in float64."""
    decodes = model.config.is_encoder_decoder
    given = [0] if decodes else list(source)
    drawn = numbers_of(3, 2, turn, [place], 6)[0].double() / DRAWS
    found: list[int] = []
    for number in drawn.tolist():
        inputs = {"input_ids": torch.tensor([source if decodes else given])}
        inputs |= {"decoder_input_ids": torch.tensor([given])} if decodes else {}
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
        found.append(worlds.token_drawn(logits, number, temperature=1.5, top_k=9, top_p=0.9))
        given.append(found[-1])
        if found[-1] == writers.END:
            break
    return tuple(found)


@pytest.mark.parametrize("task", ["seq2seq_lm", "causal_lm"])
def test_texts_are_drawn_each_by_itself_and_ranked(task: str) -> None:
    """Whatever the batch is, and where it begins."""
    model, tokenizer = plain_writer(task), writers.tokenizer(ends=task == "seq2seq_lm")
    found = list(write(model, tokenizer, TEXTS, DRAWING, batch_size=2))
    for place, (text, row) in enumerate(zip(TEXTS, found, strict=True)):
        source = tokenizer(text)["input_ids"]
        expected = {drawn_by_itself(model, source, place, turn) for turn in range(3)}
        assert {each.ids for each in row} == expected
        assert len(row) == 3
        for each in row:
            assert each.score == pytest.approx(probability(model, source, each.ids), abs=1e-4)
        means = [each.score / len(each.ids) for each in row]
        assert means == sorted(means, reverse=True)
    assert len({each.ids for row in found for each in row}) > len(TEXTS)
    later = list(write(model, tokenizer, TEXTS[3:], DRAWING, 1, 3))
    assert [[each.ids for each in row] for row in later] == [[each.ids for each in row] for row in found[3:]]


@pytest.mark.parametrize(
    "own",
    [
        {"num_beams": 4, "num_return_sequences": 4},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"prompt_lookup_num_tokens": 3},
        {"do_sample": True, "temperature": 0.1},
    ],
)
@pytest.mark.parametrize("task", ["seq2seq_lm", "causal_lm"])
def test_how_a_model_would_search_by_itself_changes_nothing(task: str, own: dict[str, Any]) -> None:
    model, tokenizer = plain_writer(task), writers.tokenizer(ends=task == "seq2seq_lm")

    def found(search: Search) -> list[list[tuple[int, ...]]]:
        return [[each.ids for each in row] for row in write(model, tokenizer, TEXTS, search)]

    wanted = [found(search) for search in (DRAWING, SEARCH)]
    model.generation_config.update(**own)
    assert [found(search) for search in (DRAWING, SEARCH)] == wanted


def test_drawn_texts_follow_the_law_of_the_teacher() -> None:
    """Of 1,000 first tokens, by the chi-squared distance to their probabilities; those of which fewer than five are
    expected count as one."""
    model, tokenizer = plain_writer("causal_lm"), writers.tokenizer(ends=False)
    search = Search(drawing=Drawing(), hypotheses=1000, max_new_tokens=1)
    (row,) = write(model, tokenizer, TEXTS[:1], search)
    with torch.no_grad():
        law = model(**tokenizer(TEXTS[0], return_tensors="pt")).logits[0, -1].double().softmax(-1)
    counts, expected = torch.bincount(torch.tensor([each.ids[0] for each in row]), minlength=len(law)), 1000 * law
    rare = expected < 5
    counts, expected = (torch.cat([each[~rare], each[rare].sum().view(1)]) for each in (counts.double(), expected))
    assert len(expected) > 20
    assert float(((counts - expected) ** 2 / expected).sum()) < chi2.ppf(0.999, len(expected) - 1)


def test_a_folder_of_drawn_texts_is_of_its_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "PART", 2)
    model, tokenizer = writers.writer(), writers.tokenizer()
    found = Generated.of(tmp_path, model, tokenizer, TEXTS, DRAWING)
    in_parts = [[each.ids for each in row] for row in found.rows(digest_of_texts(TEXTS))]
    assert in_parts == [[each.ids for each in row] for row in write(model, tokenizer, TEXTS, DRAWING)]
    other = DRAWING.model_copy(update={"drawing": Drawing(temperature=1.5, top_k=9, top_p=0.9, seed=4)})
    for search in (other, Search(hypotheses=3, max_new_tokens=6)):
        with pytest.raises(CacheMismatch, match="drawing"):
            Generated.of(tmp_path, model, tokenizer, TEXTS, search)


# ---- the folder ----


def lines_of(folder: Path) -> list[str]:
    return [line for path in sorted(folder.glob("part-*.jsonl")) for line in path.read_text().splitlines()]


def test_a_writer_that_was_broken_off_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "PART", 2)
    model, tokenizer = writers.writer(), writers.tokenizer()
    Generated.of(tmp_path / "whole", model, tokenizer, TEXTS, SEARCH, batch_size=1)
    asked: list[int] = []

    def breaks(_model: Any, _tokenizer: Any, sources: list[str], *rest: Any) -> Iterator[list[Hypothesis]]:
        asked.append(len(sources))
        for number, row in enumerate(write(model, tokenizer, sources, SEARCH, 1)):
            if number == 1 and len(asked) == 2:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(generated, "write", breaks)
    with pytest.raises(KeyboardInterrupt):
        Generated.of(tmp_path / "part", model, tokenizer, TEXTS, SEARCH)
    assert len(lines_of(tmp_path / "part")) == 2
    with pytest.raises(CacheMismatch, match="has the texts of 2 of 5 sources"):
        Generated(tmp_path / "part").hypotheses(TEXTS)
    Generated.of(tmp_path / "part", model, tokenizer, TEXTS, SEARCH)
    assert asked == [2, 2, 2, 1]
    assert lines_of(tmp_path / "part") == lines_of(tmp_path / "whole")
    Generated.of(tmp_path / "part", model, tokenizer, TEXTS, SEARCH)
    assert asked[4:] == []
    assert not [*(tmp_path / "part").glob(".*.part"), *(tmp_path / "part").glob(".part-*.lock")]


def test_a_part_that_another_process_is_at_is_left_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one ends without having written it."""
    monkeypatch.setattr(generated, "PART", 2)
    model, tokenizer, others_done = writers.writer(), writers.tokenizer(), threading.Event()
    Generated.of(tmp_path / "whole", model, tokenizer, TEXTS, SEARCH, batch_size=1)
    asked: list[list[str]] = []

    def told(_model: Any, _tokenizer: Any, sources: list[str], *rest: Any) -> Iterator[list[Hypothesis]]:
        asked.append(sources)
        yield from write(model, tokenizer, sources, SEARCH, 1)
        if len(asked) == 2:
            others_done.set()

    monkeypatch.setattr(generated, "write", told)
    folder = tmp_path / "shared"
    folder.mkdir()
    given = (folder, model, tokenizer, TEXTS, SEARCH)
    with FileLock(folder / ".part-00000.jsonl.lock"):
        process = threading.Thread(target=Generated.of, args=given, daemon=True)
        process.start()
        assert others_done.wait(60)
        assert asked == [TEXTS[2:4], TEXTS[4:]]
    process.join(60)
    assert asked[2:] == [TEXTS[:2]]
    assert lines_of(folder) == lines_of(tmp_path / "whole")
    assert (folder / "generated.json").read_bytes() == (tmp_path / "whole" / "generated.json").read_bytes()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    Generated.of(folder, writers.writer(), writers.tokenizer(), TEXTS, SEARCH)
    return folder


@pytest.mark.parametrize("other", ["teacher", "tokenizer", "sources", "beams", "max_new_tokens"])
def test_what_was_written_otherwise_is_refused_by_name(written: Path, other: str) -> None:
    given: dict[str, Any] = {
        "model": writers.writer(seed=int(other == "teacher")),
        "tokenizer": writers.tokenizer(ends=other != "tokenizer"),
        "sources": TEXTS[1:] if other == "sources" else TEXTS,
        "search": SEARCH.model_copy(update={other: 4} if other in ("beams", "max_new_tokens") else {}),
    }
    before = lines_of(written)
    with pytest.raises(CacheMismatch, match=f"was written with another {other}: {other} "):
        Generated.of(written, **given)
    assert lines_of(written) == before


def test_what_a_folder_does_not_tell_is_not_taken_for_the_same(written: Path, tmp_path: Path) -> None:
    cut = SEARCH.model_copy(update={"max_source_length": 3})
    with pytest.raises(CacheMismatch, match="another max_source_length: max_source_length 'none', here 3"):
        Generated.of(written, writers.writer(), writers.tokenizer(), TEXTS, cut)
    facts = json.loads((written / "generated.json").read_text())
    facts["fingerprint"] |= {"teacher": None, "sources": None}
    del facts["fingerprint"]["tokenizer"]
    (tmp_path / "generated.json").write_text(json.dumps(facts))
    with pytest.raises(CacheMismatch, match="another teacher and tokenizer and sources"):
        Generated.of(tmp_path, writers.writer(), writers.tokenizer(), TEXTS, SEARCH)


def test_parts_of_more_rows_than_there_are_sources_are_refused(written: Path, tmp_path: Path) -> None:
    facts = json.loads((written / "generated.json").read_text())
    facts["parts"][0]["rows"] = 6
    (tmp_path / "generated.json").write_text(json.dumps(facts))
    with pytest.raises(CacheMismatch, match=r"its parts have 6 rows, and there are 5\); remove the folder"):
        Generated(tmp_path)


def test_texts_of_other_sources_are_refused_when_they_are_read(written: Path) -> None:
    with pytest.raises(CacheMismatch, match="another sources"):
        Generated(written).hypotheses(TEXTS[::-1])


HUGE = '{"hypotheses": [{"text": "a", "ids": [1], "score": 1' + "0" * 400 + ', "ended": true}]}'
NUMBERS = '{"hypotheses": [{"text": 3, "ids": "12", "score": -1.0, "ended": 1}]}'


@pytest.mark.parametrize("damage", ["{", '{"hypotheses": 1}', "", "\x00", HUGE, NUMBERS])
def test_a_damaged_folder_is_refused(tmp_path: Path, damage: str) -> None:
    with pytest.raises(CacheMismatch, match="holds no texts of a teacher"):
        Generated(tmp_path)
    Generated.of(tmp_path, writers.writer(), writers.tokenizer(), TEXTS, SEARCH)
    part = tmp_path / "part-00000.jsonl"
    part.write_text(damage, encoding="utf-8")
    with pytest.raises(CacheMismatch, match=r"part-00000.jsonl is damaged \(its SHA-256 differs\)"):
        Generated(tmp_path).hypotheses(TEXTS)
    facts = json.loads((tmp_path / "generated.json").read_text())
    facts["parts"][0]["sha256"] = hashlib.sha256(damage.encode()).hexdigest()
    (tmp_path / "generated.json").write_text(json.dumps(facts))
    with pytest.raises(CacheMismatch, match=r"part-00000\.jsonl is damaged"):
        Generated(tmp_path).hypotheses(TEXTS)
    (tmp_path / "generated.json").write_text(damage, encoding="utf-8")
    with pytest.raises(CacheMismatch, match=r"generated\.json is damaged"):
        Generated(tmp_path)


def test_models_that_do_not_write_and_searches_without_beams_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompatiblePair, match="whose task is masked_lm"):
        Generated.of(tmp_path, tiny.model("masked_lm"), writers.tokenizer(), TEXTS)
    with pytest.raises(DistillationError, match="3 hypotheses are asked for and there are 2 beams"):
        Generated.of(tmp_path, writers.writer(), writers.tokenizer(), TEXTS, Search(beams=2, hypotheses=3))
    with pytest.raises(DataError, match="no sources"):
        Generated.of(tmp_path, writers.writer(), writers.tokenizer(), [])


# ---- what is kept ----


def folder_of(path: Path, rows: list[list[Hypothesis]], monkeypatch: pytest.MonkeyPatch) -> Generated:
    monkeypatch.setattr(generated, "write", lambda *_given: iter(rows))
    return Generated.of(path, writers.writer(), writers.tokenizer(), TEXTS[: len(rows)], SEARCH)


def test_empty_cut_and_repeated_texts_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        [
            Hypothesis("a b", (1,), -2.0, True),
            Hypothesis("", (2,), -0.1, True),
            Hypothesis("a  b ", (3,), -1.0, True),
            Hypothesis("c", (4,), -0.5, False),
            Hypothesis("d", (5,), -1.5, True),
        ],
        [Hypothesis("x", (8,), -1.0, True), Hypothesis("x", (8,), -1.0, True)],
        [Hypothesis("e\u0301", (6,), -1.0, True), Hypothesis("\u00e9", (7,), -1.0, True)],
    ]
    kept = folder_of(tmp_path, rows, monkeypatch)
    with caplog.at_level(logging.INFO, logger="hf_distill"):
        found = kept.hypotheses(TEXTS[:3])
    assert "3 sources, 4 texts; left out: 1 empty, 1 too long, 3 duplicate" in caplog.text
    assert [each.text for each in found[0]] == ["a b", "d"]
    assert found[0][0].score == pytest.approx(math.log(math.exp(-2.0) + math.exp(-1.0)))
    assert found[1][0].score == -1.0  # drawn twice
    assert found[2][0].score == pytest.approx(math.log(2.0) - 1.0)


def test_the_best_is_what_the_search_ranked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a length penalty it need not be the most probable one."""
    rows = [[Hypothesis("a b c", (1,), -3.0, True), Hypothesis("a", (2,), -2.0, True)]]
    found = folder_of(tmp_path, rows, monkeypatch).hypotheses(TEXTS[:1])
    assert [each.text for each in found[0]] == ["a b c", "a"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\n", "\r"])
def test_texts_may_hold_separators_of_lines(mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"a{mark}b"
    found = folder_of(tmp_path, [[Hypothesis(text, (1,), -2.0, True)]], monkeypatch).hypotheses(TEXTS[:1])
    assert found[0][0].text == text


def test_of_a_source_nothing_may_be_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = Hypothesis("a", (1,), -2.0, True), Hypothesis(" ", (1,), -2.0, True)
    found = folder_of(tmp_path, [[good], [bad], [bad]], monkeypatch).hypotheses(TEXTS[:3])
    assert [len(row) for row in found] == [1, 0, 0]


def test_sources_that_nothing_is_written_for_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = folder_of(tmp_path, [[Hypothesis("a", (1,), -2.0, True)], []], monkeypatch)
    with caplog.at_level(logging.INFO, logger="hf_distill"):
        found, left_out = kept.sorted_out(TEXTS[:2])
    assert [len(row) for row in found] == [1, 0]
    assert left_out == {UNANSWERED: 1}
    assert "2 sources, 1 texts; left out: 0 empty, 0 too long, 0 duplicate, 1 sources without room" in caplog.text
