"""What codecarbon wrote of a training: `emissions.csv`, in the folder of its Trainer."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterable
from pathlib import Path

from hf_distill.hub.markdown import line
from hf_distill.hub.record import Emissions

logger = logging.getLogger(__name__)

FILE_NAME = "emissions.csv"
COLUMNS = ("emissions", "energy_consumed", "duration")
"""Kilograms of CO2 equivalent, kilowatt-hours, seconds; a row for each time that the training was gone on with."""


def emissions_of(folders: Iterable[Path]) -> Emissions | None:
    """The sum over the trainings in these folders.

    None where one of them was not measured, or left a file that cannot be read, which a warning names: part of a sum
    says nothing.
    """
    files = [folder / FILE_NAME for folder in folders]
    if not files or not all(file.is_file() for file in files):
        return None
    rows: list[dict[str, str]] = []
    for file in files:
        with file.open(encoding="utf-8", errors="replace", newline="") as opened:
            rows += csv.DictReader(opened)
    try:
        sums = [math.fsum(float(row[column]) for row in rows) for column in COLUMNS]
    except (KeyError, TypeError, ValueError) as error:
        logger.warning("%s: no estimate of emissions is recorded, as it is not codecarbon's (%r).", files[-1], error)
        return None
    if not rows or not all(math.isfinite(value) and value >= 0 for value in sums):
        logger.warning("%s: no estimate of emissions is recorded, as it holds none.", files[-1])
        return None
    kilograms, kilowatt_hours, seconds = sums
    country = line(rows[-1].get("country_name") or "")
    return Emissions(kilograms=kilograms, kilowatt_hours=kilowatt_hours, seconds=seconds, country=country)
