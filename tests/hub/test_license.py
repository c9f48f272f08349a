"""The licence that a teacher's card states, read from a stranger's file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hf_distill.hub import license as license_module
from hf_distill.hub.license import license_of


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: cc-by-sa-4.0\n---\n# Teacher\n", "cc-by-sa-4.0"),
        ("---\nlanguage: en\n---\n", None),
        ("# No metadata, and license: mit\n", None),
        ("---\nlicense: [mit, apache-2.0]\n---\n", None),
        ("---\nlicense: '<script>'\n---\n", None),
        ("---\nlicense: |\n  mit\n  more\n---\n", None),
    ],
)
def test_it_is_read_from_the_card_in_a_folder(card: str, licence: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert license_of(tmp_path).license == licence


@pytest.mark.parametrize(
    ("link", "found"),
    [
        ("https://example.org/terms", "https://example.org/terms"),
        ("javascript:alert(1)", None),
        ("LICENSE", None),
        ("'https://x) [l](javascript:1'", None),
    ],
)
def test_another_licence_has_a_name_and_a_link(link: str, found: str | None, tmp_path: Path) -> None:
    card = f"---\nlicense: other\nlicense_name: tongyi\nlicense_link: {link}\n---\n"
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert license_of(tmp_path) == ("other", "tongyi", found)
    (tmp_path / "mit").mkdir()
    (tmp_path / "mit" / "README.md").write_text(card.replace("other", "mit"), encoding="utf-8")
    assert license_of(tmp_path / "mit") == ("mit", None, None)


def test_a_link_inside_a_repository_becomes_one_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: other\nlicense_name: tongyi\nlicense_link: LICENSE\n---\n", encoding="utf-8")
    monkeypatch.setattr(license_module, "hf_hub_download", lambda *args, **kwargs: str(card))
    for revision, place in ((None, "main"), ("a" * 40, "a" * 40)):
        link = f"https://huggingface.co/g/t/blob/{place}/LICENSE"
        assert license_of("g/t", revision) == ("other", "tongyi", link)


def test_a_card_that_cannot_be_read_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "README.md").write_bytes(b"---\nlicense: {{{\xff\n---\n")
    with caplog.at_level(logging.WARNING):
        assert license_of(tmp_path).license is None
        assert license_of("someone/teacher-that-is-not-here").license is None
    assert f"The licence of {tmp_path} is not known" in caplog.text
    assert "The licence of someone/teacher-that-is-not-here is not known, as its card cannot be read" in caplog.text


UNREADABLE = {
    "a day that is none": "2023-02-30",
    "an hour that is none": "2024-01-01 25:00:00",
    "a word as a number": "!!int abc",
    "a word as a fraction": "!!float x",
    "nothing as a number": "!!int ''",
    "a word as true or false": "!!bool foo",
    "a word as a time": "!!timestamp foo",
    "thousands of digits": "9" * 5000,
    "a fraction beyond all": "!!float " + "1:" * 1000 + "1",
    "an escape that is no character": r'"\UFFFFFFFF"',
}


@pytest.mark.parametrize("value", UNREADABLE.values(), ids=UNREADABLE)
def test_a_value_that_yaml_cannot_make_is_a_warning(
    value: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\ndate: {value}\n---\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert license_of(tmp_path).license is None
    assert f"The licence of {tmp_path} is not known: The metadata of README.md cannot be read" in caplog.text


def test_where_there_is_no_card_there_is_nothing_to_warn_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert license_of(tmp_path).license is None
        assert license_of("/no/such/folder").license is None
    assert not caplog.records
