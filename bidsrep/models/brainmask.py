"""The bundled brain mask: signed distance to the brain's surface, for whole heads of any contrast.

SynthStrip's idea (Hoopes et al., NeuroImage 2022): regress the distance, train on synthetic heads.
"""

from __future__ import annotations

import numpy as np
import torch

from bidsrep.imaging.grids import Grid, reference_grid
from bidsrep.imaging.resample import coverage, resample
from bidsrep.imaging.volume import Volume
from bidsrep.models.representation import RepresentationModel
from bidsrep.synth.heads import normalise_head
from bidsrep.tasks.distance import DISTANCE, MAXIMUM_MM

DEFAULT_RESOLUTION_MM = 2.0


class BrainMask(RepresentationModel):
    """Distance to the brain's surface; a mask is where it is above `BrainMask.threshold_mm`."""

    name = "brainmask"
    tasks = (DISTANCE,)

    @property
    def resolution_mm(self) -> float:
        """Voxel size the network works at."""
        return float(self.card.get("input", {}).get("resolution_mm", DEFAULT_RESOLUTION_MM))

    @property
    def threshold_mm(self) -> float:
        """Distance from which on a voxel belongs to the mask: what the card found to leave the dura out."""
        return float(self.card.get("input", {}).get("threshold_mm", 0.0))

    def distance(self, volume: Volume) -> Volume:
        """Signed distance in mm, positive inside the brain, clipped to +-15 mm; on the scan's own grid.

        Parameters
        ----------
        volume
            A whole head on its native grid: any contrast, orientation and voxel size.
        """
        grid = self._working_grid(volume)
        image = torch.from_numpy(np.ascontiguousarray(resample(volume, grid).data))
        # Background below zero (some reconstructions have it) would shift the percentile.
        predicted = self.predict(normalise_head(image.clamp(min=0)))["distance"][0, 0]
        # Resampling pads with 0, which is the brain's surface: so count from the far end instead.
        above = Volume(predicted.cpu().numpy() + MAXIMUM_MM, grid.affine)
        native = resample(above, volume, antialias=False).data - MAXIMUM_MM
        native[~coverage(grid, volume)] = -MAXIMUM_MM
        return volume.replace(native)

    def _working_grid(self, volume: Volume) -> Grid:
        """RAS grid over the whole field of view, at least as large as the network was trained on.

        The network learned whole heads with air around them, and its group normalisation averages over
        the grid: a slab that ends at the scan's last slice is cut short unless air is added
        (n = 17 clinical scans: 945 to 1,670 ml without, 1,435 to 1,890 ml with it). Sides are multiples
        of the network's divisor: halving and doubling an odd side shifts the mask by millimetres.
        """
        grid = reference_grid(volume, spacing=self.resolution_mm)
        trained = self.card.get("input", {}).get("field_of_view_mm", (0.0, 0.0, 0.0))
        wanted = [round(extent / self.resolution_mm) for extent in trained]
        sizes = [max(self.divisor, least, size) for least, size in zip(wanted, grid.shape, strict=True)]
        missing = [n + -n % self.divisor - size for n, size in zip(sizes, grid.shape, strict=True)]
        before = np.array([m // 2 for m in missing])
        affine = grid.affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ before
        x, y, z = (size + m for size, m in zip(grid.shape, missing, strict=True))
        return Grid((x, y, z), affine)
