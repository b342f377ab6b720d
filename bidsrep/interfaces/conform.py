"""Read a scan as it comes, and leave a sane copy for the steps that follow."""

from pathlib import Path

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)


class ConformInputSpec(BaseInterfaceInputSpec):
    """Inputs of `Conform`."""

    in_file = File(mandatory=True, desc="a scan of the dataset; only ever read")


class ConformOutputSpec(TraitedSpec):
    """Outputs of `Conform`."""

    out_file = File(exists=True, desc="the scan on its own grid, float32, every value finite")
    report = traits.Dict(desc="the geometry found, and warnings")


class Conform(SimpleInterface):
    """Put the header of a scan in order; see `bidsrep.imaging.conform`."""

    input_spec = ConformInputSpec
    output_spec = ConformOutputSpec

    def _run_interface(self, runtime):  # noqa: ANN001, ANN202 (nipype's signature)
        from bidsrep.imaging.conform import conform

        volume, report = conform(self.inputs.in_file)
        out_file = volume.save(Path(runtime.cwd) / "conformed.nii", atomic=False)
        self._results.update(out_file=str(out_file), report=report)
        return runtime
