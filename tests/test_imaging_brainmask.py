"""Brain masks: stripped or not, from intensities, from distances, from a template, from SynthStrip."""

import sys
import types

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat
from nibabel.processing import resample_from_to
from scipy import ndimage

from bidsrep.errors import InputError, WeightsError
from bidsrep.imaging import mutual, synthstrip, template
from bidsrep.imaging.brainmask import (
    is_stripped,
    mask_from_distance,
    mask_from_nonzero,
    mask_warnings,
    network_input,
    network_mask,
)
from bidsrep.imaging.conform import conform
from bidsrep.imaging.grids import Grid
from bidsrep.imaging.quality import dice
from bidsrep.imaging.resample import resample, resample_mask
from bidsrep.imaging.volume import Volume

SHAPE, SPACING = (64, 72, 56), np.array([3.0, 3.0, 4.0])
AFFINE = from_matvec(euler2mat(0.1, 0.05, -0.1) @ np.diag(SPACING * [-1, -1, 1]), [90, 100, -100])
RNG = np.random.default_rng(0)


def radius() -> np.ndarray:
    """1 on the surface of an ellipsoid of 1,530 ml in the middle of the grid."""
    positions = (np.moveaxis(np.indices(SHAPE), 0, -1) - (np.array(SHAPE) - 1) / 2) * SPACING
    return np.sqrt(((positions / [65.0, 80.0, 70.0]) ** 2).sum(axis=-1))


BRAIN = radius() < 1
TISSUE = np.clip(ndimage.gaussian_filter(RNG.normal(600, 900, SHAPE), 1.5), 300, 900)


def brain() -> Volume:
    return Volume(TISSUE * BRAIN, AFFINE)


def whole_head(scalp: float = 800.0) -> Volume:
    """Brain, 3 mm of fluid, skull (dark), scalp, air."""
    r = radius()
    return Volume(
        np.where(BRAIN, TISSUE, np.where((r > 1.15) & (r < 1.25), scalp, 20.0) * (r < 1.25)), AFFINE
    )


def noisy(volume: Volume, level: float = 15.0) -> Volume:
    return volume.replace(np.hypot(volume.data + RNG.normal(0, level, SHAPE), RNG.normal(0, level, SHAPE)))


@pytest.mark.parametrize("background", [0.0, -1024.0, 50.0])
def test_stripped_brain_is_recognised(background):
    volume = brain()
    assert is_stripped(volume.replace(np.where(BRAIN, volume.data + background, background)))


def test_resampled_stripped_brain_is_recognised():
    volume, affine = brain(), from_matvec(np.eye(3) * 2.0, [-90, -100, -90])
    image = nib.Nifti1Image(volume.data, volume.affine)
    cubic = resample_from_to(
        image, ((90, 100, 90), affine), order=3
    ).get_fdata()  # of tools that let splines swing over
    assert cubic.min() < 0
    assert is_stripped(Volume(cubic, affine))


@pytest.mark.parametrize("scalp", [150.0, 800.0])
def test_whole_head_is_not_stripped(scalp):
    assert not is_stripped(whole_head(scalp))
    assert not is_stripped(noisy(whole_head(scalp)))


def test_defaced_head_is_not_stripped():
    head = whole_head()
    front = np.zeros(SHAPE, bool)
    front[:, 56:, :20] = True
    assert not is_stripped(head.replace(np.where(front, 0, head.data)))


def test_slab_of_a_head_is_not_stripped():
    head = whole_head()
    slab = Volume(head.data[:, :, 20:36], AFFINE @ from_matvec(np.eye(3), [0, 0, 20]))
    assert (slab.data > 30).sum() * slab.voxel_ml < 2100
    assert not is_stripped(slab)


def test_small_head_is_not_stripped():
    """A baby's head is as large as a grown brain; its skull is dark all the same."""
    head = whole_head()
    small = Volume(head.data, from_matvec(np.eye(3) * 0.75, [0, 0, 0]) @ AFFINE)
    assert (small.data > 0).sum() * small.voxel_ml < 2100
    assert not is_stripped(small)


def test_mask_of_a_stripped_image_has_no_holes():
    data = brain().data.copy()
    data[30:34, 30:34, 26:29] = 0  # a ventricle of nothing
    mask = mask_from_nonzero(Volume(data, AFFINE))
    assert dice(mask, BRAIN) > 0.99
    assert mask[31, 31, 27]


