"""How a `DistillationTrainer` writes checkpoints and goes on from them."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import safetensors
from torch import nn
from transformers.trainer import SCALER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import has_length

from hf_distill import checkpoints, checks
from hf_distill.errors import BrokenCheckpoint
from hf_distill.hub.packed import renew_packed
from hf_distill.hub.sentence_transformers import write_modules
from hf_distill.sentences import DENSE
from hf_distill.training.identity import run_of
from hf_distill.training.sharding import Sharding
from hf_distill.training.workers import is_of_worker

_FAULTS = (OSError, RuntimeError, safetensors.SafetensorError)
"""What a disk that is full makes of a save: torch and safetensors have errors of their own for it."""


class Checkpointing(Sharding):
    """Overrides `_save_checkpoint`: one is written beside (`.checkpoint-<step>.part`) and renamed when it is whole,
    with a manifest of its files and of the run. Their SHA-256 are computed while training goes on, and are there when
    the next one is written or training ends; older ones go when all of it is on the disk itself.

    Overrides `_get_output_dir` and `_push_from_checkpoint` for the time of a save, and `_save`,
    `_load_from_checkpoint`, `_load_best_model`, `_init_training_state`, `_load_scaler`, `_load_rng_state` and
    `_run_epoch`: whatever a run goes on with is all there, or an error, and it ends where it would have ended.
    """

    _part: Path | None = None
    """Where the checkpoint is written, during a save."""
    _run: dict[str, Any] | None = None
    """What tells this run from others, since it began to train."""
    _sealing: Future[None] | None = None

    # ---- writing ----

    def _get_output_dir(self, trial: Any) -> str:
        home: str = super()._get_output_dir(trial)
        return home if self._part is None else str(self._part)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._settle()
        home, step = Path(self._get_output_dir(trial)), self.state.global_step
        part = checkpoints.part_of(home, step)
        told = self._told_run()  # by all processes, as each may hold a part of the teacher
        try:
            if self.args.should_save:
                checkpoints.begin(part)
            self.accelerator.wait_for_everyone()  # before any process writes into it
            self._part = part
            super()._save_checkpoint(model, trial)
            self._name_best(home, part / f"checkpoint-{step}")
            self.accelerator.wait_for_everyone()  # the random states of all processes are written
            if self.args.should_save:
                checkpoints.put_in_place(part, step, told)
        except _FAULTS as error:
            free = checkpoints.abandon(part)
            if is_of_worker(error):
                raise
            raise BrokenCheckpoint(
                f"checkpoint-{step} could not be written to {home} ({free:,} bytes are free): {error}. Make room, and "
                "go on from the checkpoint before."
            ) from error
        finally:
            self._part = None
        self.accelerator.wait_for_everyone()  # it is in its place for all
        self._after_save(home, home / f"checkpoint-{step}")

    def _name_best(self, home: Path, written: Path) -> None:
        """Gives the state the place of the best checkpoint as it will be; the Trainer looks beside the one it
        writes."""
        best = self.state.best_global_step
        place = home / f"checkpoint-{best}"
        if not best or not (best == self.state.global_step or place.is_dir()):
            return
        if self.state.best_model_checkpoint != str(place):
            self.state.best_model_checkpoint = str(place)
            if self.args.should_save:
                self.state.save_to_json(str(written / TRAINER_STATE_NAME))

    def _after_save(self, home: Path, checkpoint: Path) -> None:
        if self.args.should_save:
            limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
            thread = ThreadPoolExecutor(1, "seal")
            self._sealing = thread.submit(_seal_and_rotate, home, checkpoint, limit, best)
            thread.shutdown(wait=False)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._part is None:  # else it is not in its place yet
            super()._push_from_checkpoint(checkpoint_folder)

    def _settle(self) -> None:
        """Waits until the last checkpoint has its sums."""
        sealing, self._sealing = self._sealing, None
        if sealing is None:
            return
        try:
            sealing.result()
        except OSError as error:
            raise BrokenCheckpoint(f"the last checkpoint could not be looked over: {error}.") from error

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The student, and beside it what the objectives learned; the arguments as JSON, never as a pickle."""
        super()._save(output_dir, state_dict=state_dict)
        if self.args.should_save:
            folder = Path(output_dir if output_dir is not None else self.args.output_dir)
            checkpoints.replace_pickled_arguments(folder, self.args, self.tokens_per_batch)
            gathered = state_dict if self._engine_loads else None
            checkpoints.write_objectives(folder, self.distillation.learned, gathered=gathered)
            checkpoints.write_teacher(folder, self.teacher)
            renew_packed(self.model, folder)
            write_modules(folder, self.model.config, getattr(self.model, DENSE, None))
            checkpoints.let_others_read(folder)

    # ---- going on ----

    def _begin_run(self, asked: str | bool | None) -> str | None:
        """The checkpoint that training goes on from, if it is asked for: whole, and of this run."""
        folder = checkpoints.to_resume_from(asked, Path(self.args.output_dir))
        self._run = None
        if folder is not None:
            checkpoints.check_same_engine(Path(folder), checks.engine_of(self))
            checkpoints.check_same_run(Path(folder), self._told_run(), self.resume_despite)
            if not self.args.ignore_data_skip:
                checkpoints.check_same_budget(Path(folder), self.tokens_per_batch)
                if self._order_is_of_dropout:
                    checkpoints.check_known_order(Path(folder))
        return folder

    def _told_run(self) -> dict[str, Any]:
        if self._run is None:
            self._run = run_of(self)
        return self._run

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Nothing, where the last step is done: the Trainer would do one more, resumed from it within an epoch."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_beside(Path(resume_from_checkpoint))

    def _load_beside(self, checkpoint: Path) -> None:
        """What the objectives learned, unless it came back with the engine's own checkpoint, and the teacher."""
        if not self._engine_loads:
            checkpoints.read_objectives(checkpoint, self.distillation.learned)
        checkpoints.read_teacher(checkpoint, self.teacher)

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            self._needs(Path(checkpoint, SCALER_NAME), "the loss scaler starts anew")
        super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None and "world_size" not in self.resume_despite:
            alone = self.args.world_size <= 1
            name = "rng_state.pth" if alone else f"rng_state_{self.args.process_index}.pth"
            self._needs(Path(checkpoint, name), "dropout is another")
        super()._load_rng_state(checkpoint)

    @staticmethod
    def _needs(path: Path, consequence: str) -> None:
        if not path.is_file():
            raise BrokenCheckpoint(
                f"{path} is missing; without it {consequence}. Resume from a checkpoint of as many processes and of "
                "the same precision."
            )

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Finds where a stream was, which has no length, and the best checkpoint."""
        found: tuple[int, int] = super()._init_training_state(*args, **kwargs)
        resumed = kwargs.get("resume_from_checkpoint", args[3] if len(args) > 3 else None)
        if resumed is None:
            return found
        if self.args.load_best_model_at_end:
            self._find_best(Path(resumed))
        is_stream = self.train_dataset is not None and not has_length(self.train_dataset)
        return self._place_in_stream() if is_stream else found

    def _place_in_stream(self) -> tuple[int, int]:
        """How often a stream was read to its end, and how many batches of it since. The Trainer takes `max_steps` for
        the steps of an epoch there, so the epoch's whole part counts the passes."""
        passes = int(self.state.epoch or 0)
        whole = self.state.max_steps * self.args.gradient_accumulation_steps
        batches = round(((self.state.epoch or 0) - passes) * whole)
        return passes, 0 if self.args.ignore_data_skip else batches

    def _find_best(self, resumed: Path) -> None:
        """Finds the best checkpoint beside the one that is resumed, where the run was moved; it must be whole. There
        is none where the best evaluation so far was at a step that was not saved."""
        named = TrainerState.load_from_json(str(resumed / TRAINER_STATE_NAME)).best_model_checkpoint
        if named is None:
            return
        place = Path(self.state.best_model_checkpoint or resumed.parent / Path(named).name)
        if not place.is_dir():
            raise BrokenCheckpoint(
                f"{place} is missing; it is the best checkpoint so far, and load_best_model_at_end needs it. Put it "
                "back, or train without load_best_model_at_end."
            )
        checkpoints.check_intact(place)
        self.state.best_model_checkpoint = str(place)

    def _load_best_model(self) -> None:
        self._settle()
        best = self.state.best_model_checkpoint
        if best is not None:
            checkpoints.check_intact(Path(best))
        super()._load_best_model()
        if best is not None:
            self._load_beside(Path(best))


def _seal_and_rotate(home: Path, checkpoint: Path, limit: int | None, best: str | None) -> None:
    checkpoints.seal(checkpoint)
    checkpoints.rotate(home, limit, checkpoint, best)
