"""Make a dataset of anatomies from label maps or from brain-extracted T1w scans (``bidsrep-train prepare``)."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.processing import resample_to_output

from bidsrep.bids.names import sanitise
from bidsrep.errors import ImageError, InputError
from bidsrep.imaging.tissues import tissue_means
from bidsrep.synth.pathology import anomaly_probability
from bidsrep.training.anatomies import ACQUIRED, LEAST_LESION

Visit = tuple[str, str]
"""Subject and session of an anatomy; the session is empty where there is none."""
TWINS = "{}: several label maps would have this name: {}. Give them names of their own, such as sub-01_dseg.nii.gz"

# What a label is made of when only its class matters; other tissues of a table count as extracerebral.
TISSUE_OF = {
    "background": "background",
    "csf": "csf",
    "cortex": "gm",
    "deepgrey": "gm",
    "wm": "wm",
    "brainstem": "wm",
    "lesion": "lesion",
    "optic": "wm",
    "vessel": "csf",
}


def prepare_label_maps(sources: list[Path], table: Path, out: Path, brain_below: int = 500) -> int:
    """Write label maps as RAS anatomies with a ``dseg.tsv``; returns how many.

    Parameters
    ----------
    sources
        Label maps (NIfTI, 1 mm).
    table
        TSV with the columns value, name, tissue.
    out
        Dataset folder to write.
    brain_below
        Labels from this value on are outside the brain whatever their tissue.

    Raises
    ------
    InputError
        If two label maps would be the same person at the same time.
    """
    visits = {source: _visit(source) for source in sources}
    if twins := sorted(visit for visit, count in Counter(visits.values()).items() if count > 1):
        which = ", ".join(source.name for source in sources if visits[source] == twins[0])
        raise InputError(TWINS.format("sub-{}".format("_ses-".join(filter(None, twins[0]))), which))
    _describe(out, "label maps")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    with (out / "dseg.tsv").open("w") as file:
        file.write("index\tname\ttissue\n")
        for row in sorted(rows, key=lambda row: int(row["value"])):
            value = int(row["value"])
            tissue = TISSUE_OF.get(row["tissue"], "extracerebral") if value < brain_below else "extracerebral"
            file.write(f"{value}\t{row['name']}\t{tissue}\n")
    for source in sources:
        image = nib.as_closest_canonical(nib.load(source))
        labels = np.round(np.asanyarray(image.dataobj)).astype(np.int16)
        labels, affine = crop_to(labels, labels > 0, image.affine, margin=2)
        path = _anatomy_file(out, visits[source], "dseg.nii.gz")
        nib.Nifti1Image(labels, affine).to_filename(path)
    return len(sources)


def prepare_t1w(sources: list[Path], out: Path, masks: Path | None = None) -> Counter[str]:
    """Write brain-extracted T1w scans as anatomies: 1 mm RAS, white matter at 1; counts what was written.

    The three tissue means (CSF, grey, white) come from a Gaussian mixture of the intensities and make the
    generation labels: an intensity between two means is a linear mixture of the two tissues, which is what
    a partial-volume voxel is.

    A FLAIR beside the T1w, on the same grid, becomes the FLAIR target, and a lesion mask an anomaly
    probability (PEPSI, eq. 1), above 0 in all of the mask, from the FLAIR where there is one, else from the T1w.

    Parameters
    ----------
    sources
        T1w scans; of a session the first that is neither synthetic nor in another scan's space.
    out
        Dataset folder to write.
    masks
        BIDS derivatives with lesion masks (``*label-lesion*_mask.nii.gz`` or ``*_probseg.nii.gz``), on the
        grid of the T1w.

    Raises
    ------
    ImageError
        If a lesion mask is not on the grid of its T1w.
    InputError
        If every T1w is synthetic or in another scan's space.
    """
    chosen = _one_per_session(sources)
    if not chosen:
        raise InputError(f"{sources[0]}: neither this nor another T1w is an acquired one on its own grid.")
    _describe(out, "brain-extracted T1w scans")
    written: Counter[str] = Counter()
    for visit, source in chosen.items():
        _prepare_person(visit, source, out, masks, written)
    return written


def _prepare_person(visit: Visit, source: Path, out: Path, masks: Path | None, written: Counter[str]) -> None:
    native = nib.load(source)
    image = _millimetre(native)
    image = nib.Nifti1Image(np.maximum(np.asarray(image.dataobj, dtype=np.float32), 0), image.affine)
    data = remove_bias(image).get_fdata(dtype=np.float32)
    brain, grid = data > 0, image.affine

    def write(volume: np.ndarray, ending: str) -> Path:
        volume, affine = crop_to(volume, brain, grid, margin=2)
        path = _anatomy_file(out, visit, ending)
        nib.Nifti1Image(volume.astype(np.float32), affine).to_filename(path)
        return path

    means = tissue_means(data[brain])
    t1w = data / means[2]
    path = write(t1w, "desc-brain_T1w.nii.gz")
    relative = [round(float(mean / means[2]), 4) for mean in means]
    sidecar = {"TissueMeans": relative, "SkullStripped": True, "Units": "white matter = 1"}
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar, indent=2))
    written["T1w"] += 1

    flair = None
    if found := _beside(source, native):
        flair = remove_bias(_within(_millimetre(nib.load(found)), brain)).get_fdata(dtype=np.float32)
        flair /= max(float(np.median(flair[np.abs(t1w - 1) < 0.1])), 1e-6)
        write(flair, "desc-brain_FLAIR.nii.gz")
        written["FLAIR"] += 1
    mask_path = _lesion_mask(source, masks) if masks else None
    if mask_path is not None:
        mask = nib.load(mask_path)
        if not _same_grid(mask, native):
            raise ImageError(
                str(mask_path), f"is not on the grid of {source.name}", "Resample it to that scan"
            )
        lesion = torch.from_numpy(np.asarray(_millimetre(mask).dataobj) >= 0.5)
        own = torch.from_numpy(t1w if flair is None else flair)
        probability = anomaly_probability(own, lesion, "T1w" if flair is None else "FLAIR")
        # Eq. 1 is 0 outside the mask and may be inside: what is lesion must still be told from what is not.
        probability = torch.where(lesion, probability.clamp(min=LEAST_LESION), probability)
        write(probability.numpy(), "label-lesion_probseg.nii.gz")
        written["lesions"] += 1


def _one_per_session(sources: list[Path]) -> dict[Visit, Path]:
    """Subject and session to their T1w."""
    chosen: dict[Visit, Path] = {}
    for source in sorted(sources, key=lambda path: (len(path.name), path.name)):
        entities = _entities(source)
        if entities.get("desc", "brain") not in ACQUIRED or "space" in entities:
            continue
        chosen.setdefault(_visit(source), source)
    return dict(sorted(chosen.items()))


def _entities(path: Path) -> dict[str, str]:
    return dict(part.split("-", 1) for part in path.name.split("_") if "-" in part)


def _beside(source: Path, native: nib.Nifti1Image) -> Path | None:
    """The acquired FLAIR in the folder of a T1w and on its grid."""
    for path in sorted(source.parent.glob("*_FLAIR.nii*"), key=lambda path: (len(path.name), path.name)):
        if _entities(path).get("desc", "brain") in ACQUIRED and _same_grid(nib.load(path), native):
            return path
    return None


def _lesion_mask(source: Path, masks: Path) -> Path | None:
    """The lesion mask of a T1w's session below ``masks``."""
    entities = _entities(source)
    folder = masks / f"sub-{entities['sub']}"
    if "ses" in entities:
        folder = folder / f"ses-{entities['ses']}"
    found = [path for kind in ("mask", "probseg") for path in folder.glob(f"**/*label-lesion*_{kind}.nii*")]
    return min(found, key=lambda path: (len(path.name), path.name), default=None)


