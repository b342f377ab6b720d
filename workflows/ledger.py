"""What makes a second run do no work: a record, beside the results, of what they were made from.

Each session has one per model, ``sub-01/[ses-A/]log/completed-pepsi.json``. It is written when every
planned file is there, and does not depend on the work folder. The work is left alone if the record says
the same inputs, settings, weights and version as the run at hand, and its files are as recorded.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bidsrep import __version__
from bidsrep.bids.files import read_json, sha256_file, write_json
from bidsrep.bids.names import session_dir
from bidsrep.bids.scans import Session
from bidsrep.settings import Settings
from bidsrep.workflows.plan import ModelSpec, SessionPlan

DECISIVE = (
    "tasks",
    "save_features",
    "target_contrast",
    "skull_strip",
    "skull_strip_method",
    "template",
    "resolution",
    "anatomical_reference",
    "bias_correct",
    "output_spaces",
    "deformable",
    "lesion_threshold",
    "min_lesion_volume",
    "random_seed",
    "precision",
    "sloppy",
)
"""Settings that change what is written; the others say where, how fast and with which machine."""

PREPARING = (
    "skull_strip",
    "skull_strip_method",
    "template",
    "resolution",
    "anatomical_reference",
    "bias_correct",
    "random_seed",
    "sloppy",
)
"""Those of them that change the prepared scans, which all models of a session share."""
States = dict[Path, dict[str, Any]]
"""Size and SHA-256 of files, so that models that share them do not each read them."""

NEVER_DONE = "not done before"


def fingerprint(
    plan: SessionPlan, settings: Settings, model: ModelSpec, known: States | None = None
) -> dict[str, Any]:
    """Describe everything that one model's results in a session depend on; `plan` is for it alone.

    Files that are `known` are not read again; the others are added.
    """
    known = {} if known is None else known
    values = settings.to_dict()
    inputs = [scan.scan.path for scan in plan.scans]
    given = (mask for scan in plan.scans for mask in (scan.given_mask, scan.given_lesions))
    inputs += [mask.path for mask in given if mask is not None]
    acquisition = {
        scan.scan.key: str(prediction.acquisition)
        for scan in plan.scans
        for prediction in scan.predictions
        if prediction.acquisition is not None
    }
    return {
        **({"acquisition": acquisition} if acquisition else {}),
        "version": __version__,
        "settings": {name: values.get(name) for name in DECISIVE},
        "weights": {model.name: model.entry.get("WeightsSHA256"), **model.other_weights},
        "inputs": {path.name: _state(path, known) for path in inputs},
        "files": sorted(_relative(path, settings.out_dir) for path in plan.paths()),
    }


def why_stale(session: Session, model: str, wanted: Mapping[str, Any], out_dir: Path) -> str | None:
    """Say why a model's results must be computed (again); None if all is there and up to date."""
    known = _read(ledger_path(out_dir, session, model))
    if known is None:
        return NEVER_DONE
    if known.get("failed"):
        return f"{', '.join(known['failed'])} failed before"
    before = known["fingerprint"]
    for part, noun in (("inputs", "input"), ("settings", "setting"), ("weights", "weights of")):
        changed = _changed(before.get(part, {}), wanted[part])
        if changed:
            return f"{noun} {', '.join(changed)} changed"
    if before.get("version") != wanted["version"]:
        return f"made by version {before.get('version')}, this is {wanted['version']}"
    if before.get("files") != wanted["files"]:
        return "other files are wanted"
    for name, state in known["outputs"].items():
        path = out_dir / name
        if missing_files([path]):
            return f"{name} is missing"
        if not _unchanged(path, state):
            return f"{name} was changed"
    return None


def left_behind(
    session: Session, model: str, wanted: Mapping[str, Any], out_dir: Path
) -> dict[str, list[str]]:
    """Map other models, recorded in a session, to what their prepared scans differ in from those that ``model`` makes.

    The files have the same names: carrying out ``wanted`` replaces what those models' results were made from.
    """
    found = {}
    for path in sorted(session_dir(out_dir, session, "log").glob("completed-*.json")):
        other, known = path.stem.removeprefix("completed-"), _read(path)
        if known is None or other == model:
            continue
        before = known["fingerprint"]
        changed = [
            name for name in _changed(before.get("settings", {}), wanted["settings"]) if name in PREPARING
        ]
        for part in ("inputs", "weights"):
            then, now = before.get(part, {}), wanted[part]
            changed += sorted(name for name in then.keys() & now.keys() if then[name] != now[name])
        changed += ["reference"] if _references(before) != _references(wanted) else []
        if changed:
            found[other] = changed
    return found


