"""Are the weights on this machine those of the results, and those of one model the same for all subjects?"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from bidsrep.bids.files import sha256_file
from bidsrep.bids.verify.findings import Finding
from bidsrep.bids.verify.records import Records, Weights

RESTORE_WEIGHTS = (
    "Restore them (`bidsrep-models verify` checks them), or run bidsrep again with the present ones"
)
ONE_FOLDER = "Run bidsrep again with one of them, or keep results of different weights in different folders"


def check_weights(records: Records, installed: Iterable[tuple[str, str, Path]]) -> Iterator[Finding]:
    """Compare the recorded weights with those here (model, id, file); what is not here is passed over."""
    recorded = {weights for session in records.sessions for weights in session.weights.values()}
    here = defaultdict(list)
    for model, identifier, path in installed:
        here[model, identifier].append(path)
    for weights in sorted(recorded, key=lambda w: (w.model, w.id, w.sha256)):
        found = [_hash(path) for path in here[weights.model, weights.id]]
        if found and weights.sha256 not in found:
            problem = (
                f"the weights here have the SHA-256 {found[0][:12]}, the results were made with "
                f"{weights.sha256[:12]}"
            )
            yield Finding(f"{weights.model}={weights.id}", "weights", problem, RESTORE_WEIGHTS)
    yield from _mixed(records)


def _mixed(records: Records) -> Iterator[Finding]:
    """Look for models whose results are of several weights: their features cannot be compared."""
    places: dict[str, dict[Weights, list[str]]] = defaultdict(lambda: defaultdict(list))
    for session in records.sessions:
        for weights in session.weights.values():
            places[weights.model][weights].append(session.place)
    for model, by_weights in sorted(places.items()):
        if len(by_weights) > 1:
            parts = [
                f"{w.id} ({w.sha256[:12]}) in {len(at)}, such as {at[0]}" for w, at in by_weights.items()
            ]
            problem = f"sessions were made with different weights: {'; '.join(parts)}"
            yield Finding(model, "weights", problem, ONE_FOLDER)


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError:
        return "of a file that cannot be read"
