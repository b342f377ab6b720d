"""Draw good and bad cases of the bundled weights: ``python docs/cases.py BIDS_DIR OUT_DIR``, after a run of all models.

The folders are those of open_ms_data's longitudinal patients (CC BY), in BIDS; the pictures go to ``_static``.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.colors import to_rgba
from nibabel.processing import resample_from_to
from PIL import Image

from bidsrep.labels import load_labels

HERE = Path(__file__).parent
SESSION = ("long01", "02")
PLANE = 2


def volume(path: Path) -> nib.Nifti1Image:
    """Load an image in RAS order."""
    return nib.as_closest_canonical(nib.load(path))


def plane_of(image: nib.Nifti1Image, axis: int, position: int) -> np.ndarray:
    """One slice ``(rows, columns)``, the left of the person on the left."""
    return np.take(np.asarray(image.dataobj, dtype=np.float32), position, axis).T


class Session:
    """Files of one session in an output folder, on the 1 mm grid of its T1w."""

    def __init__(self, out: Path, subject: str, session: str) -> None:
        self.folder = out / f"sub-{subject}" / f"ses-{session}"
        self.stem = f"sub-{subject}_ses-{session}_"

    def find(self, entities: str, datatype: str = "anat") -> Path:
        """The file that ends with these entities, on the 1 mm grid if it is there on several."""
        found = sorted((self.folder / datatype).glob(f"{self.stem}*{entities}.nii.gz"))
        if not found:
            raise FileNotFoundError(f"{self.folder}: no {entities}")
        return next((path for path in found if "_res-1mm_" in path.name), found[0])


def draw(panels: list[list[tuple[str, Path, Path | None, str]]], axis: int, position: int, out: Path) -> None:
    """A grid of slices: title, image, overlay, and how it is drawn: ``outline``, ``labels`` or ``field``."""
    columns = max(map(len, panels))
    figure, axes = plt.subplots(
        len(panels), columns, figsize=(2.3 * columns, 2.9 * len(panels)), facecolor="black", squeeze=False
    )
    for frame in axes.flat:
        frame.axis("off")
    for row, line in zip(axes, panels, strict=True):
        for frame, (title, path, overlay, kind) in zip(row, line, strict=False):
            image = volume(path)
            shown = plane_of(image, axis, position)
            top = float(np.percentile(shown[shown > 0], 99.5)) if (shown > 0).any() else 1.0
            low, top = (0.7, 1.3) if kind == "field" else (0.0, top)
            frame.imshow(shown, origin="lower", cmap="gray", vmin=low, vmax=top)
            frame.set_title(title, color="white", fontsize=8)
            if overlay is not None:
                over = plane_of(resample_from_to(volume(overlay), image, order=0), axis, position)
                if kind == "labels":
                    colours = np.zeros((*over.shape, 4))
                    for label in load_labels("aseg"):
                        if label.index and label.color:
                            colours[over == label.index] = to_rgba(label.color, 0.5)
                    frame.imshow(colours, origin="lower", interpolation="nearest")
                elif (over > 0).any():
                    frame.contour(over > 0, [0.5], colors="#e4572e", linewidths=0.8)
    figure.subplots_adjust(0, 0, 1, 0.94, 0.01, 0.08)
    figure.savefig(out, dpi=100, facecolor="black", metadata={"Software": None})
    plt.close(figure)
    with Image.open(out) as picture:
        small = picture.convert("RGB").quantize(128)
    small.save(out, optimize=True)


def draw_masks(bids: Path, out: Path, picture: Path) -> None:
    """The brain mask on every raw T1w of the folder, in one sagittal slice."""
    panels = []
    for scan in sorted(bids.glob("sub-*/ses-*/anat/*_T1w.nii.gz")):
        mask = out / scan.relative_to(bids).with_name(scan.name.replace("_T1w", "_desc-brain_mask"))
        panels.append((scan.name.removesuffix("_T1w.nii.gz"), scan, mask, "outline"))
    # Raw scans have grids of their own: each is drawn at its own middle.
    figure, axes = plt.subplots(1, len(panels), figsize=(2.0 * len(panels), 1.7), facecolor="black")
    for frame, (title, scan, mask, _) in zip(np.atleast_1d(axes), panels, strict=True):
        image = volume(scan)
        over = np.asarray(resample_from_to(volume(mask), image, order=0).dataobj)
        position = int(np.argwhere(over > 0)[:, 0].mean()) + int(8 / image.header.get_zooms()[0])
        shown, edge = plane_of(image, 0, position), over[position].T
        zooms = image.header.get_zooms()
        aspect = zooms[2] / zooms[1]
        frame.imshow(
            shown, origin="lower", cmap="gray", vmin=0, vmax=float(np.percentile(shown, 99.5)), aspect=aspect
        )
        frame.contour(edge > 0, [0.5], colors="#e4572e", linewidths=0.8)
        frame.set_title(title, color="white", fontsize=7)
        frame.axis("off")
    figure.subplots_adjust(0, 0, 1, 0.86, 0.01, 0)
    figure.savefig(picture, dpi=100, facecolor="black", metadata={"Software": None})
    plt.close(figure)
    with Image.open(picture) as drawn:
        small = drawn.convert("RGB").quantize(96)
    small.save(picture, optimize=True)


def main() -> None:
    """Write ``_static/cases-*.png``."""
    bids, out = Path(sys.argv[1]), Path(sys.argv[2])
    session, static = Session(out, *SESSION), HERE / "_static"
    find = session.find
    lesion = np.asarray(volume(find("label-lesion_desc-pepsiFromFLAIR_mask")).dataobj) > 0
    height = int(lesion.sum((0, 1)).argmax())
    scans = {name: find(f"desc-preproc_{name}") for name in ("T1w", "T2w", "FLAIR")}
    draw(
        [
            [
                ("acquired T1w", scans["T1w"], None, ""),
                ("T1w from the FLAIR", find("desc-pepsiFromFLAIR_T1w"), None, ""),
                ("T1w from the T2w", find("desc-pepsiFromT2w_T1w"), None, ""),
                (
                    "lesions from the FLAIR",
                    scans["FLAIR"],
                    find("label-lesion_desc-pepsiFromFLAIR_mask"),
                    "outline",
                ),
            ],
            [
                ("acquired FLAIR", scans["FLAIR"], None, ""),
                ("FLAIR from the T1w", find("desc-pepsiFromT1w_FLAIR"), None, ""),
                ("FLAIR from the T2w", find("desc-pepsiFromT2w_FLAIR"), None, ""),
                (
                    "lesions from the T2w",
                    scans["T2w"],
                    find("label-lesion_desc-pepsiFromT2w_mask"),
                    "outline",
                ),
            ],
        ],
        PLANE,
        height,
        static / "cases-pepsi.png",
    )
    draw(
        [
            [
                (
                    "structures from the T1w",
                    scans["T1w"],
                    find("desc-brainidFromT1w_dseg"),
                    "labels",
                ),
                (
                    "structures from the FLAIR",
                    scans["FLAIR"],
                    find("desc-brainidFromFLAIR_dseg"),
                    "labels",
                ),
                (
                    "structures from the T2w",
                    scans["T2w"],
                    find("desc-brainidFromT2w_dseg"),
                    "labels",
                ),
                ("its bias field", find("desc-brainidFromT2w_RB1map", "fmap"), None, "field"),
            ],
            [
                ("CRL: T1w from the T2w", find("desc-crlFromT2w_T1w"), None, ""),
                ("CRL: T1w from the FLAIR", find("desc-crlFromFLAIR_T1w"), None, ""),
                ("CRL: FLAIR from the T1w", find("desc-crlFromT1w_FLAIR"), None, ""),
                ("SeqInv: denoised T1w", find("desc-seqinvDenoisedFromT1w_T1w"), None, ""),
            ],
        ],
        PLANE,
        height,
        static / "cases-others.png",
    )
    draw_masks(bids, out, static / "cases-brainmask.png")


if __name__ == "__main__":
    main()
