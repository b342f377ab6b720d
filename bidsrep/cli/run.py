"""``bidsrep``: parse, hand over to the workflow, and turn what happens into an exit code and a last line."""

import contextlib
import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bidsrep.cli.environment import prepare_environment, prepare_folders
from bidsrep.cli.parser import parse_settings
from bidsrep.errors import BidsrepError, ExitCode
from bidsrep.settings import Settings

NO_ROOM = {errno.ENOSPC: "no space is left on the device", errno.EDQUOT: "the disk quota is used up"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``bidsrep`` and give its exit code."""
    return guarded("bidsrep", lambda: run(parse_settings(argv)))


def run(settings: Settings) -> int:
    """Do what the settings say, one analysis level after the other; the worst exit code counts."""
    prepare_folders(settings)
    prepare_environment(settings)
    set_up_logging(settings.verbose, settings.quiet)
    if settings.boilerplate_only:
        return _write_boilerplate(settings)
    codes = [
        _LEVELS[level](settings) for level in ("participant", "group") if level in settings.analysis_level
    ]
    return max(codes)


def guarded(command: str, action: Callable[[], int]) -> int:
    """Run a command; errors the user can mend are printed without a traceback.

    SIGTERM, which schedulers send, ends a run as Ctrl-C does.
    """
    with contextlib.suppress(ValueError):  # not in the main thread; then there is nothing to catch
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(action())
    except KeyboardInterrupt:
        return _say(command, "interrupted; run the same command again to go on.", ExitCode.INTERRUPTED)
    except BidsrepError as error:
        return _say(command, f"error: {error}", error.exit_code)
    except OSError as error:
        told = _explain(error)
        if told is None:
            return _internal_error(command)
        return _say(command, f"error: {told}", ExitCode.INTERNAL)
    except Exception:  # noqa: BLE001 - the last resort: anything else is a bug of ours
        return _internal_error(command)


class _StandardError(logging.StreamHandler):
    """Writes to what standard error is now: who runs this twice in one process may have put another in its place."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        del value


def set_up_logging(verbose: int, quiet: bool = False) -> None:
    """Send the messages of the ``bidsrep`` logger to standard error; more of them if `verbose`.

    If `quiet`, only warnings, errors and what is marked as the run's last line (`bidsrep.errors.LAST_LINE`).
    """
    logger = logging.getLogger("bidsrep")
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        handler = _StandardError()
        handler.name = "bidsrep"
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
    for own in logger.handlers:
        if own.name == "bidsrep":
            own.filters = [_matters] if quiet else []


def _matters(record: logging.LogRecord) -> bool:
    """Tell warnings, errors and the last line from the rest."""
    return record.levelno >= logging.WARNING or getattr(record, "last", False)


def _run_participants(settings: Settings) -> int:
    from bidsrep.workflows.run import run_participants

    return run_participants(settings)


def _run_group(settings: Settings) -> int:
    from bidsrep.bids.parquet import write_parquet
    from bidsrep.reports.group import run_group

    code = run_group(settings)
    write_parquet(settings.out_dir)
    return code


_LEVELS: dict[str, Callable[[Settings], int]] = {"participant": _run_participants, "group": _run_group}


def _write_boilerplate(settings: Settings) -> int:
    from bidsrep.bids.methods import write_citation

    for path in write_citation(settings.out_dir, settings):
        print(path)
    return ExitCode.OK


def _explain(error: OSError) -> str | None:
    """Explain an error of the file system that is not a bug of ours."""
    name = error.filename if error.filename is not None else "a file"
    if error.errno in NO_ROOM:
        return f"{name}: {NO_ROOM[error.errno]}. Make room (see --work-dir) and run the same command again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{name}: {os.strerror(error.errno)}. Check the permissions of {Path(os.fsdecode(name)).parent}."
        )
    return None


def _internal_error(command: str) -> int:
    traceback.print_exc()
    return _say(command, "internal error (see above); please report it.", ExitCode.INTERNAL)


def _say(command: str, message: str, code: int) -> int:
    print(f"{command}: {message}", file=sys.stderr)
    return int(code)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
