"""Rigid registration of a scan to its session's reference, and bias-field correction."""

from pathlib import Path

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)


class RegisterInputSpec(BaseInterfaceInputSpec):
    """Inputs of `Register`."""

    reference = File(exists=True, mandatory=True, desc="the reference scan, conformed")
    reference_mask = File(exists=True, mandatory=True, desc="its brain mask")
    moving = File(exists=True, mandatory=True, desc="the other scan, conformed")
    moving_mask = File(exists=True, mandatory=True, desc="its brain mask")
    random_seed = traits.Int(0, usedefault=True, desc="for the sampling of voxels")
    sloppy = traits.Bool(False, usedefault=True, desc="fast and inaccurate, for tests")


class RegisterOutputSpec(TraitedSpec):
    """Outputs of `Register`."""

    transform = File(exists=True, desc="ITK text transform that resamples the scan onto the reference")
    quality = traits.Dict(desc="mutual information before and after, and how it went")


class Register(SimpleInterface):
    """Register a scan rigidly to the reference, by mutual information inside the brain.

    On one thread: with more, two runs would not give the same bytes.
    """

    input_spec = RegisterInputSpec
    output_spec = RegisterOutputSpec

    def _run_interface(self, runtime):  # noqa: ANN001, ANN202 (nipype's signature)
        from bidsrep.imaging.registration import register_rigid
        from bidsrep.imaging.transforms import write_itk
        from bidsrep.imaging.volume import Volume

        i = self.inputs
        found = register_rigid(
            Volume.load(i.reference),
            Volume.load(i.moving),
            Volume.load(i.reference_mask).data > 0,
            Volume.load(i.moving_mask).data > 0,
            seed=i.random_seed,
            sloppy=i.sloppy,
        )
        transform = write_itk(Path(runtime.cwd) / "rigid.txt", found.matrix)
        self._results.update(transform=str(transform), quality=found.quality)
        return runtime


class BiasCorrectInputSpec(BaseInterfaceInputSpec):
    """Inputs of `BiasCorrect`."""

    in_file = File(exists=True, mandatory=True, desc="a conformed scan")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask")
    sloppy = traits.Bool(False, usedefault=True, desc="fast and inaccurate, for tests")


class BiasCorrectOutputSpec(TraitedSpec):
    """Outputs of `BiasCorrect`."""

    out_file = File(exists=True, desc="the corrected scan")


class BiasCorrect(SimpleInterface):
    """Correct the intensity non-uniformity of a scan (N4)."""

    input_spec = BiasCorrectInputSpec
    output_spec = BiasCorrectOutputSpec

    def _run_interface(self, runtime):  # noqa: ANN001, ANN202 (nipype's signature)
        from bidsrep.imaging.normalise import n4
        from bidsrep.imaging.volume import Volume

        scan, mask = Volume.load(self.inputs.in_file), Volume.load(self.inputs.mask_file).data > 0
        corrected, _ = n4(scan, mask, self.inputs.sloppy)
        out_file = corrected.save(Path(runtime.cwd) / "corrected.nii", atomic=False)
        self._results["out_file"] = str(out_file)
        return runtime
