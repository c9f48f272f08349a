"""codecarbon's estimates, from the files that its callback leaves."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hf_distill.hub.emissions import emissions_of

HEAD = "timestamp,project_name,run_id,duration,emissions,emissions_rate,energy_consumed,country_name,os\n"


def write(folder: Path, *rows: str, head: str = HEAD) -> Path:
    folder.mkdir()
    (folder / "emissions.csv").write_text(head + "".join(f"2026-11-26T10:00:00,p,r,{row},Linux\n" for row in rows))
    return folder


def test_they_are_added_over_stages_and_over_what_was_gone_on_with(tmp_path: Path) -> None:
    folders = [
        write(tmp_path / "1", "30.0,0.001,0.00003,0.004,France", "10.0,0.0005,0.00005,0.002,France"),
        write(tmp_path / "2", "60.0,0.002,0.00003,0.008,France"),
    ]
    found = emissions_of(folders)
    assert found is not None
    assert (found.seconds, found.country) == (100.0, "France")
    assert (found.kilograms, found.kilowatt_hours) == pytest.approx((0.0035, 0.014))


def test_part_of_a_sum_is_not_told(tmp_path: Path) -> None:
    measured = write(tmp_path / "1", "30.0,0.001,0.00003,0.004,France")
    (tmp_path / "2").mkdir()
    assert emissions_of([measured, tmp_path / "2"]) is None
    assert emissions_of([]) is None


@pytest.mark.parametrize(
    ("rows", "head"),
    [
        (["30.0,much,0.1,0.004,France"], HEAD),
        (["30.0,nan,0.1,0.004,France"], HEAD),
        (["30.0,-1.0,0.1,0.004,France"], HEAD),
        (["30.0"], HEAD),
        ([], HEAD),
        (["30.0,0.001,0.1,0.004,France"], "a,b\n"),
    ],
)
def test_another_file_of_that_name_is_a_warning(
    rows: list[str], head: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "1", *rows, head=head)
    with caplog.at_level(logging.WARNING):
        assert emissions_of([folder]) is None
    assert f"{folder / 'emissions.csv'}: no estimate of emissions is recorded" in caplog.text
