"""All checks of a dataset, in one order."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bidsrep.bids.verify.content import check_content
from bidsrep.bids.verify.dataset import Dataset
from bidsrep.bids.verify.findings import Finding
from bidsrep.bids.verify.outdated import check_inputs
from bidsrep.bids.verify.records import Records
from bidsrep.bids.verify.sidecars import Sidecars, check_sidecars
from bidsrep.bids.verify.strays import check_strays
from bidsrep.bids.verify.weights import check_weights

NO_RECORDS = "there is no record of any subject, so nothing can be checked"
RUN = "Check the path, or run bidsrep on this folder"


@dataclass(frozen=True)
class Report:
    """What was looked at, and what was found."""

    files: int
    sessions: int
    subjects: int
    findings: tuple[Finding, ...]


def verify_dataset(
    dataset: Dataset,
    records: Records,
    installed: Iterable[tuple[str, str, Path]] = (),
    rehash: bool = False,
) -> Report:
    """Check a derivative dataset against its provenance.

    Parameters
    ----------
    dataset, records
        The dataset, and the records in it.
    installed : iterable
        Weights on this machine: model, id, file.
    rehash : bool
        Hash every file, instead of small ones only.
    """
    if not records.sessions and not records.unreadable:
        return Report(0, 0, 0, (Finding("prov", "record", NO_RECORDS, RUN),))
    sidecars = Sidecars.read(dataset, records)
    users = {uri: names[0] for uri, names in sidecars.users.items()}
    users |= {uri: file.name for uri, file in records.files.items() if not file.is_output}
    findings = [
        *records.unreadable.values(),
        *dataset.check(users),
        *check_content(dataset, records, {uri: len(names) for uri, names in sidecars.users.items()}, rehash),
        *check_inputs(records),
        *check_strays(dataset.root, records),
        *check_sidecars(dataset, records, sidecars),
        *check_weights(records, installed),
    ]
    return Report(
        len(records.files), len(records.sessions), len(records.subjects), tuple(dict.fromkeys(findings))
    )
