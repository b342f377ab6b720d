"""The names of outputs, their sidecars, and BIDS URIs."""

from pathlib import Path

import pytest

from bidsrep.bids.names import log_dir, output_path, report_path, resolution_label, sanitise, sidecar_path
from bidsrep.bids.outputs import brain_mask, kind_of, output, output_kinds, preproc
from bidsrep.bids.scans import Scan, Session
from bidsrep.bids.sidecars import build_sidecar, model_entry, scan_name, write_sidecar
from bidsrep.bids.uris import DatasetRoots

OUT, RAW = Path("/derivatives"), Path("/raw")
T1W = Scan(RAW / "sub-01/anat/sub-01_T1w.nii.gz", "01", None, "T1w", {}, RAW)
FLAIR = Scan(RAW / "sub-01/anat/sub-01_FLAIR.nii.gz", "01", None, "FLAIR", {}, RAW)
ENTITIES = {"run": "2", "acq": "tra"}
FLAIR_A = Scan(
    RAW / "sub-01/ses-A/anat/sub-01_ses-A_acq-tra_run-2_FLAIR.nii", "01", "A", "FLAIR", ENTITIES, RAW
)
ROOTS = DatasetRoots(OUT, RAW)
CARD = {
    "weights": {"id": "pepsi-small-1", "sha256": "0" * 64, "status": "self-trained", "licence": "CC-BY-4.0"}
}


@pytest.mark.parametrize(
    ("kind", "scan", "name"),
    [
        ("preproc_reference", T1W, "sub-01_desc-preproc_T1w.nii.gz"),
        ("brain_mask", T1W, "sub-01_desc-brain_mask.nii.gz"),
        ("preproc", FLAIR, "sub-01_space-T1w_res-1mm_desc-preproc_FLAIR.nii.gz"),
        ("brain_mask_reference", FLAIR, "sub-01_space-T1w_res-1mm_desc-brainFromFLAIR_mask.nii.gz"),
        ("xfm", FLAIR, "sub-01_from-FLAIR_to-T1w_mode-image_xfm.txt"),
        ("synthetic", FLAIR, "sub-01_space-T1w_res-1mm_desc-pepsiFromFLAIR_T1w.nii.gz"),
        (
            "lesion_probability",
            FLAIR,
            "sub-01_space-T1w_res-1mm_label-lesion_desc-pepsiFromFLAIR_probseg.nii.gz",
        ),
        ("lesion_mask", FLAIR, "sub-01_space-T1w_res-1mm_label-lesion_desc-pepsiFromFLAIR_mask.nii.gz"),
        ("lesion_mask_native", FLAIR, "sub-01_label-lesion_desc-pepsiFromFLAIR_mask.nii.gz"),
        ("dseg", T1W, "sub-01_space-T1w_seg-aseg_res-1mm_desc-pepsiFromT1w_dseg.nii.gz"),
        ("embedding", FLAIR, "sub-01_desc-pepsiFromFLAIR_embedding.tsv"),
        ("metrics", Session("01", None), "sub-01_desc-pepsi_metrics.tsv"),
    ],
)
def test_outputs_have_the_names_of_the_design(kind: str, scan: Scan | Session, name: str) -> None:
    made = output(kind, OUT, scan, reference=T1W, model="pepsi", target="T1w")
    assert made.path == OUT / "sub-01" / "anat" / name


@pytest.mark.parametrize("kind", output_kinds())
def test_a_name_tells_its_kind(kind: str) -> None:
    scan = Scan(Path("x"), "01", "A", "FLAIR", {"run": "2"})
    made = output(kind, Path("out"), scan, reference=scan, model="crl", target="T1w", order="TR2p3")
    assert (kind_of(made.path.name) or "").removesuffix("_inverse") == kind.removesuffix("_inverse")


@pytest.mark.parametrize("name", ["README.md", "sub-01_T1w.nii.gz", "sub-01_desc-mineFromT1w_embedding.tsv"])
def test_other_names_are_of_no_kind(name: str) -> None:
    assert kind_of(name) is None


