"""One session: every scan on a branch of its own, and what can be measured once all are there."""

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from bidsrep.interfaces.evaluate import GEOMETRY, RESULTS, Evaluate, MeasureScans
from bidsrep.settings import Settings
from bidsrep.workflows.models import RunModels
from bidsrep.workflows.outputs import init_save_node
from bidsrep.workflows.plan import ModelSpec, ScanPlan, SessionPlan
from bidsrep.workflows.preprocess import init_preprocess_wf
from bidsrep.workflows.represent import init_represent_wf

GIVEN = ("reference", "reference_mask", "grid", "reference_preproc")


def init_session_wf(plan: SessionPlan, settings: Settings, models: RunModels, name: str) -> pe.Workflow:
    """Build the graph of one session.

    The reference scan's branch comes first: the others need its grid. A node that fails takes along only
    what depends on it, so other scans go on.
    """
    workflow = pe.Workflow(name)
    scan_wfs = {scan: init_scan_wf(scan, settings, models, name=scan_wf_name(scan)) for scan in plan.scans}
    workflow.add_nodes(list(scan_wfs.values()))
    reference_wf = scan_wfs[plan.reference]
    for scan, scan_wf in scan_wfs.items():
        if scan.is_reference:
            continue
        workflow.connect([
            (reference_wf, scan_wf, [
                ("outputnode.conformed", "inputnode.reference"),
                ("outputnode.native_mask", "inputnode.reference_mask"),
                ("outputnode.grid", "inputnode.grid"),
                ("outputnode.preproc", "inputnode.reference_preproc"),
            ]),
        ])  # fmt: skip
    measured = _add_measures(workflow, plan, scan_wfs)
    for model in {p.model.name: p.model for scan in plan.scans for p in scan.predictions}.values():
        _add_evaluation(workflow, plan, model, scan_wfs, measured)
    return workflow


def scan_wf_name(plan: ScanPlan) -> str:
    """Name the workflow of a scan: ``acq_tra_FLAIR_wf``."""
    return plan.scan.key.replace("-", "_").replace("+", "plus") + "_wf"


def init_scan_wf(plan: ScanPlan, settings: Settings, models: RunModels, name: str) -> pe.Workflow:
    """Build everything that is made of one scan: preprocessing, then every model.

    Inputs
    ------
    reference, reference_mask, grid, reference_preproc
        The session's reference scan, its mask, its grid, and what became of it there; not for the
        reference itself.

    Outputs
    -------
    conformed, native_mask, grid, transform, preproc, mask
        Those of `init_preprocess_wf`.
    <model>_images, <model>_lesions, <model>_lattice
        Those of `init_represent_wf`, for every model.
    """
    workflow = pe.Workflow(name)
    inputnode = pe.Node(niu.IdentityInterface(fields=list(GIVEN)), name="inputnode")
    results = [f"{p.model.name}_{field}" for p in plan.predictions for field in RESULTS]
    outputnode = pe.Node(niu.IdentityInterface(fields=[*GEOMETRY, "grid", *results]), name="outputnode")
    preprocess_wf = init_preprocess_wf(plan, settings, models, name="preprocess_wf")
    passed = [field for field in (*GEOMETRY, "grid") if field != "transform" or not plan.is_reference]
    workflow.connect([
        (preprocess_wf, outputnode, [(f"outputnode.{field}", field) for field in passed]),
    ])  # fmt: skip
    if not plan.is_reference:
        workflow.connect([
            (inputnode, preprocess_wf, [
                (field, f"inputnode.{field}") for field in ("reference", "reference_mask", "grid")
            ]),
        ])  # fmt: skip
    for prediction in plan.predictions:
        model = prediction.model.name
        represent_wf = init_represent_wf(plan, prediction, settings, models, name=f"{model}_wf")
        made = [field for field in RESULTS if field != "lesions" or "lesion_mask" in prediction.files]
        needed = [field for field in passed if field != "grid"]
        workflow.connect([
            (preprocess_wf, represent_wf, [(f"outputnode.{f}", f"inputnode.{f}") for f in needed]),
            (represent_wf, outputnode, [(f"outputnode.{f}", f"{model}_{f}") for f in made]),
        ])  # fmt: skip
        if not plan.is_reference:
            workflow.connect([
                (inputnode, represent_wf, [("reference_preproc", "inputnode.reference_preproc")]),
            ])  # fmt: skip
    return workflow


def _add_measures(workflow: pe.Workflow, plan: SessionPlan, scan_wfs: dict[ScanPlan, pe.Workflow]) -> pe.Node:
    """Measure the scans themselves, once for all models."""
    measure_scans = pe.Node(
        MeasureScans(
            len(plan.scans),
            keys=[scan.scan.key for scan in plan.scans],
            suffixes=[scan.scan.suffix for scan in plan.scans],
        ),
        name="measure_scans",
        mem_gb=1.0,
    )
    for n, scan in enumerate(plan.scans):
        geometry = [
            (f"outputnode.{f}", f"{f}{n}") for f in GEOMETRY if f != "transform" or not scan.is_reference
        ]
        workflow.connect([(scan_wfs[scan], measure_scans, geometry)])
    return measure_scans


def _add_evaluation(
    workflow: pe.Workflow,
    plan: SessionPlan,
    model: ModelSpec,
    scan_wfs: dict[ScanPlan, pe.Workflow],
    measured: pe.Node,
) -> None:
    """Measure one model's results as soon as every scan has them."""
    evaluate = pe.Node(
        Evaluate(
            len(plan.scans),
            keys=[scan.scan.key for scan in plan.scans],
            suffixes=[scan.scan.suffix for scan in plan.scans],
            given_lesions=[str(s.given_lesions.path) if s.given_lesions else "" for s in plan.scans],
        ),
        name=f"{model.name}_evaluate",
        mem_gb=1.0,
    )
    save_metrics = init_save_node(plan.metrics[model.name], name=f"{model.name}_save_metrics")
    for n, scan in enumerate(plan.scans):
        files = next((p.files for p in scan.predictions if p.model == model), None)
        absent = {"transform"} if scan.is_reference else set()
        absent |= set(RESULTS) if files is None else set() if "lesion_mask" in files else {"lesions"}
        geometry = [(f"outputnode.{f}", f"{f}{n}") for f in GEOMETRY if f not in absent]
        results = [(f"outputnode.{model.name}_{f}", f"{f}{n}") for f in RESULTS if f not in absent]
        workflow.connect([(scan_wfs[scan], evaluate, [*geometry, *results])])
    workflow.connect([
        (measured, evaluate, [("out_file", "of_scans")]),
        (evaluate, save_metrics, [("out_file", "in_file")]),
    ])  # fmt: skip
