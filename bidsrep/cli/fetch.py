"""Downloads of published weights: only over a known SHA-256, whole or not at all."""

from __future__ import annotations

from pathlib import Path

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
NO_ROOM = "{}: cannot be written ({}). Choose another folder with --models-dir"


def fetch(row: Published, folder: Path) -> Path:
    """Download the checkpoint of ``row``, check its SHA-256, convert it into ``folder``; return the weights.

    A file of an earlier call is taken again if it is still the right one.

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
            row.url, f"sha256:{row.sha256}", fname=row.file, path=downloads, progressbar=False
        )
    except requests.RequestException as error:  # before OSError, whose kind it is
        reason = str(error).splitlines()[0]
        message = NO_NETWORK.format(row.id, row.url, reason, row.file, row.model, row.file)
        raise WeightsError(message) from error
    except ValueError as error:  # pooch's way to say that the hash differs; the download is gone by then
        raise WeightsError(OTHER_FILE.format(row.id, row.url, row.sha256)) from error
    except OSError as error:
        raise WeightsError(NO_ROOM.format(downloads, error.strerror or error)) from error
    return convert(row.model, [Path(file)], folder, row.id, row.status)
