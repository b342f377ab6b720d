"""Run a subject again as it was recorded, and compare what comes out with what is there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bidsrep.bids.files import sha256_file, write_text
from bidsrep.bids.hashes import image_hashes, is_image
from bidsrep.bids.provenance import WITH_CONTENT
from bidsrep.bids.verify.dataset import Dataset
from bidsrep.bids.verify.findings import Finding
from bidsrep.bids.verify.records import FileRecord, Records, SessionRecord
from bidsrep.errors import BidsrepError, ExitCode, UsageError, WeightsError
from bidsrep.settings import PER_RUN, Settings

OF_THE_MACHINE = {"nprocs", "mem_gb", "low_mem", "clean_workdir", "write_graph", "resource_monitor", "quiet"}
"""Settings that do not change results; the present machine has its own."""
LABELS = ("mask", "dseg")
"""Suffixes of images whose values are labels."""

NO_SUBJECT = "--rerun: sub-{} has no record in this dataset"
NO_RAW = "--rerun: the raw dataset is not where the DatasetLink 'raw' says. Give it with --bids-dir"
NO_WEIGHTS = "the weights {} of {} (SHA-256 {}...) are not on this machine"
GIVE_WEIGHTS = "Give them with --weights {}=FILE, or add them with `bidsrep-models`"
COMPARE = (
    "Run it on a machine with the recorded versions and hardware, or say with --tolerance what may differ"
)
SEE_ABOVE = "See its messages, and run bidsrep itself on this subject"


@dataclass(frozen=True)
class Tolerance:
    """How far results may differ.

    Parameters
    ----------
    voxel : float
        Largest difference of a voxel, as a share of the image's largest magnitude, and of a number in a text,
        as a share of its magnitude or of 1, whichever is larger.
    dice : float
        Smallest Dice of any label of a mask or segmentation.
    """

    voxel: float = 0.0
    dice: float = 1.0


def rerun_subject(
    dataset: Dataset,
    records: Records,
    subject: str,
    folder: Path,
    *,
    run: Callable[[Settings], int],
    weights: Callable[[str, str], Path | None],
    tolerance: Tolerance,
) -> Iterator[Finding]:
    """Run a subject again in a temporary folder, and compare every recorded output with the new one.

    Parameters
    ----------
    dataset, records, subject
        What to repeat.
    folder : Path
        An empty folder; output and intermediate results go there.
    run : callable
        Carries settings out and gives the exit code.
    weights : callable
        Finds the weights of a model (name, SHA-256); None if they are not here.
    tolerance : Tolerance
        How far results may differ.
    """
    sessions = [session for session in records.sessions if session.subject == subject]
    if not sessions:
        raise UsageError(NO_SUBJECT.format(subject))
    if dataset.path("bids:raw:") is None:
        raise UsageError(NO_RAW)
    place = f"sub-{subject}"
    try:
        for settings in recorded_runs(dataset, sessions, folder, weights):
            code = run(settings)
            if code not in (ExitCode.OK, ExitCode.SOME_FAILED):  # a scan may have failed before, too
                yield Finding(place, "rerun", f"the run ended with exit code {code}", SEE_ABOVE)
    except BidsrepError as error:
        yield Finding(place, "rerun", f"cannot be run again: {str(error).rstrip('.')}", SEE_ABOVE)
        return
    for session in sessions:
        for file in session.files.values():
            if file.is_output and (dataset.root / file.name).is_file():
                problem = difference(file, dataset.root / file.name, folder / "out" / file.name, tolerance)
                if problem:
                    yield Finding(file.name, "rerun", problem, COMPARE)


def recorded_runs(
    dataset: Dataset,
    sessions: Sequence[SessionRecord],
    folder: Path,
    weights: Callable[[str, str], Path | None],
) -> Iterator[Settings]:
    """Give the settings that repeat what was recorded: one run for each settings that files come from."""
    wanted: dict[str, tuple[Mapping[str, Any], list[SessionRecord]]] = {}
    for session in sessions:
        for name, value in session.settings.items():
            wanted.setdefault(name, (value, []))[1].append(session)
    for number, (value, group) in enumerate(wanted.values()):
        values = {k: v for k, v in value.items() if k not in PER_RUN | OF_THE_MACHINE}
        for name in WITH_CONTENT:
            if name in values:
                path = folder / f"{number}_{name}.txt"
                write_text(path, str(values[name]))
                values[name] = str(path)
        values["derivatives"] = {name: str(dataset.links.get(name)) for name in values.get("derivatives", ())}
        labels = [session.session for session in group if session.session is not None]
        yield Settings.from_dict(
            values
            | {
                "bids_dir": str(dataset.path("bids:raw:")),
                "out_dir": str(folder / "out"),
                "work_dir": str(folder / "work"),
                "participant_label": [group[0].subject],
                "session_label": labels,
                "weights": _find_weights(group, weights),
            },
            "recorded settings",
        )


def difference(file: FileRecord, old: Path, new: Path, tolerance: Tolerance) -> str | None:
    """Say how a file made again differs from the one that is there; None if it is within the tolerance.

    Bytes are compared first, then voxels, then, where something may differ, how much does.
    """
    if not new.is_file():
        return "was not made again"
    if sha256_file(old) == sha256_file(new):
        return None
    if is_image(old):
        before = image_hashes(old)
        if before is not None and before == image_hashes(new):
            return None
        return _image_difference(old, new, tolerance)
    if old.suffix == ".svg":  # a picture of images that are compared themselves
        return None if tolerance != Tolerance() else "its bytes differ from those made again"
    return _text_difference(old, new, tolerance.voxel)


def _image_difference(old: Path, new: Path, tolerance: Tolerance) -> str | None:
    import nibabel as nib
    import numpy as np

    from bidsrep.imaging.quality import dice

    try:
        images: list[Any] = [nib.loadsave.load(path) for path in (old, new)]
        first, second = (np.asanyarray(image.dataobj) for image in images)
    except Exception as error:  # noqa: BLE001 - whatever a broken file makes a decoder raise
        return f"cannot be compared with that made again ({type(error).__name__})"
    if first.shape != second.shape or not np.allclose(images[0].affine, images[1].affine, atol=1e-4):
        return "its grid differs from that made again"
    if old.name.split(".")[0].rpartition("_")[2] in LABELS:
        labels = [label for label in np.union1d(first, second) if label]
        score, label = min(((dice(first == n, second == n), n) for n in labels), default=(1.0, 0))
        wrong = score < tolerance.dice
        return f"Dice of label {label:g} with that made again is {score:.4f}" if wrong else None
    scale = float(np.abs(first).max()) or 1.0
    share = float(np.abs(first.astype(np.float64) - second).max()) / scale
    wrong = not share <= tolerance.voxel  # NaN is wrong
    return f"a voxel differs by {share:.2g} of the largest value from that made again" if wrong else None


def _text_difference(old: Path, new: Path, tolerance: float) -> str | None:
    """Compare word by word: numbers may differ by the tolerance, all else must not."""
    try:
        first, second = (path.read_text(encoding="utf-8").split() for path in (old, new))
    except (OSError, UnicodeDecodeError):
        return "its bytes differ from those made again"
    if len(first) != len(second):
        return "has not as many entries as that made again"
    for a, b in zip(first, second, strict=True):
        x, y = _number(a), _number(b)
        if a != b and (x is None or y is None or not abs(x - y) <= tolerance * max(1.0, abs(x), abs(y))):
            return f"says {a} where that made again says {b}"
    return None


def _number(word: str) -> float | None:
    try:
        return float(word.rstrip(","))
    except ValueError:
        return None


def _find_weights(
    sessions: Sequence[SessionRecord], find: Callable[[str, str], Path | None]
) -> dict[str, str]:
    """Find the recorded weights by their hash."""
    found = {}
    for recorded in {weights for session in sessions for weights in session.weights.values()}:
        path = find(recorded.model, recorded.sha256)
        if path is None:
            problem = NO_WEIGHTS.format(recorded.id, recorded.model, recorded.sha256[:12])
            raise WeightsError(f"{problem}. {GIVE_WEIGHTS.format(recorded.model)}")
        found[recorded.model] = str(path)
    return found
