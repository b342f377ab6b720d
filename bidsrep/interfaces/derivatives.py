"""The last node of every branch: put a finished file under its final name, with its JSON beside it."""

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

DTYPES = {"mask": np.uint8, "dseg": np.int16}
"""Types on disk by suffix; everything else is float32."""


class SaveDerivativeInputSpec(BaseInterfaceInputSpec):
    """Inputs of `SaveDerivative`."""

    in_file = File(exists=True, mandatory=True, desc="the finished file")
    out_path = Str(mandatory=True, desc="where it goes; decided by the plan")
    sidecar = traits.Either(None, traits.Dict, desc="the JSON beside it; None: there is none")
    extra = traits.Dict(desc="keys of the JSON that only the computation could tell")


class SaveDerivativeOutputSpec(TraitedSpec):
    """Outputs of `SaveDerivative`."""

    out_file = File(exists=True, desc="the file under its final name")


class SaveDerivative(SimpleInterface):
    """Write a derivative and its sidecar: whole or not at all, and the same bytes in every run.

    Images are written anew (compressed, type by suffix), everything else is copied. Runs always, so that
    a file somebody deleted comes back although its branch is in the work folder.
    """

    input_spec = SaveDerivativeInputSpec
    output_spec = SaveDerivativeOutputSpec
    _always_run = True

    def _run_interface(self, runtime):  # noqa: ANN001, ANN202 (nipype's signature)
        from bidsrep.bids.files import copy_file
        from bidsrep.bids.sidecars import write_sidecar
        from bidsrep.imaging.volume import Volume

        source, path = Path(self.inputs.in_file), Path(self.inputs.out_path)
        # The sidecar goes first: an image without it would break the rules of BIDS.
        if isdefined(self.inputs.sidecar) and self.inputs.sidecar is not None:
            extra = self.inputs.extra if isdefined(self.inputs.extra) else {}
            write_sidecar(path, {**self.inputs.sidecar, **extra})
        if source.name.endswith(".nii"):
            suffix = path.name.split(".")[0].rpartition("_")[2]
            Volume.load(source).save(path, DTYPES.get(suffix, np.float32))
        else:
            copy_file(source, path)
        self._results["out_file"] = str(path)
        return runtime
