"""Generated examples as files: what a network is trained on, to look at."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from torch import Tensor

from bidsrep.models.crl_network import VECTOR_PER_SECOND

PARAMETERS = ("RepetitionTime", "EchoTime", "InversionTime")


def write_example(batch: Mapping[str, Tensor], stem: Path, spacing: float) -> list[Path]:
    """Write every tensor of a mini-batch to ``<stem>_<name>``; returns the paths.

    Parameters
    ----------
    batch
        What an objective's ``sample`` gives. Volumes ``(B, 1, X, Y, Z)`` become one NIfTI ``(X, Y, Z, B)``.
        Slices in several contrasts ``(N, K, H, W)`` become one ``(H, W, N, K)``: the fourth axis goes
        through the contrasts. Their parameters ``(N, K, 3)`` become a table in seconds.
    stem
        Folder and beginning of the names.
    spacing
        Voxel size (mm).
    """
    affine = np.diag([spacing, spacing, spacing, 1.0])
    paths = []
    for name, values in batch.items():
        array = values.float().numpy()
        table = array.ndim == 3
        path = stem.with_name(f"{stem.name}_{name}{'.tsv' if table else '.nii.gz'}")
        if table:
            _write_parameters(array, path)
        else:
            image = np.moveaxis(array[:, 0], 0, -1) if array.ndim == 5 else array.transpose(2, 3, 0, 1)
            nib.Nifti1Image(image, affine).to_filename(path)
        paths.append(path)
    return paths


def _write_parameters(vectors: np.ndarray, path: Path) -> None:
    """Write the parameters ``(N, K, 3)`` of every slice and contrast, which are counted from 0."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["slice", "contrast", *PARAMETERS])
        for number, contrast in np.ndindex(vectors.shape[:2]):
            seconds = vectors[number, contrast] / VECTOR_PER_SECOND
            writer.writerow([number, contrast, *(f"{value:.4g}" for value in seconds)])
