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
from hf_distill.hub.card_stated import Stated, check_stated, lacking, stated, stated_in
from hf_distill.hub.folder import reading
from hf_distill.hub.front_matter import FILE_NAME as CARD
from hf_distill.hub.publish import Published, check_target, full_name, prepare_repository, publish
from hf_distill.hub.record import FILE_NAME as RECORD
from hf_distill.hub.record import Record
from hf_distill.hub.saves import publish_save, say_what_is_left_out
from hf_distill.ranks import is_main_process, wait_for_everyone
from hf_distill.runs.folder import RunFolder

logger = logging.getLogger(__name__)

_NAMED = re.compile(r"(?:model=|from_pretrained\(|SentenceTransformer\()'([^'\n]+)'\)")
"""The repository in the example of a card."""


@dataclass(frozen=True)
class Publication:
    """Where a student is published, and what of it while it trains: `strategy` is one of those of
    `TrainingArguments.hub_strategy`. Its card states `language`, `license` and `tags`, as
    `hf_distill.hub.card.Card.from_record` takes them. The token is the one of `hf auth login` or HF_TOKEN.
    """

    repo_id: str
    private: bool = True
    revision: str | None = None
    strategy: str = "end"
    language: str | list[str] | None = None
    license: str | None = None
    tags: str | list[str] | None = None

    def check(self) -> None:
        """What can be known before hours of training: a name, what a card may state, a token that may write, and a
        repository as asked for.

        Raises: `HubError`.
        """
        check_target(self.repo_id, self.revision)
        check_stated(stated(self.language, self.license, self.tags))
        if get_token() is None:
            raise HubError(f"{self.repo_id}: not logged in; run `hf auth login`, or set HF_TOKEN.")
        if is_main_process():
            say_what_is_left_out(HubStrategy(self.strategy))
            prepare_repository(self.repo_id, private=self.private, revision=self.revision)

    def card(self, record: Record) -> Card:
        """The card of the student that `record` tells of."""
        return Card.from_record(record, repo_id=self.repo_id, **stated(self.language, self.license, self.tags))

    def send(self, folder: RunFolder) -> str | None:
        """Publishes the finished student from the main process; the address, None for the other processes."""
        url = self._sent(folder.path).url if is_main_process() else None
        wait_for_everyone()
        return url

    def _sent(self, folder: Path) -> Published:
        if not (folder / RECORD).is_file():
            return publish(folder, self.repo_id, private=self.private, revision=self.revision)
        own = stated(self.language, self.license, self.tags)
        return publish_run(folder, self.repo_id, private=self.private, revision=self.revision, **own)

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
    language: str | list[str] | None = None,
    license: str | None = None,
    tags: str | list[str] | None = None,
) -> Published:
    """Publishes the finished student of a folder: that of a run, of a trainer, or any with a student and its record.

    The card names the repository in its example, and states `language`, `license` and `tags` (None: as it does
    already): it is written anew where it is missing, or still is as the run wrote it; one that was changed by hand
    stays as it is.

    Raises: `HubError` for a folder that is no finished run, for what is to be stated in a card that was changed by
    hand, and as `hf_distill.hub.publish.publish`.
    """
    place = Path(folder).expanduser()
    record = finished_record(place)
    check_target(repo_id, revision)
    asked = stated(language, license, tags)
    check_stated(asked)
    name = full_name(repo_id)
    _complete_card(place, record, name, asked)
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


def _complete_card(folder: Path, record: Record, repo_id: str, asked: Stated) -> None:
    """Writes the card for this repository and with what is asked for, unless there is one that was changed by hand."""
    path = folder / CARD
    with reading(path):
        found = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    if found is not None and not _is_as_written(found, record):
        _leave(path, lacking(asked, stated_in(found)))
        return
    kept = Stated() if found is None else stated_in(found)
    card = Card.from_record(record, repo_id=repo_id, **(kept | asked))
    if str(card) != found:
        card.write(folder)


def _leave(path: Path, missing: list[str]) -> None:
    """Raises: `HubError` for what is asked for, and missing in a card that was changed by hand."""
    if missing:
        raise HubError(
            f"{path} was changed by hand, so that what was asked for is not put into it: {', '.join(missing)}. "
            "Nothing was published: write them there, into the lines between '---', or leave them out."
        )
    logger.warning("%s was changed since the run wrote it; it is published as it is.", path)


def _is_as_written(card: str, record: Record) -> bool:
    """Whether it is the card of that record with what it states, for no repository or for the one that its example
    names."""
    named, own = _NAMED.search(card), stated_in(card)
    return card in {str(Card.from_record(record, repo_id=name, **own)) for name in (None, named[1] if named else None)}
