"""Simulated datasets: many subjects with small files, or few with brains small enough to be processed in seconds."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

VOXEL_MM = 4.0
LEVELS = {"T1w": (100, 70, 30), "FLAIR": (70, 85, 25)}
"""White matter, grey matter, fluid."""


def describe(root: Path, kind: str = "raw") -> Path:
    """Write what makes a folder a BIDS dataset."""
    root.mkdir(parents=True, exist_ok=True)
    description = {"Name": "simulated", "BIDSVersion": "1.9.0", "DatasetType": kind}
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root


def write_names(root: Path, subjects: int) -> Path:
    """Write a dataset of T1w and FLAIR files that are there, but not images: for those who look at names."""
    for number in range(subjects):
        folder = describe(root) / f"sub-{number:05d}" / "anat"
        folder.mkdir(parents=True)
        for suffix in LEVELS:
            stem = folder / f"sub-{number:05d}_{suffix}"
            stem.with_suffix(".nii.gz").write_bytes(b"\x1f\x8b")
            stem.with_suffix(".json").write_text('{"RepetitionTime": 2.0, "EchoTime": 0.003}')
    return root


def write_brains(root: Path, subjects: int, suffixes: tuple[str, ...] = ("T1w",)) -> Path:
    """Write a dataset of stripped brains of 4 mm voxels, all different."""
    describe(root)
    for number in range(subjects):
        for suffix in suffixes:
            path = root / f"sub-{number:05d}" / "anat" / f"sub-{number:05d}_{suffix}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            brain(suffix, number).to_filename(path)
    return root


def brain(suffix: str, seed: int) -> nib.Nifti1Image:
    """Make an ellipsoid of 1.1 l with three tissues and some folds, (36, 44, 34) voxels."""
    shape = (36, 44, 34)
    middle = (np.array(shape) - 1) / 2
    grid = np.indices(shape) - middle[:, None, None, None]
    half_axes = np.array([66, 78, 52])[:, None, None, None]
    radius = np.sqrt(((grid * VOXEL_MM / half_axes) ** 2).sum(axis=0))
    folds = 0.08 * np.sin(grid[0] / 2.1) * np.cos(grid[1] / 2.7 + 1) + 0.05 * np.sin(
        grid[2] / 1.9 + grid[0] / 4
    )
    wm, gm, csf = LEVELS[suffix]
    data = np.where(radius + folds < 0.75, wm, gm).astype(float)
    data[np.abs(grid[0] - 2) + np.abs(grid[1]) + np.abs(grid[2]) < 4] = csf
    data += np.random.default_rng(seed).normal(0, 2, shape)
    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    affine[:3, 3] = -VOXEL_MM * middle
    return nib.Nifti1Image(np.where(radius < 1, np.maximum(data, 1), 0).astype(np.int16), affine)
