"""What must be so before the heavy libraries are imported: folders that can be written, no network."""

import os
import shutil
import tempfile
from pathlib import Path

from bidsrep.errors import UsageError
from bidsrep.settings import Settings

CACHES = {"MPLCONFIGDIR": "matplotlib", "XDG_CACHE_HOME": "cache", "TEMPLATEFLOW_HOME": "templateflow"}
"""Variables that move what libraries write in the home folder, and folders of ours to move it to."""

WORK_IN_INPUT_MSG = "--work-dir {}: the work folder may not lie in the input dataset. Choose another."
OUT_IS_INPUT_MSG = "{}: the output folder may not be the input dataset itself. Choose another, such as {}."
NOT_EMPTIED_MSG = "--clean-workdir: {} holds more than intermediate results ({}). Choose another --work-dir."
NOT_WRITABLE_MSG = "{} {}: cannot be written to ({}). Choose another folder, or change its permissions."


def prepare_folders(settings: Settings) -> None:
    """Check, make and, if wanted, empty the folders a run writes to; a dry run makes none."""
    bids_dir, out_dir, work_dir = (
        p.resolve() for p in (settings.bids_dir, settings.out_dir, settings.work_dir)
    )
    if out_dir == bids_dir:
        raise UsageError(
            OUT_IS_INPUT_MSG.format(settings.out_dir, settings.out_dir / "derivatives" / "bidsrep")
        )
    if work_dir.is_relative_to(bids_dir) and not work_dir.is_relative_to(out_dir):
        raise UsageError(WORK_IN_INPUT_MSG.format(settings.work_dir))
    if settings.clean_workdir:
        for kept in (bids_dir, out_dir, Path(os.path.expanduser("~")), Path.cwd()):
            if kept.is_relative_to(work_dir):
                raise UsageError(NOT_EMPTIED_MSG.format(settings.work_dir, kept))
    if settings.dry_run:
        return
    _make_writable(settings.out_dir, "output folder")
    if settings.analysis_level == ("group",) or settings.reports_only or settings.boilerplate_only:
        return
    _make_writable(settings.work_dir, "--work-dir")
    if settings.clean_workdir:
        _empty(settings.work_dir)


def prepare_environment(settings: Settings) -> None:
    """Set the environment of the libraries: nothing is looked up or sent, no display is needed.

    Where the home folder cannot be written to (containers, arbitrary users), what libraries keep there
    goes to a folder in the work folder.
    """
    os.environ.update(
        {"NO_ET": "1", "NIPYPE_NO_ET": "1", "MPLBACKEND": "Agg", "TEMPLATEFLOW_AUTOUPDATE": "off"}
    )
    if _home_is_writable():
        return
    place = settings.work_dir if settings.work_dir.is_dir() else Path(tempfile.gettempdir())
    try:
        Path.home()
    except RuntimeError:  # no HOME, and a user nobody knows: libraries that ask for one would fail
        os.environ["HOME"] = str(place / ".home")
    for variable, folder in CACHES.items():
        if variable not in os.environ:
            (place / ".home" / folder).mkdir(parents=True, exist_ok=True)
            os.environ[variable] = str(place / ".home" / folder)


def _make_writable(folder: Path, what: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".bidsrep-"):
            pass
    except OSError as error:
        raise UsageError(NOT_WRITABLE_MSG.format(what, folder, error.strerror)) from error


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _home_is_writable() -> bool:
    home = os.environ.get("HOME", "")
    return bool(home) and os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK)
