"""The sessions of a run, what is still to do in each, and what became of it."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bidsrep.bids.files import write_text
from bidsrep.bids.names import log_dir
from bidsrep.bids.scans import Scan, Session
from bidsrep.errors import ImageError
from bidsrep.reports.crashes import Crash, crashes_of, read_crash
from bidsrep.settings import Settings
from bidsrep.workflows import ledger
from bidsrep.workflows.models import RunModels
from bidsrep.workflows.participant import place_in_plan
from bidsrep.workflows.plan import ModelSpec, SessionPlan, plan_session
from bidsrep.workflows.workfolder import WorkFolder

BIDS_DIR = "BIDS_DIR"
"""Stands in crash files for the place of the dataset."""


@dataclass
class SessionJob:
    """One session of a run.

    Parameters
    ----------
    session : Session
        What was found.
    reasons : dict
        Model to why it has to run; models that are done already are not in it.
    plan : SessionPlan, optional
        What is to be made; None if nothing is left to do, or nothing can be done.
    inputs : dict
        Name to SHA-256 of what the session is made from, before anything is read.
    left_behind : dict
        Models that are not asked for, whose results were made from scans prepared otherwise, to what differs.
    """

    session: Session
    settings: Settings
    specs: tuple[ModelSpec, ...]
    reasons: dict[str, str] = field(default_factory=dict)
    plan: SessionPlan | None = None
    failed: list[Scan] = field(default_factory=list)
    spared: set[tuple[str, str]] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    done: bool = False
    crashed: bool = False
    retried: bool = False
    busy: bool = False
    inputs: dict[str, str] = field(default_factory=dict)
    left_behind: dict[str, list[str]] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, session: Session, settings: Settings, models: RunModels) -> "SessionJob":
        """Find out what is to do in a session."""
        job = cls(session, settings, models.specs)
        known: ledger.States = {}
        for spec in models.specs:
            alone = plan_session(session, settings, [spec])
            if alone is None:
                continue
            wanted = ledger.fingerprint(alone, settings, spec, known)
            job.inputs |= {
                name: state["sha256"] for name, state in wanted["inputs"].items() if state["sha256"]
            }
            reason = ledger.why_stale(session, spec.name, wanted, settings.out_dir)
            if reason is not None:
                job.reasons[spec.name] = reason
                others = ledger.left_behind(session, spec.name, wanted, settings.out_dir)
                job.left_behind |= {n: what for n, what in others.items() if n not in settings.models}
        job.plan = plan_session(session, settings, job.to_do) if job.reasons else None
        job.messages = [str(problem) for problem in session.problems]
        everything = plan_session(session, settings, models.specs)
        job.messages += everything.problems if everything else ()
        job._new_crashes()  # those that are there already are not of this run
        return job

    @property
    def to_do(self) -> list[ModelSpec]:
        """The models that have to run."""
        return [spec for spec in self.specs if spec.name in self.reasons]

    @property
    def label(self) -> str:
        """The session's name, such as ``sub-01 ses-A``."""
        return self.session.label.replace("_", " ")

    @property
    def ok(self) -> bool:
        """Whether every scan of the session has everything that was asked for."""
        return not self.messages and (self.done or not self.reasons)

    @property
    def log_dir(self) -> Path:
        """Where this run leaves the session's settings and crash files."""
        return log_dir(self.settings.out_dir, self.session, self.settings.run_uuid)

    def claimed(self, work: WorkFolder) -> bool:
        """Take the session for this run alone; if another is at work on it, that becomes its message."""
        if self.plan is None:
            return False
        message = work.claim(self.plan)
        if message is not None:
            self.messages.append(f"{self.label}: {message}.")
            self.plan, self.busy = None, True
        return message is None

    def take_stock(self, keep: Callable[[SessionPlan], None]) -> bool:
        """Look at what a pass of the graph left; tell whether another pass is worthwhile.

        ``keep`` writes the provenance of a plan that is carried out, before the session counts as done.

        A failed scan is left out of the next pass, in which the others, whose steps are done and not
        repeated, get to what needs all of them. If it was the reference, another scan takes its place. Where a
        model failed on a scan, it is left out of that model's results alone.
        Steps whose process was killed get a second chance, since a neighbour's fall takes them along.
        """
        if self.plan is None:
            return False
        crashes = self._new_crashes()
        self.crashed = self.crashed or bool(crashes)
        missing = ledger.missing_files(self.plan.paths())
        if not missing and not crashes:
            try:
                keep(self.plan)
                self._finish()
            except ImageError as error:  # an input has changed meanwhile: the next run starts anew
                self.messages.append(str(error))
                self.plan = None
            return False
        if crashes and not self.retried and all(crash.killed for crash in crashes):
            self.retried = True
            return True
        where = {crash: place_in_plan(self.plan, crash.node) for crash in crashes}
        place = f"{self.settings.bids_dir}/"
        self.messages += [_explain(crash, *where[crash]).replace(f"{BIDS_DIR}/", place) for crash in crashes]
        if not any(key for key, _ in where.values()):
            if not crashes:
                self.messages.append(
                    f"{len(missing)} files were not written, the first is {missing[0].name}."
                )
            return False
        keys = {key for key, model in where.values() if key and not model}
        self.failed += [scan.scan for scan in self.plan.scans if scan.scan.key in keys]
        self.spared |= {(key, model) for key, model in where.values() if model}
        self.plan = self._plan(self.to_do)
        return self.plan is not None

    def _plan(self, specs: Sequence[ModelSpec]) -> SessionPlan | None:
        """Plan what can still be done for some models."""
        return plan_session(self.session, self.settings, specs, self.failed, self.spared)

    def _new_crashes(self) -> list[Crash]:
        found = crashes_of(self.log_dir.parent, self.settings.out_dir, self.log_dir.name)
        new = [crash.file for crash in found if crash.file not in self._seen]
        self._seen.update(new)
        for name in new:
            self._withhold_places(self.settings.out_dir / name)
        return [read_crash(self.settings.out_dir / name, self.settings.out_dir) for name in new]

    def _withhold_places(self, crash_file: Path) -> None:
        """Take out of a crash file, which the pages show, where on this machine things lie."""
        if crash_file.suffix != ".txt":
            return
        text = crash_file.read_text(encoding="utf-8", errors="replace")
        for word, place in self._places().items():
            text = text.replace(f"{place}/", f"{word}/")
        write_text(crash_file, text)

    def _places(self) -> dict[str, str]:
        """Name the folders of this run and of Python, the innermost first."""
        places = {"WORK_DIR": self.settings.work_dir.resolve(), BIDS_DIR: self.settings.bids_dir}
        places |= dict(self.settings.derivatives)
        places |= {
            "OUT_DIR": self.settings.out_dir,
            "PYTHON": Path(sys.prefix),
            "CODE": Path(__file__).parents[1],
        }
        named = sorted(places.items(), key=lambda item: len(item[1].parts), reverse=True)
        return {word: str(place) for word, place in named if len(place.parts) > 1}

    def _finish(self) -> None:
        """Record what is done; if scans were lost on the way, the next run tries them again."""
        known: ledger.States = {}
        for spec in self.to_do:
            alone = self._plan([spec])
            assert alone is not None
            lost = {scan.key for scan in self.failed} | {
                key for key, name in self.spared if name == spec.name
            }
            wanted = ledger.fingerprint(alone, self.settings, spec, known)
            ledger.record(
                self.session, spec.name, wanted, alone.paths(), self.settings.out_dir, sorted(lost), known
            )
        self.done = True


def failed_subjects(jobs: Iterable[SessionJob]) -> dict[str, list[str]]:
    """Map every subject that has trouble to its messages."""
    trouble: dict[str, list[str]] = {}
    for job in jobs:
        if not job.ok:
            trouble.setdefault(job.session.subject, []).extend(job.messages)
    return trouble


def by_subject(jobs: Sequence[SessionJob]) -> Mapping[str, list[SessionJob]]:
    """Group jobs by subject, in their order."""
    groups: dict[str, list[SessionJob]] = {}
    for job in jobs:
        groups.setdefault(job.session.subject, []).append(job)
    return groups


def _explain(crash: Crash, key: str, model: str) -> str:
    """Say which scan failed, with which model, at which step, and why."""
    place = ", ".join(part for part in (key or "session", model) if part)
    return f"{place}, step {crash.node.rpartition('.')[2]}: {crash.text} (traceback: {crash.file})"
