"""The participant level: find the scans, plan, compute what is not there yet, report."""

import logging
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from bidsrep.bids.dataset import write_dataset_files
from bidsrep.bids.discovery import find_sessions
from bidsrep.bids.files import read_object, remove_leftovers
from bidsrep.bids.names import report_path, session_dir
from bidsrep.bids.provenance import provenance_dir
from bidsrep.bids.scans import Session
from bidsrep.bids.sidecars import scan_name
from bidsrep.errors import LAST_LINE, ExitCode
from bidsrep.settings import Settings
from bidsrep.workflows.execution import (
    configure_nipype,
    hash_inputs_by_content,
    make_plugin,
    thread_limits,
    without_user_name,
)
from bidsrep.workflows.jobs import SessionJob, by_subject, failed_subjects
from bidsrep.workflows.models import RunModels, describe_models
from bidsrep.workflows.plan import SessionPlan, describe
from bidsrep.workflows.progress import Progress, Tally
from bidsrep.workflows.provenance import Recorder
from bidsrep.workflows.usage import measured
from bidsrep.workflows.workfolder import WorkFolder

LOGGER = logging.getLogger("bidsrep")
BATCH, PER_PROCESS = 50, 4
"""Sessions in one graph, at least, and per process: Nipype takes minutes to lay out a graph of a thousand."""
LEFT_BEHIND = (
    "%s: the prepared scans are made anew, with another %s than those that the results of %s were made from. "
    "Run %s again, too."
)
SLOPPY = (
    "{}: prepared with --sloppy. Its registration and bias correction are for tests; do not use its results."
)


def run_participants(settings: Settings) -> int:
    """Process the wanted subjects; give the exit code.

    0 if every scan of every subject has everything that was asked for, 1 if some do not. Errors that
    concern the run as a whole (no dataset, no scans, no weights) are raised.
    """
    sessions = find_sessions(settings)
    if settings.reports_only:
        groups = {k: list(g) for k, g in groupby(sessions, key=lambda session: session.subject)}
        subjects = {subject: _notes(settings, group) for subject, group in groups.items()}
        failed = write_reports(settings, subjects)
        LOGGER.info("%s", _reports_line(len(subjects), failed), extra=LAST_LINE)
        return ExitCode.SOME_FAILED if failed else ExitCode.OK
    models = describe_models(settings)
    LOGGER.info("%d session(s): comparing what is there with what is asked for.", len(sessions))
    jobs = [SessionJob.of(session, settings, models) for session in sessions]
    if settings.dry_run:
        sys.stdout.write("\n".join(dry_run(jobs, settings)) + "\n")
        return ExitCode.OK
    suffixes = {scan.suffix for session in sessions for scan in session.scans}
    made = {spec.name: frozenset(spec.outputs.values()) for spec in models.specs}
    write_dataset_files(settings, suffixes, made)
    compute(jobs, settings, models)
    trouble = failed_subjects(jobs)
    for subject, messages in trouble.items():
        for message in messages:
            LOGGER.error("sub-%s: %s", subject, message)
    failed_reports = write_reports(settings, _reports_due(jobs, settings))
    sweep([job for job in jobs if job.reasons], settings.out_dir)
    told = summary(jobs, failed_reports)
    LOGGER.info("%s; see %s", told, _where(settings.out_dir, jobs, trouble), extra=LAST_LINE)
    return ExitCode.SOME_FAILED if trouble or failed_reports else ExitCode.OK


def compute(jobs: Sequence[SessionJob], settings: Settings, models: RunModels) -> None:
    """Run the graph of all sessions that have something to do, again without what failed, until done."""
    waiting = [job for job in jobs if job.plan is not None]
    for job in jobs:
        if job.plan is None and not job.reasons and job.session.scans:
            LOGGER.info("%s: up to date.", job.label)
    for job in waiting:
        why = ", ".join(f"{model} ({reason})" for model, reason in job.reasons.items())
        LOGGER.info("%s: %d scan(s); to do: %s.", job.label, len(job.session.scans), why)
        for model, what in job.left_behind.items():
            LOGGER.warning(LEFT_BEHIND, job.label, ", ".join(what), model, model)
        job.log_dir.mkdir(parents=True, exist_ok=True)
        settings.to_toml(job.log_dir / "bidsrep.toml")
    if not waiting:
        return
    recorder = Recorder.start(settings, models)
    folders = [job.log_dir for job in waiting]
    tally = Tally.of(job.plan for job in waiting if job.plan is not None)
    with (
        thread_limits(settings),
        without_user_name(),
        WorkFolder.opened(settings) as work,
        measured(folders, settings),
    ):
        size = max(BATCH, PER_PROCESS * settings.nprocs)
        for first in range(0, len(waiting), size):
            if not compute_batch(waiting[first : first + size], settings, models, recorder, work, tally):
                return


