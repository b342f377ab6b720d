"""Which affine of a NIfTI header to believe, and in which unit."""

from os import PathLike

import nibabel as nib
import numpy as np

from bidsrep.errors import ImageError

NO_AFFINE = "has no usable affine ({})"
BAD_VOXEL_SIZE = "has impossible voxel sizes ({}, unit {})"
REMEDY_HEADER = "Repair its header (sform/qform), or convert it again from the original images"

WARN_CONFLICT = "sform and qform disagree by up to {:.1f} mm; the {} is used{}"
WARN_FORM_BROKEN = "the {} is not usable ({}); the {} is used"
WARN_NO_FORM = "neither sform nor qform is set: left and right are assumed from the voxel order (LAS)"
WARN_UNITS_CONVERTED = "voxel sizes are in {}; converted to mm"
WARN_UNITS_GUESSED = "voxel sizes {} make sense only in {}, not in {}; taken as such"
WARN_SHEAR = "the affine has shears up to {:.1f} degrees"

PLAUSIBLE_MM = (0.05, 20.0)  # voxel sizes of a human head scan
_TO_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001}
_MIN_CONFLICT_MM = 0.1  # forms that agree to this much agree
_ZOOM_TOLERANCE = 0.01  # relative; float32 headers and rounding in converters stay far below


def trusted_affine(
    path: str | PathLike[str], header: nib.Nifti1Header, shape: tuple[int, int, int], warnings: list[str]
) -> tuple[np.ndarray, str, str]:
    """Choose the affine as nibabel and nitransforms do (sform first), unless the sform is broken.

    The sform loses to the qform when it is singular or not finite, or when its voxel sizes
    contradict `pixdim` (to which the qform agrees by construction).

    Returns
    -------
    affine : ndarray, (4, 4)
        Voxel indices to RAS+ mm.
    source : str
        ``"sform"``, ``"qform"`` or ``"pixdim"``.
    units : str
        The unit the header's numbers are in.
    """
    forms = _coded_forms(header)
    problems = {name: _problem(affine) for name, affine in forms.items()}
    usable = [name for name in forms if not problems[name]]
    if not forms:
        affine = header.get_base_affine()
        problem = _problem(affine)
        if problem:
            raise ImageError(path, NO_AFFINE.format(problem), REMEDY_HEADER)
        warnings.append(WARN_NO_FORM)
        source = "pixdim"
    elif not usable:
        text = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        raise ImageError(path, NO_AFFINE.format(text), REMEDY_HEADER)
    else:
        source = _choose(header, forms, usable, shape, warnings)
        affine = forms[source]
        for name in set(forms) - set(usable):
            warnings.append(WARN_FORM_BROKEN.format(name, problems[name], source))
    factor, units = _unit(path, header, affine, warnings)
    affine = np.diag([factor, factor, factor, 1.0]) @ affine
    shear = shear_deg(affine)
    if shear > 1.0:
        warnings.append(WARN_SHEAR.format(shear))
    return affine, source, units


def extent_mm(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the edge lengths of the field of view along the voxel axes: (3,), mm."""
    return np.sqrt((affine[:3, :3] ** 2).sum(axis=0)) * np.asarray(shape)


def obliquity_deg(affine: np.ndarray) -> float:
    """Return the largest angle between a voxel axis and the world axis nearest to it, in degrees."""
    cosines = np.abs(affine[:3, :3]) / np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return float(np.degrees(np.arccos(np.clip(cosines.max(axis=0).min(), -1, 1))))


def shear_deg(affine: np.ndarray) -> float:
    """Return by how many degrees the voxel axes miss being perpendicular to each other."""
    axes = affine[:3, :3] / np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    cosines = np.abs((axes.T @ axes)[np.triu_indices(3, 1)])
    return float(np.degrees(np.arcsin(np.clip(cosines.max(), 0, 1))))


def corner_distance_mm(one: np.ndarray, two: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return how far two affines put the same voxel apart, at most (at one of the 8 corners), mm."""
    corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.reshape(shape, (3, 1)) - 1)
    apart = (one[:3, :3] - two[:3, :3]) @ corners + (one[:3, 3:] - two[:3, 3:])
    return float(np.sqrt((apart**2).sum(axis=0)).max())


def _coded_forms(header: nib.Nifti1Header) -> dict[str, np.ndarray | None]:
    """Return the forms whose code is set, in order of preference; None for an undecodable qform."""
    forms: dict[str, np.ndarray | None] = {}
    if header["sform_code"] > 0:
        forms["sform"] = header.get_sform()
    if header["qform_code"] > 0:
        try:
            forms["qform"] = header.get_qform()
        except (ValueError, nib.spatialimages.HeaderDataError):
            forms["qform"] = None
    return forms


def _problem(affine: np.ndarray | None) -> str:
    """Return what is wrong with an affine, or an empty string."""
    if affine is None:
        return "its quaternion is invalid"
    if not np.isfinite(affine).all():
        return "it is not finite"
    zooms = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if not zooms.all():
        return "an axis has length 0"
    if abs(np.linalg.det(affine[:3, :3] / zooms)) < 1e-3:
        return "it is singular"
    return ""


def _choose(
    header: nib.Nifti1Header,
    forms: dict[str, np.ndarray | None],
    usable: list[str],
    shape: tuple[int, int, int],
    warnings: list[str],
) -> str:
    if len(usable) == 1:
        return usable[0]
    sform, qform = forms["sform"], forms["qform"]
    assert sform is not None
    assert qform is not None
    apart = corner_distance_mm(sform, qform, shape)
    zooms = np.sqrt((sform[:3, :3] ** 2).sum(axis=0))
    pixdim = np.asarray(header.get_zooms()[:3], dtype=float)
    if np.allclose(zooms, pixdim, rtol=_ZOOM_TOLERANCE):
        choice, why = "sform", ""
    else:
        choice, why = "qform", ", because the sform's voxel sizes are not those of pixdim"
    # In units of the header: a tenth of a voxel, and at least 0.1 of them.
    if apart > max(_MIN_CONFLICT_MM * zooms.min(), 1e-6):
        warnings.append(WARN_CONFLICT.format(apart, choice, why))
    return choice


def _unit(
    path: str | PathLike[str], header: nib.Nifti1Header, affine: np.ndarray, warnings: list[str]
) -> tuple[float, str]:
    """Return the factor to mm and the unit's name; a declared unit that makes no sense is overruled."""
    zooms = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    try:
        declared = str(header.get_xyzt_units()[0])
    except KeyError:
        declared = "unknown"
    first = declared if declared in _TO_MM else "mm"
    for unit in (first, *(u for u in _TO_MM if u != first)):
        sizes = zooms * _TO_MM[unit]
        if sizes.min() >= PLAUSIBLE_MM[0] and sizes.max() <= PLAUSIBLE_MM[1]:
            break
    else:
        sizes_text = "x".join(f"{z:.4g}" for z in zooms)
        raise ImageError(path, BAD_VOXEL_SIZE.format(sizes_text, declared), REMEDY_HEADER)
    if unit != first:
        warnings.append(WARN_UNITS_GUESSED.format("x".join(f"{z:.4g}" for z in zooms), unit, declared))
    elif unit != "mm":
        warnings.append(WARN_UNITS_CONVERTED.format(unit))
    return _TO_MM[unit], unit
