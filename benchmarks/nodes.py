"""What a node costs that does nothing: Nipype's own plugins against ours, on chains of three, as sessions have them."""

import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Table, python, run

WAYS = {
    "ours, in line": "linear",
    "Nipype Linear": "nipype-linear",
    "ours, processes": "multiproc",
    "Nipype MultiProc, 0.02 s poll": "nipype-multiproc-fast",
    "Nipype MultiProc, as it comes": "nipype-multiproc",
}
CHAIN = 3
CHAINS = 33
FEW_CHAINS = 4
"""Of the plugin as it comes: it takes seconds a node."""


def table(options, folder: Path) -> Table:
    """Compare the plugins; the cost of starting is that of a graph of one chain, and taken off."""
    processes = max(options.processes)
    made = Table(
        "nodes",
        "Overhead per node",
        ["plugin", "wall ms per node", "CPU ms per node"],
        notes=[
            f"Function nodes in chains of {CHAIN}; {processes} processes where there are any; start-up taken off."
        ],
    )
    for name, way in WAYS.items():
        chains = FEW_CHAINS if way == "nipype-multiproc" else CHAINS
        small, large = (
            run(python("-m", "benchmarks.nodes", way, str(processes), str(count))) for count in (1, chains)
        )
        count = CHAIN * (chains - 1)
        made.rows.append(
            [name, 1000 * (large.wall_s - small.wall_s) / count, 1000 * (large.cpu_s - small.cpu_s) / count]
        )
    return made


def run_chains(way: str, processes: int, chains: int, folder: Path) -> None:
    """Run a graph that does nothing."""
    from bidsrep.settings import Settings
    from bidsrep.workflows.execution import configure_nipype, make_plugin

    settings = Settings(
        bids_dir=folder, out_dir=folder / "out", models=("pepsi",), nprocs=1 if way == "linear" else processes
    )
    configure_nipype(settings, folder)
    from nipype import config
    from nipype.interfaces.utility import Function
    from nipype.pipeline import engine as pe

    workflow = pe.Workflow("chains", base_dir=folder)
    for chain in range(chains):
        before = None
        for step in range(CHAIN):
            node = pe.Node(Function(["x"], ["y"], _same), name=f"n{chain}_{step}")
            if before is None:
                node.inputs.x = 1
                workflow.add_nodes([node])
            else:
                workflow.connect(before, "y", node, "x")
            before = node
    if way == "nipype-multiproc":
        config.set("execution", "poll_sleep_duration", "2")
        workflow.config["execution"]["poll_sleep_duration"] = 2
    if way.startswith("nipype"):
        plugin = "Linear" if way.endswith("linear") else "MultiProc"
        workflow.run(plugin, {"n_procs": processes, "raise_insufficient": False})
    else:
        plugin, arguments = make_plugin(settings, isolate=False)
        workflow.run(plugin, arguments)


def _same(x):
    return x


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        run_chains(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(place))