def compute_batch(
    waiting: Sequence[SessionJob],
    settings: Settings,
    models: RunModels,
    recorder: Recorder,
    work: WorkFolder,
    tally: Tally,
) -> bool:
    """Run the graph of some sessions, again without what failed, until done; tell whether others may follow."""
    isolate, counted = False, tally
    passed = tally.done + Tally.of(job.plan for job in waiting if job.plan is not None).total
    while waiting := [job for job in waiting if job.claimed(work)]:
        error = run_graph(waiting, settings, models, recorder, counted, isolate)
        again = [job for job in waiting if not job.done and _take_stock(job, recorder)]
        if error is not None and not any(job.done or job.crashed for job in waiting):
            raise error  # not a step that failed, but the run itself
        if error is not None and settings.stop_on_first_crash:
            return False
        waiting, isolate = again, any(job.retried for job in again)
        counted = Tally.of(job.plan for job in again if job.plan is not None)
    tally.done = passed  # those that failed are through, too
    return True


def run_graph(
    jobs: Sequence[SessionJob],
    settings: Settings,
    models: RunModels,
    recorder: Recorder,
    tally: Tally,
    isolate: bool = False,
) -> Exception | None:
    """Build and run one graph for several sessions; give the error Nipype ends with, if any.

    A session is recorded as soon as it is complete: what interrupts a long run costs no more than those at hand.
    """
    configure_nipype(settings, settings.out_dir / "logs")  # before the graph: it copies the configuration
    from bidsrep.workflows.participant import init_bidsrep_wf

    plans = [job.plan for job in jobs if job.plan is not None]
    job_of = {id(job.plan): job for job in jobs}

    def completed(plan: SessionPlan) -> None:
        try:
            _take_stock(job_of[id(plan)], recorder)
        except OSError as error:  # a full disk, say: it is tried again when the graph has ended
            LOGGER.warning("%s: not recorded yet (%s).", job_of[id(plan)].label, error)

    workflow = init_bidsrep_wf(plans, settings, models)
    hash_inputs_by_content(workflow)
    if settings.write_graph:
        draw_graph(workflow, settings)
    plugin, arguments = make_plugin(
        settings, Progress(plans, completed, tally), gpus=int(models.use_gpu), isolate=isolate
    )
    try:
        workflow.run(plugin=plugin, plugin_args=arguments)
    except Exception as error:  # noqa: BLE001 - the crash files tell which step failed and why
        return error
    return None


def sweep(jobs: Iterable[SessionJob], out_dir: Path) -> None:
    """Remove what killed runs left half-written where these sessions have their files."""
    folders = {out_dir, out_dir / "logs"}
    for job in jobs:
        folders |= {session_dir(out_dir, job.session, datatype) for datatype in ("anat", "figures", "log")}
        folders.add(provenance_dir(out_dir, job.session.subject))
    for folder in folders:
        remove_leftovers(folder)


def draw_graph(workflow, settings: Settings) -> Path:  # noqa: ANN001 (nipype is imported late)
    """Write the graph into the output's ``logs``: a dot file, and an SVG where Graphviz is installed."""
    path = settings.out_dir / "logs" / "graph.dot"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        workflow.write_graph(graph2use="colored", dotfilename=str(path), format="svg", simple_form=True)
    except (OSError, RuntimeError) as error:
        LOGGER.warning("%s: the graph is written but not drawn (%s).", path, error)
    return path


