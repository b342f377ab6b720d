"""Are results of what lies there now? A later run, of another model say, may have made their inputs anew."""

from collections.abc import Iterable, Iterator

from bidsrep.bids.provenance_merge import FORMER
from bidsrep.bids.verify.findings import Finding
from bidsrep.bids.verify.records import Records, SessionRecord

MAKE_ANEW = "Run bidsrep again on this session with all models that it has results of"


def check_inputs(records: Records) -> Iterator[Finding]:
    """Look for steps whose inputs were replaced since: one finding for each, at the first file it made."""
    for session in records.sessions:
        of_now = {_kind(step) for step, used in session.used.items() if not _former(used)}
        for step, used in session.used.items():
            if _kind(step) in of_now:
                continue  # done again since; what came out the same has kept its maker
            former = _former(used)
            made = _made_by(session, step)
            if former and made:
                names = ", ".join(name.removeprefix("bids::") for name in former)
                more = f", and {len(made) - 1} files made with it," if len(made) > 1 else ""
                problem = f"it{more} comes from what was replaced since: {names}"
                yield Finding(made[0], "outdated", problem, MAKE_ANEW)


def _kind(step: str) -> str:
    """What a step is: its identifier without the hash of what it was done with."""
    return step.rpartition("-")[0]


def _former(used: Iterable[str]) -> list[str]:
    return sorted({name.partition(FORMER)[0] for name in used if FORMER in name})


def _made_by(session: SessionRecord, step: str) -> list[str]:
    return sorted(file.name for file in session.files.values() if step in file.makers)
