"""A made-up output folder for the tests of the pages: names and tables as a run writes them, tiny images."""

import json
from pathlib import Path

import numpy as np

from bidsrep.bids.names import output_path, session_dir, sidecar_path
from bidsrep.bids.outputs import output, preproc
from bidsrep.bids.scans import Scan, Session
from bidsrep.imaging.volume import Volume

CARD = {
    "Name": "pepsi",
    "Weights": "pepsi-compact-1",
    "WeightsSHA256": "ab" * 32,
    "WeightsStatus": "self-trained",
    "License": "Apache-2.0",
}
FIGURE = '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 4">\n<rect/>\n</svg>\n'
CRASH = """Node: participant.sub_{subject}.conform
Working directory: /somewhere/work

Node inputs:

in_file = /somewhere/<b>raw</b>.nii.gz

Traceback (most recent call last):
  File "node.py", line 1, in run
bidsrep.errors.ImageError: <script>alert(1)</script>.nii.gz: is cut short.

When creating this crashfile, the results file corresponding
to the node could not be found.
"""


class FakeRun:
    """Writes what a run of one model leaves in a folder."""

    def __init__(
        self,
        out_dir: Path,
        model: str = "pepsi",
        channels: int = 4,
        lesions: bool = True,
        images: bool = False,
    ) -> None:
        self.out_dir, self.model, self.channels = out_dir, model, channels
        self.lesions, self.images = lesions, images

    def session(
        self,
        subject: str,
        session: str | None = None,
        suffixes: tuple[str, ...] = ("T1w", "FLAIR"),
        *,
        volume: float = 1312.5,
        lesion: float = 3.25,
    ) -> Session:
        """Write one session with the given scans."""
        place = Session(subject, session)
        scans = [Scan(Path(f"{suffix}.nii.gz"), subject, session, suffix) for suffix in suffixes]
        for index, scan in enumerate(scans):
            self._scan(scan, scans[0], index)
        rows = [("scan", "metric", "value", "unit", "reference")]
        for index, suffix in enumerate(suffixes):
            rows.append((suffix, "brain_volume", f"{volume + 10 * index}", "ml", "n/a"))
            rows += (
                []
                if not self.lesions
                else [
                    (suffix, "lesion_volume", f"{lesion / (index + 1)}", "ml", "n/a"),
                    (suffix, "lesion_count", str(5 - index), "1", "n/a"),
                ]
            )
        if "T1w" in suffixes and "FLAIR" in suffixes:
            rows.append(("FLAIR", "correlation", "0.91", "1", "T1w"))
        table = output("metrics", self.out_dir, place, model=self.model).path
        write(table, "".join("\t".join(row) + "\n" for row in rows))
        return place

    def _scan(self, scan: Scan, reference: Scan, index: int) -> None:
        image = preproc(self.out_dir, scan, reference)
        self._image(image.path)
        raw = "_".join(
            [f"sub-{scan.subject}", *([f"ses-{scan.session}"] if scan.session else []), scan.suffix]
        )
        write_json(image.path, {"Sources": [f"bids:raw:sub-{scan.subject}/anat/{raw}.nii.gz"]})
        for kind, target in (("synthetic", "T1w"), ("lesion_probability", ""), ("lesion_mask", "")):
            if kind != "synthetic" and not self.lesions:
                continue
            made = output(kind, self.out_dir, scan, reference=reference, model=self.model, target=target)
            self._image(made.path)
            write_json(made.path, {"Model": CARD | {"Name": self.model}})
        table = output("embedding", self.out_dir, scan, model=self.model).path
        header = "\t".join(["region", "volume", *(f"channel{c:02d}" for c in range(self.channels))])
        lines = [
            "\t".join(
                [region, str(1000 + index), *(str(round(0.1 * c + index, 3)) for c in range(self.channels))]
            )
            for region in ("brain", "wm")
        ]
        write(table, "\n".join([header, *lines]) + "\n")
        write_json(table, {"Model": CARD | {"Name": self.model}})
        for desc in ("brain", f"{self.model}Synthesis", *([f"{self.model}Lesions"] if self.lesions else [])):
            write(self.figure(scan, desc), FIGURE)

    def compare(self, place: Session, suffixes: tuple[str, ...] = ("T1w", "FLAIR")) -> None:
        """Add segmentations of a session's scans, and how alike the features of the first two are."""
        scans = [Scan(Path(f"{suffix}.nii.gz"), place.subject, place.session, suffix) for suffix in suffixes]
        for index, scan in enumerate(scans):
            made = output("dseg", self.out_dir, scan, reference=scans[0], model=self.model)
            data = np.zeros((24, 28, 22))
            data[4:12, 8:20, 4 : 18 - index], data[12:20, 8:20, 4:18], data[11:13, 12:16, 4:8] = 2, 41, 16
            Volume(data, np.diag([3.0, 3.0, 3.0, 1.0])).save(made.path)
            write_json(made.path, {"Model": CARD | {"Name": self.model}})
        table = output("metrics", self.out_dir, place, model=self.model).path
        row = "\t".join((suffixes[1], "contrast_invariance", "0.72", "n/a", suffixes[0]))
        write(table, f"{table.read_text(encoding='utf-8')}{row}\n")

    def _image(self, path: Path) -> None:
        """Write an empty file, or a ball with a smaller one in it."""
        if not self.images:
            write(path, "")
            return
        far = np.linalg.norm(np.indices((24, 28, 22)) - np.array([12, 14, 11])[:, None, None, None], axis=0)
        data = (far < 3) * 1.0 if "lesion" in path.name else (far < 10) * (1.0 + 0.5 * (far < 6))
        Volume(data, np.diag([3.0, 3.0, 3.0, 1.0])).save(path)

    def figure(self, scan: Scan, desc: str) -> Path:
        """Name a figure."""
        return output_path(
            self.out_dir, scan, desc=desc, suffix=scan.suffix, extension=".svg", datatype="figures"
        )

    def crash(self, subject: str, session: str | None = None, run_uuid: str = "20260101-000000_x") -> Path:
        """Write a crash file."""
        folder = session_dir(self.out_dir, Session(subject, session), "log") / run_uuid
        return write(folder / "crash-1-conform-abc.txt", CRASH.format(subject=subject))


def write(path: Path, text: str) -> Path:
    """Write a file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_json(beside: Path, content: dict) -> Path:
    """Write the sidecar of a file."""
    return write(sidecar_path(beside), json.dumps(content))
