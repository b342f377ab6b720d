"""Damaged inputs by the thousand, read as a run reads them.

Every input must be taken or refused. A refusal names the file; an exception that does not, or that is none of those
the product raises on purpose, is a traceback a user cannot do anything with. The inputs are read in processes of their
own, with limits on memory and time, so that a crash or a hang is seen and counted, too.
"""

import json
import logging
import os
import random
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from . import mutations

MEMORY = 8 << 30
"""Bytes of address space a reading process has; the libraries take one or two of them."""
CASE_S = 60
"""Seconds a single input may take."""
BATCH = 500
"""Inputs that one process reads."""
TAKEN, REFUSED, NAMELESS = "taken", "refused by name", "nameless"

METADATA = {
    "RepetitionTime": 2.3, "EchoTime": 0.003, "InversionTime": 0.9, "ScanningSequence": ["GR", "IR"],
    "MagneticFieldStrength": 3, "Nested": {"a": [1, {"b": None}]},
}  # fmt: skip
FILTERS = {
    "t1w": {"suffix": "T1w", "acquisition": ["mprage", None], "run": 1, "ceagent": None},
    "flair": {"datatype": "anat", "suffix": ["FLAIR"], "part": "*", "session": "Query.ANY"},
    "bold": {"task": "rest"},
}
DESCRIPTION = {
    "Name": "x", "BIDSVersion": "1.9.0", "DatasetType": "raw", "DatasetDOI": "doi:10.1/x",
    "GeneratedBy": [{"Name": "bidsrep", "Version": "0.0.1"}], "DatasetLinks": {"raw": "file:///x"},
}  # fmt: skip
METRICS = "scan\tmetric\tvalue\tunit\treference\nT1w\tbrain_volume\t1100.5\tml\tn/a\nFLAIR\tmask_dice\t0.95\t\tT1w\n"
SETTINGS = (
    'models = ["pepsi"]\nresolution = 1.0\nnprocs = 2\nsloppy = true\n[weights]\npepsi = "a.safetensors"\n'
)
PLUGIN = "plugin: MultiProc\nplugin_args: {n_procs: 2, memory_gb: 4}\n"


@dataclass
class Tally:
    """What became of the inputs: `counts` by kind and outcome, `findings` in words."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    crashes: int = 0
    hangs: int = 0
    findings: list[str] = field(default_factory=list)
    minutes: float = 0.0

    @property
    def good(self) -> bool:
        """Whether no input was a traceback without a name, a crash or a hang."""
        return not (self.crashes or self.hangs or self._sum(NAMELESS))

    def _sum(self, outcome: str, kind: str | None = None) -> int:
        return sum(n for (k, o), n in self.counts.items() if o == outcome and kind in (None, k))

    def rows(self) -> list[tuple[str, object]]:
        """Give the figures, for a table."""
        rows: list[tuple[str, object]] = [
            (
                f"damaged inputs: {kind}",
                f"{sum(self._sum(o, kind) for o in (TAKEN, REFUSED, NAMELESS))} "
                f"({self._sum(TAKEN, kind)} taken, {self._sum(REFUSED, kind)} refused by name)",
            )
            for kind in KINDS
        ]
        return [
            *rows,
            ("damaged inputs in all", sum(self.counts.values())),
            ("tracebacks that do not name the file", self._sum(NAMELESS)),
            ("crashes of the process", self.crashes),
            (f"inputs that took more than {CASE_S} s", self.hangs),
            ("minutes", f"{self.minutes:.1f}"),
        ]


def fuzz(seconds: float, seed: int, most: int | None = None) -> Tally:
    """Try damaged inputs for some time, or until there were enough."""
    tally = Tally()
    _warm_up()
    started = time.monotonic()
    number = 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() - started < seconds and (most is None or number < most):
            left = BATCH if most is None else min(BATCH, most - number)
            number += _batch(Path(folder), f"{seed}", number, left, started + seconds, tally)
    tally.minutes = (time.monotonic() - started) / 60
    return tally


def _batch(folder: Path, seed: str, first: int, count: int, until: float, tally: Tally) -> int:
    """Have one process try some inputs; give how many it got through, with the one that ended it."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.close(reader)
            _limit()
            with os.fdopen(writer, "w") as stream:
                for number in range(first, first + count):
                    if time.monotonic() > until:
                        break
                    stream.write(json.dumps([number]) + "\n")
                    stream.flush()
                    signal.alarm(CASE_S)
                    outcome = try_one(folder, f"{seed}-{number}")
                    signal.alarm(0)
                    stream.write(json.dumps(outcome) + "\n")
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    done, pending = 0, None
    with os.fdopen(reader) as stream:
        for line in stream:
            answer = json.loads(line)
            if len(answer) == 1:
                pending = answer[0]
                continue
            pending, done = None, done + 1
            kind, outcome, text = answer
            tally.counts[kind, outcome] += 1
            if outcome == NAMELESS:
                tally.findings.append(f"{kind}, seed {seed}-{first + done - 1}: {text}")
    _, status = os.waitpid(process, 0)
    if pending is not None:
        done += 1
        ended = os.waitstatus_to_exitcode(status)
        tally.hangs += ended == -signal.SIGALRM
        tally.crashes += ended != -signal.SIGALRM
        tally.findings.append(f"seed {seed}-{pending}: the process ended with {ended}")
    return max(done, 1)


