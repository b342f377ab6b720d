"""Downloads of published weights: only over a known SHA-256, whole or not at all; a cut one is continued."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bidsrep.errors import WeightsError
from bidsrep.models.library import Published

NO_NETWORK = (
    "{}: {} could not be downloaded ({}). On a machine without internet, get {} elsewhere and run "
    "`bidsrep-models add {} {}`"
)
OTHER_FILE = (
    "{}: what {} gave is not the file that is known (its SHA-256 is not {}). It was thrown away: try again, and "
    "if it stays so, the authors have changed the file"
)
CUT = "the download broke off; what has come is kept, and the same command goes on from there"
BLOCK = 2**13  # bytes; what has come of the last one is lost with a cut
NO_ROOM = "{}: cannot be written ({}). Choose another folder with --models-dir"


def fetch(row: Published, folder: Path) -> Path:
    """Download the checkpoint of ``row``, check its SHA-256, convert it into ``folder``; return the weights.

    A file of an earlier call is taken again if it is still the right one, a part of it is continued.

    Raises
    ------
    WeightsError
        If there is no network or no room, the file is another one, or is not what the method's code writes.
    """
    import pooch
    import requests

    from bidsrep.models.checkpoints import convert

    downloads = folder / "downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        file = pooch.retrieve(
            row.url,
            f"sha256:{row.sha256}",
            fname=row.file,
            path=downloads,
            downloader=ContinuingDownloader(downloads / f"{row.file}.{row.sha256[:8]}.part"),
        )
    except requests.RequestException as error:  # before OSError, whose kind it is
        reason = str(error).splitlines()[0]
        message = NO_NETWORK.format(row.id, row.url, reason, row.file, row.model, row.file)
        raise WeightsError(message) from error
    except ValueError as error:  # pooch's way to say that the hash differs; the download is gone by then
        raise WeightsError(OTHER_FILE.format(row.id, row.url, row.sha256)) from error
    except OSError as error:
        raise WeightsError(NO_ROOM.format(downloads, error.strerror or error)) from error
    return convert(row.model, [Path(file)], folder, row.id, row.status, row.license)


class ContinuingDownloader:
    """What pooch calls for a file: HTTP, on top of what an earlier call has left in ``part``.

    Pooch checks the hash of the whole; a wrong start would thus be found, and does not stay.
    """

    def __init__(self, part: Path) -> None:
        self.part = part

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Download ``url`` to ``output_file``.

        Raises
        ------
        requests.RequestException
            If there is no connection, no such file, or the connection broke off.
        """
        import requests

        have = self.part.stat().st_size if self.part.exists() else 0
        asked = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        with requests.get(url, headers=asked, stream=True, timeout=30) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                self.part.unlink()  # there is no more: what we have is not the beginning of this file
                return self(url, output_file, pooch)
            answer.raise_for_status()
            goes_on = answer.status_code == requests.codes.partial_content
            length = answer.headers.get("Content-Length")
            before = have if goes_on else 0
            try:
                with self.part.open("ab" if goes_on else "wb") as file:
                    for block in answer.iter_content(BLOCK):
                        file.write(block)
            except requests.RequestException as error:
                raise requests.ConnectionError(CUT) from error
        if length is not None and self.part.stat().st_size < before + int(length):
            raise requests.ConnectionError(CUT)
        shutil.move(self.part, output_file)
        return None
