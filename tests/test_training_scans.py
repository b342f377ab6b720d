"""Measuring weights on acquired scans: each protocol tells a perfect answer from a poor one, and reads what it should."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from random_weights import write_random_weights
from torch import Tensor

from bidsrep.cli.evaluate import SCANS
from bidsrep.cli.train import main
from bidsrep.evaluation.results import Result, summarise, to_markdown, to_tsv
from bidsrep.imaging.grids import Grid
from bidsrep.imaging.resample import resample
from bidsrep.tasks.segmentation import LABELS
from bidsrep.training.labelled_scans import Example, to_freesurfer
from bidsrep.training.protocols import measures
from bidsrep.training.protocols import scans as protocols
from bidsrep.training.protocols.scans import PROTOCOLS, Scans

SIDE = 40
LESION = (slice(18, 23), slice(15, 19), slice(18, 22))


def radius() -> np.ndarray:
    axes = np.meshgrid(*[np.arange(SIDE) - (SIDE - 1) / 2] * 3, indexing="ij")
    return np.sqrt(sum((axis / size) ** 2 for axis, size in zip(axes, (0.9, 1.0, 0.8), strict=True)))


def brain(csf: float, grey: float, white: float, lesion: float) -> np.ndarray:
    """A stripped brain: cortex, white matter, a ventricle and a lesion, with some texture."""
    values = np.array([0, grey, white, csf])[(radius() < 17).astype(int) + (radius() < 13) + (radius() < 5)]
    values[LESION] = lesion
    texture = np.random.default_rng(0).uniform(0.97, 1.03, values.shape)
    return (values * texture).astype(np.float32)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two persons with a T1w and a FLAIR, a lesion mask and a segmentation each."""
    root = tmp_path_factory.mktemp("cohort")
    (root / "dataset_description.json").write_text('{"Name": "two", "BIDSVersion": "1.10.0"}')
    contrasts = {"T1w": brain(25, 65, 100, 60), "FLAIR": brain(15, 110, 85, 160)}
    lesion = np.zeros((SIDE,) * 3, np.uint8)
    lesion[LESION] = 1
    structures = np.array([0, 3, 2, 4])[
        (radius() < 17).astype(int) + (radius() < 13) + (radius() < 5)
    ]  # fmt: skip
    structures[: SIDE // 2] = np.array([0, 0, 41, 42, 43])[structures[: SIDE // 2]]
    structures[radius() < 2] = 16
    for person in ("1", "2"):
        anat, labels = root / f"sub-{person}" / "anat", root / "labels" / f"sub-{person}" / "anat"
        for folder in (anat, labels):
            folder.mkdir(parents=True)
        for suffix, data in contrasts.items():
            shifted = np.roll(data, 3 * (person == "2"), axis=1)
            nib.Nifti1Image(shifted, np.eye(4)).to_filename(anat / f"sub-{person}_{suffix}.nii.gz")
        for name, data in (("label-lesion_mask", lesion), ("desc-aseg_dseg", structures.astype(np.int16))):
            shifted = np.roll(data, 3 * (person == "2"), axis=1)
            nib.Nifti1Image(shifted, np.eye(4)).to_filename(labels / f"sub-{person}_{name}.nii.gz")
    return root


class Oracle:
    """A model whose answer to an image is a function of it."""

    divisor = stride = 1

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.outputs = [SimpleNamespace(name=name) for name in answers]

    def predict(self, volume: Tensor, tasks: list[str]) -> dict[str, Tensor]:
        return {task: self.answers[task](volume) for task in tasks}

    def features(self, volume: Tensor) -> Tensor:
        return torch.cat([volume, volume > 0.5], dim=1)


def measure(name: str, cohort: Path, tmp_path: Path, model: Any = None) -> dict[tuple[str, str, str], float]:
    """Means of a protocol's results by system, group and metric."""
    scans = Scans(cohort, tmp_path / "prepared", cohort / "labels")
    found: dict[tuple[str, str, str], list[float]] = {}
    for result in PROTOCOLS[name](scans, {"oracle": model} if model else {}):
        found.setdefault((result.system, result.group, result.metric), []).append(result.value)
    return {key: float(np.mean(values)) for key, values in found.items()}


def test_synthesis_of_a_scan_itself_is_perfect(cohort: Path, tmp_path: Path) -> None:
    model = Oracle(T1w=lambda image: 3 * image)
    found = measure("scans-synthesis", cohort, tmp_path, model)
    assert found["oracle", "T1w to T1w", "correlation"] == pytest.approx(1, abs=1e-4)
    assert found["oracle", "T1w to T1w", "ssim"] > 0.99
    assert found["oracle", "FLAIR to T1w", "correlation"] < 0.9
    assert (
        found["input", "FLAIR to T1w", "correlation"]
        >= abs(found["oracle", "FLAIR to T1w", "correlation"]) - 1e-3
    )
    assert not any("to FLAIR" in group for _, group, _ in found)  # the model has no such output


def test_a_line_is_fitted_to_large_single_precision_images() -> None:
    """Two million float32 voxels, for which NumPy's polyfit finds no line at all."""
    image = np.random.default_rng(0).uniform(0.2, 1.4, (128, 128, 128)).astype(np.float32)
    everywhere = np.ones(image.shape, bool)
    assert measures.ssim_of_fitted(image, 2 * image + 1, everywhere) > 0.999


def test_lesions_that_are_found(cohort: Path, tmp_path: Path) -> None:
    model = Oracle(lesion=lambda image: (image > 1.2 * image[image > 0].median()).float() * 0.9)
    found = measure("scans-lesion", cohort, tmp_path, model)
    assert found["oracle", "FLAIR", "sensitivity"] == 1
    assert found["oracle", "FLAIR", "true_volume"] == pytest.approx(0.08)
    assert found["oracle", "FLAIR", "dice"] > 0.4
    assert found["oracle", "FLAIR", "auc"] > 0.9
    assert found["intensity", "FLAIR", "auc"] > 0.99
    assert found["oracle", "T1w", "dice"] < 0.05


def test_lesions_of_healthy_persons_are_false(cohort: Path, tmp_path: Path) -> None:
    model = Oracle(lesion=lambda image: (image > 1.2 * image[image > 0].median()).float())
    (result,) = (
        r for r in PROTOCOLS["scans-lesion"](Scans(cohort, tmp_path, participants=("1",), modalities=("FLAIR",)),
                                             {"oracle": model})
        if (r.system, r.group, r.metric) == ("oracle", "FLAIR", "false_positive_volume")
    )  # fmt: skip
    assert result.value > 0.05


def test_structures_that_are_named_right(cohort: Path, tmp_path: Path) -> None:
    truth = nib.load(cohort / "labels" / "sub-1" / "anat" / "sub-1_desc-aseg_dseg.nii.gz")
    inside = np.asarray(truth.dataobj)
    corner, far = np.argwhere(inside > 0).min(0), np.argwhere(inside > 0).max(0) + 1

    def answer(image: Tensor) -> Tensor:
        """The true labels in the image's crop, all cortex called white matter."""
        margin = [(side - (b - a)) // 2 for side, a, b in zip(image.shape[2:], corner, far, strict=True)]
        whole = np.zeros(image.shape[2:])
        box = tuple(slice(m, m + b - a) for m, a, b in zip(margin, corner, far, strict=True))
        whole[box] = inside[tuple(slice(a, b) for a, b in zip(corner, far, strict=True))]
        whole[np.isin(whole, (3, 42))] = 2
        return torch.from_numpy(whole)[None, None].float()

    found = measure("scans-segmentation", cohort, tmp_path, Oracle(seg=answer))
    assert found["oracle", "T1w, ventricles", "dice"] == 1
    assert found["oracle", "T1w, ventricles", "hd95"] == 0
    assert found["oracle", "T1w, brain stem", "dice"] == 1
    assert found["oracle", "T1w, cortex", "dice"] == 0
    assert 0.3 < found["oracle", "T1w, white matter", "dice"] < 0.8
    assert found["intensity", "T1w, white matter", "dice"] > 0.9
    assert ("intensity", "T1w, brain stem", "dice") not in found


def test_lost_resolution_is_measured(cohort: Path, tmp_path: Path) -> None:
    found = measure("scans-superresolution", cohort, tmp_path, Oracle(superres=lambda image: image * 0))
    for metric, better in (("psnr", max), ("ssim", max), ("mae", min)):
        sizes = [found["cubic", f"T1w {size} mm", metric] for size in (3, 5, 7)]
        assert sizes == sorted(sizes, reverse=better is max)
        assert better(sizes[0], found["oracle", "T1w 3 mm", metric]) == sizes[0]
        assert (
            better(sizes[0], found["cubic", "T1w 3 mm slices", metric]) != sizes[0]
        )  # in two axes nothing is lost


def test_fields_are_measured(cohort: Path, tmp_path: Path) -> None:
    found = measure("scans-bias", cohort, tmp_path, Oracle(bias=lambda image: torch.ones_like(image)))
    for strength in (0.2, 0.4):
        group = f"T1w, strength {strength}"
        assert found["oracle", group, "normL2"] == pytest.approx(found["none", group, "normL2"])
        assert found["n4", group, "normL2"] < found["none", group, "normL2"]
    assert found["none", "T1w, strength 0.4", "normL2"] > found["none", "T1w, strength 0.2", "normL2"]


def test_persons_are_told_apart_where_features_differ(cohort: Path, tmp_path: Path) -> None:
    found = measure("scans-identity", cohort, tmp_path, Oracle(T1w=lambda image: image))
    # Both persons have the same brain: their boxes are alike, so the other person is nearer.
    assert found["oracle", "T1w", "identified"] == 0
    assert found["intensity", "FLAIR", "identified"] == 0


def test_a_cohort_takes_off_what_contrasts_share() -> None:
    generator = np.random.default_rng(0)
    persons, offsets = generator.normal(size=(3, 20)), 10 * generator.normal(size=(2, 20))
    examples = [
        (contrast, Example(f"{person}{contrast}", str(person), Path(contrast)))
        for person in range(3)
        for contrast in ("T1w", "FLAIR")
    ]
    table = np.array([persons[int(e.subject)] + offsets[int(contrast == "T1w")] for contrast, e in examples])
    whole = protocols._centred(table, np.zeros(len(table)))
    assert not any(right for _, right in protocols._identified(whole, examples))
    centred = protocols._centred(table, [contrast for contrast, _ in examples])
    assert [number for number, right in protocols._identified(centred, examples) if right] == list(range(6))
    assert not list(protocols._identified(0 * centred, examples))


@pytest.mark.parametrize("sizes", [(3, 3, 3), (1, 1, 3), (5, 5, 5)])
def test_coarse_voxels_and_back(sizes: tuple[int, int, int]) -> None:
    ramp = np.tile(np.arange(24, dtype=np.float32), (24, 24, 1))
    coarse = measures.enlarge_voxels(ramp, sizes)
    assert coarse.shape == tuple(-(-24 // size) for size in sizes)
    back = resample(coarse, Grid(ramp.shape, np.eye(4))).data
    inner = slice(sizes[2], 24 - 2 * sizes[2])
    np.testing.assert_allclose(back[..., inner], ramp[..., inner], atol=1e-4)


def test_cells_follow_a_coarser_grid() -> None:
    """Features at half the resolution give the means that those at full resolution give."""
    mask = np.zeros((48, 48, 48), bool)
    mask[:48, :48, :48] = True
    fine = torch.rand(1, 2, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    full = torch.nn.functional.interpolate(fine, scale_factor=2, mode="nearest")[0].numpy()
    coarse = protocols._cells(fine[0].numpy(), mask, 2)
    np.testing.assert_allclose(protocols._cells(full, mask, 1), coarse, rtol=1e-5)
    padded = torch.nn.functional.pad(fine, (0, 5) * 3, value=9)[0].numpy()  # of an image that was padded
    np.testing.assert_array_equal(protocols._cells(padded, mask, 2), coarse)
    mask[:, :, 20:24] = mask[5, 5, 5] = False
    spoilt = np.where(mask, full, 99)
    np.testing.assert_array_equal(protocols._cells(full, mask, 1), protocols._cells(spoilt, mask, 1))
    assert not protocols._cells(full, mask, 1).reshape(12, 12, 12, 2)[:, :, 5].any()  # no brain there


def test_values_of_muse_become_freesurfer_s() -> None:
    values = np.array([0, 48, 47, 52, 51, 81, 82, 101, 100, 71, 300], np.float32)
    found = to_freesurfer(Path("sub-1_desc-dlmuse_dseg.nii.gz"), values)
    assert found.tolist() == [0, 17, 53, 4, 43, 41, 2, 3, 42, 255, 255]
    assert to_freesurfer(Path("sub-1_desc-aseg_dseg.nii.gz"), values) is values
    assert set(found.tolist()) - {255} <= set(LABELS)


def test_the_command_writes_a_table_and_a_page(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write_random_weights(tmp_path / "weights", "pepsi")
    options = [
        "--bids",
        str(cohort),
        "--labels",
        str(cohort / "labels"),
        "--model",
        "pepsi",
        "--device",
        "cpu",
    ]
    options += ["--weights", f"pepsi={weights}", "--out", str(tmp_path / "out")]
    assert main(["evaluate", "scans-lesion", *options]) == 0
    table = (tmp_path / "out" / "scans-lesion.tsv").read_text().splitlines()
    assert table[0].split("\t") == ["system", "group", "scan", "metric", "value", "unit", "seed"]
    assert len(table) == 1 + 2 * 4 * 9  # systems, scans, metrics
    page = (tmp_path / "out" / "scans-lesion.md").read_text()
    assert "random-pepsi" in page
    assert "| FLAIR | intensity | 2 |" in page
    assert "| FLAIR | intensity | 2 |" in capsys.readouterr().out
    wrong = [*options[:-4], "--weights", "brainid=x", "--out", str(tmp_path / "out")]
    assert main(["evaluate", "scans-lesion", *wrong]) == 2


def test_the_command_knows_every_protocol() -> None:
    assert tuple(PROTOCOLS) == tuple(SCANS)


def test_the_worst_stands_beside_the_mean() -> None:
    assert summarise([0.5, 0.7, float("nan")]) == "0.6 [0.5]"
    assert summarise([0.5, 0.7], lower_is_better=True) == "0.6 [0.7]"
    assert summarise([0.5]) == "0.5"
    assert summarise([float("nan")]) == ""
    results = [Result("a", "T1w", f"sub-{n}", "mae", value, "x") for n, value in enumerate((1.0, 3.0))]
    assert "| T1w | a | 2 | 2 [3] |" in to_markdown(results)
    assert "| group | system | n | mae (x) |" in to_markdown(results)
    assert to_tsv([Result("a", "g", "s", "m", float("nan"))]).splitlines()[1] == "a\tg\ts\tm\tn/a\tn/a\tn/a"
