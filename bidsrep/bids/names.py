"""The names of what we write: one function decides every path, so that none can disagree with BIDS.

The order of the entities is that of BIDS 1.11 (``space … seg res label desc``); ``from``, ``to`` and
``mode`` are not in the standard yet and stand where fMRIPrep puts them.
"""

import re
from pathlib import Path

from bidsrep.bids.scans import Scan, Session

SIDE_BY_SIDE = (".nii.gz", ".nii", ".tsv", ".txt", ".h5")


def sanitise(label: str) -> str:
    """Reduce `label` to the characters BIDS allows in one: letters, digits and plus.

    >>> sanitise("1 mm"), sanitise("brain-id")
    ('1mm', 'brainid')
    """
    clean = re.sub(r"[^0-9a-zA-Z+]", "", label)
    if not clean:
        msg = f"{label!r} has no character that may stand in a BIDS label"
        raise ValueError(msg)
    return clean


def natural(label: str) -> tuple[list[str | int], str]:
    """Give the key that sorts labels as people count: numbers in them by their value.

    >>> sorted(["10", "2", "1"], key=natural)
    ['1', '2', '10']
    """
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", label)], label


def resolution_label(resolution: float) -> str:
    """Name an isotropic voxel size (mm) for ``res-``.

    >>> resolution_label(1.0), resolution_label(0.8)
    ('1mm', '0p8mm')
    """
    return f"{resolution:g}mm".replace(".", "p")


def output_path(
    out_dir: Path,
    scan_or_session: Scan | Session,
    *,
    space: str | None = None,
    res: str | None = None,
    seg: str | None = None,
    label: str | None = None,
    desc: str | None = None,
    from_: str | None = None,
    to: str | None = None,
    mode: str | None = None,
    suffix: str,
    extension: str,
    datatype: str = "anat",
) -> Path:
    """Name a derivative of a scan (keeps acq, ce, rec, run, part) or of a whole session.

    With ``datatype="figures"`` the file goes to the subject's ``figures``, which sessions share.
    """
    if not extension.startswith("."):
        msg = f"an extension starts with a dot, got {extension!r}"
        raise ValueError(msg)
    wanted = {
        "space": space,
        "from": from_,
        "to": to,
        "mode": mode,
        "seg": seg,
        "res": res,
        "label": label,
        "desc": desc,
    }
    parts = scan_or_session.name_parts | {k: sanitise(v) for k, v in wanted.items() if v is not None}
    name = "_".join(f"{key}-{value}" for key, value in parts.items())
    return session_dir(out_dir, scan_or_session, datatype) / f"{name}_{suffix}{extension}"


def session_dir(out_dir: Path, scan_or_session: Scan | Session, datatype: str = "anat") -> Path:
    """Give the folder of one datatype: ``sub-01/[ses-A/]anat``, or ``sub-01/figures``."""
    folder = out_dir / f"sub-{scan_or_session.subject}"
    if scan_or_session.session is not None and datatype != "figures":
        folder /= f"ses-{scan_or_session.session}"
    return folder / datatype


def log_dir(out_dir: Path, scan_or_session: Scan | Session, run_uuid: str) -> Path:
    """Give the folder for one run's settings and crash files: ``sub-01/[ses-A/]log/<run uuid>``."""
    return session_dir(out_dir, scan_or_session, "log") / run_uuid


def report_path(out_dir: Path, subject: str) -> Path:
    """Give the path of a subject's page."""
    return out_dir / f"sub-{subject}.html"


def sidecar_path(path: Path) -> Path:
    """Give the path of the JSON file that describes `path`.

    >>> sidecar_path(Path("sub-01_T1w.nii.gz")).name
    'sub-01_T1w.json'
    """
    for extension in SIDE_BY_SIDE:
        if path.name.endswith(extension):
            return path.with_name(path.name.removesuffix(extension) + ".json")
    return path.with_suffix(".json")