def test_names_keep_session_and_entities() -> None:
    made = output("synthetic", OUT, FLAIR_A, reference=T1W, model="pepsi", target="FLAIR", resolution=0.8)
    name = "sub-01_ses-A_acq-tra_run-2_space-T1w_res-0p8mm_desc-pepsiFromFLAIR_FLAIR.nii.gz"
    assert made.path == OUT / "sub-01" / "ses-A" / "anat" / name


def test_the_reference_and_the_others_are_named_apart() -> None:
    assert preproc(OUT, T1W, T1W).kind == "preproc_reference"
    assert preproc(OUT, FLAIR, T1W).kind == "preproc"
    assert brain_mask(OUT, T1W, T1W).grid == "native"
    assert brain_mask(OUT, FLAIR, T1W).grid == "reference"


def test_figures_logs_and_reports_lie_where_people_look() -> None:
    figure = output_path(OUT, FLAIR_A, desc="mask", suffix="FLAIR", extension=".svg", datatype="figures")
    assert figure == OUT / "sub-01/figures/sub-01_ses-A_acq-tra_run-2_desc-mask_FLAIR.svg"
    assert log_dir(OUT, FLAIR_A, "uuid") == OUT / "sub-01/ses-A/log/uuid"
    assert report_path(OUT, "01") == OUT / "sub-01.html"


def test_labels_are_reduced_to_what_bids_allows() -> None:
    made = output_path(OUT, T1W, desc="brain-id (2)", suffix="T1w", extension=".nii.gz")
    assert made.name == "sub-01_desc-brainid2_T1w.nii.gz"
    assert [resolution_label(x) for x in (1, 1.0, 0.75, 2.5)] == ["1mm", "1mm", "0p75mm", "2p5mm"]
    with pytest.raises(ValueError, match="BIDS label"):
        sanitise("../")
    with pytest.raises(ValueError, match="dot"):
        output_path(OUT, T1W, suffix="T1w", extension="nii")


@pytest.mark.parametrize("extension", [".nii.gz", ".nii", ".tsv", ".txt", ".json"])
def test_a_sidecar_has_the_name_of_its_file(extension: str) -> None:
    assert sidecar_path(Path(f"sub-01_a.b_T1w{extension}")).name == "sub-01_a.b_T1w.json"


