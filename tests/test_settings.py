"""Settings, their TOML form, and what they refuse."""

import dataclasses
import math
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidsrep import resources
from bidsrep.errors import BidsrepError, ImageError, InputError, UsageError, WeightsError
from bidsrep.resources import available_cpus, available_memory_gb, new_run_uuid
from bidsrep.settings import Settings, option_of, read_toml
from bidsrep.toml import dump_toml

HERE = {"bids_dir": Path("/data"), "out_dir": Path("/out")}

SCALARS = st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS | st.lists(SCALARS, max_size=3),
    lambda inner: st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_toml_is_read_back_as_it_was_written(values: dict) -> None:
    assert tomllib.loads(dump_toml(values)) == values


def test_toml_refuses_what_it_has_no_type_for() -> None:
    with pytest.raises(TypeError, match="complex"):
        dump_toml({"a": 1j})


def test_settings_survive_the_round_trip(tmp_path: Path) -> None:
    settings = Settings(
        **HERE,
        analysis_level=("participant", "group"),
        participant_label=("01", "02"),
        derivatives={"masks": Path("/masks")},
        weights={"pepsi": 'odd "name".pth'},
        models=("brainid", "pepsi"),
        bids_filter_file=Path("/f.json"),
        template="MNI152NLin2009cAsym",
        resolution=0.8,
        verbose=2,
    )
    settings.to_toml(tmp_path / "settings.toml")
    assert Settings.from_toml(tmp_path / "settings.toml") == settings
    assert Settings.from_dict(settings.to_dict()) == settings


def test_every_field_is_written_unless_none() -> None:
    settings = Settings(**HERE)
    fields = {f.name for f in dataclasses.fields(settings) if getattr(settings, f.name) is not None}
    assert set(settings.to_dict()) == fields


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"resolution": 0.0}, "--resolution: must be above 0, got 0.0"),
        ({"resolution": math.nan}, "got nan"),
        ({"lesion_threshold": 1.5}, "from 0 to 1"),
        ({"min_lesion_volume": -1.0}, "--min-lesion-volume"),
        ({"nprocs": 0}, "--nprocs"),
        ({"models": ("pepsi", "pepsy")}, "--model: 'pepsy' is not one of pepsi, brainid"),
        ({"models": ()}, "--model: give at least one"),
        ({"skull_strip": "maybe"}, "auto, force, skip"),
        ({"modalities": ()}, "--modalities"),
        ({"analysis_level": ("dataset",)}, "the analysis level: 'dataset'"),
        ({"target_contrast": ("TR=1",)}, "--target-contrast"),
        ({"weights": {"pepis": "a.pth"}}, "--weights: pepis is no network. There are pepsi,"),
    ],
)
def test_impossible_settings_are_refused_by_name(wrong: dict, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings(**HERE, **wrong)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bids_dirr = 'x'", "unknown setting 'bids_dirr'"),
        ("nprocs = 'four'", "'nprocs' cannot be 'four'"),
        ("nprocs = true", "int is expected, not bool"),
        ("models = 'pepsi'", "a list is expected"),
        ("nprocs = ", "cannot be read"),
    ],
)
def test_broken_settings_files_name_the_file_and_the_setting(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_toml(path)
    assert str(path) in str(caught.value)
    assert told in str(caught.value)


def test_a_whole_number_is_a_size_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("resolution = 2\n")
    assert read_toml(path) == {"resolution": 2.0}


def test_options_have_the_spelling_of_the_command_line() -> None:
    assert option_of("models") == "--model"
    assert option_of("min_lesion_volume") == "--min-lesion-volume"


def test_each_error_has_its_exit_code() -> None:
    kinds = (BidsrepError, UsageError, InputError, ImageError, WeightsError)
    assert [int(kind.exit_code) for kind in kinds] == [70, 2, 65, 65, 69]


def test_image_errors_name_file_problem_and_remedy_and_survive_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(ImageError("a.nii", "it is empty.", "Convert it again")))
    assert str(error) == "a.nii: it is empty. Convert it again."
    assert str(ImageError("a.nii", "it is empty")) == "a.nii: it is empty."


def test_resources_are_what_this_job_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= available_cpus() <= 4096
    assert available_memory_gb() > 0
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1024")
    assert available_memory_gb() <= 0.9


def test_what_slurm_and_control_groups_grant_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SLURM_MEM_PER_NODE", "SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(resources, "CGROUPS", tmp_path)
    monkeypatch.setattr(resources, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "512")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    assert available_memory_gb() == 0.9
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert available_cpus() == 1
    (tmp_path / "membership").write_text("0::/slurm/job_7/step_0\n")
    job = tmp_path / "slurm" / "job_7"
    (job / "step_0").mkdir(parents=True)
    (job / "step_0" / "memory.max").write_text("max\n")
    (job / "memory.max").write_text(f"{1024**3 * 4 // 10}\n")
    assert available_memory_gb() == 0.4
    (tmp_path / "membership").write_text("4:memory:/old/job\n")
    (tmp_path / "memory" / "old").mkdir(parents=True)
    (tmp_path / "memory" / "old" / "memory.limit_in_bytes").write_text(f"{1024**3 // 4}\n")
    assert available_memory_gb() == 0.2
    assert new_run_uuid() != new_run_uuid()
