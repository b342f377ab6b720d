"""Axial slices of one brain under several contrasts: simulated from anatomies, or acquired.

An example is `Slices`: K images of the same slice, ``(K, H, W)``, each as a scanner gives it (``source``) and
as it is to be predicted (``target``), with their acquisition parameters ``(K, 3)``. Intensities are those of
inference: 0 outside the brain, the 99.5th percentile of the whole brain at 1, clipped to [0, 2].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from bidsrep.models.crl_network import acquisition_vector
from bidsrep.synth.deformation import DeformationConfig, sample_deformation, warp
from bidsrep.synth.physics import TissueMaps
from bidsrep.synth.physics.painting import mixture_maps, paint_maps
from bidsrep.synth.physics.scan import TOP_PERCENTILE, ScanRanges, add_rician_noise, sample_scan, smooth_field
from bidsrep.synth.physics.tissues import tissue_table
from bidsrep.synth.random import coin, integer, uniform_scalar
from bidsrep.training.crl_contrasts import ContrastConfig, draw_sequences, parameters_of

CEILING = 2.0
LEAST_BRAIN = 0.2
"""Share of a crop that is brain, where a few draws can find one."""
ATTEMPTS = 8


@dataclass(frozen=True)
class SliceConfig:
    """How slices are drawn.

    Parameters
    ----------
    contrasts
        Which contrasts.
    deformation
        Affine ranges; slices are not warped beyond that.
    oversampling
        Points per voxel along each in-plane axis: borders of a label map become partial volumes.
    thickness_mm
        Range of the slice thickness; tissue is sampled about every millimetre of it.
    receive, noise
        Ranges of the receive field and noise of sources (`ScanRanges`); targets have neither.
    field_strength
        Of the tissue table (T).
    acquired_share
        Share of acquired sessions, where there are both kinds.
    """

    contrasts: ContrastConfig = field(default_factory=ContrastConfig)
    deformation: DeformationConfig = field(default_factory=lambda: DeformationConfig(nonlinear_std_mm=0.0))
    oversampling: int = 2
    thickness_mm: tuple[float, float] = (1.0, 4.0)
    receive: tuple[float, float] = (0.0, 0.15)
    noise: tuple[float, float] = (0.005, 0.04)
    field_strength: float = 3.0
    acquired_share: float = 0.5


@dataclass(frozen=True)
class Slices:
    """One slice in K contrasts: ``source`` and ``target`` ``(K, H, W)``, ``parameters`` ``(K, 3)``."""

    source: Tensor
    target: Tensor
    parameters: Tensor

    def turned(self, transpose: bool, flips: tuple[bool, bool]) -> Slices:
        """The same with in-plane axes exchanged and reversed."""

        def turn(images: Tensor) -> Tensor:
            images = images.transpose(1, 2) if transpose else images
            return images.flip([axis + 1 for axis in (0, 1) if flips[axis]])

        return Slices(turn(self.source), turn(self.target), self.parameters)


class Person(Protocol):
    """Somebody to draw slices of."""

    def slices(self, generator: torch.Generator, shape: tuple[int, int], config: SliceConfig) -> Slices:
        """Draw a slice of ``shape`` voxels of 1 mm in several contrasts."""
        ...


def random_turn(slices: Slices, generator: torch.Generator) -> Slices:
    """Flip each in-plane axis and exchange them with probability 1/2, as published; squares only exchange."""
    flips = coin(generator, 0.5), coin(generator, 0.5)
    square = slices.source.shape[1] == slices.source.shape[2]
    return slices.turned(coin(generator, 0.5) and square, flips)


@dataclass(frozen=True)
class SimulatedPerson:
    """An anatomy whose contrasts are simulated.

    Parameters
    ----------
    volume
        ``(1, X, Y, Z)`` float32, 1 mm RAS, brain only: label indices, or a T1w with white matter at 1.
    tissues
        Tissue or structure of every label; empty for a T1w.
    tissue_means
        CSF, grey and white matter of a T1w.
    """

    volume: Tensor
    tissues: tuple[str, ...] = ()
    tissue_means: tuple[float, float, float] = (0.25, 0.64, 1.0)
    brain_values: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "brain_values", self.volume[self.volume > 0])

    def slices(self, generator: torch.Generator, shape: tuple[int, int], config: SliceConfig) -> Slices:
        """Draw a slice, its tissues and its contrasts, and simulate them."""
        points = self._points(generator, shape, config)
        # A plane of voxels from all over the brain goes with the slice: it gives every contrast its scale.
        anywhere = torch.randint(len(self.brain_values), (*points.shape[:2], 1), generator=generator)
        maps = self._maps(torch.cat([points, self.brain_values[anywhere]], dim=2), generator, config)
        brain = _pooled((points > 0).float(), config.oversampling) > 0.5
        ranges = ScanRanges(transmit=(0.0, 0.0), receive=config.receive, noise=config.noise)
        sources, targets, parameters = [], [], []
        for sequence in draw_sequences(generator, config.contrasts):
            points_and_plane = sequence.signal(maps)
            plane = points_and_plane[..., -1].abs()
            scale = torch.quantile(plane, TOP_PERCENTILE).clamp(min=1e-6)
            signal = _pooled(points_and_plane[..., :-1] / scale, config.oversampling)
            scan = sample_scan(generator, ranges=ranges)
            gain = 1.0 if scan.receive is None else smooth_field(scan.receive, (*shape, 1))[..., 0]
            sources.append(add_rician_noise(signal * gain, scan.noise_std, generator) * brain)
            targets.append(signal.abs() * brain)
            parameters.append(acquisition_vector(parameters_of(sequence)))
        source, target = (torch.stack(images).clamp(0, CEILING) for images in (sources, targets))
        return Slices(source, target, torch.stack(parameters))

    def _points(self, generator: torch.Generator, shape: tuple[int, int], config: SliceConfig) -> Tensor:
        """Values ``(H n, W n, S)`` at the sample points of a slice with brain in it."""
        size = torch.tensor(self.volume.shape[1:], dtype=torch.float32)
        slack = ((size - torch.tensor([*shape, 1.0])) / 2).clamp(min=0)
        for _ in range(ATTEMPTS):
            draw = sample_deformation(generator, (*shape, 1.0), slack, config.deformation)
            thickness = uniform_scalar(generator, *config.thickness_mm)
            position = _slice_points(shape, thickness, config.oversampling)
            position[..., 0] *= -1.0 if draw.flip else 1.0
            coordinates = position @ draw.matrix().T + draw.shift + (size - 1) / 2
            points = warp(self.volume, coordinates, "nearest" if self.tissues else "bilinear")[0]
            if (points > 0).float().mean() >= LEAST_BRAIN:
                break
        return points.round() if self.tissues else points

    def _maps(self, values: Tensor, generator: torch.Generator, config: SliceConfig) -> TissueMaps:
        table = tissue_table(config.field_strength)
        if self.tissues:
            return paint_maps(values.long(), self.tissues, table, generator)
        return mixture_maps(values, self.tissue_means, table, generator)


@dataclass(frozen=True)
class AcquiredPerson:
    """A session of co-registered scans: ``images`` ``(K, X, Y, Z)`` normalised, ``parameters`` ``(K, 3)``."""

    images: Tensor
    parameters: Tensor

    def slices(self, generator: torch.Generator, shape: tuple[int, int], config: SliceConfig) -> Slices:
        """Draw an axial slice, a crop of it, and ``count`` of the contrasts (some twice where there are fewer)."""
        height, width = shape
        padding = [max(0, wanted - size) for wanted, size in zip(shape, self.images.shape[1:3], strict=True)]
        for _ in range(ATTEMPTS):
            images = self.images[..., integer(generator, 0, self.images.shape[3])]
            images = torch.nn.functional.pad(images, (0, padding[1], 0, padding[0]))
            top_row = integer(generator, 0, images.shape[1] - height + 1)
            first = integer(generator, 0, images.shape[2] - width + 1)
            images = images[:, top_row : top_row + height, first : first + width]
            if (images > 0).float().mean() >= LEAST_BRAIN:
                break
        count = config.contrasts.number
        order = torch.randperm(len(images), generator=generator).repeat(-(-count // len(images)))[:count]
        return Slices(images[order], images[order], self.parameters[order])


def _slice_points(shape: tuple[int, int], thickness: float, oversampling: int) -> Tensor:
    """Sample points ``(H n, W n, S, 3)`` of a slice, mm from its centre."""
    axes = [(torch.arange(n * oversampling) - (n * oversampling - 1) / 2) / oversampling for n in shape]
    count = max(1, round(thickness))
    axes.append((torch.arange(count) - (count - 1) / 2) * (thickness / count))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def _pooled(points: Tensor, oversampling: int) -> Tensor:
    """Average sample points ``(H n, W n, S)`` over the voxels ``(H, W)`` of the slice."""
    return torch.nn.functional.avg_pool2d(points.mean(dim=2)[None], oversampling)[0]
