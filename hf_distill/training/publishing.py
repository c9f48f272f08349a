"""How a `DistillationTrainer` publishes its student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.trainer_utils import HubStrategy

from hf_distill.errors import HubError
from hf_distill.hub.card import Card
from hf_distill.hub.publish import Published, prepare_repository, publish
from hf_distill.hub.record import is_hub_id
from hf_distill.hub.saves import publish_save, say_what_is_left_out
from hf_distill.hub.trained import record_of
from hf_distill.training.binding import BoundTrainer


def _name_of(folder: Path) -> str:
    """A repository by the name of a folder. Raises: `HubError` for a name that no repository can have."""
    if not is_hub_id(folder.name):
        raise HubError(
            f"{folder}: {folder.name!r} cannot be the name of a repository; set hub_model_id='owner/name' in the "
            "training arguments."
        )
    return folder.name


class Publishing(BoundTrainer):
    """Overrides all that the Trainer does with the Hub (`init_hf_repo`, `create_model_card`, `push_to_hub`,
    `_push_from_checkpoint`): what is uploaded is an allow list, which holds the record and the card of the run.

    Of `hub_strategy`, `end` publishes nothing before `push_to_hub`, the others the student of every save; with
    `all_checkpoints` each save keeps a folder of its own in the repository. None publishes optimizer or random state.
    `hub_always_push` changes nothing: training waits for each upload, so no save is passed over.
    """

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Finds out before training whether the student can be published, and makes the repository (private by
        default).
        """
        if token is not None or self.args.hub_token is not None:
            raise HubError(
                "a token is taken from `hf auth login` or HF_TOKEN alone, where it cannot be written down by accident."
            )
        self.hub_model_id = self.args.hub_model_id or _name_of(Path(self.args.output_dir).resolve())
        if self.is_world_process_zero():
            say_what_is_left_out(HubStrategy(self.args.hub_strategy))
            self.hub_model_id = prepare_repository(
                self.hub_model_id, private=self._is_private(private), revision=self.args.hub_revision
            )

    def _is_private(self, private: bool | None = None) -> bool:
        asked = self.args.hub_private_repo if private is None else private
        return True if asked is None else asked

    def create_model_card(
        self,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        **_: Any,
    ) -> None:
        """Writes the record and the card of this run into the output folder. What else the Trainer's takes (the names
        of the model, its origin, task and data) is told by the record, and is not looked at.
        """
        if self.is_world_process_zero():
            record = record_of(self)
            record.write(self.args.output_dir)
            card = Card.from_record(record, repo_id=self.hub_model_id, language=language, license=license, tags=tags)
            card.write(self.args.output_dir)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Published | None:
        """Saves and publishes student, tokenizer, card and record; all processes call it, the first one returns the
        result.

        The upload is compared with the folder before it returns, so it always blocks. `create_pr=True` opens a pull
        request, `include_objective_state=True` publishes what the objectives learned, too; further arguments go to the
        card (`language`, `license`, `tags`).

        Raises: `HubError` with the repository, the status and the remedy.
        """
        if not blocking:
            raise HubError("push_to_hub(blocking=False) could not report a failure; leave it out.")
        create_pr = bool(kwargs.pop("create_pr", False))
        include_objective_state = bool(kwargs.pop("include_objective_state", False))
        if self.hub_model_id is None or token is not None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        return publish(
            self.args.output_dir,
            self.hub_model_id,
            private=self._is_private(private),
            revision=revision or self.args.hub_revision,
            commit_message=commit_message or "End of training",
            create_pr=create_pr,
            include_objective_state=include_objective_state,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publishes the student of a checkpoint, without optimizer, random state or any pickle; a failure is a
        warning.
        """
        if self.args.hub_strategy != HubStrategy.END and self.is_world_process_zero():
            publish_save(
                Path(checkpoint_folder),
                self.hub_model_id,
                private=self._is_private(),
                revision=self.args.hub_revision,
                strategy=HubStrategy(self.args.hub_strategy),
            )
