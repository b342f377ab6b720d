"""What ``bidsrep`` does around the workflow: folders, environment, exit codes, speed of ``--help``."""

import errno
import io
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bidsrep.cli import run as command
from bidsrep.cli.environment import prepare_environment, prepare_folders
from bidsrep.errors import LAST_LINE, InputError, UsageError, WeightsError
from bidsrep.settings import Settings

MakeBids = Callable[..., Path]
T1W = "sub-01/anat/sub-01_T1w.nii.gz"


@pytest.fixture
def settings(make_bids: MakeBids, tmp_path: Path) -> Settings:
    return Settings(bids_dir=make_bids([T1W]), out_dir=tmp_path / "out", work_dir=tmp_path / "work")


@pytest.fixture(autouse=True)
def _leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> object:
    for name in ("NO_ET", "NIPYPE_NO_ET", "MPLBACKEND", "TEMPLATEFLOW_AUTOUPDATE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
    logger = logging.getLogger("bidsrep")
    logger.handlers.clear()
    logger.propagate = True


def options(settings: Settings, *more: str) -> list[str]:
    return [str(settings.bids_dir), str(settings.out_dir), *more, "-w", str(settings.work_dir)]


class TestExitCodes:
    """Every ending has its code, and a last line."""

    @pytest.mark.parametrize(
        ("error", "code", "told"),
        [
            (InputError("raw: nothing to process."), 65, "bidsrep: error: raw: nothing to process."),
            (WeightsError("pepsi: wrong hash."), 69, "bidsrep: error: pepsi: wrong hash."),
            (UsageError("--x: no."), 2, "bidsrep: error: --x: no."),
            (KeyboardInterrupt(), 130, "interrupted; run the same command again"),
            (OSError(errno.ENOSPC, "No space", "/out/a.nii"), 70, "/out/a.nii: no space is left"),
            (PermissionError(errno.EACCES, "Denied", "/out/a.nii"), 70, "Check the permissions of /out"),
        ],
    )
    def test_errors_a_user_can_mend_have_no_traceback(
        self, error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail() -> int:
            raise error

        assert command.guarded("bidsrep", fail) == code
        printed = capsys.readouterr().err
        assert told in printed.splitlines()[-1]
        assert "Traceback" not in printed

    def test_a_bug_keeps_its_traceback(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.guarded("bidsrep", lambda: 1 // 0) == 70
        printed = capsys.readouterr().err
        assert "ZeroDivisionError" in printed
        assert printed.splitlines()[-1] == "bidsrep: internal error (see above); please report it."

    def test_sigterm_ends_a_run_as_an_interrupt_does(self) -> None:
        def be_terminated() -> int:
            os.kill(os.getpid(), signal.SIGTERM)
            return 0

        assert command.guarded("bidsrep", be_terminated) == 130

    @pytest.mark.parametrize(("codes", "expected"), [((0, 0), 0), ((1, 0), 1), ((0, 65), 65)])
    def test_the_worst_level_counts_and_group_comes_last(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, codes: tuple[int, int], expected: int
    ) -> None:
        ran = []

        def level(name: str, code: int) -> Callable[[Settings], int]:
            return lambda _: ran.append(name) or code  # type: ignore[func-returns-value]

        monkeypatch.setitem(command._LEVELS, "participant", level("participant", codes[0]))
        monkeypatch.setitem(command._LEVELS, "group", level("group", codes[1]))
        assert command.main(options(settings, "group", "participant")) == expected
        assert ran == ["participant", "group"]

    def test_a_missing_dataset_is_unusable_input(
        self, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from bidsrep.bids.discovery import check_dataset

        def check() -> int:
            check_dataset(tmp_path / "nowhere")
            return 0

        assert command.guarded("bidsrep", check) == 65
        assert "there is no such folder" in capsys.readouterr().err


def test_boilerplate_only_writes_nothing_else(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(options(settings, "participant", "--boilerplate-only")) == 0
    written = {str(p.relative_to(settings.out_dir)) for p in settings.out_dir.rglob("*") if p.is_file()}
    assert written == {"logs/CITATION.md", "logs/CITATION.bib"}
    assert "CITATION.md" in capsys.readouterr().out
    assert not settings.work_dir.exists()


class TestFolders:
    """What is made, checked and refused before anything runs."""

    def prepare(self, settings: Settings, **changes: object) -> None:
        prepare_folders(Settings(**{**settings.__dict__, **changes}))

    def test_output_and_work_folders_are_made(self, settings: Settings) -> None:
        self.prepare(settings)
        assert settings.out_dir.is_dir()
        assert list(settings.work_dir.iterdir()) == []

    def test_a_dry_run_makes_none(self, settings: Settings) -> None:
        self.prepare(settings, dry_run=True)
        assert not settings.out_dir.exists()

    def test_the_input_is_never_written_to(self, settings: Settings) -> None:
        with pytest.raises(UsageError, match="may not be the input dataset"):
            self.prepare(settings, out_dir=settings.bids_dir)
        with pytest.raises(UsageError, match="--work-dir"):
            self.prepare(settings, work_dir=settings.bids_dir / "work")
        self.prepare(settings, out_dir=settings.bids_dir / "derivatives" / "bidsrep")

    def test_a_folder_that_cannot_be_made_is_named(self, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match="file/out: cannot be written to"):
            self.prepare(settings, out_dir=tmp_path / "file" / "out")

    def test_cleaning_empties_the_work_folder_only(self, settings: Settings) -> None:
        (settings.work_dir / "sub").mkdir(parents=True)
        (settings.work_dir / "a.txt").touch()
        self.prepare(settings, clean_workdir=True)
        assert list(settings.work_dir.iterdir()) == []

    @pytest.mark.parametrize("place", ["out", "raw", "."])
    def test_cleaning_never_takes_what_matters(self, settings: Settings, tmp_path: Path, place: str) -> None:
        settings.out_dir.mkdir()
        with pytest.raises(UsageError):
            self.prepare(settings, clean_workdir=True, work_dir=tmp_path / place)
        assert (settings.bids_dir / T1W).exists()


def test_without_a_home_the_libraries_write_to_the_work_folder(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    for name in ("MPLCONFIGDIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "x")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("TEMPLATEFLOW_HOME", "/templates")
    settings.work_dir.mkdir()
    prepare_environment(settings)
    assert os.environ["MPLCONFIGDIR"].startswith(str(settings.work_dir))
    assert Path(os.environ["XDG_CACHE_HOME"]).is_dir()
    assert os.environ["TEMPLATEFLOW_HOME"] == "/templates"
    assert os.environ["NO_ET"] == "1"


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_answers_within_0_3_s_of_cpu_time(option: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "bidsrep.cli.run", option], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.3


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = "torch monai ants nipype niworkflows nilearn nibabel numpy pandas matplotlib bids scipy"
    code = f"import sys, bidsrep.cli.run; print([m for m in {heavy.split()} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"


class TestQuiet:
    """What is said of a run is chosen by -q, but never its last line."""

    def said(self, capsys: pytest.CaptureFixture[str], quiet: bool) -> str:
        logger = logging.getLogger("bidsrep")
        logger.handlers.clear()
        command.set_up_logging(0, quiet)
        logger.info("3/4: sub-01 T1w, pepsi")
        logger.warning("sub-01: look at it.")
        logger.info("1 ok, 1/1 reports", extra=LAST_LINE)
        return capsys.readouterr().err

    def test_only_warnings_and_the_last_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        said = self.said(capsys, quiet=True)
        assert "3/4" not in said
        assert "look at it" in said
        assert said.splitlines()[-1].endswith("1 ok, 1/1 reports")

    def test_all_of_it_otherwise(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert len(self.said(capsys, quiet=False).splitlines()) == 3


def test_messages_follow_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run in one process writes to the standard error of then; the first one's may be closed."""
    logger = logging.getLogger("bidsrep")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", False)
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    command.set_up_logging(0)
    logger.warning("one")
    monkeypatch.setattr(sys, "stderr", second)
    first.close()
    logger.warning("two")
    assert "two" in second.getvalue()
    assert "Logging error" not in second.getvalue()
