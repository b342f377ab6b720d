"""Registration within a session: ours against ANTs as it comes, on the scans of one session.

Ours works on 2 mm grids around the brain from a start by a search; ``ants.registration`` with
``type_of_transform="Rigid"`` gets the same scans on their own grids, once with its defaults and once with the
brain mask of the fixed image. How far the two answers lie apart is the mean displacement over the brain.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Table, python, run
from benchmarks.session import wanted

WAYS = ("ours", "ANTs", "ANTs, masked")


def table(options, folder: Path) -> Table:
    """Compare processor time and answers."""
    made = Table(
        "preprocessing",
        "Rigid registration of a session's scans",
        ["scan", "way", "CPU s", "of ours", "peak GiB", "mm from ours"],
        notes=["To the T1w, one thread, reading and brain masks not counted."],
    )
    t1w, *others = scans(options)
    for scan in others:
        found = {}
        for way in WAYS:
            used = run(python("-m", "benchmarks.preprocessing", way, str(t1w), str(scan)))
            found[way] = json.loads(used.output.splitlines()[-1]) | {"gib": used.peak_gib}
        for way, one in found.items():
            suffix = scan.name.split(".")[0].rpartition("_")[2]
            made.rows.append(
                [suffix, way, one["s"], one["s"] / found["ours"]["s"], one["gib"], apart(one, found["ours"])]
            )
    return made


def scans(options) -> list[Path]:
    """List the scans of the session, the T1w first."""
    from bidsrep.bids.discovery import find_sessions
    from bidsrep.settings import Settings

    subject, session = wanted(options)
    settings = Settings(
        bids_dir=options.bids_dir,
        out_dir=Path("unused"),
        models=("pepsi",),
        participant_label=(subject,),
        session_label=(session,) if session else (),
    )
    found = find_sessions(settings)[0].scans
    return [scan.path for scan in sorted(found, key=lambda scan: scan.suffix != "T1w")]


def apart(one: dict, other: dict) -> float:
    """Mean distance (mm) between where two transforms take points of the brain."""
    import numpy as np

    points = np.array(one["points"])
    moved = [
        points @ np.array(found["matrix"])[:3, :3].T + np.array(found["matrix"])[:3, 3]
        for found in (one, other)
    ]
    return float(np.linalg.norm(moved[0] - moved[1], axis=1).mean())


def register(way: str, fixed_path: Path, moving_path: Path) -> dict:
    """Register, and time that."""
    import numpy as np

    from bidsrep.imaging._ants import import_ants, matrix_of, set_seed, to_ants
    from bidsrep.imaging.conform import conform
    from bidsrep.imaging.registration import register_rigid

    fixed, moving = (conform(path)[0] for path in (fixed_path, moving_path))
    masks = [brain(volume) for volume in (fixed, moving)]
    ants = import_ants(1)
    set_seed(0)
    start = time.process_time()
    if way == "ours":
        matrix = register_rigid(fixed, moving, *masks).matrix
    else:
        given = {"mask": to_ants(fixed.replace(masks[0]))} if way.endswith("masked") else {}
        with tempfile.TemporaryDirectory() as place:
            found = ants.registration(
                to_ants(fixed), to_ants(moving), type_of_transform="Rigid", outprefix=f"{place}/", **given
            )
            matrix = matrix_of(found["fwdtransforms"][0])
    seconds = time.process_time() - start
    inside = np.argwhere(masks[0])[:: max(1, int(masks[0].sum()) // 2000)]
    points = inside @ fixed.affine[:3, :3].T + fixed.affine[:3, 3]
    return {"s": seconds, "matrix": np.asarray(matrix).tolist(), "points": points.tolist()}


def brain(volume):
    """Find the brain with the bundled network: bool (X, Y, Z)."""
    import torch

    from bidsrep.imaging.brainmask import mask_from_distance
    from bidsrep.models.registry import load_model

    torch.set_num_threads(1)
    network = load_model("brainmask")
    return mask_from_distance(network.distance(volume), volume, network.threshold_mm)


if __name__ == "__main__":
    print(json.dumps(register(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