def _same_grid(one: nib.Nifti1Image, other: nib.Nifti1Image) -> bool:
    return one.shape == other.shape and bool(np.allclose(one.affine, other.affine, atol=1e-3))


def _millimetre(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """RAS, 1 mm, float32."""
    image = nib.as_closest_canonical(image)
    image = nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine)
    return resample_to_output(image, 1.0, order=1)


def _within(image: nib.Nifti1Image, brain: np.ndarray) -> nib.Nifti1Image:
    values = np.maximum(np.asarray(image.dataobj, dtype=np.float32), 0) * brain
    return nib.Nifti1Image(values, image.affine)


def remove_bias(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """N4 (Tustison et al., 2010) inside the brain (non-zero voxels)."""
    import ants

    data = image.get_fdata(dtype=np.float32)
    moving = ants.from_numpy(data)
    mask = ants.from_numpy((data > 0).astype(np.float32))
    corrected = ants.n4_bias_field_correction(
        moving, mask=mask, shrink_factor=4, convergence={"iters": [30, 30, 20], "tol": 1e-6}
    )
    return nib.Nifti1Image(corrected.numpy() * (data > 0), image.affine)


def crop_to(
    data: np.ndarray, keep: np.ndarray, affine: np.ndarray, margin: int
) -> tuple[np.ndarray, np.ndarray]:
    """Crop ``(X, Y, Z)`` to the bounding box of ``keep`` plus ``margin`` voxels; the affine follows."""
    bounds = []
    for axis in range(3):
        used = np.flatnonzero(keep.any(axis=tuple(other for other in range(3) if other != axis)))
        bounds.append((max(0, used[0] - margin), min(keep.shape[axis], used[-1] + 1 + margin)))
    start = np.array([low for low, _ in bounds])
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ start + affine[:3, 3]
    return data[tuple(slice(low, high) for low, high in bounds)], moved


def _describe(out: Path, what: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    description = {
        "Name": f"bidsrep anatomies from {what}",
        "BIDSVersion": "1.11.1",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "bidsrep-train prepare"}],
    }
    (out / "dataset_description.json").write_text(json.dumps(description, indent=2))
    (out / ".bidsignore").write_text("dseg.tsv\n")


def _visit(source: Path) -> Visit:
    """Labels of subject and session, the latter empty where there is none; the whole name where it is not of BIDS."""
    entities, stem = _entities(source), source.name.split(".")[0].removesuffix("_dseg")
    return sanitise(entities.get("sub") or stem), sanitise(entities["ses"]) if "ses" in entities else ""


def _anatomy_file(out: Path, visit: Visit, ending: str) -> Path:
    subject, session = visit
    parts = [f"sub-{subject}", *([f"ses-{session}"] if session else [])]
    folder = out.joinpath(*parts, "anat")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{'_'.join(parts)}_{ending}"
