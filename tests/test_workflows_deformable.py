"""Deformable registration in the app: what is planned, connected and written."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from random_weights import write_random_cifl
from test_workflows_graph import Graph, entry
from test_workflows_plan import ENTRY, PEPSI, names, pair  # noqa: F401 (pair is a fixture)
from test_workflows_run import VOXEL_MM, brain

from bidsrep.bids.discovery import find_sessions
from bidsrep.bids.methods import methods_text
from bidsrep.bids.names import sidecar_path
from bidsrep.errors import UsageError
from bidsrep.imaging.deformable import DisplacementField
from bidsrep.imaging.resample import resample
from bidsrep.imaging.template import load_template
from bidsrep.imaging.transforms import read_itk
from bidsrep.imaging.volume import Volume
from bidsrep.settings import Settings
from bidsrep.workflows.plan import ModelSpec, plan_session
from bidsrep.workflows.provenance import session_steps
from bidsrep.workflows.run import run_participants

CIFL = ModelSpec("cifl", {"tissue": "tissue"}, ENTRY | {"Name": "cifl"})
BOTH = ("session", "template")
TEMPLATE = [
    "sub-01_from-T1w_to-MNI152NLin2009aSym_mode-image_desc-cifl_xfm.nii.gz",
    "sub-01_from-MNI152NLin2009aSym_to-T1w_mode-image_desc-cifl_xfm.nii.gz",
]
SESSION = [
    "sub-01_from-FLAIR_to-T1w_mode-image_desc-cifl_xfm.nii.gz",
    "sub-01_from-T1w_to-FLAIR_mode-image_desc-cifl_xfm.nii.gz",
]


def plan_of(root, models=(CIFL,), **options):
    """Plan the only session of a dataset."""
    chosen = tuple(model.name for model in models)
    settings = Settings(bids_dir=root, out_dir=root.parent / "out", models=chosen, **options)
    return plan_session(find_sessions(settings)[0], settings, models)


def warps(plan):
    """List the names of the planned displacement fields."""
    return [name for name in names(plan) if name.endswith("_xfm.nii.gz")]


class TestPlan:
    @pytest.mark.parametrize(
        ("asked", "files"),
        [((), []), (("template",), TEMPLATE), (("session",), SESSION), (BOTH, TEMPLATE + SESSION)],
    )
    def test_only_what_is_asked_for_both_ways(self, pair, asked, files):  # noqa: F811
        assert warps(plan_of(pair, deformable=asked)) == files

    def test_only_of_the_model_that_registers(self, pair):  # noqa: F811
        assert len(warps(plan_of(pair, (PEPSI, CIFL), deformable=BOTH))) == 4
        with pytest.raises(UsageError, match=r"--deformable.*cifl.*--model"):
            plan_of(pair, (PEPSI,), deformable=BOTH)

    def test_another_template_has_its_name(self, pair):  # noqa: F811
        plan = plan_of(pair, deformable=("template",), template="OASIS30ANTs")
        assert warps(plan)[0] == "sub-01_from-T1w_to-OASIS30ANTs_mode-image_desc-cifl_xfm.nii.gz"

    def test_two_scans_of_one_contrast_keep_their_directions_apart(self, make_bids):
        root = make_bids([f"sub-01/anat/sub-01_acq-{a}_T1w.nii.gz" for a in "ab"])
        there, back = warps(plan_of(root, deformable=("session",)))
        assert there == "sub-01_acq-b_from-T1w_to-reference_mode-image_desc-cifl_xfm.nii.gz"
        assert back == "sub-01_acq-b_from-reference_to-T1w_mode-image_desc-cifl_xfm.nii.gz"

    def test_sidecars_say_from_what_and_by_which_weights(self, pair):  # noqa: F811
        reference, flair = plan_of(pair, deformable=BOTH).scans
        to_template, to_reference = (s.predictions[0].files["warp"].sidecar for s in (reference, flair))
        assert to_template["Sources"] == ["bids::sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"]
        assert len(to_reference["Sources"]) == 2
        assert to_reference["Model"]["Name"] == "cifl"
        assert "MNI152NLin2009aSym" in to_template["Description"]

    def test_the_record_names_what_the_fields_are_made_of(self, pair):  # noqa: F811
        plan = plan_of(pair, (PEPSI, CIFL), deformable=BOTH)
        for scan in plan.scans:
            sidecar = sidecar_path(scan.files["mask"].path)
            sidecar.parent.mkdir(parents=True, exist_ok=True)
            sidecar.write_text("{}")
        used = {step.name: [path.name for path in step.inputs] for step in session_steps(plan)}
        reference = ["sub-01_desc-preproc_T1w.nii.gz", "sub-01_desc-brain_mask.nii.gz"]
        rigid = "sub-01_from-FLAIR_to-T1w_mode-image_xfm.txt"
        assert used["cifl T1w"] == used["pepsi T1w"] == reference
        assert used["cifl FLAIR"][2:] == [rigid, reference[0]]
        assert used["pepsi FLAIR"][2:] == [rigid]
        assert used["preprocess FLAIR"] == ["sub-01_FLAIR.nii.gz", "sub-01_T1w.nii.gz"]


def test_the_methods_text_says_what_was_registered(tmp_path):
    settings = Settings(bids_dir=tmp_path, out_dir=tmp_path / "out", models=("cifl",))
    assert "velocity" not in methods_text(settings)
    text = methods_text(replace(settings, deformable=("template",)))
    assert "MNI152NLin2009aSym template [@mni152]" in text
    assert "every scan to the reference" not in text


def test_every_planned_file_has_one_node_that_writes_it(make_bids):
    cifl = ModelSpec("cifl", {"tissue": "tissue"}, entry("cifl"), 16)
    root = make_bids([f"sub-01/anat/sub-01_{scan}.nii.gz" for scan in ("T1w", "FLAIR", "T2w")])
    graph = Graph(root, (cifl,), deformable=BOTH)
    written = [n.inputs.out_path for n in graph.nodes.values() if "save_" in n.name]
    assert sorted(written) == sorted(str(file.path) for plan in graph.plans for file in plan.planned())
    for name in graph.ends(".deform"):
        node = graph.nodes[name]
        fed = {field for *_, edge in graph.graph.in_edges(node, data=True) for _, field in edge["connect"]}
        assert {"in_file", "mask_file", "native_file"} <= fed
        assert ("reference" in fed) == ("transform" in fed) == ("T1w" not in name)


@pytest.fixture(scope="module")
def anat(tmp_path_factory):
    """The results of a subject with T1w and FLAIR, both ways of `--deformable`, by an untrained network."""
    root = tmp_path_factory.mktemp("warped")
    folder = root / "raw" / "sub-01" / "anat"
    folder.mkdir(parents=True)
    for contrast in ("T1w", "FLAIR"):
        image = brain(contrast)
        if contrast == "FLAIR":
            image.affine[:3, 3] += (4.0, -3.0, 2.0)  # the head has moved
            image = nib.Nifti1Image(image.dataobj, image.affine)
        image.to_filename(folder / f"sub-01_{contrast}.nii.gz")
    description = {"Name": "tiny", "BIDSVersion": "1.9.0", "DatasetType": "raw"}
    (root / "raw" / "dataset_description.json").write_text(json.dumps(description))
    settings = Settings(
        bids_dir=root / "raw",
        out_dir=root / "out",
        work_dir=root / "work",
        models=("cifl",),
        weights={"cifl": str(write_random_cifl(root / "weights"))},
        deformable=BOTH,
        resolution=VOXEL_MM,
        sloppy=True,
        nprocs=1,
        omp_nthreads=1,
        device="cpu",
    )
    assert run_participants(settings) == 0
    return root / "out" / "sub-01" / "anat"


class TestRun:
    def test_fields_cover_what_they_resample(self, anat):
        template, _ = load_template()
        head = Volume.load(anat / "sub-01_desc-preproc_T1w.nii.gz")
        for name, image in zip(TEMPLATE, (template, head), strict=True):
            field = DisplacementField.load(anat / name)
            corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(image.shape) - 1)
            voxels = apply_affine(np.linalg.inv(field.affine) @ image.affine, corners)
            assert (voxels > -1.5).all()
            assert (voxels < np.array(field.data.shape[:3]) + 0.5).all()

    @pytest.mark.parametrize("files", [TEMPLATE, SESSION])
    def test_there_and_back_is_where_it_started(self, anat, files):
        there, back = (DisplacementField.load(anat / name) for name in files)
        start = apply_affine(there.affine, np.argwhere(np.ones(there.data.shape[:3]))[::997])
        inside = np.linalg.norm(start - start.mean(axis=0), axis=1) < 40
        gone = moved_by(there, start[inside])
        assert np.linalg.norm(moved_by(back, gone) - start[inside], axis=1).mean() < 0.3

    def test_the_scan_lies_on_the_template(self, anat):
        template, mask = load_template()
        own = Volume.load(anat / "sub-01_desc-brain_mask.nii.gz")
        moved = DisplacementField.load(anat / TEMPLATE[0]).resample(own, order=0)
        inside = resample(moved, template, order=0).data > 0
        assert 2 * (inside & mask).sum() / (inside.sum() + mask.sum()) > 0.85

    def test_the_field_to_the_reference_holds_the_rigid_step(self, anat):
        rigid = read_itk(anat / "sub-01_from-FLAIR_to-T1w_mode-image_xfm.txt")
        field = DisplacementField.load(anat / SESSION[0])
        middle = tuple(n // 2 for n in field.data.shape[:3])
        linear = apply_affine(rigid, apply_affine(field.affine, middle))
        assert np.linalg.norm(rigid[:3, 3]) > 3
        assert np.linalg.norm(field.positions()[middle] - linear) < 2.5

    def test_sidecars_say_how_it_went(self, anat):
        for name in (*TEMPLATE, *SESSION):
            quality = json.loads((anat / name.replace(".nii.gz", ".json")).read_text())["Quality"]
            assert quality["similarity_after"] >= quality["similarity_before"] - 1e-3
            assert quality["jacobian_min"] > 0
            assert quality["folded"] == 0
            assert ("affine" in quality) == ("MNI" in name)


def moved_by(field, points):
    """Move points (N, 3; RAS+ mm) by a field, interpolated linearly."""
    from scipy.ndimage import map_coordinates

    voxels = apply_affine(np.linalg.inv(field.affine), points).T
    shift = [map_coordinates(field.data[..., axis], voxels, order=1, mode="nearest") for axis in range(3)]
    return points + np.stack(shift, axis=-1)