def test_network_input_is_ras_isotropic_and_scaled():
    volume = network_input(noisy(whole_head()), 3.0)
    assert np.allclose(volume.spacing, 3.0)
    assert (np.diag(volume.affine)[:3] > 0).all()
    assert volume.data.min() == 0
    assert volume.data.max() == 1
    thin = Volume(whole_head().data[:, :, 26:30], AFFINE)
    assert min(network_input(thin, 3.0).shape) == 16


def test_network_mask_comes_back_to_the_native_grid():
    """A perfect network, a speck far away and a hole: largest component, filled."""
    volume = whole_head()

    def perfect(head: np.ndarray) -> np.ndarray:
        assert head.dtype == np.float32
        inside = resample_mask(BRAIN, volume, network_input(volume, 3.0))
        distance = 3 * (ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside))
        distance = np.clip(distance, -15, 15)
        distance[2:5, 2:5, 2:5] = 5
        center = tuple(n // 2 for n in head.shape)
        distance[center] = -5
        return distance

    mask = network_mask(volume, perfect, 3.0)
    assert mask.shape == SHAPE
    assert dice(mask, BRAIN) > 0.97
    assert mask[32, 36, 28]
    assert ndimage.label(mask)[1] == 1


def test_threshold_moves_the_surface():
    inside = ndimage.distance_transform_edt(BRAIN) - ndimage.distance_transform_edt(~BRAIN)
    distance, native = Volume(inside, AFFINE), brain()
    sizes = [mask_from_distance(distance, native, threshold=t).sum() for t in (-2.0, 0.0, 2.0)]
    assert sizes == sorted(sizes, reverse=True)


def test_no_brain_is_said():
    with pytest.raises(InputError, match="No brain"):
        mask_from_distance(Volume(np.full(SHAPE, -15.0), AFFINE), brain())
    with pytest.raises(InputError, match="No brain"):
        mask_from_nonzero(Volume(np.zeros(SHAPE), AFFINE))


def test_implausible_sizes_are_reported():
    assert mask_warnings(BRAIN, brain()) == []
    assert "ml" in mask_warnings(ndimage.binary_erosion(BRAIN, iterations=6), brain())[0]
    assert "ml" in mask_warnings(np.ones(SHAPE, bool), brain())[0]


def test_template_mask_follows_the_head(monkeypatch):
    """The template is the head's own brain, moved and scaled; ANTs is left out to save its seconds."""
    monkeypatch.setattr(template, "ants_linear", _fail)
    monkeypatch.setattr(template, "SPACING", 4.0)
    monkeypatch.setattr(mutual, "POINTS", 5000)
    pose = from_matvec(euler2mat(0.05, -0.1, 0.08) * 1.1, [6, -8, 10])
    grid = Grid((80, 90, 80), from_matvec(np.eye(3) * 2.5, [-100, -112, -100]))
    atlas, atlas_mask = resample(brain(), grid, pose), resample_mask(BRAIN, brain(), grid, pose)
    head = noisy(whole_head())
    assert dice(template.template_mask(head, (atlas, atlas_mask)), BRAIN) > 0.93
    found = template.affine_to_template(head, atlas, atlas_mask, mask=BRAIN)
    assert found.quality["scale"] == pytest.approx(1.1, abs=0.03)
    assert found.quality["method"] == "search"
    assert "ANTs failed" in found.quality["warnings"][0]


@pytest.mark.parametrize(("sloppy", "searches", "steps"), [(False, 2, (100, 50)), (True, 1, (10, 0))])
def test_sloppiness_reaches_the_registration_of_the_template(monkeypatch, sloppy, searches, steps):
    calls = []
    monkeypatch.setattr(template, "align", lambda *args, **_: calls.append("search") or args[3])
    monkeypatch.setattr(template, "ants_linear", lambda *args: calls.append(args[-1]) or args[4])
    template.template_mask(whole_head(), (brain(), BRAIN), sloppy=sloppy)
    assert calls == ["search"] * searches + [steps]


def test_bundled_template_is_a_brain():
    pytest.importorskip("nilearn")
    image, mask = template.load_template()
    assert mask.shape == image.shape
    assert 1700 < mask.sum() * image.voxel_ml < 2000


def test_named_template_is_found_but_never_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    folder = tmp_path / "tpl-Some"
    folder.mkdir()
    (folder / "tpl-Some_res-02_T1w.nii.gz").touch()
    (folder / "tpl-Some_res-02_desc-brain_mask.nii.gz").touch()
    with pytest.raises(InputError, match=r"api.get\('Some'"):
        template.load_template("Some")
    brain().save(folder / "tpl-Some_res-01_T1w.nii.gz")
    brain().replace(BRAIN).save(folder / "tpl-Some_res-01_desc-brain_mask.nii.gz", np.uint8)
    image, mask = template.load_template("Some")
    assert image.shape == SHAPE
    assert np.array_equal(mask, BRAIN)


@pytest.fixture
def fake_synthstrip(monkeypatch, tmp_path):
    """A stand-in for nipreps.synthstrip whose "network" finds the brain by its brightness."""
    torch = pytest.importorskip("torch")

    class StripModel(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut = torch.nn.Parameter(torch.tensor(0.2))

        def forward(self, x):
            assert set(x.shape[2:]) <= {192, 256, 320}
            inside = x[0, 0].numpy() > float(self.cut)
            eroded = ndimage.binary_erosion(inside, iterations=1)
            return torch.from_numpy(np.where(eroded, -5.0, 5.0)[None, None])

    package = types.ModuleType("nipreps.synthstrip.model")
    package.StripModel = StripModel
    for name in ("nipreps", "nipreps.synthstrip"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "nipreps.synthstrip.model", package)
    torch.save({"model_state_dict": StripModel().state_dict()}, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def test_synthstrip_mask(fake_synthstrip):
    assert dice(synthstrip.synthstrip_mask(brain(), fake_synthstrip), BRAIN) > 0.93


def test_synthstrip_grid_is_left_inferior_anterior():
    grid = synthstrip._network_grid(brain())
    assert np.allclose(grid.affine[:3, :3], [[-1, 0, 0], [0, 0, 1], [0, -1, 0]])
    assert np.allclose(grid.center(), Grid(SHAPE, AFFINE).center())
    assert grid.shape == (256, 256, 256)


def test_synthstrip_weights_missing_or_wrong(fake_synthstrip, tmp_path):
    with pytest.raises(WeightsError, match=r"synthstrip\.1\.pt"):
        synthstrip.synthstrip_mask(brain(), tmp_path / "none.pt")
    fake_synthstrip.write_bytes(b"something else")
    with pytest.raises(WeightsError, match="does not hold"):
        synthstrip.synthstrip_mask(brain(), fake_synthstrip)


def test_synthstrip_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "nipreps.synthstrip.model", None)
    with pytest.raises(WeightsError, match="pip install"):
        synthstrip.synthstrip_mask(brain(), tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("scan", "stripped"),
    [
        ("bids-ds002748/sub-50/anat/sub-50_T1w", True),
        ("bids-ms-mni/sub-cs07/anat/sub-cs07_FLAIR", True),
        ("bids-stroke/sub-cstar01/anat/sub-cstar01_T2w", True),
        ("bids-ms/sub-long01/ses-01/anat/sub-long01_ses-01_T1w", False),
        ("bids-ms/sub-long03/ses-01/anat/sub-long03_ses-01_T2w", False),
        ("bids-ms/sub-long19/ses-02/anat/sub-long19_ses-02_FLAIR", False),
        ("bids-ixi/sub-IXI013/anat/sub-IXI013_T1w", False),
    ],
)
def test_real_scans_are_told_apart(test_data, scan, stripped):
    volume, _ = conform(test_data / "data" / f"{scan}.nii.gz")
    assert is_stripped(volume) is stripped
    if stripped:
        assert mask_warnings(mask_from_nonzero(volume), volume) == []


def test_template_mask_on_a_real_head(test_data):
    pytest.importorskip("ants")
    pytest.importorskip("nilearn")
    root = test_data / "data" / "bids-ixi"
    volume, _ = conform(root / "sub-IXI014/anat/sub-IXI014_T1w.nii.gz")
    name = "derivatives/dlmuse/sub-IXI014/anat/sub-IXI014_desc-dlmuse_dseg.nii.gz"
    labels, _ = conform(root / name)
    assert dice(template.template_mask(volume), labels.data > 0) > 0.93


def _fail(*_args, **_kwargs):
    raise RuntimeError("out of luck")
