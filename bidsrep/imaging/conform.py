"""Take an image as it comes and give a 3D float32 volume with an affine in mm that can be trusted.

The grid stays the native one (only trailing axes of length 1 go), nothing is interpolated, and the
input file is only ever read. What cannot be repaired without guessing is refused.
"""

from os import PathLike
from typing import Any

import nibabel as nib
import numpy as np

from bidsrep.errors import ImageError
from bidsrep.imaging._geometry import extent_mm, obliquity_deg, trusted_affine
from bidsrep.imaging._read import (
    CUT_SHORT,
    DAMAGED,
    REMEDY_CONVERT,
    REMEDY_COPY,
    brief,
    read_image,
)
from bidsrep.imaging.volume import Volume

RGB = "has colour (RGB) voxels"
COMPLEX = "has complex voxels"
IS_4D = "holds {} volumes (shape {})"
IS_2D = "is not a 3D image (shape {})"
TOO_LARGE = "is too large (shape {}, {:.1f} billion voxels)"
ALL_NAN = "holds no finite value"
CONSTANT = "is constant: every voxel is {:g}"
NEARLY_EMPTY = "is nearly constant: only {} of {} voxels differ from {:g}"

WARN_SQUEEZED = "the file's shape {} was reduced to {}"
WARN_NONFINITE = "{} voxels were NaN or infinite and were set to 0"
WARN_RESCALED = "intensities up to {:.3g} do not fit float32 arithmetic; divided by {:.3g}"
WARN_PARTIAL = "the field of view is only {} mm: part of a head"
WARN_HUGE = "the field of view is {} mm: far more than a head"

REMEDY_4D = "Split it, or exclude it with --bids-filter-file; only single 3D images are processed"
REMEDY_MAGNITUDE = "Give the grey-scale magnitude image"

MIN_VOXELS_PER_AXIS = 4
MAX_VOXELS = 10**9  # 4 GB of float32; a 0.25 mm head has about 0.5 billion
MIN_VARIED_FRACTION = 1e-3
HEAD_EXTENT_MM = (60.0, 600.0)  # smallest and largest field of view that raise no eyebrow
# Squares of float32 values outside this range over- or underflow.
_SAFE_PEAK = (1e-15, 1e15)


def conform(path: str | PathLike[str]) -> tuple[Volume, dict[str, Any]]:
    """Read `path` and put its header in order.

    Returns
    -------
    volume : Volume
        Native grid, float32, affine to RAS+ mm, every value finite.
    report : dict
        JSON-ready: ``warnings`` (list of str) and the geometry found: ``shape``, ``spacing_mm``,
        ``extent_mm``, ``axes`` (e.g. ``"LPS"``: what the indices point to), ``oblique_deg``,
        ``affine_source`` (sform, qform or pixdim), ``units``, ``dtype``.

    Raises
    ------
    ImageError
        Naming the file, what is wrong with it, and what to do.
    """
    image, warnings = read_image(path)
    shape = _spatial_shape(path, image, warnings)
    affine, source, units = trusted_affine(path, image.header, shape, warnings)
    data = _intensities(path, image, warnings).reshape(shape)
    volume = Volume(data, affine)
    extent = extent_mm(affine, shape)
    if extent.min() < HEAD_EXTENT_MM[0]:
        warnings.append(WARN_PARTIAL.format("x".join(f"{e:.0f}" for e in extent)))
    if extent.max() > HEAD_EXTENT_MM[1]:
        warnings.append(WARN_HUGE.format("x".join(f"{e:.0f}" for e in extent)))
    report = {
        "warnings": warnings,
        "shape": list(shape),
        "spacing_mm": [round(float(s), 4) for s in volume.spacing],
        "extent_mm": [round(float(e), 1) for e in extent],
        "axes": "".join(nib.aff2axcodes(affine)),
        "oblique_deg": round(obliquity_deg(affine), 2),
        "affine_source": source,
        "units": units,
        "dtype": str(image.get_data_dtype()),
    }
    return volume, report


