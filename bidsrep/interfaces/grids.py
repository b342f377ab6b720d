"""The reference grid, and the one interpolation that brings a scan to it."""

from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)


class ReferenceGridInputSpec(BaseInterfaceInputSpec):
    """Inputs of `ReferenceGrid`."""

    in_file = File(exists=True, mandatory=True, desc="the reference scan, conformed")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask, on its grid")
    resolution = traits.Float(1.0, usedefault=True, desc="voxel size, mm")


class ReferenceGridOutputSpec(TraitedSpec):
    """Outputs of `ReferenceGrid`."""

    out_file = File(exists=True, desc="an empty image on the grid")


class ReferenceGrid(SimpleInterface):
    """Lay a grid of cubic voxels around the brain; see `bidsrep.imaging.grids.reference_grid`."""

    input_spec = ReferenceGridInputSpec
    output_spec = ReferenceGridOutputSpec

    def _run_interface(self, runtime):  # noqa: ANN001, ANN202 (nipype's signature)
        from bidsrep.imaging.grids import Grid, reference_grid
        from bidsrep.imaging.volume import Volume

        mask = Volume.load(self.inputs.mask_file).data > 0
        grid = reference_grid(Grid.load(self.inputs.in_file), mask, self.inputs.resolution)
        empty = Volume(np.zeros(grid.shape, np.float32), grid.affine)
        out_file = empty.save(Path(runtime.cwd) / "grid.nii.gz", dtype=np.uint8, atomic=False)
        self._results["out_file"] = str(out_file)
        return runtime


class ResampleInputSpec(BaseInterfaceInputSpec):
    """Inputs of `Resample`."""

    in_file = File(exists=True, mandatory=True, desc="a conformed scan")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask, on its grid")
    grid_file = File(exists=True, mandatory=True, desc="an image on the reference grid")
    transform = File(exists=True, desc="ITK text transform to the reference; the identity without it")


class ResampleOutputSpec(TraitedSpec):
    """Outputs of `Resample`."""

    out_file = File(exists=True, desc="the scan on the reference grid, 0 outside its brain")
    out_mask = File(exists=True, desc="its brain mask on the reference grid")


class Resample(SimpleInterface):
    """Bring a scan and its brain mask to the reference grid, in one interpolation."""

    input_spec = ResampleInputSpec
    output_spec = ResampleOutputSpec

    def _run_interface(self, runtime):  # noqa: ANN001, ANN202 (nipype's signature)
        from nipype.interfaces.base import isdefined

        from bidsrep.imaging.grids import Grid
        from bidsrep.imaging.resample import resample_brain
        from bidsrep.imaging.transforms import read_itk
        from bidsrep.imaging.volume import Volume

        scan, grid = Volume.load(self.inputs.in_file), Grid.load(self.inputs.grid_file)
        matrix = read_itk(self.inputs.transform) if isdefined(self.inputs.transform) else None
        mask = Volume.load(self.inputs.mask_file)
        moved, inside = resample_brain(scan, mask, grid, matrix)
        folder = Path(runtime.cwd)
        out_file = moved.save(folder / "resampled.nii", atomic=False)
        out_mask = moved.replace(inside).save(folder / "mask.nii", np.uint8, atomic=False)
        self._results.update(out_file=str(out_file), out_mask=str(out_mask))
        return runtime
