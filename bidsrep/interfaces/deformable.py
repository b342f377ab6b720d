"""Deformable registration on a model's features: to the session's reference, or to a template."""

from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    Str,
    TraitedSpec,
    isdefined,
    traits,
)

FIELD_MM = 2.0
NOT_USABLE = "cannot be registered on features of {} ({})"
REMEDY = "Look at its brain mask in the report; give a better one with --derivatives, or exclude the scan"


class DeformInputSpec(BaseInterfaceInputSpec):
    """Inputs of `Deform`; either `reference` or `template`."""

    in_file = File(exists=True, mandatory=True, desc="the preprocessed scan, on the reference grid")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask, on the same grid")
    native_file = File(exists=True, mandatory=True, desc="the scan on its own grid")
    transform = File(exists=True, desc="ITK text transform to the reference; the identity without it")
    reference = File(exists=True, desc="the session's preprocessed reference, on the same grid")
    template = Str(desc="TemplateFlow template; empty: the one that comes with nilearn")
    model = Str(mandatory=True, desc="name of the model")
    weights = File(exists=True, mandatory=True, nohash=True, desc="its weights")
    weights_sha256 = Str(desc="what identifies the weights")
    random_seed = traits.Int(0, usedefault=True, desc="of the affine step")
    sloppy = traits.Bool(False, usedefault=True, desc="fast and inaccurate, for tests")
    source = Str(nohash=True, desc="the scan in the dataset, for messages")
    device = Str("cpu", usedefault=True, nohash=True, desc="cpu, cuda or cuda:N")
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc="tells the scheduler that it takes a GPU")
    precision = Str("auto", usedefault=True, desc="auto, fp32 or bf16")
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads of this step")


class DeformOutputSpec(TraitedSpec):
    """Outputs of `Deform`."""

    warp = File(exists=True, desc="displacement field (ITK) that resamples the scan onto the target")
    inverse = File(exists=True, desc="displacement field (ITK) that resamples the target onto the scan")
    quality = traits.Dict(desc="how it went: of the affine step if there was one, and of the deformable one")


class Deform(SimpleInterface):
    """Register a scan to the session's reference, or (affinely first) to a template.

    The fields lead to and from the scan's own space: linear steps are in them.
    """

    input_spec = DeformInputSpec
    output_spec = DeformOutputSpec

    def _run_interface(self, runtime):  # noqa: ANN001, ANN202 (nipype's signature)
        from bidsrep.errors import ImageError
        from bidsrep.imaging.grids import Grid, reference_grid
        from bidsrep.imaging.transforms import read_itk
        from bidsrep.imaging.volume import Volume

        i = self.inputs
        scan, mask = Volume.load(i.in_file), Volume.load(i.mask_file).data > 0
        try:
            found, linear, target, quality = self._register(scan, mask)
        except ValueError as error:  # an empty brain, or one too small for the network
            raise ImageError(i.source or i.in_file, NOT_USABLE.format(i.model, error), REMEDY) from error
        if isdefined(i.transform):
            linear = read_itk(i.transform) @ linear
        # Fields end where images do not: beyond them ITK would leave out the linear part as well.
        whole = reference_grid(target, spacing=FIELD_MM)
        native = reference_grid(Grid.load(i.native_file), spacing=FIELD_MM)
        folder = Path(runtime.cwd)
        warp = found.warp.after(np.eye(4), whole).then(linear).save(folder / "warp.nii.gz")
        inverse = found.inverse.after(np.linalg.inv(linear), native).save(folder / "inverse.nii.gz")
        self._results.update(warp=str(warp), inverse=str(inverse), quality=quality | found.quality)
        return runtime

    def _register(self, scan, mask):  # noqa: ANN001, ANN202 (torch is imported when it runs)
        """Give what was found, the linear map (4, 4) before it, the target's grid, and the linear quality."""
        import torch

        from bidsrep.imaging.grids import Grid
        from bidsrep.imaging.volume import Volume
        from bidsrep.models.deformable import register_deformable
        from bidsrep.models.registry import load_model
        from bidsrep.tasks.registration import SLOPPY, RegistrationSettings

        i = self.inputs
        torch.set_num_threads(i.num_threads)
        model = load_model(i.model, i.weights, i.device, i.precision)  # once per process
        settings = SLOPPY if i.sloppy else RegistrationSettings()
        if isdefined(i.reference):
            fixed = Volume.load(i.reference)
            found = register_deformable(model, fixed, scan, fixed.data > 0, mask, settings)
            return found, np.eye(4), Grid.of(fixed), {}
        fixed, brain, moved, moved_mask, affine = self._on_template(scan, mask)
        found = register_deformable(model, fixed, moved, brain, moved_mask, settings)
        return found, affine.matrix, Grid.of(fixed), {"affine": affine.quality}

    def _on_template(self, scan, mask):  # noqa: ANN001, ANN202
        """Give the template, its brain, the scan and its brain on the template's grid, and the affine step."""
        from bidsrep.imaging.grids import reference_grid
        from bidsrep.imaging.resample import resample, resample_mask
        from bidsrep.imaging.template import affine_to_template, load_template

        x, y, z = (float(size) for size in scan.spacing)
        template, brain = load_template(self.inputs.template or None, resolution=1)
        affine = affine_to_template(
            scan, template, brain, mask, seed=self.inputs.random_seed, sloppy=self.inputs.sloppy
        )
        grid = reference_grid(template, spacing=(x, y, z))
        moved_mask = resample_mask(mask, scan, grid, affine.matrix)
        moved = resample(scan, grid, affine.matrix)
        return resample(template, grid), resample_mask(brain, template, grid), moved, moved_mask, affine
