"""Find the brain: take a mask that is given, recognise a stripped image, or strip it."""

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

from bidsrep.imaging.volume import Volume

EMPTY = "holds no voxel inside the field of view of the scan it belongs to"
REMEDY = "Check that it was made from this scan"


class BrainMaskInputSpec(BaseInterfaceInputSpec):
    """Inputs of `BrainMask`."""

    in_file = File(exists=True, mandatory=True, desc="a conformed scan")
    given_mask = File(desc="a mask by others, in the scan's own space; it wins")
    mode = traits.Enum("auto", "force", "skip", usedefault=True, desc="whether to strip the scan")
    method = traits.Enum("bidsrep", "synthstrip", "template", usedefault=True, desc="how to strip it")
    template = Str(desc="TemplateFlow name, for the method template")
    weights = File(nohash=True, desc="weights of the network, for the methods bidsrep and synthstrip")
    weights_sha256 = Str(desc="what identifies the weights")
    random_seed = traits.Int(0, usedefault=True, desc="for the method template")
    sloppy = traits.Bool(False, usedefault=True, desc="for the method template: fast and inaccurate")
    source = Str(nohash=True, desc="the scan in the dataset, for messages")
    device = Str("cpu", usedefault=True, nohash=True, desc="cpu, cuda or cuda:N")
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc="tells the scheduler that it takes a GPU")
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads of this step")


class BrainMaskOutputSpec(TraitedSpec):
    """Outputs of `BrainMask`."""

    out_file = File(exists=True, desc="brain mask on the scan's own grid")
    how = Str(desc="given, stripped (the scan was so already), or the method")


class BrainMask(SimpleInterface):
    """Make the brain mask of a scan."""

    input_spec = BrainMaskInputSpec
    output_spec = BrainMaskOutputSpec

    def _run_interface(self, runtime):  # noqa: ANN001, ANN202 (nipype's signature)
        scan = Volume.load(self.inputs.in_file)
        mask, how = self._find(scan)
        out_file = scan.replace(mask).save(Path(runtime.cwd) / "brain.nii", np.uint8, atomic=False)
        self._results.update(out_file=str(out_file), how=how)
        return runtime

    def _find(self, scan: Volume) -> tuple[np.ndarray, str]:
        """Give the mask (bool, X, Y, Z) and where it comes from."""
        from bidsrep.errors import ImageError, InputError
        from bidsrep.imaging.brainmask import is_stripped, mask_from_nonzero

        mode = self.inputs.mode
        try:
            if isdefined(self.inputs.given_mask):
                return self._given(scan), "given"
            if mode == "skip" or (mode == "auto" and is_stripped(scan)):
                return mask_from_nonzero(scan), "stripped"
            return getattr(self, f"_{self.inputs.method}")(scan), self.inputs.method
        except InputError as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(self.inputs.source or self.inputs.in_file, str(error)) from error

    def _given(self, scan: Volume) -> np.ndarray:
        """Bring a given mask to the scan's grid, by the headers if it is on another."""
        from bidsrep.errors import ImageError
        from bidsrep.imaging.conform import conform
        from bidsrep.imaging.resample import resample_mask

        given, _ = conform(self.inputs.given_mask)
        mask = resample_mask(given.data > 0, given, scan)
        if not mask.any():
            raise ImageError(self.inputs.given_mask, EMPTY, REMEDY)
        return mask

    def _bidsrep(self, scan: Volume) -> np.ndarray:
        import torch

        from bidsrep.imaging.brainmask import mask_from_distance
        from bidsrep.models.brainmask import BrainMask as BrainMaskNetwork
        from bidsrep.models.registry import load_model

        torch.set_num_threads(self.inputs.num_threads)
        weights = self.inputs.weights if isdefined(self.inputs.weights) else None
        model = load_model("brainmask", weights, self.inputs.device)
        assert isinstance(model, BrainMaskNetwork)
        return mask_from_distance(model.distance(scan), scan, model.threshold_mm)

    def _synthstrip(self, scan: Volume) -> np.ndarray:
        from bidsrep.imaging.synthstrip import synthstrip_mask

        return synthstrip_mask(scan, self.inputs.weights, device=self.inputs.device)

    def _template(self, scan: Volume) -> np.ndarray:
        from bidsrep.imaging.template import template_mask

        template = self.inputs.template if isdefined(self.inputs.template) else None
        return template_mask(scan, template, seed=self.inputs.random_seed, sloppy=self.inputs.sloppy)
