"""Deformable registration across contrasts: what features give that intensities do not.

    bidsrep-train prepare ...                                # label maps of whole heads, 1 mm
    python benchmarks/registration.py PREPARED --subjects sub-seg14 --methods intensity pepsi ants

A label map is painted as a T1w brain; bent by a random diffeomorphism, it is painted as a T2w brain. The
T1w is registered to the T2w, and the bent labels are compared with what the found deformation makes of the
original ones: mean Dice over structures of at least ``--smallest`` ml, and mean distance (mm, inside the
brain) to the true deformation. Methods:

- ``intensity``: the mean square of differences, as unit features ``(cos, sin)`` of the scaled intensity
- ``pepsi``, ``brainid``, ``cifl``: features of that model (``--weights NAME=FILE`` for other than bundled ones)
- ``ants``: SyN of ANTs with mutual information, on the same voxels as the finest level

All but ``ants`` search in the same way (`bidsrep.tasks.registration`). T1w to T1w is shown, too.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bidsrep.models.registry import load_model
from bidsrep.synth.contrast import CLINICAL
from bidsrep.synth.deformation import integrate_velocity
from bidsrep.tasks.registration import (
    RegistrationSettings,
    jacobian,
    reduce_to,
    register_features,
    resize,
)
from bidsrep.training.anatomies import LabelTable, load_anatomies
from bidsrep.training.protocols.measures import nothing_left

NODE_MM = 20.0
MARGIN = 8
FINEST_MM = 2.0


def main() -> None:
    """Print how well every method registers every subject and contrast."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path, help="label maps, as bidsrep-train prepare writes them")
    parser.add_argument("--subjects", nargs="+", default=["sub-seg14"])
    parser.add_argument("--methods", nargs="+", default=["intensity", "pepsi"])
    parser.add_argument("--weights", nargs="+", default=[], metavar="NAME=FILE")
    parser.add_argument("--contrasts", nargs="+", default=["T1w", "T2w"], help="of the fixed image")
    parser.add_argument("--bend", type=float, default=4.0, help="standard deviation of the velocity, mm")
    parser.add_argument("--smoothness", type=float, nargs="+", default=[RegistrationSettings().smoothness])
    parser.add_argument("--smallest", type=float, default=0.5, help="ml")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    weights = dict(pair.split("=", 1) for pair in arguments.weights)
    anatomies, table = load_anatomies(arguments.prepared, "labels")
    print(
        f"{'subject':<10} {'fixed':<6} {'method':<10} {'smooth':>6} {'Dice':>6} {'mm':>6} {'min J':>6} {'s':>6}"
    )
    for anatomy in anatomies:
        if anatomy.name not in arguments.subjects or anatomy.labels is None or table is None:
            continue
        trial = Trial(anatomy.labels[0].long(), table, arguments.bend, arguments.smallest)
        for contrast in arguments.contrasts:
            start = torch.zeros_like(trial.truth)
            report(anatomy.name, contrast, "(before)", 0.0, trial, start, 0.0)
            fixed = trial.paint(trial.bent, contrast, seed=2)
            for method in arguments.methods:
                compare(anatomy.name, contrast, method, weights.get(method), fixed, trial, arguments)