def _references(fingerprint: Mapping[str, Any]) -> set[str]:
    """Name the prepared scans that lay the grid: those that lie in no other one's space."""
    return {
        name for name in fingerprint.get("files", ()) if "_desc-preproc_" in name and "_space-" not in name
    }


def is_complete(session: Session, model: str, out_dir: Path) -> bool:
    """Tell whether a model's results in a session are recorded, without failures, and still there.

    Nothing is read but names: whether they are up to date only `why_stale` can tell.
    """
    known = _read(ledger_path(out_dir, session, model))
    return (
        known is not None
        and not known.get("failed")
        and not missing_files(out_dir / f for f in known["outputs"])
    )


def record(
    session: Session,
    model: str,
    wanted: Mapping[str, Any],
    paths: Sequence[Path],
    out_dir: Path,
    failed: Sequence[str] = (),
    known: States | None = None,
) -> Path:
    """Write what a model made of a session, and drop what an earlier, different run left of it.

    If scans `failed`, the next run tries again, and nothing is dropped until it succeeds. Files that are `known` are
    not read again; the others are added.
    """
    path = ledger_path(out_dir, session, model)
    known = {} if known is None else known
    outputs = {
        _relative(p, out_dir): _state(p, known) | {"mtime_ns": p.stat().st_mtime_ns} for p in sorted(paths)
    }
    before = _read(path) or {}
    leftovers = {*before.get("outputs", {}), *before.get("leftovers", [])} - outputs.keys()
    if not failed:
        for name in leftovers:
            _remove(out_dir, name)
        leftovers = set()
    content: dict[str, Any] = {"fingerprint": wanted, "outputs": outputs}
    if failed:
        content |= {"failed": sorted(failed), "leftovers": sorted(leftovers)}
    write_json(path, content)
    return path


def missing_files(paths: Iterable[Path]) -> list[Path]:
    """List the planned files that are not there; where a name cannot even be looked up, there is none."""
    return [path for path in paths if not os.path.isfile(path)]


def ledger_path(out_dir: Path, session: Session, model: str) -> Path:
    """Give the place of the record of one model in a session."""
    return session_dir(out_dir, session, "log") / f"completed-{model}.json"


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))


def _state(path: Path, known: States) -> dict[str, Any]:
    if path not in known:
        try:
            known[path] = {"size": path.stat().st_size, "sha256": sha256_file(path)}
        except OSError:  # reading it in the graph says what is wrong; it just never counts as done
            known[path] = {"size": None, "sha256": None}
    return known[path]


def _unchanged(path: Path, state: Mapping[str, Any]) -> bool:
    """Compare a file with its record; the content is read only where size and time do not settle it."""
    now = path.stat()
    if now.st_size != state["size"]:
        return False
    return now.st_mtime_ns == state["mtime_ns"] or sha256_file(path) == state["sha256"]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if _is_record(content) else None


def _is_record(content: Any) -> bool:
    """Tell whether something has the form of what `record` writes."""
    match content:
        case {"fingerprint": dict(fingerprint), "outputs": dict(outputs)}:
            parts = (fingerprint.get(name, {}) for name in ("inputs", "settings", "weights"))
            names = (content.get(name, []) for name in ("failed", "leftovers"))
            return (
                all(isinstance(part, dict) for part in parts)
                and all(
                    isinstance(s, dict) and {"size", "sha256", "mtime_ns"} <= s.keys()
                    for s in outputs.values()
                )
                and all(isinstance(n, list) and all(isinstance(item, str) for item in n) for n in names)
            )
    return False


def _remove(out_dir: Path, name: str) -> None:
    """Delete a file of an earlier run that the present one does not make, but nothing outside the output folder."""
    path = out_dir / name
    try:
        if path.parent.resolve().is_relative_to(out_dir.resolve()):
            path.unlink(missing_ok=True)
    except (OSError, ValueError):  # a folder, a name no file can have: not what a run has written
        pass


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
