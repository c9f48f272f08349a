"""What a teacher hears, kept in a folder: the search's own hypotheses, searched for once, of those sounds alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from hf_distill.errors import CacheMismatch, DataError, DistillationError
from hf_distill.objectives.hypotheses import SCORES, TEXTS
from hf_distill.teachers import generated, heard
from hf_distill.teachers.ctc_search import ctc_hypotheses
from hf_distill.teachers.heard import SoundSearch, digest_of_sounds, heard_of
from tests import sounds

SEARCH = SoundSearch(beams=4, hypotheses=2)


def heard_rows() -> Dataset:
    made = sounds.rows()
    return Dataset.from_dict({name: [row[name] for row in made] for name in ("input_values", "labels")})


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    batch = sounds.collate([{**item, "labels": [1]} for item in items])
    return {name: batch[name] for name in ("input_values", "attention_mask")}


def test_what_is_kept_is_what_the_search_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = sounds.hearing(), heard_rows()
    monkeypatch.setattr(generated, "PART", 2)
    found = heard_of(tmp_path, model, rows, collate, SEARCH, batch_size=2)
    assert [part.rows for part in found.facts.parts] == [2, 1]
    wanted = ctc_hypotheses(
        model, collate([{"input_values": row["input_values"]} for row in rows]), beams=4, hypotheses=2
    )
    for kept, row in zip(found.rows(digest_of_sounds(rows)), wanted, strict=True):
        assert [list(each.ids) for each in kept] == row[TEXTS]
        assert [each.score for each in kept] == pytest.approx(row[SCORES], abs=1e-4)
    monkeypatch.setattr(heard, "ctc_hypotheses", None)  # nothing is searched for again
    assert heard_of(tmp_path, model, rows, collate, SEARCH).facts == found.facts


def test_other_sounds_teachers_and_searches_are_refused(tmp_path: Path) -> None:
    model, rows = sounds.hearing(), heard_rows()
    found = heard_of(tmp_path, model, rows, collate, SEARCH)
    with pytest.raises(CacheMismatch, match="beams"):
        heard_of(tmp_path, model, rows, collate, SoundSearch(beams=3, hypotheses=2))
    with pytest.raises(CacheMismatch, match="teacher"):
        heard_of(tmp_path, sounds.hearing(1), rows, collate, SEARCH)
    with pytest.raises(CacheMismatch, match="sources"):
        found.rows(digest_of_sounds(rows.select([1, 0, 2])))
    with pytest.raises(DistillationError, match="3 hypotheses are asked for and there are 2 beams"):
        heard_of(tmp_path, model, rows, collate, SoundSearch(beams=2, hypotheses=3))
    with pytest.raises(DataError, match="sounds are in input_values or input_features"):
        heard_of(tmp_path, model, rows.remove_columns("input_values"), collate, SEARCH)
