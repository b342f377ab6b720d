"""From the probability of a lesion to lesions, on the reference grid or on the scan's own."""

from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)


class LesionMaskInputSpec(BaseInterfaceInputSpec):
    """Inputs of `LesionMask`."""

    in_file = File(exists=True, mandatory=True, desc="probability of a lesion, on the reference grid")
    mask_file = File(exists=True, mandatory=True, desc="brain mask, on the grid of the output")
    native_file = File(exists=True, desc="the conformed scan: its grid is used instead of the reference's")
    transform = File(exists=True, desc="ITK text transform from the scan to the reference")
    threshold = traits.Range(
        0.0, 1.0, value=0.5, usedefault=True, desc="probability from which a voxel counts"
    )
    min_volume = traits.Float(0.0, usedefault=True, desc="smaller lesions are dropped, ml")


class LesionMaskOutputSpec(TraitedSpec):
    """Outputs of `LesionMask`."""

    out_file = File(exists=True, desc="lesion mask")


class LesionMask(SimpleInterface):
    """Call voxels lesion by their probability, and drop what is too small to be one.

    For a mask on the scan's own grid it is the probability that is interpolated, not a mask.
    """

    input_spec = LesionMaskInputSpec
    output_spec = LesionMaskOutputSpec

    def _run_interface(self, runtime):  # noqa: ANN001, ANN202 (nipype's signature)
        from bidsrep.imaging.grids import Grid
        from bidsrep.imaging.lesions import find_lesions
        from bidsrep.imaging.resample import resample
        from bidsrep.imaging.transforms import read_itk
        from bidsrep.imaging.volume import Volume

        probability = Volume.load(self.inputs.in_file)
        if isdefined(self.inputs.native_file):
            matrix = None
            if isdefined(self.inputs.transform):
                matrix = np.linalg.inv(read_itk(self.inputs.transform))
            probability = resample(probability, Grid.load(self.inputs.native_file), matrix)
        lesions = find_lesions(
            probability.data,
            probability.voxel_ml,
            self.inputs.threshold,
            self.inputs.min_volume,
            within=Volume.load(self.inputs.mask_file).data > 0,
        )
        out = probability.replace(lesions.mask)
        out_file = out.save(Path(runtime.cwd) / "lesions.nii", np.uint8, atomic=False)
        self._results["out_file"] = str(out_file)
        return runtime
