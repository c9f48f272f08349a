"""The exceptions of the package. Scripts print their message alone and exit with status 2."""


class DistillationError(ValueError):
    """Base of every error that a user can cause and mend. The message says what was found, where, and the remedy."""


class IncompatiblePair(DistillationError):
    """Student and teacher, or an objective and the models it is bound to, do not fit."""


class RecipeError(DistillationError):
    """A recipe, or a command line that overrides it, is not valid."""


class DataError(DistillationError):
    """A data file, a column, a split or a label is missing or wrong."""


class CacheMismatch(DistillationError):
    """A teacher cache was written by another teacher, for other text, or is damaged."""


class BrokenCheckpoint(DistillationError):
    """A checkpoint is incomplete, damaged, or belongs to another run."""


class NonFiniteLoss(DistillationError):
    """A loss or a gradient became NaN or infinite; the weights were not moved by it."""


class HubError(DistillationError):
    """The Hub refused or lost a request, or what would be published is not fit to be."""


class UnreadableModel(DistillationError):
    """A model, or what reads its inputs, cannot be loaded: it is not there, it is damaged, or the Hub did not give
    it."""


OF_THE_PLACE = (HubError, UnreadableModel, BrokenCheckpoint, CacheMismatch)
"""What tells of files and networks, and nothing of whether a recipe suits its models and data."""


class Preempted(SystemExit):
    """The process was asked to stop (SIGTERM), has written a checkpoint, and exits with `STATUS`.

    No `DistillationError`, as nothing is wrong: the same command, given again, goes on.
    """

    STATUS = 75
    """"Temporary failure, try again" (`EX_TEMPFAIL` of sysexits.h), which no signal and no error of ours gives."""

    def __init__(self, message: str) -> None:
        super().__init__(self.STATUS)
        self.message = message

    def __str__(self) -> str:
        return self.message