def _warm_up() -> None:
    """Import once what every process needs; nothing is computed, for threads would not survive the fork."""
    import nibabel
    import yaml

    from bidsrep.bids import acquisition, dataset, derivatives, hashes, reference
    from bidsrep.imaging import conform
    from bidsrep.models import checkpoints, weights
    from bidsrep.workflows import execution, ledger

    del nibabel, yaml, acquisition, dataset, derivatives, hashes, reference, conform, checkpoints, weights
    del execution, ledger
    _sound_hash(), _sound_checkpoint()


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.getLogger("bidsrep").addHandler(logging.NullHandler())
    logging.getLogger("nibabel").setLevel(logging.CRITICAL)
    logging.raiseExceptions = False


def try_one(folder: Path, seed: str) -> tuple[str, str, str]:
    """Damage one input and read it; give its kind, what came of it, and the traceback if that was bad."""
    from bidsrep.errors import BidsrepError

    chance = random.Random(seed)
    kind = chance.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    place = folder / "input"
    place.mkdir(exist_ok=True)
    name = ""
    try:
        name, read = KINDS[kind][1](place, chance)
        read()
    except BidsrepError as error:
        if name and name in str(error):
            return kind, REFUSED, ""
        return kind, NAMELESS, f"{name} is not in: {error}"
    except Exception:  # noqa: BLE001 - this is what is looked for
        return kind, NAMELESS, traceback.format_exc()
    return kind, TAKEN, ""


Case = tuple[str, Callable[[], object]]


def _image(folder: Path, chance: random.Random) -> Case:
    from bidsrep.bids.derivatives import on_same_grid
    from bidsrep.bids.hashes import geometry_hash, gzip_crc, image_hashes
    from bidsrep.bids.reference import header_zooms
    from bidsrep.imaging.conform import conform

    name, content = mutations.damaged_image(chance)
    path = folder / name
    path.write_bytes(content)

    def read() -> None:
        header_zooms(path)
        for look in (geometry_hash, image_hashes, gzip_crc):
            look(path)
        on_same_grid(path, path)
        volume, report = conform(path)
        json.dumps(report, allow_nan=False)
        assert volume.data.ndim == 3
        assert abs(float(volume.data.mean(dtype="f8"))) < float("inf")

    return name, read


def _intermediate(folder: Path, chance: random.Random) -> Case:
    from bidsrep.imaging.volume import Volume

    name, content = mutations.damaged_image(chance)
    (folder / name).write_bytes(content)
    return name, lambda: Volume.load(folder / name)


def _sidecar(folder: Path, chance: random.Random) -> Case:
    from bidsrep.bids import scans
    from bidsrep.bids.acquisition import acquisition_parameters
    from bidsrep.bids.derivatives import find_derivatives

    path = folder / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in ("sub-01_FLAIR.json", "sub-01_desc-brain_mask.json"):
        content = METADATA if "FLAIR" in name else {"Sources": ["bids:raw:sub-01/anat/sub-01_FLAIR.nii.gz"]}
        (path.parent / name).write_bytes(mutations.damaged_json(content, chance))
    path.write_bytes(mutations.image(chance))
    (path.parent / "sub-01_desc-brain_mask.nii.gz").write_bytes(mutations.image(chance))
    scan = scans.Scan(path, "01", None, "FLAIR", {}, folder)

    def read() -> None:
        scans._json_names.cache_clear()
        find_derivatives({"given": folder}, scan, "mask")
        acquisition_parameters(path, "FLAIR", scan.metadata())

    return path.name, read


def _filter(folder: Path, chance: random.Random) -> Case:
    from bidsrep.bids.filters import scan_filters
    from bidsrep.bids.scans import parse_name

    path = folder / "filter.json"
    path.write_bytes(mutations.damaged_json(FILTERS, chance))
    names = [
        parse_name(f"sub-01_{rest}.nii.gz") for rest in ("T1w", "acq-mprage_run-01_T1w", "part-mag_FLAIR")
    ]

    def read() -> None:
        filters = scan_filters(("T1w", "FLAIR"), path)
        for scan_filter in filters:
            for name in names:
                assert name is not None
                scan_filter.accepts(name)

    return path.name, read


def _description(folder: Path, chance: random.Random) -> Case:
    from bidsrep.bids.dataset import dataset_description
    from bidsrep.settings import Settings

    path = folder / "dataset_description.json"
    path.write_bytes(mutations.damaged_json(DESCRIPTION, chance))
    settings = Settings(bids_dir=folder, out_dir=folder)
    return path.name, lambda: json.dumps(dataset_description(settings), allow_nan=False)


