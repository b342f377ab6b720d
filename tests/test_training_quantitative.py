"""Quantitative maps from disk: found, brought to one unit, refused where no unit explains them."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from bidsrep.errors import ImageError, InputError
from bidsrep.training.quantitative import load_maps

SHAPE = (6, 5, 4)
SECONDS = {"PDmap": 75.0, "R1map": 0.8, "R2starmap": 20.0, "MTsat": 1.2}


def write(folder: Path, suffix: str, value: float, affine: np.ndarray | None = None, **change) -> Path:
    """A map that is 0 in its first slab and spreads around ``value`` elsewhere."""
    path = folder / "anat" / f"sub-01_{suffix}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = value * np.linspace(0.8, 1.2, np.prod(SHAPE)).reshape(SHAPE)
    data[0] = 0
    for index, other in change.get("voxels", {}).items():
        data[index] = other
    nib.Nifti1Image(data.astype(np.float32), np.eye(4) if affine is None else affine).to_filename(path)
    return path


def write_all(folder: Path, **values: float) -> Path:
    for suffix, value in {**SECONDS, **values}.items():
        write(folder, suffix, value)
    return folder


def test_maps_in_the_units_of_bids_are_read_as_they_are(tmp_path: Path) -> None:
    maps = load_maps(write_all(tmp_path))
    inside = maps.pd > 0
    assert inside.sum() == 5 * 5 * 4
    assert maps.r2 is None
    assert maps.mt is not None
    for tensor, suffix in (
        (maps.pd, "PDmap"),
        (maps.r1, "R1map"),
        (maps.r2s, "R2starmap"),
        (maps.mt, "MTsat"),
    ):
        assert tensor.dtype == torch.float32
        assert float(tensor[inside].median()) == pytest.approx(SECONDS[suffix], rel=0.1)


@pytest.mark.parametrize(
    ("suffix", "factor"),
    [("PDmap", 0.01), ("R1map", 1000), ("R1map", 0.001), ("R2starmap", 0.001), ("MTsat", 0.01)],
)
def test_other_units_give_the_same_maps(suffix: str, factor: float, tmp_path: Path) -> None:
    plain = load_maps(write_all(tmp_path / "plain")).stack()
    other = load_maps(write_all(tmp_path / "other", **{suffix: SECONDS[suffix] * factor})).stack()
    torch.testing.assert_close(other, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("milliseconds", [1, 1000])
def test_times_become_rates(milliseconds: int, tmp_path: Path) -> None:
    for suffix, value in (("PDmap", 75), ("T1map", 1.25 * milliseconds), ("T2starmap", 0.05 * milliseconds)):
        write(tmp_path, suffix, value)
    write(tmp_path, "T2map", 0.08 * milliseconds)
    maps = load_maps(tmp_path)
    inside = maps.pd > 0
    assert maps.r2 is not None
    assert float(maps.r1[inside].median()) == pytest.approx(0.8, rel=0.1)
    assert float(maps.r2s[inside].median()) == pytest.approx(20, rel=0.1)
    assert float(maps.r2[inside].median()) == pytest.approx(12.5, rel=0.1)
    assert torch.isfinite(maps.stack()).all()


@pytest.mark.parametrize(
    ("suffix", "value"), [("PDmap", 900), ("R1map", 30), ("R2starmap", 1), ("MTsat", 60)]
)
def test_a_median_that_no_unit_explains_is_refused(suffix: str, value: float, tmp_path: Path) -> None:
    path = write_all(tmp_path, **{suffix: value}) / "anat" / f"sub-01_{suffix}.nii.gz"
    data = nib.load(path).get_fdata()
    with pytest.raises(ImageError, match="which no unit") as error:
        load_maps(tmp_path)
    assert str(error.value).startswith(
        f"{path}: its median inside the brain is {np.median(data[data > 0]):.4g}"
    )


def test_failed_fits_are_tamed(tmp_path: Path) -> None:
    write_all(tmp_path)
    bad = {(1, 1, 1): np.nan, (2, 1, 1): np.inf, (3, 1, 1): -40.0, (4, 1, 1): 1e6}
    write(tmp_path, "R2starmap", 20.0, voxels=bad)
    maps = load_maps(tmp_path)
    assert [float(maps.r2s[index]) for index in list(bad)[:3]] == [0, 0, 0]
    assert 20 < float(maps.r2s.max()) < 1e6
    assert float(maps.r2s[4, 1, 1]) == float(maps.r2s.max())


def test_a_brain_mask_is_used(tmp_path: Path) -> None:
    write_all(tmp_path)
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:4] = 1
    nib.Nifti1Image(mask, np.eye(4)).to_filename(tmp_path / "anat" / "sub-01_desc-brain_mask.nii.gz")
    maps = load_maps(tmp_path)
    assert (maps.pd > 0).any(dim=(1, 2)).tolist() == [False, False, True, True, False, False]


def test_axes_become_ras(tmp_path: Path) -> None:
    for suffix, value in SECONDS.items():
        write(tmp_path, suffix, value, np.diag([-1.0, 1, 1, 1]))
    maps = load_maps(tmp_path)
    assert not (maps.pd[-1] > 0).any()
    assert (maps.pd[0] > 0).all()


@pytest.mark.parametrize("missing", ["PDmap", "R1map", "R2starmap"])
def test_a_missing_map_is_named(missing: str, tmp_path: Path) -> None:
    write_all(tmp_path)
    (tmp_path / "anat" / f"sub-01_{missing}.nii.gz").unlink()
    with pytest.raises(InputError, match=missing):
        load_maps(tmp_path)


def test_two_sets_of_maps_are_not_mixed(tmp_path: Path) -> None:
    for session in ("ses-1", "ses-2"):
        write_all(tmp_path / session)
    with pytest.raises(InputError, match="several PDmap"):
        load_maps(tmp_path)
    assert load_maps(tmp_path / "ses-2").pd.shape == SHAPE


def test_another_grid_is_refused(tmp_path: Path) -> None:
    write_all(tmp_path)
    write(tmp_path, "R1map", 0.8, np.diag([2.0, 2, 2, 1]))
    with pytest.raises(ImageError, match=r"R1map.*grid .*2 x 2 x 2 mm"):
        load_maps(tmp_path)