class TestSidecars:
    """What stands beside a file."""

    def test_a_synthetic_image_tells_all(self) -> None:
        source, reference = preproc(OUT, FLAIR, T1W).path, preproc(OUT, T1W, T1W).path
        made = output("synthetic", OUT, FLAIR, reference=T1W, model="pepsi", target="T1w")
        model = model_entry("pepsi", CARD)
        content = build_sidecar(
            made, ROOTS, [source], reference_image=reference, model=model, Seed=1, Extra=None
        )
        assert content == {
            "Description": "Synthetic T1w image, predicted by pepsi from the FLAIR scan",
            "Sources": ["bids::sub-01/anat/sub-01_space-T1w_res-1mm_desc-preproc_FLAIR.nii.gz"],
            "SpatialReference": "bids::sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
            "Resolution": "1 mm isotropic, axes RAS",
            "SkullStripped": True,
            "Units": "arbitrary (median of the white matter = 1)",
            "Model": {
                "Name": "pepsi",
                "Weights": "pepsi-small-1",
                "WeightsSHA256": "0" * 64,
                "WeightsStatus": "self-trained",
                "License": "CC-BY-4.0",
            },
            "Seed": 1,
        }

    def test_a_native_mask_refers_to_its_scan(self) -> None:
        content = build_sidecar(brain_mask(OUT, T1W, T1W), ROOTS, [T1W.path])
        assert (
            content["SpatialReference"] == "bids:raw:sub-01/anat/sub-01_T1w.nii.gz" == content["Sources"][0]
        )
        assert content["Type"] == "Brain"
        assert "SkullStripped" not in content

    def test_every_image_but_masks_says_whether_it_is_stripped(self) -> None:
        for name, kind in output_kinds().items():
            if kind.extension == ".nii.gz" and kind.suffix not in ("mask", "probseg", "dseg", "xfm"):
                assert kind.sidecar is not None, name
                assert kind.sidecar["SkullStripped"] is True, name

    def test_images_on_the_reference_grid_need_the_reference(self) -> None:
        with pytest.raises(ValueError, match="reference_image"):
            build_sidecar(preproc(OUT, FLAIR, T1W), ROOTS, [FLAIR.path])

    def test_a_card_with_an_unknown_status_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'trained'"):
            model_entry("pepsi", {"weights": {"status": "trained"}})

    def test_sidecars_are_written_once_and_identically(self, tmp_path: Path) -> None:
        image = tmp_path / "sub-01_T1w.nii.gz"
        beside = write_sidecar(image, {"Description": "x"})
        before = beside.stat().st_mtime_ns
        assert write_sidecar(image, {"Description": "x"}) == beside == tmp_path / "sub-01_T1w.json"
        assert beside.stat().st_mtime_ns == before

    def test_the_raw_scan_is_found_among_the_sources(self) -> None:
        sources = ["bids:masks:sub-01/anat/m.nii.gz", "bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
        assert scan_name({"Sources": sources}) == "sub-01_T1w.nii.gz"
        assert scan_name({"Sources": sources[:1]}) == scan_name({"Sources": 3}) == scan_name({}) == ""


class TestUris:
    """BIDS URIs and the links they need."""

    def test_the_innermost_dataset_counts(self, tmp_path: Path) -> None:
        raw = tmp_path / "raw"
        roots = DatasetRoots(raw / "derivatives" / "bidsrep", raw, {"masks": raw / "derivatives" / "masks"})
        assert roots.uri(raw / "sub-01" / "a.nii") == "bids:raw:sub-01/a.nii"
        assert roots.uri(raw / "derivatives" / "bidsrep" / "a.nii") == "bids::a.nii"
        assert roots.uri(raw / "derivatives" / "masks" / "a.nii") == "bids:masks:a.nii"
        assert roots.links() == {"raw": "../..", "masks": "../masks"}

    def test_annexed_files_are_named_where_they_are_seen(self, tmp_path: Path) -> None:
        link = tmp_path / "raw" / "sub-01" / "sub-01_T1w.nii.gz"
        link.parent.mkdir(parents=True)
        (tmp_path / "annex").write_bytes(b"x")
        link.symlink_to(tmp_path / "annex")
        assert (
            DatasetRoots(tmp_path / "out", tmp_path / "raw").uri(link) == "bids:raw:sub-01/sub-01_T1w.nii.gz"
        )

    def test_a_linked_dataset_is_one_dataset(self, tmp_path: Path) -> None:
        (tmp_path / "real" / "sub-01").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "real")
        roots = DatasetRoots(tmp_path / "out", tmp_path / "link")
        assert roots.uri(tmp_path / "real" / "sub-01" / "a.nii") == "bids:raw:sub-01/a.nii"

    def test_a_linked_subject_is_named_where_it_is_seen(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere" / "sub-01" / "anat").mkdir(parents=True)
        (tmp_path / "raw").mkdir()
        (tmp_path / "raw" / "sub-01").symlink_to(tmp_path / "elsewhere" / "sub-01")
        scan = tmp_path / "raw" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
        assert DatasetRoots(tmp_path / "out", tmp_path / "raw").uri(scan) == (
            "bids:raw:sub-01/anat/sub-01_T1w.nii.gz"
        )

    def test_a_file_of_no_dataset_has_no_uri(self) -> None:
        with pytest.raises(ValueError, match="none of the datasets"):
            ROOTS.uri(Path("/home/someone/a.nii"))
