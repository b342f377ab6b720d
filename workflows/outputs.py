"""Nodes that put finished files under their final names."""

from nipype.pipeline import engine as pe

from bidsrep.interfaces.derivatives import SaveDerivative
from bidsrep.workflows.plan import PlannedFile


def init_save_node(file: PlannedFile, name: str) -> pe.Node:
    """Build the node that writes one planned file.

    Inputs
    ------
    in_file
        The finished file.
    extra
        Keys of the sidecar that only the computation could tell.

    Outputs
    -------
    out_file
        The file under its final name.
    """
    sidecar = dict(file.sidecar) if file.sidecar is not None else None
    return pe.Node(SaveDerivative(out_path=str(file.path), sidecar=sidecar), name=name, mem_gb=0.3)
