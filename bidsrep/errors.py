"""What can go wrong, and the exit code that says so.

Every message names the file or option, says what is wrong with it, and what to do.
The command line prints such a message alone; any other exception is a bug and keeps its traceback.
"""

from enum import IntEnum
from os import PathLike


class ExitCode(IntEnum):
    """The exit codes of the command line (those of sysexits.h where one fits)."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    INPUT = 65
    WEIGHTS = 69
    INTERNAL = 70
    INTERRUPTED = 130


LAST_LINE = {"last": True}
"""``extra`` of the log record that ends a run: it is shown however quiet the run is."""


class BidsrepError(Exception):
    """An error the user can do something about; the base of all the others."""

    exit_code: int = ExitCode.INTERNAL


class UsageError(BidsrepError):
    """The command line or a settings file asks for something impossible."""

    exit_code = ExitCode.USAGE


class InputError(BidsrepError):
    """The dataset has nothing to process, or what it has cannot be read."""

    exit_code = ExitCode.INPUT


class ImageError(InputError):
    """One image cannot be used.

    Parameters
    ----------
    path : path-like
        The image.
    problem : str
        What is wrong with it.
    remedy : str
        What the user can do about it; may be empty.
    """

    def __init__(self, path: str | PathLike[str], problem: str, remedy: str = "") -> None:
        self.path, self.problem, self.remedy = path, problem, remedy
        super().__init__(path, problem, remedy)  # the plain arguments: errors must survive pickling

    def __str__(self) -> str:
        text = f"{self.path}: {self.problem.rstrip('.')}."
        return f"{text} {self.remedy.rstrip('.')}." if self.remedy else text


class WeightsError(BidsrepError):
    """Weights are missing, do not fit the architecture, or are not the ones their card describes."""

    exit_code = ExitCode.WEIGHTS