def _spatial_shape(
    path: str | PathLike[str], image: nib.Nifti1Image, warnings: list[str]
) -> tuple[int, int, int]:
    """Return the three spatial dimensions, or refuse what is not one grey-scale 3D image."""
    dtype, shape = image.get_data_dtype(), tuple(int(n) for n in image.shape)
    if dtype.fields is not None:
        raise ImageError(path, RGB, REMEDY_MAGNITUDE)
    if dtype.kind == "c":
        raise ImageError(path, COMPLEX, REMEDY_MAGNITUDE)
    squeezed = shape
    while len(squeezed) > 3 and squeezed[-1] == 1:
        squeezed = squeezed[:-1]
    if len(squeezed) > 3:
        raise ImageError(path, IS_4D.format(int(np.prod(squeezed[3:])), shape), REMEDY_4D)
    if len(squeezed) < 3 or min(squeezed) < MIN_VOXELS_PER_AXIS:
        raise ImageError(path, IS_2D.format(shape), REMEDY_4D)
    count = int(np.prod(squeezed, dtype=object))
    if count > MAX_VOXELS:
        raise ImageError(path, TOO_LARGE.format(shape, count / 1e9), "Crop or downsample it")
    if squeezed != shape:
        warnings.append(WARN_SQUEEZED.format(shape, squeezed))
    x, y, z = squeezed
    return x, y, z


def _intensities(path: str | PathLike[str], image: nib.Nifti1Image, warnings: list[str]) -> np.ndarray:
    """Return the scaled values as finite float32, or refuse an image without content."""
    data = _scaled(path, image)
    finite = np.isfinite(data)
    broken = int(data.size - np.count_nonzero(finite))
    if broken == data.size:
        raise ImageError(path, ALL_NAN, REMEDY_CONVERT)
    if broken:
        data = np.where(finite, data, 0)
        warnings.append(WARN_NONFINITE.format(broken))
    peak = float(max(data.max(), -data.min()))
    if peak > 0 and not _SAFE_PEAK[0] < peak < _SAFE_PEAK[1]:
        divisor = peak / 1000.0
        data = data / divisor
        warnings.append(WARN_RESCALED.format(peak, divisor))
    data = np.ascontiguousarray(data, dtype=np.float32)
    lowest = float(data.min())
    varied = int(np.count_nonzero(data != lowest))
    if varied == 0:
        raise ImageError(path, CONSTANT.format(lowest), REMEDY_CONVERT)
    # Seen from above too: a few dark voxels in a constant image are as empty as a few bright ones.
    varied = min(varied, int(np.count_nonzero(data != data.max())))
    if varied < MIN_VARIED_FRACTION * data.size:
        raise ImageError(path, NEARLY_EMPTY.format(varied, data.size, lowest), REMEDY_CONVERT)
    return data


def _scaled(path: str | PathLike[str], image: nib.Nifti1Image) -> np.ndarray:
    """Apply the scale factors; float64 where float32 would overflow."""
    raw = _unscaled(path, image)
    proxy: Any = image.dataobj
    slope, inter = float(proxy.slope), float(proxy.inter)  # nibabel made 1 and 0 of slopes NaN, inf, 0
    if raw.dtype.kind == "f" and raw.dtype.itemsize <= 4 and (slope, inter) == (1.0, 0.0):
        return raw
    with np.errstate(all="ignore"):
        return raw.astype(np.float64) * slope + inter


def _unscaled(path: str | PathLike[str], image: nib.Nifti1Image) -> np.ndarray:
    try:
        return np.asanyarray(image.dataobj.get_unscaled())
    except Exception as error:  # too few bytes, unknown byte layouts
        wanted = int(np.prod(image.shape)) * image.get_data_dtype().itemsize
        problem = CUT_SHORT.format(f"the header announces {wanted} bytes of voxels; {brief(error)}")
        if "xpected" not in str(error) and "buffer" not in str(error):
            problem = DAMAGED.format(brief(error))
        raise ImageError(path, problem, REMEDY_COPY) from error
