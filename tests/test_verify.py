"""``bidsrep-verify``: silent on what a run wrote, and a finding for every change that is planted in it."""

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_weights import write_random_weights
from test_workflows_run import VOXEL_MM, brain

from bidsrep.bids.verify.checks import verify_dataset
from bidsrep.bids.verify.dataset import Dataset
from bidsrep.bids.verify.records import FileRecord, Records
from bidsrep.cli.verify import main
from bidsrep.errors import ExitCode
from bidsrep.imaging.volume import Volume
from bidsrep.settings import Settings
from bidsrep.workflows.rerun import Tolerance, difference
from bidsrep.workflows.run import run_participants

SCANS = ("sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_FLAIR", "sub-02/anat/sub-02_T1w")
PREPROC = "sub-01/anat/sub-01_desc-preproc_T1w"
OTHER = "sub-02/anat/sub-02_desc-preproc_T1w"
PROBABILITY = "sub-01/anat/sub-01_space-T1w_res-4mm_label-lesion_desc-pepsiFromT1w_probseg"
RECORD = "prov/sub-01/prov-bidsrep+sub01"


@dataclass
class Copy:
    """A copy of a run's input, output and weights, to do damage to."""

    root: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def out(self) -> Path:
        return self.root / "out"

    def verify(self, *options: str) -> list[str]:
        """Run the command; give its findings."""
        code = main([str(self.out), "--models-dir", str(self.root / "weights"), *options])
        said = self.capsys.readouterr()
        assert "Traceback" not in said.err
        findings = said.out.splitlines()
        assert code == (1 if findings else 0), said.err
        return findings

    def finds(self, check: str, file: str, *words: str, among: int = 1) -> None:
        """Expect a finding of a check on a file, and no more findings than are named."""
        findings = self.verify()
        (found,) = [line for line in findings if line.startswith(f"{file}: {check}: ")]
        assert all(word in found for word in words), found
        assert len(findings) == among, findings

    def edit(self, name: str, change: Callable[[dict], object]) -> None:
        path = self.out / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a finished run: two subjects, small random weights."""
    root = tmp_path_factory.mktemp("verified")
    for number, name in enumerate(SCANS):
        path = root / "raw" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        brain(name.rpartition("_")[2], number).to_filename(path)
    description = {"Name": "tiny", "BIDSVersion": "1.9.0", "DatasetType": "raw"}
    (root / "raw/dataset_description.json").write_text(json.dumps(description))
    run(root)
    return root


def run(root: Path, model: str = "pepsi", **options: object) -> None:
    """Run one model, with small random weights, on the dataset of a folder."""
    settings = Settings(
        bids_dir=root / "raw",
        out_dir=root / "out",
        work_dir=root / "work",
        models=(model,),
        weights={model: str(write_random_weights(root / "weights", model))},
        resolution=VOXEL_MM,
        lesion_threshold=0.4,
        nprocs=1,
        omp_nthreads=1,
        device="cpu",
        sloppy=True,
        **options,  # type: ignore[arg-type]
    )
    assert run_participants(settings) == ExitCode.OK
    shutil.rmtree(root / "work", ignore_errors=True)


@pytest.fixture
def copy(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Copy:
    shutil.copytree(finished, tmp_path / "copy")
    return Copy(tmp_path / "copy", capsys)


class TestSilence:
    """What a run and its users may do without a finding."""

    @pytest.mark.parametrize("options", [(), ("--rehash",)])
    def test_an_untouched_dataset_gives_no_finding(self, copy: Copy, options: tuple[str, ...]) -> None:
        assert copy.verify(*options) == []

    def test_a_rerun_gives_the_same_bytes(self, copy: Copy) -> None:
        assert copy.verify("--rerun", "sub-02", "-w", str(copy.root)) == []
        assert not list(copy.root.glob("bidsrep-verify-*"))

    def test_files_of_people_and_of_other_tools_are_expected(self, copy: Copy) -> None:
        for name in (
            "CHANGES",
            "participants.tsv",
            ".git/config",
            "code/a.py",
            "phenotype/bidsrep_volumes.tsv",
        ):
            (copy.out / name).parent.mkdir(exist_ok=True)
            (copy.out / name).write_text("x")
        assert copy.verify() == []


class TestImages:
    """Changes of what lies in the files."""

    def test_one_voxel(self, copy: Copy) -> None:
        path = copy.out / f"{PREPROC}.nii.gz"
        volume = Volume.load(path)
        volume.data[18, 22, 17] *= 1.001
        volume.save(path)
        copy.finds("changed", f"{PREPROC}.nii.gz", "its voxels are not")

    def test_another_grid(self, copy: Copy) -> None:
        path = copy.out / f"{PREPROC}.nii.gz"
        volume = Volume.load(path)
        Volume(volume.data, volume.affine + np.eye(4, k=3)).save(path)
        copy.finds("changed", f"{PREPROC}.nii.gz", "neither its grid")

    def test_the_same_voxels_compressed_anew(self, copy: Copy) -> None:
        path = copy.out / f"{PREPROC}.nii.gz"
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=9))
        copy.finds("changed", f"{PREPROC}.nii.gz", "compressed anew")

    def test_a_truncated_file(self, copy: Copy) -> None:
        path = copy.out / f"{PREPROC}.nii.gz"
        path.write_bytes(path.read_bytes()[:-900])
        copy.finds("changed", f"{PREPROC}.nii.gz", "cut short or damaged")

    def test_swapped_subjects(self, copy: Copy) -> None:
        first, second = copy.out / f"{PREPROC}.nii.gz", copy.out / f"{OTHER}.nii.gz"
        one, two = first.read_bytes(), second.read_bytes()
        first.write_bytes(two)
        second.write_bytes(one)
        copy.finds("swapped", f"{PREPROC}.nii.gz", f"recorded for {OTHER}.nii.gz", among=2)

    def test_swapped_scans_of_the_input(self, copy: Copy) -> None:
        shutil.copy(copy.root / "raw" / f"{SCANS[2]}.nii.gz", copy.root / "raw" / f"{SCANS[0]}.nii.gz")
        copy.finds("swapped", f"bids:raw:{SCANS[0]}.nii.gz", f"bids:raw:{SCANS[2]}.nii.gz")

    @pytest.mark.parametrize("name", [f"{PREPROC}.nii.gz", f"{OTHER}.json"])
    def test_large_files_are_hashed_when_asked(self, copy: Copy, name: str, monkeypatch) -> None:
        monkeypatch.setattr("bidsrep.bids.verify.content.SMALL", 0)
        path = copy.out / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert not [line for line in copy.verify() if "changed" in line]
        assert [line for line in copy.verify("--rehash") if line.startswith(f"{name}: changed")]


class TestPresence:
    """Files that are gone, and files that nobody recorded."""

    def test_a_missing_file_tells_who_needs_it(self, copy: Copy) -> None:
        (copy.out / f"{PREPROC}.nii.gz").unlink()
        copy.finds("missing", f"{PREPROC}.nii.gz", "12 file(s) name it as their source")

    def test_a_removed_scan_of_the_input(self, copy: Copy) -> None:
        (copy.root / "raw" / f"{SCANS[1]}.nii.gz").unlink()
        copy.finds("source", f"bids:raw:{SCANS[1]}.nii.gz", "is not there any more")

    def test_results_of_a_scan_that_was_prepared_anew(self, copy: Copy) -> None:
        run(copy.root, "brainid", participant_label=("02",), bias_correct=True)
        findings = [line for line in copy.verify() if ": outdated: " in line]
        assert len(findings) == 2  # pepsi's predictions, and their measures
        assert all("sub-02/" in line and "desc-preproc_T1w.nii.gz" in line for line in findings)
        run(copy.root, participant_label=("02",), bias_correct=True)
        assert not [line for line in copy.verify() if "outdated" in line]

    def test_results_are_up_to_date_again_where_their_source_is_as_it_was(self, copy: Copy) -> None:
        run(copy.root, "brainid", participant_label=("02",), bias_correct=True)
        run(copy.root, "brainid", participant_label=("02",))
        run(copy.root, participant_label=("02",))
        assert not [line for line in copy.verify() if "outdated" in line]

    def test_results_that_came_out_the_same_of_another_source_are_not_outdated(self, copy: Copy) -> None:
        (scan,) = (copy.root / "raw/sub-02").rglob("*.nii.gz")
        scan.write_bytes(gzip.compress(gzip.decompress(scan.read_bytes()), 1, mtime=7))
        run(copy.root, participant_label=("02",))
        assert not [line for line in copy.verify() if "outdated" in line]

    def test_an_annexed_file_without_content(self, copy: Copy) -> None:
        path = copy.out / f"{PREPROC}.nii.gz"
        path.unlink()
        path.symlink_to("nowhere")
        copy.finds("missing", f"{PREPROC}.nii.gz", "datalad get")

    @pytest.mark.parametrize(
        "name", ["sub-01/anat/sub-01_T1w.nii.gz", "sub-01/figures/.notes", "sub-09.html", "a\nb"]
    )
    def test_a_file_nobody_recorded(self, copy: Copy, name: str) -> None:
        (copy.out / name).write_text("a page")
        copy.finds("unaccounted", name.replace("\n", "\\x0a"), "no run has recorded it")

    @pytest.mark.parametrize("name", [f"{PREPROC}Old.nii.gz", "sub-01/anat/.sub-01_desc-preproc_T1w.nii.gz"])
    def test_a_renamed_or_hidden_file(self, copy: Copy, name: str) -> None:
        (copy.out / f"{PREPROC}.nii.gz").rename(copy.out / name)
        copy.finds("unaccounted", name, f"holds what {PREPROC}.nii.gz was", "Give it its name back", among=2)

    def test_what_a_killed_run_left(self, copy: Copy) -> None:
        (copy.out / "sub-01/anat/.tmp-1_x.nii.gz").write_text("")
        copy.finds("unaccounted", "sub-01/anat/.tmp-1_x.nii.gz", "half-written", "Delete it")

    def test_a_subject_without_a_record_is_one_finding(self, copy: Copy) -> None:
        shutil.rmtree(copy.out / "prov/sub-02")
        copy.finds("unaccounted", "sub-02", "file(s) that no record accounts for", "Run bidsrep again")

    def test_no_record_at_all(self, copy: Copy) -> None:
        shutil.rmtree(copy.out / "prov")
        copy.finds("record", "prov", "no record of any subject")


class TestRecords:
    """Provenance and description that cannot be used."""

    @pytest.mark.parametrize(
        "text",
        ["{", "[]", "", '{"BEP028Draft": 1}', "[" * 100_000, '{"BEP028Draft": "BEP028 draft", "Files": [3]}'],
    )
    def test_a_record_that_is_no_record(self, copy: Copy, text: str) -> None:
        (copy.out / f"{RECORD}_io.json").write_text(text)
        copy.finds("record", f"{RECORD}_io.json", "cannot be understood")

    @pytest.mark.parametrize("value", [None, [], {"a": 1}, float("inf"), -1])
    def test_a_record_with_odd_values(self, copy: Copy, value: object) -> None:
        copy.edit(f"{RECORD}_io.json", lambda content: content["Files"][0].update(Size=value, Checksum=value))
        assert copy.verify()

    @pytest.mark.parametrize(
        "uri", ["bids::/etc/passwd", "bids::sub-01/../../x", "bids::", "x", 3, "bids::a%00b"]
    )
    def test_a_record_of_files_elsewhere(self, copy: Copy, uri: object) -> None:
        copy.edit(f"{RECORD}_io.json", lambda content: content["Files"][0].update(Id=uri))
        assert copy.verify("--rehash")

    def test_a_record_without_one_of_its_files(self, copy: Copy) -> None:
        (copy.out / f"{RECORD}_act.json").unlink()
        copy.finds("record", f"{RECORD}_io.json", "cannot be read")

    def test_a_dangling_link_and_the_dataset_s_new_place(self, copy: Copy) -> None:
        (copy.root / "raw").rename(copy.root / "moved")
        copy.finds("link", "dataset_description.json", "'raw' leads nowhere", "--bids-dir")
        assert copy.verify("--bids-dir", str(copy.root / "moved")) == []

    def test_a_link_that_is_missing(self, copy: Copy) -> None:
        copy.edit("dataset_description.json", lambda content: content["DatasetLinks"].clear())
        copy.finds("link", "dataset_description.json", "no DatasetLink 'raw'")

    @pytest.mark.parametrize("text", ["", "{", '{"DatasetLinks": [1]}'])
    def test_a_damaged_description(self, copy: Copy, text: str) -> None:
        (copy.out / "dataset_description.json").write_text(text)
        copy.finds("link", "dataset_description.json")


class TestSidecars:
    """Keys and units the BIDS validator does not look at."""

    def test_one_key(self, copy: Copy) -> None:
        copy.edit(f"{PREPROC}.json", lambda content: content.update(Resolution="2 mm"))
        copy.finds("changed", f"{PREPROC}.json", "not the file that was recorded")

    @pytest.mark.parametrize(
        ("name", "change", "told"),
        [
            (PROBABILITY, {"Units": "percent"}, "the Units 'percent'"),
            (PROBABILITY, {"Units": None}, "the Units None"),
            (PREPROC, {"SkullStripped": False}, "SkullStripped False"),
            (PREPROC, {"Sources": ["../raw/x.nii"]}, "not all BIDS URIs"),
            ("sub-01/anat/sub-01_desc-brain_mask", {"Type": "Face"}, "the Type 'Face'"),
        ],
    )
    def test_values_a_kind_of_file_does_not_have(
        self, copy: Copy, name: str, change: dict, told: str
    ) -> None:
        copy.edit(f"{name}.json", lambda content: content.update(change))
        copy.finds("sidecar", f"{name}.json", told, among=2)

    @pytest.mark.parametrize("key", ["Units", "Model", "Sources", "SpatialReference", "Resolution"])
    def test_keys_that_are_missing(self, copy: Copy, key: str) -> None:
        copy.edit(f"{PROBABILITY}.json", lambda content: content.pop(key))
        copy.finds("sidecar", f"{PROBABILITY}.json", f"lacks the key {key}", among=2)

    def test_a_dangling_source(self, copy: Copy) -> None:
        gone = "bids::sub-01/anat/sub-01_gone.nii.gz"
        copy.edit(f"{PREPROC}.json", lambda content: content.update(Sources=[gone]))
        copy.finds("source", gone, "1 file(s) are made from it", among=2)

    def test_a_source_of_another_subject(self, copy: Copy) -> None:
        copy.edit(f"{PREPROC}.json", lambda content: content.update(Sources=[f"bids:raw:{SCANS[2]}.nii.gz"]))
        copy.finds("swapped", f"{PREPROC}.json", "names a file of another subject", among=2)

    def test_a_sidecar_that_is_no_json(self, copy: Copy) -> None:
        (copy.out / f"{PREPROC}.json").write_bytes(b"\xff\xfe{")
        copy.finds("sidecar", f"{PREPROC}.json", "cannot be read", among=2)


class TestWeights:
    """Other weights than recorded."""

    def test_other_weights_of_the_same_id(self, copy: Copy) -> None:
        write_random_weights(copy.root / "weights", "pepsi", seed=1)
        copy.finds("weights", "pepsi=random-pepsi", "the results were made with")

    def test_a_sidecar_that_names_others(self, copy: Copy) -> None:
        copy.edit(f"{PROBABILITY}.json", lambda content: content["Model"].update(WeightsSHA256="f" * 64))
        copy.finds("weights", f"{PROBABILITY}.json", "ffffffffffff", "the record random-pepsi", among=2)

    def test_subjects_of_different_weights(self, copy: Copy) -> None:
        def other(content: dict) -> None:
            content["Software"][1].update(Version="other", Checksum=[{"ChecksumValue": "f" * 64}])

        copy.edit("prov/sub-02/prov-bidsrep+sub02_soft.json", other)
        (mixed,) = [line for line in copy.verify() if line.startswith("pepsi: weights: ")]
        assert "random-pepsi" in mixed
        assert "other (ffffffffffff) in 1, such as sub-02" in mixed


class TestRerun:
    """Running a subject again, and how much may differ."""

    def test_weights_that_are_not_here_are_told(self, copy: Copy) -> None:
        (copy.root / "weights/pepsi.safetensors").unlink()
        (found,) = copy.verify("--rerun", "01")
        assert found.startswith("sub-01: rerun: cannot be run again: the weights random-pepsi of pepsi")

    @pytest.mark.parametrize("options", [("--rerun", "09"), ("--rerun", "01", "--bids-dir", "nowhere")])
    def test_what_cannot_be_run_is_wrong_usage(self, copy: Copy, options: tuple[str, ...]) -> None:
        assert main([str(copy.out), *options]) == ExitCode.USAGE

    @pytest.mark.parametrize(
        ("suffix", "tolerance", "told"),
        [
            ("T1w", Tolerance(), "a voxel differs by 0.01 of the largest value from that made again"),
            ("T1w", Tolerance(voxel=0.02), None),
            ("mask", Tolerance(voxel=1), "Dice of label 1 with that made again is 0.9231"),
            ("mask", Tolerance(dice=0.9), None),
        ],
    )
    def test_images(self, tmp_path: Path, suffix: str, tolerance: Tolerance, told: str | None) -> None:
        data = np.zeros((4, 4, 4), np.float32)
        data.flat[:7] = 1
        other = data.copy()
        other.flat[6] = 0 if suffix == "mask" else 0.99
        paths = [tmp_path / f"{name}_{suffix}.nii.gz" for name in "ab"]
        for path, values in zip(paths, (data, other), strict=True):
            nib.Nifti1Image(values, np.eye(4)).to_filename(path)
        assert difference(FileRecord("", "", 0, ""), *paths, tolerance) == told
        assert difference(FileRecord("", "", 0, ""), paths[0], paths[0], tolerance) is None

    @pytest.mark.parametrize(
        ("text", "told"),
        [("x 1.001\n", None), ("x 1.1\n", "says 1 where"), ("y 1\n", "says x where"), ("x\n", "not as many")],
    )
    def test_tables(self, tmp_path: Path, text: str, told: str | None) -> None:
        (tmp_path / "a.tsv").write_text("x 1\n")
        (tmp_path / "b.tsv").write_text(text)
        said = difference(
            FileRecord("", "", 0, ""), tmp_path / "a.tsv", tmp_path / "b.tsv", Tolerance(voxel=0.01)
        )
        assert told in said if told and said else said == told


def test_findings_can_be_had_as_json(copy: Copy) -> None:
    (copy.out / f"{PREPROC}.nii.gz").unlink()
    copy.verify("--json", str(copy.root / "found.json"))
    content = json.loads((copy.root / "found.json").read_text())
    assert content["Checked"] == {"Subjects": 2, "Sessions": 2, "Files": 70}
    assert [(f["file"], f["check"]) for f in content["Findings"]] == [(f"{PREPROC}.nii.gz", "missing")]


@pytest.mark.parametrize("options", [[], ["--bids-dir", "/no/such/folder"]])
def test_folders_that_are_none_are_wrong_usage(tmp_path: Path, options: list[str]) -> None:
    assert main([str(tmp_path), *options]) == ExitCode.USAGE
    assert main([str(tmp_path / "none"), *options]) == ExitCode.USAGE


@pytest.mark.parametrize("text", ["voxel", "dice=2", "voxel=-1", "voxel=nan", "voxel=1,voxel=1", "size=1"])
def test_a_tolerance_that_is_none_is_wrong_usage(tmp_path: Path, text: str) -> None:
    with pytest.raises(SystemExit) as error:
        main([str(tmp_path), "--tolerance", text])
    assert error.value.code == ExitCode.USAGE


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from bidsrep.cli.verify import build_parser; build_parser(); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "nibabel", "torch", "nipype", "pandas"} & set(ran.stdout.split())


@pytest.fixture(scope="module")
def victim(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("victim") / "copy"
    shutil.copytree(finished, folder)
    return folder / "out"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(which=st.integers(0), where=st.integers(0), bits=st.integers(1, 255), cut=st.booleans())
def test_any_damage_to_a_recorded_file_is_found(
    victim: Path, which: int, where: int, bits: int, cut: bool
) -> None:
    """And damage to any other file breaks nothing."""
    files = sorted(path for path in victim.rglob("*") if path.is_file())
    path = files[which % len(files)]
    known = f"bids::{path.relative_to(victim).as_posix()}" in Records(victim).files
    content = path.read_bytes()
    place = where % len(content)
    changed = bytes([content[place] ^ bits])
    path.write_bytes(content[:place] if cut else content[:place] + changed + content[place + 1 :])
    try:
        report = verify_dataset(Dataset(victim), Records(victim), rehash=True)
    finally:
        path.write_bytes(content)
    if known:
        name = path.relative_to(victim).as_posix()
        assert any(finding.file == name for finding in report.findings)
