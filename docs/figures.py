"""Draw the pictures of the documentation: ``python docs/figures.py [DEMO_DIR]`` (made if it is not there)."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from PIL import Image

from bidsrep.cli.demo import write_demo
from bidsrep.cli.demo_files import TRUTH

HERE = Path(__file__).parent
SESSION = "sub-02/ses-A/anat/sub-02_ses-A_"


def canonical(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Load an image in RAS order: voxels, and their size in mm."""
    image = nib.as_closest_canonical(nib.load(path))
    return np.asarray(image.dataobj, dtype=np.float32), np.array(image.header.get_zooms()[:3])


def show(axes: plt.Axes, scan: Path, outline: Path, axis: int, position: int, vmax: float) -> None:
    """One slice with an outline; `position` is in voxels of the scan in RAS order."""
    data, zooms = canonical(scan)
    mask, _ = canonical(outline)
    aspect = {0: zooms[2] / zooms[1], 1: zooms[2] / zooms[0], 2: zooms[1] / zooms[0]}[axis]
    plane, edge = (np.take(values, position, axis).T for values in (data, mask))
    axes.imshow(
        plane, origin="lower", cmap="gray", vmin=0, vmax=vmax, aspect=aspect, interpolation="bilinear"
    )
    if edge.any():
        axes.contour(edge, [0.5], colors="#e4572e", linewidths=0.7)
    axes.axis("off")


def draw_demo(folder: Path, out: Path) -> None:
    """T1w in two planes with the brain mask, FLAIR in two planes with the lesions."""
    t1w, flair = (folder / f"{SESSION}{suffix}.nii.gz" for suffix in ("T1w", "FLAIR"))
    brain, lesion = (
        folder / TRUTH / f"{SESSION}space-{name}.nii.gz"
        for name in ("T1w_desc-brain_mask", "FLAIR_label-lesion_mask")
    )
    lesions, _ = canonical(lesion)
    slices = [int(lesions.sum(tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3)]
    figure, axes = plt.subplots(1, 4, figsize=(9, 2.6), width_ratios=[1, 0.74, 0.78, 1.1], facecolor="black")
    show(axes[0], t1w, brain, 0, 88, 900)
    show(axes[1], t1w, brain, 2, 150, 900)
    show(axes[2], flair, lesion, 2, slices[2], 800)
    show(axes[3], flair, lesion, 0, slices[0], 800)
    figure.subplots_adjust(0, 0, 1, 1, 0.01, 0)
    figure.savefig(out, dpi=110, facecolor="black", metadata={"Software": None})
    with Image.open(out) as picture:  # greys and one colour: a palette is half the size
        small = picture.convert("RGB").quantize(96)
    small.save(out, optimize=True)


def main() -> None:
    """Write ``_static/demo.png``."""
    with TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch)
        write_demo(folder)
        draw_demo(folder, HERE / "_static" / "demo.png")


if __name__ == "__main__":
    main()
