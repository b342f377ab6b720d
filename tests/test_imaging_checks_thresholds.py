"""Thresholds of warnings: complete in the table, documented, and the user's go before them."""

from pathlib import Path

import pytest

from bidsrep.cli.parser import parse_settings
from bidsrep.errors import UsageError
from bidsrep.reports.measures import flags_of, measure_of, warned_of
from bidsrep.reports.results import Metric, SessionResult
from bidsrep.settings import Settings

NOISY = SessionResult("01", None, metrics=(Metric("pepsi", "T1w", "noise", "0.3"),))
ARGUMENTS = ["/data", "/out", "participant"]


def flagged(limits=None) -> list[str]:
    return [flag.measure.name for flag in flags_of(NOISY, limits)]


def test_the_users_threshold_goes_before_that_of_the_table():
    assert flagged() == ["noise"]
    assert flagged({"noise": {"high": 0.4}}) == []
    assert flagged({"noise": {"high": float("inf")}}) == []
    assert flagged({"noise": {"low": 0.35}}) == ["noise"]
    assert flagged({"flat": {"high": 0.0}}) == ["noise"]


def test_a_file_of_thresholds_becomes_settings_that_round_trip(tmp_path):
    file = tmp_path / "thresholds.toml"
    file.write_text("[noise]\nhigh = 0.4\n[mask_dice]\nlow = 0\nhigh = inf\n")
    settings = parse_settings([*ARGUMENTS, "--quality-thresholds", str(file)])
    assert settings.quality_thresholds == {
        "noise": {"high": 0.4},
        "mask_dice": {"low": 0.0, "high": float("inf")},
    }
    settings.to_toml(tmp_path / "settings.toml")
    assert Settings.from_toml(tmp_path / "settings.toml") == settings


def test_a_settings_file_can_hold_them(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[quality_thresholds.noise]\nhigh = 0.4\n")
    settings = parse_settings([*ARGUMENTS, "--config-file", str(file)])
    assert settings.quality_thresholds == {"noise": {"high": 0.4}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[nose]\nhigh = 1", "nothing is warned of by 'nose'"),
        ("[noise]\nhigh = 'much'", "must have 'low', 'high' or both"),
        ("[noise]\nabove = 1", "must have 'low', 'high' or both"),
        ("noise = 1", "must have 'low', 'high' or both"),
        ("[noise", "must be a TOML file"),
    ],
)
def test_a_faulty_file_is_refused_with_its_reason(tmp_path, capsys, text, message):
    file = tmp_path / "thresholds.toml"
    file.write_text(text)
    with pytest.raises(SystemExit):
        parse_settings([*ARGUMENTS, "--quality-thresholds", str(file)])
    assert message in capsys.readouterr().err


def test_settings_refuse_other_sides():
    with pytest.raises(UsageError, match="only low and high"):
        Settings(bids_dir=Path("/d"), out_dir=Path("/o"), quality_thresholds={"noise": {"above": 1.0}})


def test_every_threshold_has_a_warning_that_can_be_worded():
    for name in warned_of():
        measure = measure_of(name)
        assert measure.low > float("-inf") or measure.high < float("inf"), name
        beyond = measure.high + 1 if measure.high < float("inf") else measure.low - 1
        text = measure.warn(Metric("pepsi", "T1w", name, str(beyond), "", "FLAIR"))
        assert text, name
        assert "{" not in text


def test_every_threshold_is_documented():
    page = Path(__file__).parents[1] / "docs/quality.md"
    if not page.is_file():
        pytest.skip("not a source checkout")
    text = page.read_text(encoding="utf-8")
    for name in warned_of():
        (row,) = [line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line]
        for limit in (measure_of(name).low, measure_of(name).high):
            if abs(limit) < float("inf"):
                assert f"{limit:,g}" in row, (name, limit)