def write_reports(settings: Settings, subjects: dict[str, list[str]]) -> list[str]:
    """Write the pages of some subjects (label to warnings to show); give the labels that failed."""
    from bidsrep.reports.subject import write_subject_report

    failed = []
    for subject, notes in subjects.items():
        if not (settings.out_dir / f"sub-{subject}").is_dir():
            LOGGER.warning("sub-%s: there are no results to report.", subject)
            failed.append(subject)
            continue
        try:
            write_subject_report(
                settings.out_dir,
                subject,
                notes=notes,
                embed=settings.embed_reports,
                limits=settings.quality_thresholds,
            )
        except Exception as error:  # a page must not cost the results, nor the other pages
            LOGGER.error("sub-%s: the report failed (%s: %s).", subject, type(error).__name__, error)
            LOGGER.debug("sub-%s: the report failed.", subject, exc_info=True)
            failed.append(subject)
    return failed


def dry_run(jobs: Iterable[SessionJob], settings: Settings) -> Iterable[str]:
    """Say, line by line, what a run would write and why."""
    for job in jobs:
        for problem in job.session.problems:
            yield f"{job.label}: NOT USABLE: {problem}"
        if job.plan is None:
            if job.session.scans:
                yield f"{job.label}: up to date, nothing would be written."
            continue
        scans = ", ".join(scan.scan.key for scan in job.plan.scans)
        yield f"{job.label}: scans {scans}; reference {job.plan.reference.scan.key}"
        for model, reason in job.reasons.items():
            yield f"  {model}: {reason}"
        for model, what in job.left_behind.items():
            yield f"  {model}: left as it is, though the prepared scans change ({', '.join(what)})"
        for line in describe(job.plan, settings.out_dir):
            yield f"    {line}"
    yield "And for the dataset: dataset_description.json, descriptions.tsv, README.md, .bidsignore,"
    yield "  logs/CITATION.md and .bib, one page (sub-*.html) and a record (prov/sub-*/) per subject."


def summary(jobs: Sequence[SessionJob], failed_reports: Sequence[str] = ()) -> str:
    """Sum a run up: ``3 ok, 1 failed (sub-04), 4/4 reports``."""
    subjects = by_subject(jobs)
    trouble = failed_subjects(jobs)
    text = f"{len(subjects) - len(trouble)} ok"
    if trouble:
        text += f", {len(trouble)} failed ({', '.join(f'sub-{s}' for s in trouble)})"
    return f"{text}, {_reports_line(len(subjects), failed_reports)}"


def _where(out_dir: Path, jobs: Sequence[SessionJob], trouble: Iterable[str]) -> Path:
    """The page to look at first: that of the first subject that failed, or of the only one; else all of them."""
    subjects = [*trouble] or [*by_subject(jobs)]
    page = report_path(out_dir, subjects[0])
    return page if page.is_file() and (trouble or len(subjects) == 1) else out_dir / "sub-*.html"


def _reports_line(count: int, failed: Sequence[str]) -> str:
    return f"{count - len(failed)}/{count} reports"


def _reports_due(jobs: Sequence[SessionJob], settings: Settings) -> dict[str, list[str]]:
    """Choose the subjects whose page is missing or out of date, with what it shall warn of."""
    due = {}
    for subject, group in by_subject(jobs).items():
        if any(job.busy for job in group):
            continue  # the run that is at work on it writes the page
        changed = any(job.reasons or job.messages for job in group)
        if changed or not report_path(settings.out_dir, subject).is_file():
            due[subject] = _notes(settings, [job.session for job in group])
    return due


def _notes(settings: Settings, sessions: Iterable[Session]) -> list[str]:
    """Collect what a subject's page shall warn of: files that cannot be used, and odd ones."""
    notes = []
    for session in sessions:
        notes += [str(problem).replace(f"{settings.bids_dir}/", "") for problem in session.problems]
        for path in sorted(session_dir(settings.out_dir, session).glob("*_desc-preproc_*.json")):
            sidecar = read_object(path)
            source, warnings = scan_name(sidecar) or path.name, sidecar.get("Warnings")
            notes += [f"{source}: {warning}." for warning in warnings] if isinstance(warnings, list) else []
            notes += [SLOPPY.format(source)] if sidecar.get("Sloppy") else []
    return notes


def _take_stock(job: SessionJob, recorder: Recorder) -> bool:
    """Look at what became of a session; if it is done, record how; tell whether another pass is worthwhile."""
    again = job.take_stock(lambda plan: recorder.record(plan, job.inputs))
    if job.done:
        LOGGER.info("%s: done.", job.label)
    return again
