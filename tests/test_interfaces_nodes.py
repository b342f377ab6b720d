"""The nodes: files in, one call, files out."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bidsrep.imaging.transforms import write_itk
from bidsrep.imaging.volume import Volume
from bidsrep.interfaces.brainmask import BrainMask
from bidsrep.interfaces.conform import Conform
from bidsrep.interfaces.derivatives import SaveDerivative
from bidsrep.interfaces.evaluate import Evaluate
from bidsrep.interfaces.grids import ReferenceGrid, Resample
from bidsrep.interfaces.lesions import LesionMask

SHAPE = (20, 24, 18)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in: nodes write to the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ball(center: tuple[float, float, float] = (9.5, 11.5, 8.5), radius: float = 6.0) -> np.ndarray:
    grid = np.indices(SHAPE) - np.reshape(center, (3, 1, 1, 1))
    return (grid**2).sum(axis=0) < radius**2


def save(path: Path, data: np.ndarray, spacing: float = 4.0) -> str:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = (-30.0, 12.0, 5.0)
    return str(Volume(data.astype(np.float32), affine).save(path))


def load(path: str) -> np.ndarray:
    return Volume.load(path).data


class TestConform:
    def test_leaves_the_input_alone(self, folder):
        scan = save(folder / "scan.nii.gz", np.random.default_rng(0).uniform(1, 9, SHAPE))
        before = Path(scan).read_bytes()
        result = Conform(in_file=scan).run().outputs
        assert Path(scan).read_bytes() == before
        assert np.array_equal(load(result.out_file), load(scan))
        assert result.report["axes"] == "RAS"

    def test_says_which_file_is_broken(self, folder):
        (folder / "scan.nii.gz").write_bytes(b"no image")
        with pytest.raises(Exception, match=r"scan\.nii\.gz"):
            Conform(in_file=str(folder / "scan.nii.gz")).run()


class TestBrainMask:
    def test_a_given_mask_wins(self, folder):
        scan = save(folder / "scan.nii.gz", 100.0 * ball())
        given = save(folder / "given.nii.gz", ball(radius=3))
        result = BrainMask(in_file=scan, given_mask=given, mode="force").run().outputs
        assert result.how == "given"
        assert np.array_equal(load(result.out_file) > 0, ball(radius=3))

    def test_a_mask_on_another_grid_is_brought_over(self, folder):
        scan = save(folder / "scan.nii.gz", 100.0 * ball())
        image = nib.load(save(folder / "given.nii.gz", ball(radius=5)))
        flipped = image.as_reoriented(np.array([[1, 1], [0, -1], [2, -1]]))
        flipped.to_filename(folder / "flipped.nii.gz")
        result = BrainMask(in_file=scan, given_mask=str(folder / "flipped.nii.gz")).run().outputs
        assert np.array_equal(load(result.out_file) > 0, ball(radius=5))

    def test_an_empty_given_mask_is_refused(self, folder):
        scan = save(folder / "scan.nii.gz", 100.0 * ball())
        given = save(folder / "given.nii.gz", 0.0 * ball())
        with pytest.raises(Exception, match=r"given\.nii\.gz"):
            BrainMask(in_file=scan, given_mask=given).run()

    def test_skip_takes_what_is_not_background(self, folder):
        scan = save(folder / "scan.nii.gz", 100.0 * ball())
        result = BrainMask(in_file=scan, mode="skip").run().outputs
        assert result.how == "stripped"
        assert np.array_equal(load(result.out_file) > 0, ball())


class TestGrids:
    def test_the_grid_holds_the_brain_and_a_margin(self, folder):
        scan, mask = save(folder / "s.nii.gz", 100.0 * ball()), save(folder / "m.nii.gz", ball())
        grid = nib.load(ReferenceGrid(in_file=scan, mask_file=mask, resolution=2.0).run().outputs.out_file)
        extent = 2 * 6 * 4.0
        assert grid.header.get_zooms() == (2.0, 2.0, 2.0)
        assert all(extent + 15 < 2 * n < extent + 30 for n in grid.shape)

    def test_resampling_follows_the_transform_and_blanks_the_outside(self, folder):
        scan = save(folder / "s.nii.gz", 100.0 * ball() + 5)
        mask, shift = save(folder / "m.nii.gz", ball()), np.eye(4)
        shift[0, 3] = 8.0  # the reference's x is the scan's x - 8 mm: two voxels
        transform = str(write_itk(folder / "x.txt", shift))
        moved = Resample(in_file=scan, mask_file=mask, grid_file=scan, transform=transform).run().outputs
        assert np.array_equal(load(moved.out_mask) > 0, ball((7.5, 11.5, 8.5)))
        assert (load(moved.out_file)[load(moved.out_mask) == 0] == 0).all()


class TestLesionMask:
    @pytest.fixture
    def probability(self, folder: Path) -> str:
        data = 0.8 * ball((6, 11, 8), 2.5)
        data[14, 14, 10] = 0.9  # one voxel: 0.064 ml
        return save(folder / "p.nii.gz", data)

    def test_threshold_and_size(self, folder, probability):
        brain = save(folder / "b.nii.gz", np.ones(SHAPE))
        kept = load(LesionMask(in_file=probability, mask_file=brain, min_volume=0.1).run().outputs.out_file)
        assert np.array_equal(kept > 0, ball((6, 11, 8), 2.5))
        high = LesionMask(in_file=probability, mask_file=brain, threshold=0.85).run().outputs.out_file
        assert load(high).sum() == 1

    def test_nothing_outside_the_brain(self, folder, probability):
        brain = save(folder / "b.nii.gz", ball((14, 14, 10), 2))
        assert load(LesionMask(in_file=probability, mask_file=brain).run().outputs.out_file).sum() == 1

    def test_native_masks_go_back_through_the_transform(self, folder, probability):
        brain, shift = save(folder / "b.nii.gz", np.ones(SHAPE)), np.eye(4)
        shift[0, 3] = 8.0
        transform = str(write_itk(folder / "x.txt", shift))
        native = LesionMask(
            in_file=probability, mask_file=brain, native_file=brain, transform=transform, min_volume=0.1
        ).run()
        assert np.array_equal(load(native.outputs.out_file) > 0, ball((8, 11, 8), 2.5))


class TestSaveDerivative:
    def test_image_and_sidecar_are_the_same_in_every_run(self, folder):
        source = save(folder / "a.nii", np.random.default_rng(0).uniform(0, 1, SHAPE))
        written = []
        for name in "xy":
            out = folder / name / "sub-01_desc-preproc_T1w.nii.gz"
            SaveDerivative(in_file=source, out_path=str(out), sidecar={"B": 1}, extra={"A": 2}).run()
            written.append((out.read_bytes(), out.with_name("sub-01_desc-preproc_T1w.json").read_bytes()))
        assert written[0] == written[1]
        assert json.loads(written[0][1]) == {"B": 1, "A": 2}

    @pytest.mark.parametrize(
        ("suffix", "dtype"), [("mask", np.uint8), ("dseg", np.int16), ("T1w", np.float32)]
    )
    def test_type_on_disk_follows_the_suffix(self, folder, suffix, dtype):
        out = folder / f"sub-01_desc-x_{suffix}.nii.gz"
        SaveDerivative(in_file=save(folder / "a.nii", ball()), out_path=str(out), sidecar=None).run()
        assert nib.load(out).get_data_dtype() == dtype
        assert not out.with_name(f"sub-01_desc-x_{suffix}.json").exists()

    def test_a_deleted_file_comes_back(self, folder):
        from nipype.pipeline import engine as pe

        out = folder / "out" / "sub-01_desc-x_metrics.tsv"
        (folder / "m.tsv").write_text("a\tb\n")
        node = pe.Node(
            SaveDerivative(in_file=str(folder / "m.tsv"), out_path=str(out), sidecar=None),
            name="save",
            base_dir=str(folder / "work"),
        )
        node.run()
        out.unlink()
        node.run()
        assert out.read_text() == "a\tb\n"


def test_evaluate_asks_every_scan_for_its_files(folder):
    scan, mask = save(folder / "s.nii.gz", 100.0 * ball() + ball(radius=3)), save(folder / "m.nii.gz", ball())
    inputs = {"conformed": scan, "native_mask": mask, "preproc": scan, "mask": mask, "lesions": mask}
    both = {f"{name}{n}": value for n in range(2) for name, value in inputs.items()}
    evaluate = Evaluate(
        2,
        keys=["T1w", "FLAIR"],
        suffixes=["T1w", "FLAIR"],
        given_lesions=["", mask],
        images0={"T1w": scan},
        images1={"T1w": scan, "lesion": mask},
        transform1=str(write_itk(folder / "x.txt", np.eye(4))),
        **both,
    )
    lines = Path(evaluate.run().outputs.out_file).read_text().splitlines()
    rows = {tuple(line.split("\t")[:2]): line.split("\t")[2] for line in lines}
    assert lines[0] == "scan\tmetric\tvalue\tunit\treference"
    assert float(rows["FLAIR", "correlation"]) == pytest.approx(1)
    assert float(rows["FLAIR", "mask_dice"]) == 1
    assert float(rows["FLAIR", "lesion_dice"]) == 1
    assert float(rows["FLAIR", "rotation"]) == 0
    assert float(rows["T1w", "brain_volume"]) == pytest.approx(ball().sum() * 0.064, rel=1e-4)
    assert ("T1w", "mask_dice") not in rows
