"""The graph of a run: one workflow per subject, in it one per session."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import groupby
from pathlib import Path

from nipype.pipeline import engine as pe

from bidsrep import __version__
from bidsrep.bids.names import log_dir
from bidsrep.settings import Settings
from bidsrep.workflows.models import RunModels
from bidsrep.workflows.plan import SessionPlan
from bidsrep.workflows.session import init_session_wf


def init_bidsrep_wf(plans: Sequence[SessionPlan], settings: Settings, models: RunModels) -> pe.Workflow:
    """Build the graph of a run.

    Parameters
    ----------
    plans : sequence of SessionPlan
        What to make, sorted by subject.
    settings : Settings
        The run's settings; intermediate results go to its work folder, under a name with the version,
        since another version's are of no use.
    models : RunModels
        The networks.
    """
    workflow = pe.Workflow(run_wf_name(), base_dir=str(Path(settings.work_dir).resolve()))
    for subject, group in groupby(plans, key=lambda plan: plan.session.subject):
        name = subject_wf_name(subject)
        workflow.add_nodes([init_subject_wf(list(group), settings, models, name=name)])
    return workflow


def init_subject_wf(
    plans: Sequence[SessionPlan], settings: Settings, models: RunModels, name: str
) -> pe.Workflow:
    """Build the graph of one subject; the crash files of a session go to its own log folder."""
    workflow = pe.Workflow(name)
    for plan in plans:
        session_wf = init_session_wf(plan, settings, models, name=session_wf_name(plan))
        crash_dir = log_dir(settings.out_dir, plan.session, settings.run_uuid)
        _set_crash_dir(session_wf, crash_dir)
        workflow.add_nodes([session_wf])
    return workflow


def run_wf_name() -> str:
    """Name the workflow of a run, with the version: ``bidsrep_0_1_wf``."""
    version = "_".join(__version__.split(".")[:2])
    return f"bidsrep_{version}_wf"


def subject_wf_name(subject: str) -> str:
    """Name the workflow of a subject: ``sub_01_wf``."""
    return f"sub_{subject.replace('+', 'plus')}_wf"


def session_wf_name(plan: SessionPlan) -> str:
    """Name the workflow of a session: ``ses_A_wf``, or ``session_wf`` in a dataset without sessions."""
    label = plan.session.session
    return "session_wf" if label is None else f"ses_{label.replace('+', 'plus')}_wf"


def session_prefix(plan: SessionPlan) -> str:
    """Give the start of the full names of a session's nodes, without the run's."""
    return f"{subject_wf_name(plan.session.subject)}.{session_wf_name(plan)}."


def node_prefixes(plan: SessionPlan) -> Mapping[str, str]:
    """Map the start of the full names of a session's nodes, without the run's, to the scan's key."""
    from bidsrep.workflows.session import scan_wf_name

    place = session_prefix(plan)
    return {f"{place}{scan_wf_name(scan)}.": scan.scan.key for scan in plan.scans}


def place_in_plan(plan: SessionPlan, node: str) -> tuple[str, str]:
    """Tell to which scan (its key) and model a node belongs, by its full name; empty where to none."""
    prefix, key = next(((p, k) for p, k in node_prefixes(plan).items() if p in node), ("", ""))
    step = node.partition(prefix)[2] if prefix else ""
    models = (prediction.model.name for scan in plan.scans for prediction in scan.predictions)
    return key, next((model for model in models if step.startswith(f"{model}_wf.")), "")


def _set_crash_dir(workflow: pe.Workflow, crash_dir: Path) -> None:
    """Give every node of a workflow its own configuration, with the folder for crash files."""
    workflow.config["execution"]["crashdump_dir"] = str(crash_dir)
    for node in workflow._get_all_nodes():
        node.config = deepcopy(workflow.config)
