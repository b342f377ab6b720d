"""SynthStrip (Hoopes et al., NeuroImage 2022) with the user's own copy of its weights."""

from os import PathLike
from pathlib import Path

import numpy as np
from scipy import ndimage

from bidsrep.errors import InputError, WeightsError
from bidsrep.imaging.brainmask import NO_BRAIN
from bidsrep.imaging.grids import Grid
from bidsrep.imaging.resample import resample
from bidsrep.imaging.volume import Volume

NO_PACKAGE = "SynthStrip's network is not installed. Run `pip install nipreps-synthstrip`"
NO_WEIGHTS = (
    "SynthStrip's weights are not at {}. Take synthstrip.1.pt from FreeSurfer "
    "($FREESURFER_HOME/models) under its licence and give its path with --weights synthstrip=FILE"
)
BAD_WEIGHTS = "{} does not hold SynthStrip's weights ({}). Take synthstrip.1.pt from FreeSurfer"

BORDER_MM = 1.0  # SynthStrip's default: the mask reaches 1 mm beyond the predicted surface


def synthstrip_mask(
    volume: Volume, weights: str | PathLike[str], border: float = BORDER_MM, device: str = "cpu"
) -> np.ndarray:
    """Find the brain with SynthStrip: bool (X, Y, Z) on the volume's grid.

    Prepares the image and cuts the distance map as ``mri_synthstrip`` does: 1 mm, axes L, I, A, sides
    of 192, 256 or 320 voxels, intensities from the minimum to the 99th percentile.
    """
    network = _load(weights, device)
    head = resample(volume, _network_grid(volume))
    data = head.data - head.data.min()
    top = float(np.percentile(data, 99)) or float(data.max())
    if not top > 0:
        raise InputError(NO_BRAIN)
    import torch

    with torch.no_grad():
        scaled = torch.from_numpy(np.clip(data / top, 0, 1)[None, None]).to(device)
        distance = network(scaled)[0, 0].cpu().numpy()
    # Negative inside. Lifted so that 0, which resampling leaves outside the grid, is far away.
    moved = resample(head.replace(100.0 - distance), volume, antialias=False).data
    labels, count = ndimage.label(moved > 100.0 - border)
    if not count:
        raise InputError(NO_BRAIN)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes(labels == sizes.argmax())


def _load(weights: str | PathLike[str], device: str) -> "torch.nn.Module":  # type: ignore[name-defined]  # noqa: F821
    try:
        from nipreps.synthstrip.model import StripModel
    except ImportError as error:
        raise WeightsError(NO_PACKAGE) from error
    if not Path(weights).is_file():
        raise WeightsError(NO_WEIGHTS.format(weights))
    import torch

    model = StripModel()
    try:
        state = torch.load(weights, map_location=device, weights_only=True)["model_state_dict"]
        model.load_state_dict(state, strict=True)
    except Exception as error:  # torch raises nearly anything for a file that is something else
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(BAD_WEIGHTS.format(weights, reason)) from error
    return model.to(device).eval()


def _network_grid(volume: Volume) -> Grid:
    """Return SynthStrip's grid: 1 mm, axes L, I, A, around the middle of the scan."""
    shape = np.asarray(volume.shape)
    corners = np.indices((2, 2, 2)).reshape(3, -1) * shape[:, None] - 0.5
    extent = np.ptp(volume.affine[:3, :3] @ corners, axis=1)  # along R, A, S, mm
    sides = np.clip(np.ceil(extent / 64).astype(int) * 64, 192, 320)
    x, y, z = int(sides[0]), int(sides[2]), int(sides[1])
    affine = np.array([[-1.0, 0, 0, 0], [0, 0, 1.0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1.0]])
    middle = affine[:3, :3] @ ((np.array([x, y, z]) - 1) / 2)
    affine[:3, 3] = Grid.of(volume).center() - middle
    return Grid((x, y, z), affine)
