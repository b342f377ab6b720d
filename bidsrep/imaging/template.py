"""Affine registration to a population template, and the brain mask that comes with it."""

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine, from_matvec

from bidsrep.errors import InputError
from bidsrep.imaging.grids import reference_grid
from bidsrep.imaging.mutual import Points, align
from bidsrep.imaging.registration import SPACING, Registration, ants_linear, foreground, iterations
from bidsrep.imaging.resample import resample, resample_mask
from bidsrep.imaging.volume import Volume

NO_TEMPLATE = (
    "Template {0} is not in {1}. Fetch it once, where there is a network: "
    "python -c \"from templateflow import api; api.get('{0}', suffix=['T1w', 'mask'])\""
)

# A head's brain lies about so far below its top, whatever the neck adds at the other end, mm.
_BRAIN_CENTER_BELOW_TOP = 85.0
_HEAD_HEIGHT = 150.0


def load_template(name: str | None = None, resolution: int = 2) -> tuple[Volume, np.ndarray]:
    """Return a T1w template and its brain mask.

    Parameters
    ----------
    name : str, optional
        A template of TemplateFlow, looked for where TemplateFlow keeps them ($TEMPLATEFLOW_HOME or
        ~/.cache/templateflow); never downloaded here. Without a name: ICBM 152 2009a nonlinear
        symmetric, brain only, which nilearn ships.
    resolution : int
        Voxel size, mm: 1 or 2; of TemplateFlow's, the other one where the wanted one is not there.
    """
    return _bundled(resolution) if name is None else _from_templateflow(name, resolution)


def affine_to_template(
    volume: Volume,
    template: Volume | None = None,
    template_mask: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    seed: int = 0,
    threads: int = 1,
    sloppy: bool = False,
) -> Registration:
    """Find the affine map from the template to a scan, of any contrast, stripped or not.

    Mutual information inside the template's brain mask alone, so that skull and neck do not matter:
    a search with 7, then 9 parameters, then ANTs with 12 on a 2 mm grid. Eight CPU seconds.

    Parameters
    ----------
    volume : Volume
        The scan: the moving image, on its native grid.
    template : Volume, optional
        The fixed image; `load_template()` where it is left out.
    template_mask : ndarray of bool, optional
        The template's brain; goes with `template`.
    mask : ndarray of bool, optional
        The scan's brain, where it is known: a better start than a guess from the head's outline.
    seed, threads, sloppy
        As in `register_rigid`.

    Returns
    -------
    registration : Registration
        ``matrix`` maps RAS+ mm of the template to RAS+ mm of the scan.
    """
    if template is None or template_mask is None:
        template, template_mask = load_template()
    inside = foreground(volume) if mask is None else mask
    moving = resample(volume, reference_grid(volume, inside, spacing=SPACING, margin=6.0))
    grid = reference_grid(template, template_mask, spacing=SPACING, margin=6.0)
    fixed, brain = resample(template, grid), resample_mask(template_mask, template, grid)
    center = apply_affine(grid.affine, np.argwhere(brain)).mean(axis=0)
    target = apply_affine(volume.affine, np.argwhere(inside))
    target_center = _brain_center(target) if mask is None else target.mean(axis=0)
    start = from_matvec(np.eye(3), target_center - center)
    search = align(fixed, moving, brain, start, (12.0, 8.0), seed, freedom=7)
    if not sloppy:
        search = align(fixed, moving, brain, search, (6.0, 4.0), seed, freedom=9)
    found, warnings = {"search": search}, []
    try:
        found["ants"] = ants_linear("Affine", fixed, moving, brain, search, seed, threads, iterations(sloppy))
    except Exception as error:  # noqa: BLE001 - ITK raises RuntimeError for most, but not for all
        warnings.append(f"ANTs failed ({' '.join(str(error).split())[:160]}); a plain search stands in")
    points = Points.draw(fixed, moving, brain, SPACING, seed)
    scores = {name: points.information(matrix)[0] for name, matrix in found.items()}
    method = max(scores, key=lambda name: scores[name])
    quality = {
        "mutual_information_before": round(points.information(start)[0], 5),
        "mutual_information_after": round(scores[method], 5),
        "method": method,
        "scale": round(float(np.cbrt(abs(np.linalg.det(found[method][:3, :3])))), 4),
        "warnings": warnings,
    }
    return Registration(found[method], quality)


def template_mask(
    volume: Volume,
    template: str | tuple[Volume, np.ndarray] | None = None,
    seed: int = 0,
    threads: int = 1,
    sloppy: bool = False,
) -> np.ndarray:
    """Find the brain by bringing a template's brain mask to the scan: bool (X, Y, Z) on its grid.

    `template` is a name for `load_template`, or a template with its brain mask. On raw T1w, T2w and
    FLAIR the result overlaps a manual or automatic mask with a Dice of .87 to .95: an affine map
    cannot follow atrophy.
    """
    image, mask = load_template(template) if template is None or isinstance(template, str) else template
    found = affine_to_template(volume, image, mask, seed=seed, threads=threads, sloppy=sloppy)
    return resample_mask(mask, image, volume, np.linalg.inv(found.matrix))


def _brain_center(head: np.ndarray) -> np.ndarray:
    """Guess the brain's middle from the points of a head (N, 3; RAS+ mm)."""
    top = np.percentile(head[:, 2], 99.9)
    upper = head[head[:, 2] > top - _HEAD_HEIGHT]
    low, high = np.percentile(upper, [1, 99], axis=0)
    center = (low + high) / 2
    # A field of view cut below the usual middle says more than the rule.
    center[2] = max(top - _BRAIN_CENTER_BELOW_TOP, (low[2] + high[2]) / 2 - 20.0)
    return center


@lru_cache(maxsize=2)
def _bundled(resolution: int) -> tuple[Volume, np.ndarray]:
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    image, mask = load_mni152_template(resolution), load_mni152_brain_mask(resolution)
    return Volume(image.get_fdata(), image.affine), mask.get_fdata() > 0


def templateflow_home() -> Path:
    """Name the folder in which TemplateFlow keeps templates."""
    return Path(os.environ.get("TEMPLATEFLOW_HOME") or Path.home() / ".cache" / "templateflow")


def _from_templateflow(name: str, resolution: int) -> tuple[Volume, np.ndarray]:
    home = templateflow_home()
    folder = home / f"tpl-{name}"
    wanted = [f"_res-{zero}{size}" for size in (resolution, 3 - resolution) for zero in ("0", "")]
    for label in (*wanted, ""):
        image = folder / f"tpl-{name}{label}_T1w.nii.gz"
        mask = folder / f"tpl-{name}{label}_desc-brain_mask.nii.gz"
        # TemplateFlow keeps empty files in place of what it has not fetched yet.
        if all(path.is_file() and path.stat().st_size for path in (image, mask)):
            return Volume.load(image), Volume.load(mask).data > 0.5
    raise InputError(NO_TEMPLATE.format(name, home))
