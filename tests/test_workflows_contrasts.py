"""Contrasts to order: what a run plans for the model that needs to know how a scan was acquired."""

import json

import pytest
from test_workflows_plan import ENTRY, PEPSI, names, pair  # noqa: F401 (pair is a fixture)

from bidsrep.bids.discovery import find_sessions
from bidsrep.settings import Settings
from bidsrep.workflows.plan import ModelSpec, plan_session

CRL = ModelSpec("crl", {"T1w": "synthetic", "T2w": "synthetic"}, ENTRY | {"Name": "crl"})
DEFAULTS = "[T1w]\nRepetitionTime = 2.3\nEchoTime = 0.003\nInversionTime = 0.9\n"


def plan_of(root, models, **options):
    """Plan the only session of a dataset."""
    chosen = tuple(model.name for model in models)
    settings = Settings(bids_dir=root, out_dir=root.parent / "out", models=chosen, **options)
    return plan_session(find_sessions(settings)[0], settings, models)


@pytest.fixture
def defaults(pair, tmp_path):  # noqa: F811
    """A file of defaults for T1w scans."""
    path = tmp_path / "defaults.toml"
    path.write_text(DEFAULTS)
    return path


def test_scans_without_parameters_are_named_and_other_models_go_on(pair):  # noqa: F811
    plan = plan_of(pair, (PEPSI, CRL))
    assert [[p.model.name for p in scan.predictions] for scan in plan.scans] == [["pepsi"], ["pepsi"]]
    assert list(plan.metrics) == ["pepsi"]
    assert len(plan.problems) == 2
    assert "sub-01_T1w.nii.gz" in plan.problems[0]
    assert "RepetitionTime" in plan.problems[0]
    assert "--bids-defaults" in plan.problems[0]


def test_defaults_serve_the_scans_of_their_suffix(pair, defaults):  # noqa: F811
    plan = plan_of(pair, (CRL,), bids_defaults=defaults)
    served = {scan.scan.suffix: len(scan.predictions) for scan in plan.scans}
    assert served == {"T1w": 1, "FLAIR": 0}
    assert "sub-01_space-T1w_res-1mm_desc-crlFromT1w_T2w.nii.gz" in names(plan)
    assert plan.scans[0].predictions[0].acquisition.inversion_time == 0.9


def test_a_sidecar_serves_its_scan(pair):  # noqa: F811
    sidecar = pair / "sub-01" / "anat" / "sub-01_FLAIR.json"
    sidecar.write_text(json.dumps({"RepetitionTime": 9, "EchoTime": 0.12, "InversionTime": 2.5}))
    plan = plan_of(pair, (CRL,))
    assert [len(scan.predictions) for scan in plan.scans] == [0, 1]


def test_an_ordered_contrast_is_named_by_its_parameters_and_has_them_beside_it(pair, defaults):  # noqa: F811
    plan = plan_of(pair, (CRL,), bids_defaults=defaults, target_contrast=("TR=8,TE=0.1,TI=2.0",))
    files = plan.scans[0].predictions[0].files
    made = files["TR8000TE100TI2000"]
    assert made.path.name == "sub-01_space-T1w_res-1mm_desc-crlTR8000TE100TI2000FromT1w_FLAIR.nii.gz"
    assert made.sidecar["RepetitionTime"] == 8
    assert made.sidecar["InversionTime"] == 2
    assert list(plan.scans[0].predictions[0].ordered) == ["TR8000TE100TI2000"]
