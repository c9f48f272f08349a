"""Whether the batches of an epoch in which training goes on are those that they were."""

from __future__ import annotations

import json
from pathlib import Path

from hf_distill.checkpoints.arguments import ARGUMENTS, BUDGET
from hf_distill.errors import BrokenCheckpoint


def check_same_budget(checkpoint: Path, tokens_per_batch: int | None) -> None:
    """Refuses to go on with another token budget: the batches of an epoch are others then, so that those which are
    skipped are not those which were trained on. A checkpoint that does not tell of a budget is not compared.

    Raises: `BrokenCheckpoint` with both values and the remedy.
    """
    path = checkpoint / ARGUMENTS
    if not path.is_file():
        return
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenCheckpoint(f"{path} cannot be read: {error}. Resume from an earlier checkpoint.") from error
    if isinstance(told, dict) and told.get(BUDGET, tokens_per_batch) != tokens_per_batch:
        raise BrokenCheckpoint(
            f"{checkpoint} was trained with tokens_per_batch={told[BUDGET]}, and {tokens_per_batch} is asked for: "
            f"batches would be others, and rows be trained on twice or not at all. Set tokens_per_batch="
            f"{told[BUDGET]} to go on, or ignore_data_skip=True to begin the epoch's batches anew."
        )


def check_known_order(checkpoint: Path) -> None:
    """Refuses to go on in the middle of a later epoch whose order of rows came from the generator of dropout: it is
    the order that the first epoch of the resumed process would have.

    Raises: `BrokenCheckpoint` with the remedy.
    """
    epoch = float(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["epoch"])
    if epoch > 1 and not epoch.is_integer():
        raise BrokenCheckpoint(
            f"{checkpoint} is of epoch {epoch:.2f}, whose order of rows is not known: with use_seedable_sampler=False "
            "it is drawn from the generator that dropout draws from, so rows would be trained on twice or not at all. "
            "Go on from the end of an epoch, or set ignore_data_skip=True to begin this one anew."
        )
