"""Damaged inputs by the hundred, and headers that hypothesis makes up: taken, or refused by name."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bidsrep.bids.files import read_json
from bidsrep.errors import ImageError
from bidsrep.imaging.conform import conform

from . import fuzzing, mutations
from .test_inputs import fields

FLOATS = st.floats(width=32) | st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e30])
SHORTS = st.integers(-(2**15), 2**15 - 1) | st.sampled_from([0, 1, 2, 3, 4, 7, 8])
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "dim": st.lists(SHORTS, min_size=8, max_size=8),
        "pixdim": st.lists(FLOATS, min_size=8, max_size=8),
        "datatype": SHORTS, "bitpix": SHORTS, "vox_offset": FLOATS, "xyzt_units": st.integers(0, 255),
        "scl_slope": FLOATS, "scl_inter": FLOATS, "qform_code": SHORTS, "sform_code": SHORTS,
        "quatern_b": FLOATS, "quatern_c": FLOATS, "quatern_d": FLOATS, "qoffset_x": FLOATS,
        "srow_x": st.lists(FLOATS, min_size=4, max_size=4), "srow_z": st.lists(FLOATS, min_size=4, max_size=4),
        "sizeof_hdr": st.integers(0, 1000), "magic": st.binary(max_size=4),
    },
)  # fmt: skip


def sane() -> bytes:
    import random

    return gzip.compress(mutations.image(random.Random(3)))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=FIELDS)
def test_any_header_is_taken_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, values: dict
) -> None:
    path = tmp_path_factory.getbasetemp() / "sub-01_T1w.nii.gz"
    path.write_bytes(sane())
    with np.errstate(all="ignore"):
        fields(**values)(path)
    refusal = ""
    try:
        volume, report = conform(path)
    except ImageError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith(f"{path}: ")
    else:
        assert np.isfinite(volume.data).all()
        assert np.isfinite(volume.affine).all()
        assert isinstance(report["warnings"], list)


def test_damaged_inputs_of_every_kind(tmp_path: Path) -> None:
    """Some hundreds here, in this process; `campaign.py` tries them for minutes, in others."""
    outcomes = [fuzzing.try_one(tmp_path, f"test-{number}") for number in range(250)]
    assert {kind for kind, _, _ in outcomes} == set(fuzzing.KINDS)
    nameless = [f"seed test-{n}: {o}" for n, o in enumerate(outcomes) if o[1] == fuzzing.NAMELESS]
    assert not nameless, "\n".join(nameless)


def test_json_that_is_nested_too_deeply_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "a.json")


def test_a_crash_of_the_process_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    monkeypatch.setattr(fuzzing, "_warm_up", lambda: None)
    monkeypatch.setattr(fuzzing, "try_one", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    tally = fuzzing.fuzz(60, 0, most=2)
    assert tally.crashes == 2
    assert not tally.good
