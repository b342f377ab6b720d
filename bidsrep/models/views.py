"""A head with a view of its own: what a task needs besides the features of each voxel.

The papers fine-tune one whole network per task. Where one frozen backbone serves all tasks, its features tell what
tissue a voxel is, hardly where it lies (left or right, which nucleus), how a bias field runs over the head, or what
detail a thick slice lost. A `ViewHead` adds a small UNet that looks at the image on the grid that its task needs:
coarse for place and bias fields, the image's own for super-resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bidsrep.models.lean import lean_features
from bidsrep.models.unet import UNet3D

AXES = 3
NOT_SHARPENED = "sharpen {} needs a factor of 1, got {}"


class ViewHead(nn.Module):
    """``coarse(maps) + fine(features, image, maps)``: maps of a small UNet, interpolated to the image's grid.

    The second summand, a convolution of 1x1x1 with one hidden layer, starts at zero. With ``sharpen``, the view
    sees bands of the image along each axis as well (see `bands`), each times a gain that follows from how blurred
    the image is (`Gains`), and adds ``sum_k (1 + weight_k(maps)) * gain_k * band_k``: a deconvolution whose kernel
    is chosen for the image and adapted at every voxel.

    Parameters
    ----------
    in_channels
        Channels of the features.
    channels
        Channels of the output.
    factor
        The view's voxels are means of ``factor ** 3`` of the image's.
    f_maps, num_levels
        Width and depth of the view's `UNet3D`.
    hidden
        Width of the hidden layer; 0 leaves the second summand out.
    residual
        Add the image to the output: super-resolution then starts as its input.
    sharpen
        Standard deviations of the bands' Gaussians, in voxels and rising; needs a ``factor`` of 1.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        factor: int,
        f_maps: int = 16,
        num_levels: int = 4,
        hidden: int = 0,
        residual: bool = False,
        sharpen: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if sharpen and factor != 1:
            raise ValueError(NOT_SHARPENED.format(list(sharpen), factor))
        self.channels, self.factor, self.residual = channels, factor, residual
        self.f_maps, self.sharpen = f_maps, tuple(sharpen)
        extra = AXES * len(self.sharpen)
        self.view = UNet3D(1 + (AXES if sharpen else 0), f_maps, num_levels)
        self.gains = Gains(self.sharpen) if sharpen else None
        self.coarse = nn.Conv3d(f_maps, channels * (1 + extra), kernel_size=1)
        self.fine: nn.Module | None = None
        if hidden:
            last = nn.Conv3d(hidden, channels, kernel_size=1, bias=False)
            nn.init.zeros_(last.weight)
            first = nn.Conv3d(in_channels + 1 + f_maps, hidden, kernel_size=1)
            self.fine = nn.Sequential(first, nn.LeakyReLU(0.01), last)
        if residual:
            nn.init.zeros_(self.coarse.weight)
            nn.init.zeros_(torch.as_tensor(self.coarse.bias))

    @property
    def divisor(self) -> int:
        """Images whose sides are multiples of this are not padded."""
        return int(self.factor * 2 ** (self.view.num_levels - 1))

    def pooled(self, image: Tensor) -> Tensor:
        """The image ``(B, 1, X, Y, Z)`` on the view's grid, with zeros behind it up to a side that halves evenly."""
        beyond = [-size % self.divisor for size in reversed(image.shape[2:])]
        padded = F.pad(image, [n for pad in beyond for n in (0, pad)]) if any(beyond) else image
        return F.avg_pool3d(padded, self.factor) if self.factor > 1 else padded

    def maps(self, image: Tensor) -> Tensor:
        """What the view sees of ``(B, 1, X, Y, Z)``: ``(B, f_maps, ...)`` on the grid of `pooled`, then the bands."""
        pooled = self.pooled(image)
        apart = bands(pooled, self.sharpen)
        if self.gains is not None:
            apart = [band * gain for band, gain in zip(apart, self.gains(apart, pooled), strict=True)]
        step = len(self.sharpen)
        # Per axis, all that the gains would add: a group norm takes few channels only.
        added = [torch.stack(apart[at : at + step]).sum(0) for at in range(0, len(apart), max(1, step))]
        seen = torch.cat([pooled, *added], dim=1)
        maps = self.view(seen) if torch.is_grad_enabled() else lean_features(self.view, seen)
        if not apart:
            return maps
        # Weights of bands must change by units from image to image; what leaves the view is a hundredth of that.
        spread = maps.square().mean((1, 2, 3, 4), keepdim=True).sqrt().clamp(min=1e-6)
        return torch.cat([maps / spread, *apart], dim=1)

    def glance(self, image: Tensor, maps: Tensor | None = None) -> Tensor:
        """The first summand alone, ``(B, channels, ceil(X / factor), ...)`` on the view's grid; needs no features.

        ``maps`` are those of the image, where they are at hand.
        """
        raw = self._mixed(self.maps(image) if maps is None else maps)
        if self.residual:
            raw = raw + self.pooled(image)
        x, y, z = (-(-size // self.factor) for size in image.shape[2:])
        return raw[:, :, :x, :y, :z]

    def forward(self, features: Tensor | None, image: Tensor) -> Tensor:
        """Raw output ``(B, channels, X, Y, Z)`` for features ``(B, C, X, Y, Z)`` of an image ``(B, 1, X, Y, Z)``."""
        return self.rows(features, image, self.maps(image), 0)

    def rows(self, features: Tensor | None, image: Tensor, maps: Tensor, first: int) -> Tensor:
        """Raw output of some X-rows, from ``first`` on: features and image are of those rows, `maps` of all."""
        here = self._interpolated(maps, first, tuple(image.shape[2:]))
        raw = self._mixed(here)
        if self.fine is not None:
            assert features is not None
            raw = raw + self.fine(torch.cat([features, image, here[:, : self.f_maps]], dim=1))
        return raw + image if self.residual else raw

    def _mixed(self, maps: Tensor) -> Tensor:
        """The first summand from `maps`: a value of its own, and the weighted bands."""
        own, *weights = self.coarse(maps[:, : self.f_maps]).split(self.channels, dim=1)
        for number, weight in enumerate(weights, self.f_maps):
            own = own + (1 + weight) * maps[:, number : number + 1]
        return own

    def _interpolated(self, maps: Tensor, first: int, size: tuple[int, ...]) -> Tensor:
        """Interpolate linearly between the centres of the view's voxels; `size` is that of the rows."""
        if self.factor == 1:
            return maps[:, :, first : first + size[0], : size[1], : size[2]]
        for axis, (start, count) in enumerate(zip((first, 0, 0), size, strict=True), start=2):
            centres = torch.arange(start, start + count, device=maps.device)
            place = ((centres + 0.5) / self.factor - 0.5).clamp(0, maps.shape[axis] - 1)
            below = place.floor().long()
            above = (below + 1).clamp(max=maps.shape[axis] - 1)
            shape = [1] * 5
            shape[axis] = count
            weight = (place - below).reshape(shape)
            maps = torch.lerp(maps.index_select(axis, below), maps.index_select(axis, above), weight)
        return maps


class Gains(nn.Module):
    """How much of every band an image needs back, from the bands' energies along its three axes.

    A blur lowers the energy of the fine bands against that of the wide ones, whatever the contrast; the network
    that turns energies into gains is the same for all axes, so an axis of thick slices is treated alike in any
    orientation. Gains start at zero. Neighbouring bands are so alike that the best gains are large and of opposite
    signs; what the network gives are therefore gains of combinations that are orthogonal in a typical image.

    Parameters
    ----------
    sigmas
        Of the bands, see `bands`.
    hidden
        Width of the hidden layer.
    """

    orthogonal: Tensor
    RIM = 3
    """Voxels at the brain's rim that do not count: the step from brain to nothing is as sharp in any image."""

    def __init__(self, sigmas: Sequence[float], hidden: int = 24) -> None:
        super().__init__()
        self.count = count = len(sigmas)
        self.register_buffer("orthogonal", _orthogonal_bands(sigmas), persistent=False)
        self.first = nn.Linear(2 * count, hidden)
        self.last = nn.Linear(hidden, count)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, apart: Sequence[Tensor], image: Tensor) -> list[Tensor]:
        """A gain ``(B, 1, 1, 1, 1)`` for each of the `bands` ``(B, 1, X, Y, Z)`` of an image of the same shape."""
        return list(self.of_energies(self.energies(apart, image))[:, :, None, None, None, None].unbind(1))

    def of_energies(self, energies: Tensor) -> Tensor:
        """Gains ``(B, 3 * count)`` for what `energies` gives."""
        others = (energies.sum(1, keepdim=True) - energies) / (AXES - 1)
        seen = torch.cat([energies, others], dim=2)
        weights: Tensor = self.last(F.leaky_relu(self.first(seen), 0.1)) @ self.orthogonal
        return weights.flatten(1)

    @torch.no_grad()
    def energies(self, apart: Sequence[Tensor], image: Tensor) -> Tensor:
        """Logarithms ``(B, 3, count)`` of the bands' mean squares over that of the image's deviations."""
        outside = (image <= 0).float()
        inside = 1 - F.max_pool3d(outside, 2 * self.RIM + 1, stride=1, padding=self.RIM)
        few = inside.sum((1, 2, 3, 4), keepdim=True) < image[0].numel() / 100
        inside = torch.where(few, 1 - outside, inside)
        voxels = inside.sum((1, 2, 3, 4)).clamp(min=1)

        def mean(values: Tensor) -> Tensor:
            return (values * inside).sum((1, 2, 3, 4)) / voxels

        spread = mean((image - mean(image)[:, None, None, None, None]).square()).clamp(min=1e-8)
        shares = torch.stack([mean(band.square()) / spread for band in apart], dim=1)
        # About -1 to 1 for voxels of 1 to 7 mm.
        return (0.25 * (shares + 1e-6).log() + 1).reshape(len(image), AXES, self.count)


def bands(image: Tensor, sigmas: Sequence[float]) -> list[Tensor]:
    """Differences of ever wider Gaussians along one axis each, ``(B, 1, X, Y, Z)``; all zero in a constant image.

    The first of an axis is the image minus its Gaussian of ``sigmas[0]`` voxels; then come those between
    neighbours of ``sigmas``. Beyond the image its rim goes on.
    """
    found = []
    for axis in range(2, 2 + AXES):
        finer = image
        for sigma in sigmas:
            coarser = _smooth(image, sigma, axis)
            found.append(finer - coarser)
            finer = coarser
    return found


def _orthogonal_bands(sigmas: Sequence[float], voxels: float = 5.0) -> Tensor:
    """Combinations ``(K, K)`` of an axis' bands that are orthogonal in an image of voxels of so many grid steps.

    The image's spectrum is taken as ``1 / f**2``, times what averaging over a voxel and interpolating linearly
    leave of it. Each combination has the mean square of a hundredth of the widest band's.
    """
    f = torch.arange(1, 257, dtype=torch.float64) / 512
    power = f**-2 * torch.sinc(voxels * f) ** 6
    passed = [torch.ones_like(f), *(torch.exp(-2 * (math.pi * sigma * f) ** 2) for sigma in sigmas)]
    shape = torch.stack([finer - coarser for finer, coarser in pairwise(passed)])
    gram = (shape * power) @ shape.T
    gram = gram + 1e-2 * gram.diagonal().diag()
    # Widest first: it is taken as it is, and each finer one without what the wider ones explain.
    factor = torch.linalg.cholesky(gram.flip(0, 1))
    combined = torch.linalg.inv(factor).flip(0, 1)
    return (0.1 * gram[-1, -1].sqrt() * combined).float()


def _smooth(image: Tensor, sigma: float, axis: int) -> Tensor:
    """Gaussian along one axis: sums of shifted copies, which take less memory than a convolution's."""
    radius, size = math.ceil(3 * sigma), image.shape[axis]
    offsets = range(-radius, radius + 1)
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in offsets]
    pad = [0] * (2 * AXES)
    pad[2 * (4 - axis) : 2 * (4 - axis) + 2] = [radius, radius]
    padded = F.pad(image, pad, mode="replicate")
    total = torch.zeros_like(image)
    for offset, weight in zip(offsets, weights, strict=True):
        total.add_(padded.narrow(axis, radius + offset, size), alpha=weight / sum(weights))
    return total


def class_shares(classes: Tensor, count: int, factor: int) -> Tensor:
    """Share of every class in the voxels of a view's grid.

    Parameters
    ----------
    classes
        Classes ``(B, 1, X, Y, Z)``; those of `count` or more are unknown and count as none.
    count
        Number of classes.
    factor
        Voxels per view voxel and axis.

    Returns
    -------
    Tensor
        ``(B, count, ceil(X / factor), ...)``; sums to 1 where all classes are known.
    """
    batch, _, *size = classes.shape
    grid = [-(-n // factor) for n in size]
    cells = torch.zeros(1, dtype=torch.long, device=classes.device)
    for n, coarse in zip(size, grid, strict=True):
        cells = cells[..., None] * coarse + torch.arange(n, device=classes.device) // factor
    total = grid[0] * grid[1] * grid[2]
    shares = []
    for values in classes[:, 0].long():
        known = values < count
        cell = cells.reshape(*size)[known]
        counts = torch.bincount(values[known] * total + cell, minlength=count * total)
        shares.append(counts.reshape(count, *grid).float() / factor**3)
    return torch.stack(shares).reshape(batch, count, *grid)
