"""Make a dataset of anatomies from label maps or from brain-extracted T1w scans (``bidsrep-train prepare``)."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np

from bidsrep.imaging.tissues import tissue_means

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
    """
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
        path = _subject_file(out, _name(source), "dseg.nii.gz")
        nib.Nifti1Image(labels, affine).to_filename(path)
    return len(sources)


def prepare_t1w(sources: list[Path], out: Path) -> int:
    """Write brain-extracted T1w scans as anatomies: 1 mm RAS, white matter at 1; returns how many.

    The three tissue means (CSF, grey, white) come from a Gaussian mixture of the intensities and make the
    generation labels: an intensity between two means is a linear mixture of the two tissues, which is what
    a partial-volume voxel is.
    """
    from nibabel.processing import resample_to_output

    _describe(out, "brain-extracted T1w scans")
    for source in sources:
        image = nib.as_closest_canonical(nib.load(source))
        image = resample_to_output(
            nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine), 1.0, order=1
        )
        image = nib.Nifti1Image(np.maximum(np.asarray(image.dataobj, dtype=np.float32), 0), image.affine)
        data = remove_bias(image).get_fdata(dtype=np.float32)
        data, affine = crop_to(data, data > 0, image.affine, margin=2)
        means = tissue_means(data[data > 0])
        path = _subject_file(out, _name(source), "desc-brain_T1w.nii.gz")
        nib.Nifti1Image((data / means[2]).astype(np.float32), affine).to_filename(path)
        relative = [round(float(mean / means[2]), 4) for mean in means]
        sidecar = {"TissueMeans": relative, "SkullStripped": True, "Units": "white matter = 1"}
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar, indent=2))
    return len(sources)


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


def _name(source: Path) -> str:
    stem = source.name.split(".")[0].removeprefix("sub-")
    return "".join(char for char in stem.split("_")[0] if char.isalnum())


def _subject_file(out: Path, name: str, ending: str) -> Path:
    folder = out / f"sub-{name}" / "anat"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"sub-{name}_{ending}"