class Trial:
    """A head and its bent copy, on one grid of 1 mm around the brain."""

    def __init__(self, labels: Tensor, table: LabelTable, bend: float, smallest: float) -> None:
        self.table = table
        labels = torch.where(table.of_tissue("csf", "gm", "wm", "lesion")[labels], labels, 0)
        where = labels.nonzero()
        low, high = where.amin(0) - MARGIN, where.amax(0) + 1 + MARGIN
        padded = F.pad(labels, [MARGIN] * 6)
        self.labels = padded[tuple(slice(a + MARGIN, b + MARGIN) for a, b in zip(low, high, strict=True))]
        # Whatever the network halves: sides of whole sixteens.
        self.labels = F.pad(self.labels, [n for s in reversed(self.labels.shape) for n in (0, -s % 16)])
        self.extent = tuple(float(n - 1) for n in self.labels.shape)
        generator = torch.Generator().manual_seed(1)
        nodes = [round(n / NODE_MM) + 1 for n in self.extent]
        velocity = resize(
            bend * torch.randn(1, 3, *nodes, generator=generator), [n // 4 for n in self.labels.shape]
        )
        self.truth = resize(integrate_velocity(velocity, torch.tensor(self.extent)), self.labels.shape)
        self.bent = self.move(self.truth)
        self.brain = (self.bent > 0).float()[None, None]
        sizes = self.bent.flatten().bincount(minlength=len(table.values))
        self.structures = [k for k, n in enumerate(sizes.tolist()) if k and n >= 1000 * smallest]

    def move(self, displacement: Tensor) -> Tensor:
        """The labels under a displacement ``(1, 3, X, Y, Z)``, by nearest neighbour."""
        axes = [torch.arange(n) for n in self.labels.shape]
        index = torch.stack(torch.meshgrid(*axes, indexing="ij")) + displacement[0].round().long()
        x, y, z = (i.clamp(0, n - 1) for i, n in zip(index, self.labels.shape, strict=True))
        return self.labels[x, y, z]

    def paint(self, labels: Tensor, contrast: str, seed: int) -> Tensor:
        """A brain of ``contrast`` ``(1, 1, X, Y, Z)``: tissue levels, their spread between structures, blur, noise."""
        generator = torch.Generator().manual_seed(seed)
        middle = [sum(bounds) / 2 for bounds in CLINICAL[contrast]]
        level = dict(zip(("csf", "gm", "wm", "lesion"), (*middle, middle[2]), strict=True))
        means = torch.tensor([level.get(tissue, 0.0) for tissue in self.table.tissues])
        means = means * (1 + 0.06 * torch.randn(len(means), generator=generator))
        image = F.avg_pool3d(means[labels][None, None], 3, 1, 1)
        image = image + 0.03 * torch.randn(image.shape, generator=generator)
        image = torch.where(labels > 0, image, 0.0).clamp(min=0)
        return (image / float(np.percentile(image[image > 0].numpy(), 99.5))).clamp(max=2)

    def dice(self, moved: Tensor) -> float:
        """Mean overlap of the structures."""
        values = [
            2
            * float(((moved == k) & (self.bent == k)).sum())
            / float((moved == k).sum() + (self.bent == k).sum())
            for k in self.structures
        ]
        return sum(values) / len(values)


def compare(
    name: str,
    contrast: str,
    method: str,
    weights: str | None,
    fixed: Tensor,
    trial: Trial,
    arguments: argparse.Namespace,
) -> None:
    """Register with one method, and print how well it did."""
    moving = trial.paint(trial.labels, "T1w", seed=1)
    if method == "ants":
        start = time.perf_counter()
        found = syn(moving, fixed, trial)
        report(name, contrast, method, 0.0, trial, found, time.perf_counter() - start)
        return
    features = extractor(method, weights)
    pair = [reduce_to(features(image), [1.0] * 3, FINEST_MM) for image in (moving, fixed)]
    spacing = [length / (n - 1) for length, n in zip(trial.extent, pair[0].shape[2:], strict=True)]
    weight = reduce_to(trial.brain, [1.0] * 3, FINEST_MM)
    for smoothness in arguments.smoothness:
        settings = RegistrationSettings(smoothness=smoothness)
        start = time.perf_counter()
        result = register_features(*pair, spacing, weight, settings)
        displacement = result.displacement(trial.labels.shape)[None]
        report(name, contrast, method, smoothness, trial, displacement, time.perf_counter() - start)


def extractor(method: str, weights: str | None) -> Callable[[Tensor], Tensor]:
    """What turns an image ``(1, 1, X, Y, Z)`` into unit features."""
    if method == "intensity":
        return lambda image: torch.cat([torch.cos(np.pi / 2 * image), torch.sin(np.pi / 2 * image)], dim=1)
    return load_model(method, weights, precision="fp32").features


def syn(moving: Tensor, fixed: Tensor, trial: Trial) -> Tensor:
    """Displacement that ANTs finds (SyN, mutual information), on voxels of 2 mm."""
    import ants

    shape = reduce_to(trial.brain, [1.0] * 3, FINEST_MM).shape[2:]
    spacing = [length / (n - 1) for length, n in zip(trial.extent, shape, strict=True)]
    images = [
        ants.from_numpy(reduce_to(image, [1.0] * 3, FINEST_MM)[0, 0].numpy(), spacing=spacing)
        for image in (fixed, moving)
    ]
    with nothing_left():
        found = ants.registration(*images, "SyNOnly", syn_metric="mattes", reg_iterations=(40, 40, 20))
        warp = next(path for path in found["fwdtransforms"] if path.endswith("Warp.nii.gz"))
        # ANTs' own LPS coordinates: the arrays went in without a direction, so axes are those of the array.
        field = torch.from_numpy(ants.image_read(warp).numpy()).permute(3, 0, 1, 2)[None]
    return resize(field, trial.labels.shape)


def report(
    name: str,
    contrast: str,
    method: str,
    smoothness: float,
    trial: Trial,
    displacement: Tensor,
    seconds: float,
) -> None:
    """Print overlap, distance to the true deformation, least Jacobian determinant, and time."""
    distance = (displacement - trial.truth).norm(dim=1, keepdim=True)
    error = float((distance * trial.brain).sum() / trial.brain.sum())
    least = float(jacobian(displacement[0], trial.extent).min())
    dice = trial.dice(trial.move(displacement))
    print(
        f"{name:<10} {contrast:<6} {method:<10} {smoothness:>6.2f} {dice:>6.3f} {error:>6.2f} {least:>6.2f} {seconds:>6.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
