"""The command line: what it takes, what it refuses, and what it hands on."""

import dataclasses
from pathlib import Path

import pytest

from bidsrep import __version__
from bidsrep.cli.parser import build_parser, normalise_spelling, parse_settings
from bidsrep.errors import UsageError
from bidsrep.settings import Settings

BASE = ["/data", "/out", "participant"]
NOT_OPTIONS = {"bids_dir", "out_dir", "analysis_level", "run_uuid"}


def parse(*options: str) -> Settings:
    return parse_settings([*BASE, *options])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parse_settings(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_without_options_the_defaults_are_those_of_settings() -> None:
    expected = Settings(bids_dir=Path("/data"), out_dir=Path("/out"))
    assert dataclasses.replace(parse(), run_uuid=expected.run_uuid) == expected


def test_every_setting_has_an_option_and_every_option_a_setting() -> None:
    dests = {action.dest for action in build_parser()._actions} - {"help", "version"}
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert fields - NOT_OPTIONS - dests == set()
    assert dests - fields == {"config_file", "notrack"}


def test_every_option_is_explained() -> None:
    assert all(action.help for action in build_parser()._actions)


@pytest.mark.parametrize("option", ["--participant-label", "--participant_label"])
def test_both_spellings_work_and_prefixes_are_stripped(option: str) -> None:
    settings = parse(option, "sub-01", "02", "01", "--session_label", "ses-A")
    assert settings.participant_label == ("01", "02")
    assert settings.session_label == ("A",)


def test_spelling_changes_names_only() -> None:
    given = ["--work_dir=/a_b", "-w", "x_y", "--weights", "pepsi=my_file", "a_b"]
    assert normalise_spelling(given) == ["--work-dir=/a_b", "-w", "x_y", "--weights", "pepsi=my_file", "a_b"]


def test_values_reach_their_settings(tmp_path: Path) -> None:
    settings = parse(
        *("--model", "brainid", "pepsi", "--weights", "pepsi=a.pth", "--tasks", "T1w", "-m", "FLAIR"),
        *(
            "-d",
            f"masks={tmp_path}",
            "--resolution",
            "0.8",
            "--lesion-threshold",
            "0.4",
            "--device",
            "cuda:1",
        ),
        *(
            "--skull-strip",
            "force",
            "--nthreads",
            "3",
            "--mem-gb",
            "4.5",
            "--bias-correct",
            "-vv",
            "--notrack",
        ),
        *("-w", "relative", "--output-spaces", "native"),
    )
    assert settings.models == ("brainid", "pepsi")
    assert settings.weights == {"pepsi": "a.pth"}
    assert settings.tasks == ("T1w",)
    assert settings.modalities == ("FLAIR",)
    assert settings.derivatives == {"masks": tmp_path}
    assert (settings.resolution, settings.lesion_threshold, settings.device) == (0.8, 0.4, "cuda:1")
    assert (settings.nprocs, settings.mem_gb, settings.bias_correct, settings.verbose) == (3, 4.5, True, 2)
    assert settings.work_dir == Path.cwd() / "relative"
    assert settings.output_spaces == ("native",)


def test_both_levels_may_be_asked_for() -> None:
    assert parse_settings(["/data", "/out", "participant", "group"]).analysis_level == (
        "participant",
        "group",
    )


def test_options_given_twice_add_up() -> None:
    assert parse("--weights", "pepsi=a", "--weights", "brainid=b").weights == {"pepsi": "a", "brainid": "b"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["--model", "pepsy"], "invalid choice: 'pepsy'"),
        (["--resolution", "0"], "--resolution: must be above 0, got 0"),
        (["--resolution", "nan"], "must be above 0"),
        (["--lesion-threshold", "2"], "from 0 to 1"),
        (["--min-lesion-volume", "-1"], "0 or more"),
        (["--nprocs", "0"], "at least 1"),
        (["--device", "gpu"], "'gpu' is not one of auto, cpu, cuda, cuda:N"),
        (["--participant-label", "01_x"], "'01_x' is not a BIDS label"),
        (["--weights", "pepsi"], "'pepsi' is not NAME=FILE_OR_ID"),
        (["--weights", "pepsi=a", "pepsi=b"], "pepsi is given twice"),
        (["-d", "masks=/no/such/folder"], "there is no folder /no/such/folder"),
        (["-d", "raw=/tmp"], "'raw' cannot name a dataset"),
        (["--bids-filter-file", "/no/file.json"], "there is no file /no/file.json"),
        (["--target-contrast", "TR=fast"], "TR=2.3,TE=0.003,TI=0.9"),
        (["--particip", "01"], "unrecognized arguments"),
    ],
)
def test_wrong_values_are_refused_by_name(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, *BASE, *options)


def test_positionals_are_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert "out_dir" in refused(capsys, "/data")
    assert "invalid choice: 'dataset'" in refused(capsys, "/data", "/out", "dataset")


def test_contrasts_to_order_need_a_model_that_makes_them() -> None:
    with pytest.raises(UsageError, match="makes contrasts to order"):
        parse("--target-contrast", "TR=2.3,TE=0.003")


class TestConfigFile:
    """``--config-file``."""

    def test_the_command_line_goes_before(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text('models = ["brainid"]\nresolution = 2.0\nverbose = 1\n')
        settings = parse("--config-file", str(path), "--resolution", "1.5")
        assert (settings.models, settings.resolution, settings.verbose) == (("brainid",), 1.5, 1)

    def test_a_run_can_be_repeated_but_is_another_run(self, tmp_path: Path) -> None:
        first = parse("--model", "brainid", "--bias-correct", "--dry-run")
        first.to_toml(tmp_path / "run.toml")
        second = parse("--config-file", str(tmp_path / "run.toml"))
        assert second.run_uuid != first.run_uuid
        assert second == dataclasses.replace(first, run_uuid=second.run_uuid, dry_run=False)

    def test_unknown_settings_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text("model = 'pepsi'\n")
        with pytest.raises(UsageError, match="unknown setting 'model'"):
            parse("--config-file", str(path))


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_settings(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"bidsrep {__version__}\n"


def test_help_shows_defaults_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_settings(["--help"])
    told = capsys.readouterr().out
    assert "(default: pepsi)" in told
    assert "(default: 0.01)" in told
    assert "130 interrupted" in told
    assert "%%" not in told
