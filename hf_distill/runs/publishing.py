"""Publishing the student of a run: while it trains, when it is finished, and later from its folder."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_token
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import HubStrategy

from hf_distill.errors import HubError
from hf_distill.hub.card import Card
from hf_distill.hub.front_matter import FILE_NAME as CARD
from hf_distill.hub.publish import Published, full_name, prepare_repository, publish
from hf_distill.hub.record import FILE_NAME as RECORD
from hf_distill.hub.record import Record, is_hub_id
from hf_distill.hub.saves import publish_save, say_what_is_left_out
from hf_distill.ranks import is_main_process, wait_for_everyone
from hf_distill.runs.folder import RunFolder

logger = logging.getLogger(__name__)

_NAMED = re.compile(r"(?:model=|from_pretrained\(|SentenceTransformer\()'([^'\n]+)'\)")
"""The repository in the example of a card."""


@dataclass(frozen=True)
class Publication:
    """Where a student is published, and what of it while it trains: `strategy` is one of those of
    `TrainingArguments.hub_strategy`. The token is the one of `hf auth login` or HF_TOKEN.
    """

    repo_id: str
    private: bool = True
    revision: str | None = None
    strategy: str = "end"

    def check(self) -> None:
        """What can be known before hours of training: a name, a token that may write, and a repository as asked for.

        Raises: `HubError`.
        """
        if not is_hub_id(self.repo_id):
            raise HubError(f"{self.repo_id!r} is not the name of a repository; give 'owner/name'.")
        if get_token() is None:
            raise HubError(f"{self.repo_id}: not logged in; run `hf auth login`, or set HF_TOKEN.")
        if is_main_process():
            say_what_is_left_out(HubStrategy(self.strategy))
            prepare_repository(self.repo_id, private=self.private, revision=self.revision)

    def send(self, folder: RunFolder) -> str | None:
        """Publishes the finished student from the main process; the address, None for the other processes."""
        url = None
        if is_main_process():
            send = publish_run if (folder.path / RECORD).is_file() else publish
            url = send(folder.path, self.repo_id, private=self.private, revision=self.revision).url
        wait_for_everyone()
        return url

    def callback(self) -> TrainerCallback | None:
        """What publishes the saves of a stage, None where only the finished student is published."""
        return None if self.strategy == HubStrategy.END else PublishedSaves(self)


class PublishedSaves(TrainerCallback):  # type: ignore[misc]
    """Publishes the student of each checkpoint of a stage, without what would be needed to train on."""

    def __init__(self, publication: Publication) -> None:
        self.publication = publication

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """After a checkpoint is whole; the main process alone. A failure is told, and training goes on."""
        if state.is_world_process_zero:
            where, stage = self.publication, Path(args.output_dir)
            publish_save(
                stage / f"checkpoint-{state.global_step}",
                where.repo_id,
                private=where.private,
                revision=where.revision,
                strategy=HubStrategy(where.strategy),
                stage=stage.name,
            )
        return control


def publish_run(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    commit_message: str = "Publish a distilled student",
    create_pr: bool = False,
    include_objective_state: bool = False,
) -> Published:
    """Publishes the finished student of a folder: that of a run, of a trainer, or any with a student and its record.

    The card names the repository in its example: it is written anew where it is missing, or still is as the run wrote
    it; one that was changed by hand stays as it is.

    Raises: `HubError` for a folder that is no finished run, and as `hf_distill.hub.publish.publish`.
    """
    place = Path(folder).expanduser()
    record = finished_record(place)
    name = full_name(repo_id)
    _name_in_card(place, record, name)
    return publish(
        place,
        name,
        private=private,
        revision=revision,
        commit_message=commit_message,
        create_pr=create_pr,
        include_objective_state=include_objective_state,
    )


def finished_record(folder: Path) -> Record:
    """The record of the finished student in a folder.

    Raises: `HubError` that says what there is in its place.
    """
    if not folder.is_dir():
        raise HubError(f"{folder} is not a folder; give the output_dir of a finished run.")
    if (folder / RECORD).is_file():
        return Record.read(folder)
    if RunFolder(folder).is_run:
        raise HubError(f"{folder}: the run is not finished; start it again with the same command, and it goes on.")
    if any(folder.glob("checkpoint-*")):
        raise HubError(
            f"{folder} holds checkpoints and no record of a finished student; end the training with "
            "trainer.push_to_hub() or trainer.create_model_card(), which write one."
        )
    raise HubError(
        f"{folder} is not the folder of a finished run: it has no {RECORD}. A run leaves one, and of a trainer "
        "trainer.create_model_card() does."
    )


def _name_in_card(folder: Path, record: Record, repo_id: str) -> None:
    """Writes the card for this repository, unless there is one that a run would not have written."""
    path = folder / CARD
    if path.is_file() and not _is_as_written(path.read_text(encoding="utf-8", errors="replace"), record):
        logger.warning("%s was changed since the run wrote it; it is published as it is.", path)
        return
    Card.from_record(record, repo_id=repo_id).write(folder)


def _is_as_written(card: str, record: Record) -> bool:
    """Whether it is the card of that record, for no repository or for the one that its example names."""
    named = _NAMED.search(card)
    return card in {str(Card.from_record(record, repo_id=name)) for name in (None, named[1] if named else None)}
