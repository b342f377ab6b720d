"""The plan: which files, with which names and sidecars, for every composition of a session."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bidsrep.bids.discovery import find_sessions
from bidsrep.settings import Settings
from bidsrep.workflows.plan import ModelSpec, SessionPlan, describe, plan_session

ENTRY = {
    "Name": "pepsi",
    "Weights": "w",
    "WeightsSHA256": "0" * 64,
    "WeightsStatus": "random",
    "License": "x",
}
PEPSI = ModelSpec("pepsi", {"T1w": "synthetic", "FLAIR": "synthetic", "lesion": "lesion_probability"}, ENTRY)
BRAINID = ModelSpec("brainid", {"T1w": "synthetic"}, ENTRY | {"Name": "brainid"})


def plan_of(root: Path, models: tuple[ModelSpec, ...] = (PEPSI,), **options: object) -> SessionPlan:
    """Plan the first session of a dataset."""
    settings = Settings(bids_dir=root, out_dir=root.parent / "out", **options)  # type: ignore[arg-type]
    plan = plan_session(find_sessions(settings)[0], settings, models)
    assert plan is not None
    return plan


def names(plan: SessionPlan, folder: str = "anat") -> list[str]:
    """List the names of the planned files of one folder, without the sidecars."""
    return [file.path.name for file in plan.planned() if file.path.parent.name == folder]


@pytest.fixture
def pair(make_bids: Callable[..., Path]) -> Path:
    """A dataset of one subject with T1w and FLAIR."""
    return make_bids(["sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_FLAIR.nii.gz"])


def test_t1w_and_flair_give_the_files_of_the_design(pair):
    assert names(plan_of(pair)) == [
        "sub-01_desc-preproc_T1w.nii.gz",
        "sub-01_desc-brain_mask.nii.gz",
        "sub-01_space-T1w_res-1mm_desc-pepsiFromT1w_T1w.nii.gz",
        "sub-01_space-T1w_res-1mm_desc-pepsiFromT1w_FLAIR.nii.gz",
        "sub-01_space-T1w_res-1mm_label-lesion_desc-pepsiFromT1w_probseg.nii.gz",
        "sub-01_space-T1w_res-1mm_label-lesion_desc-pepsiFromT1w_mask.nii.gz",
        "sub-01_label-lesion_desc-pepsiFromT1w_mask.nii.gz",
        "sub-01_desc-pepsiFromT1w_embedding.tsv",
        "sub-01_space-T1w_res-1mm_desc-preproc_FLAIR.nii.gz",
        "sub-01_space-T1w_res-1mm_desc-brainFromFLAIR_mask.nii.gz",
        "sub-01_from-FLAIR_to-T1w_mode-image_xfm.txt",
        "sub-01_space-T1w_res-1mm_desc-pepsiFromFLAIR_T1w.nii.gz",
        "sub-01_space-T1w_res-1mm_desc-pepsiFromFLAIR_FLAIR.nii.gz",
        "sub-01_space-T1w_res-1mm_label-lesion_desc-pepsiFromFLAIR_probseg.nii.gz",
        "sub-01_space-T1w_res-1mm_label-lesion_desc-pepsiFromFLAIR_mask.nii.gz",
        "sub-01_label-lesion_desc-pepsiFromFLAIR_mask.nii.gz",
        "sub-01_desc-pepsiFromFLAIR_embedding.tsv",
        "sub-01_desc-pepsi_metrics.tsv",
    ]


@pytest.mark.parametrize(
    ("scans", "reference"),
    [
        (["T2w"], "T2w"),
        (["FLAIR", "T2w"], "FLAIR"),  # same voxels: the lowest name
        (["PDw", "T1w"], "T1w"),
        (["ce-gado_T1w", "T1w"], "T1w"),
        (["acq-b_T1w", "acq-a_T1w", "FLAIR"], "acq-a_T1w"),
    ],
)
def test_reference_of_what_is_there(make_bids, scans, reference):
    plan = plan_of(make_bids([f"sub-01/anat/sub-01_{scan}.nii.gz" for scan in scans]))
    assert plan.reference.scan.key == reference
    assert plan.scans[0] is plan.reference
    assert {s.scan.key for s in plan.scans} == set(scans)
    assert all(("xfm" in s.files) != s.is_reference for s in plan.scans)


def test_no_two_files_share_a_path(make_bids):
    scans = ["acq-a_T1w", "acq-b_T1w", "run-1_FLAIR", "run-2_FLAIR", "T2w"]
    plan = plan_of(make_bids([f"sub-01/ses-1/anat/sub-01_ses-1_{s}.nii.gz" for s in scans]), (PEPSI, BRAINID))
    paths = plan.paths()
    assert len(paths) == len(set(paths))


def test_sessions_have_their_own_figures(make_bids):
    root = make_bids([f"sub-01/ses-{s}/anat/sub-01_ses-{s}_T1w.nii.gz" for s in "AB"])
    settings = Settings(bids_dir=root, out_dir=root.parent / "out")
    plans = [plan_session(session, settings, [PEPSI]) for session in find_sessions(settings)]
    one, two = (set(names(plan, "figures")) for plan in plans if plan)
    assert one
    assert not one & two


def test_a_failed_reference_hands_over_to_the_next_scan(pair):
    settings = Settings(bids_dir=pair, out_dir=pair.parent / "out")
    (session,) = find_sessions(settings)
    t1w = next(scan for scan in session.scans if scan.suffix == "T1w")
    plan = plan_session(session, settings, [PEPSI], without=[t1w])
    assert plan is not None
    assert plan.reference.scan.suffix == "FLAIR"
    assert plan_session(session, settings, [PEPSI], without=session.scans) is None


def test_figures_are_of_what_there_is(pair):
    made = {"T1w": "synthetic", "superres": "superres", "seg": "dseg", "bias": "bias"}
    sharp = ModelSpec("brainid", made, ENTRY | {"Name": "brainid"})
    coarse = ModelSpec("seqinv", {"tissue": "tissue"}, ENTRY | {"Name": "seqinv"}, stride=16)
    drawn = set(names(plan_of(pair, (PEPSI, sharp, coarse)), "figures"))
    for kind in ("brainidSuperres", "brainidSegmentation", "brainidBias", "seqinvTissue"):
        assert {n for n in drawn if kind in n} == {
            f"sub-01_desc-{kind}_{scan}.svg" for scan in ("T1w", "FLAIR")
        }
    assert {n for n in drawn if "Components" in n} == {
        f"sub-01_desc-{model}Components_{scan}.svg"
        for model in ("pepsi", "brainid")
        for scan in ("T1w", "FLAIR")
    }
    few = names(plan_of(pair, (sharp,), tasks=("T1w",)), "figures")
    assert not any(kind in name for name in few for kind in ("Superres", "Segmentation", "Bias"))


def test_tasks_limit_what_is_written(pair):
    written = " ".join(names(plan_of(pair, tasks=("T1w",))))
    assert "pepsiFromT1w_T1w" in written
    assert "lesion" not in written
    assert "pepsiFromT1w_FLAIR" not in written


@pytest.mark.parametrize(
    ("keep", "has"),
    [("none", (False, False)), ("regional", (True, False)), ("dense", (True, True))],
)
def test_features_are_kept_as_asked(pair, keep, has):
    written = " ".join(names(plan_of(pair, save_features=keep)))
    assert ("embedding" in written, "feat.nii.gz" in written) == has


def test_native_lesions_only_where_wanted(pair):
    assert "sub-01_label-lesion_desc-pepsiFromFLAIR_mask.nii.gz" not in names(
        plan_of(pair, output_spaces=("reference",))
    )


def test_other_resolutions_are_named(pair):
    plan = plan_of(pair, resolution=0.8)
    assert "sub-01_space-T1w_res-0p8mm_desc-preproc_FLAIR.nii.gz" in names(plan)
    assert plan.scans[1].files["preproc"].sidecar["Resolution"] == "0.8 mm isotropic, axes RAS"


def test_sidecars_name_their_direct_sources(pair):
    reference, flair = plan_of(pair).scans
    assert reference.files["preproc"].sidecar["Sources"] == ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
    synthetic = flair.predictions[0].files["T1w"].sidecar
    assert synthetic["Sources"] == ["bids::sub-01/anat/sub-01_space-T1w_res-1mm_desc-preproc_FLAIR.nii.gz"]
    assert synthetic["SpatialReference"] == "bids::sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"
    assert synthetic["Model"]["WeightsSHA256"] == "0" * 64
    assert flair.predictions[0].files["lesion_mask"].sidecar["Threshold"] == 0.5


def test_a_given_mask_wins_and_is_named(make_bids):
    root = make_bids(["sub-01/anat/sub-01_T1w.nii.gz"])
    given = make_bids(["sub-01/anat/sub-01_desc-brain_mask.nii.gz"], root="masks")
    (scan,) = plan_of(root, derivatives={"masks": given}).scans
    assert scan.given_mask is not None
    assert "bids:masks:sub-01/anat/sub-01_desc-brain_mask.nii.gz" in scan.files["mask"].sidecar["Sources"]


def test_every_file_has_a_reason(pair):
    plan = plan_of(pair)
    lines = list(describe(plan, pair.parent / "out"))
    assert len(lines) == len(list(plan.planned()))
    assert all(len(line.split("\t")[1]) > 10 for line in lines)


@pytest.mark.parametrize("sloppy", [False, True])
def test_every_sidecar_says_whether_the_run_was_sloppy(pair, sloppy):
    sidecars = [file.sidecar for file in plan_of(pair, sloppy=sloppy).planned() if file.sidecar is not None]
    assert sidecars
    assert all(sidecar.get("Sloppy", False) == sloppy for sidecar in sidecars)
    assert sloppy or not any("Sloppy" in sidecar for sidecar in sidecars)


def test_the_report_warns_of_a_sloppy_run(pair):
    from bidsrep.bids.sidecars import write_sidecar
    from bidsrep.workflows.run import _notes

    for sloppy in (False, True):
        plan = plan_of(pair, sloppy=sloppy)
        for file in plan.planned():
            if file.sidecar is not None:
                file.path.parent.mkdir(parents=True, exist_ok=True)
                write_sidecar(file.path, file.sidecar)
        settings = Settings(bids_dir=pair, out_dir=pair.parent / "out")  # as with --reports-only
        notes = _notes(settings, [plan.session])
        assert len(notes) == (2 if sloppy else 0)
        assert all("--sloppy" in note for note in notes)