def _table(folder: Path, chance: random.Random) -> Case:
    from bidsrep.bids.dataset import descriptions_tsv
    from bidsrep.settings import Settings

    path = folder / "descriptions.tsv"
    path.write_bytes(
        mutations.damaged_text("desc_id\tdescription\ndesc-preproc\tx\ndesc-a\tb\n" + METRICS, chance)
    )
    settings = Settings(bids_dir=folder, out_dir=folder)
    return path.name, lambda: descriptions_tsv(settings, ["T1w"])


def _ledger(folder: Path, chance: random.Random) -> Case:
    from bidsrep.bids.scans import Session
    from bidsrep.workflows import ledger

    session = Session("01", None)
    wanted = {
        "version": "1", "settings": {"sloppy": True}, "weights": {"pepsi": "a"},
        "inputs": {"a.nii": {"size": 1, "sha256": "b"}}, "files": ["sub-01/anat/x.json"],
    }  # fmt: skip
    file = folder / "sub-01" / "anat" / "x.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("x")
    path = ledger.ledger_path(folder, session, "pepsi")
    path.parent.mkdir(parents=True, exist_ok=True)
    outputs = {"sub-01/anat/x.json": {"size": 1, "sha256": "c", "mtime_ns": 1}}
    path.write_bytes(
        mutations.damaged_json({"fingerprint": wanted, "outputs": outputs, "failed": ["T1w"]}, chance)
    )

    def read() -> None:
        ledger.why_stale(session, "pepsi", wanted, folder)
        ledger.is_complete(session, "pepsi", folder)
        ledger.record(session, "pepsi", wanted, [file], folder)

    return path.name, read


def _settings(folder: Path, chance: random.Random) -> Case:
    from bidsrep.settings import read_toml
    from bidsrep.workflows.execution import _plugin_of_file

    if chance.random() < 0.5:
        path = folder / "bidsrep.toml"
        path.write_bytes(mutations.damaged_text(SETTINGS, chance))
        return path.name, lambda: read_toml(path)
    path = folder / "plugin.yml"
    path.write_bytes(mutations.damaged_text(PLUGIN, chance))
    return path.name, lambda: _plugin_of_file(path)


def _weights(folder: Path, chance: random.Random) -> Case:
    import hashlib

    from bidsrep.models.weights import card_path, read_weights

    path = folder / "pepsi.safetensors"
    content, card = _sound_weights()
    if chance.random() < 0.7:
        content = chance.choice((mutations.odd_bytes, mutations.cut, mutations.extended))(content, chance)
        if chance.random() < 0.7:  # whoever made it wrote the card, too
            card = card.replace(_sound_hash(), hashlib.sha256(content).hexdigest())
    path.write_bytes(content)
    card_path(path).write_bytes(
        mutations.damaged_text(card, chance) if chance.random() < 0.4 else card.encode()
    )
    return path.stem, lambda: read_weights(path)


def _checkpoint(folder: Path, chance: random.Random) -> Case:
    from bidsrep.models.checkpoints import read_checkpoint

    path = folder / "pepsi.pth"
    content = _sound_checkpoint()
    for _ in range(chance.choice((1, 1, 2, 4))):
        content = chance.choice((mutations.odd_bytes, mutations.cut, mutations.extended))(content, chance)
    path.write_bytes(content)
    return path.name, lambda: read_checkpoint([path])


@cache
def _sound_weights() -> tuple[bytes, str]:
    from random_weights import write_random_weights

    from bidsrep.models.weights import card_path

    with tempfile.TemporaryDirectory() as folder:
        path = write_random_weights(Path(folder), "pepsi", f_maps=8, num_levels=2)
        return path.read_bytes(), card_path(path).read_text()


@cache
def _sound_hash() -> str:
    import hashlib

    return hashlib.sha256(_sound_weights()[0]).hexdigest()


@cache
def _sound_checkpoint() -> bytes:
    import io

    import torch

    stream = io.BytesIO()
    torch.save({"model": {"backbone.a": torch.zeros(3), "head.b": torch.ones(2)}, "epoch": 3}, stream)
    return stream.getvalue()


KINDS: dict[str, tuple[int, Callable[[Path, random.Random], Case]]] = {
    "images (NIfTI headers, gzip streams)": (45, _image),
    "images of the work folder": (5, _intermediate),
    "sidecars (JSON)": (15, _sidecar),
    "filter files (JSON)": (8, _filter),
    "dataset descriptions (JSON)": (5, _description),
    "tables (TSV)": (4, _table),
    "records of finished work (JSON)": (6, _ledger),
    "settings and plugin files (TOML, YAML)": (5, _settings),
    "weights and their cards": (4, _weights),
    "checkpoints (PyTorch)": (3, _checkpoint),
}
"""Kinds of inputs: how often each is drawn, and what writes one and says how it is read."""
