"""One scan: from the file in the dataset to its brain on the session's reference grid."""

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from bidsrep.interfaces.brainmask import BrainMask
from bidsrep.interfaces.conform import Conform
from bidsrep.interfaces.grids import ReferenceGrid, Resample
from bidsrep.interfaces.registration import BiasCorrect, Register
from bidsrep.interfaces.reportlets import MaskFigure, RegistrationFigure
from bidsrep.settings import Settings
from bidsrep.workflows.execution import claim_processors
from bidsrep.workflows.models import BRAINMASK, RunModels
from bidsrep.workflows.outputs import init_save_node
from bidsrep.workflows.plan import ScanPlan

MASK_GB, REGISTER_GB = 1.5, 1.0


def init_preprocess_wf(
    plan: ScanPlan, settings: Settings, models: RunModels, name: str = "preprocess_wf"
) -> pe.Workflow:
    """Build the preprocessing of one scan.

    Inputs (for every scan but the reference)
    -----------------------------------------
    reference, reference_mask
        The reference scan and its brain mask, on the scan's own grid.
    grid
        An image on the reference grid.

    Outputs
    -------
    conformed, native_mask
        The scan (bias-corrected if wanted) and its brain mask, on its own grid.
    grid
        An image on the reference grid; the reference scan lays it.
    transform
        ITK text transform to the reference; not for the reference itself.
    preproc, mask
        The scan, 0 outside the brain, and its brain mask; on the reference grid.
    """
    workflow = pe.Workflow(name)
    inputnode = pe.Node(
        niu.IdentityInterface(fields=["reference", "reference_mask", "grid"]), name="inputnode"
    )
    outputnode = pe.Node(
        niu.IdentityInterface(fields=["conformed", "native_mask", "grid", "transform", "preproc", "mask"]),
        name="outputnode",
    )
    conform = pe.Node(Conform(in_file=str(plan.scan.path)), name="conform", mem_gb=1.0)
    brain_mask = _init_brain_mask(plan, settings, models)
    resample = pe.Node(Resample(), name="resample", mem_gb=1.0)
    sane = conform
    workflow.connect([(conform, brain_mask, [("out_file", "in_file")])])
    if settings.bias_correct:
        bias_correct = pe.Node(BiasCorrect(sloppy=settings.sloppy), name="bias_correct", mem_gb=1.0)
        workflow.connect([
            (conform, bias_correct, [("out_file", "in_file")]),
            (brain_mask, bias_correct, [("out_file", "mask_file")]),
        ])  # fmt: skip
        sane = bias_correct
    workflow.connect([
        (sane, resample, [("out_file", "in_file")]),
        (brain_mask, resample, [("out_file", "mask_file")]),
        (sane, outputnode, [("out_file", "conformed")]),
        (brain_mask, outputnode, [("out_file", "native_mask")]),
        (resample, outputnode, [("out_file", "preproc"), ("out_mask", "mask")]),
    ])  # fmt: skip
    if plan.is_reference:
        _lay_grid(workflow, settings, sane, brain_mask, resample, outputnode)
    else:
        _register(workflow, plan, settings, inputnode, sane, brain_mask, resample, outputnode)
    _save(workflow, plan, models, conform, brain_mask, resample)
    return workflow


def _init_brain_mask(plan: ScanPlan, settings: Settings, models: RunModels) -> pe.Node:
    """Build the node of the brain mask, with the weights its method needs."""
    use_gpu = models.use_gpu and settings.skull_strip_method == "bidsrep"
    brain_mask = pe.Node(
        BrainMask(
            mode=settings.skull_strip,
            method=settings.skull_strip_method,
            random_seed=settings.random_seed,
            sloppy=settings.sloppy,
            source=str(plan.scan.path),
            device=models.device,
            use_gpu=use_gpu,
        ),
        name="brain_mask",
        mem_gb=MASK_GB,
    )
    claim_processors(brain_mask, settings, use_gpu)
    inputs = brain_mask.inputs
    if plan.given_mask is not None:
        inputs.given_mask = str(plan.given_mask.path)
    if settings.template is not None:
        inputs.template = settings.template
    network = {"bidsrep": BRAINMASK, "synthstrip": "synthstrip"}.get(settings.skull_strip_method, "")
    if network in models.weights:
        inputs.weights = str(models.weights[network])
        inputs.weights_sha256 = models.sha256[network]
    return brain_mask


def _lay_grid(
    workflow: pe.Workflow,
    settings: Settings,
    sane: pe.Node,
    brain_mask: pe.Node,
    resample: pe.Node,
    outputnode: pe.Node,
) -> None:
    """Let the reference scan lay the grid of its session."""
    reference_grid = pe.Node(ReferenceGrid(resolution=settings.resolution), name="reference_grid")
    workflow.connect([
        (sane, reference_grid, [("out_file", "in_file")]),
        (brain_mask, reference_grid, [("out_file", "mask_file")]),
        (reference_grid, resample, [("out_file", "grid_file")]),
        (reference_grid, outputnode, [("out_file", "grid")]),
    ])  # fmt: skip


def _register(
    workflow: pe.Workflow,
    plan: ScanPlan,
    settings: Settings,
    inputnode: pe.Node,
    sane: pe.Node,
    brain_mask: pe.Node,
    resample: pe.Node,
    outputnode: pe.Node,
) -> None:
    """Bring a scan that is not the reference to it, and show how that went."""
    register = pe.Node(
        Register(random_seed=settings.random_seed, sloppy=settings.sloppy),
        name="register",
        mem_gb=REGISTER_GB,
    )
    registration_figure = pe.Node(RegistrationFigure(title=plan.scan.key), name="registration_figure")
    save_xfm = init_save_node(plan.files["xfm"], name="save_xfm")
    save_registration_figure = init_save_node(
        plan.files["registration_figure"], name="save_registration_figure"
    )
    reference = [("reference", "reference"), ("reference_mask", "reference_mask")]
    workflow.connect([
        (inputnode, register, reference),
        (sane, register, [("out_file", "moving")]),
        (brain_mask, register, [("out_file", "moving_mask")]),
        (register, resample, [("transform", "transform")]),
        (inputnode, resample, [("grid", "grid_file")]),
        (register, outputnode, [("transform", "transform")]),
        (inputnode, outputnode, [("grid", "grid")]),
        (register, save_xfm, [("transform", "in_file"), (("quality", _quality), "extra")]),
        (inputnode, registration_figure, reference),
        (sane, registration_figure, [("out_file", "moving")]),
        (register, registration_figure, [("transform", "transform"), (("quality", _gain), "note")]),
        (registration_figure, save_registration_figure, [("out_file", "in_file")]),
    ])  # fmt: skip


def _save(
    workflow: pe.Workflow,
    plan: ScanPlan,
    models: RunModels,
    conform: pe.Node,
    brain_mask: pe.Node,
    resample: pe.Node,
) -> None:
    """Write the preprocessed scan, its mask, and the figure of the mask."""
    mask_figure = pe.Node(MaskFigure(title=plan.scan.key), name="mask_figure")
    save_preproc = init_save_node(plan.files["preproc"], name="save_preproc")
    save_mask = init_save_node(plan.files["mask"], name="save_mask")
    save_mask_figure = init_save_node(plan.files["mask_figure"], name="save_mask_figure")
    entry = dict(models.mask_entry) if models.mask_entry else None
    mask = (brain_mask, "out_file") if plan.is_reference else (resample, "out_mask")
    workflow.connect([
        (resample, save_preproc, [("out_file", "in_file")]),
        (conform, save_preproc, [(("report", _warnings), "extra")]),
        (mask[0], save_mask, [(mask[1], "in_file")]),
        (brain_mask, save_mask, [(("how", _method, entry), "extra")]),
        (conform, mask_figure, [("out_file", "in_file")]),
        (brain_mask, mask_figure, [("out_file", "mask_file"), (("how", _note), "note")]),
        (mask_figure, save_mask_figure, [("out_file", "in_file")]),
    ])  # fmt: skip


def _warnings(report):  # noqa: ANN001, ANN202 (Nipype runs the bare source of it)
    """Say in the sidecar of a scan what was odd about its file."""
    return {"Warnings": report["warnings"]} if report["warnings"] else {}


def _method(how, entry):  # noqa: ANN001, ANN202 (Nipype runs the bare source of it)
    """Say in the sidecar of a mask where it comes from, and which network made it if one did."""
    return {"Method": how, "Model": entry} if how in ("bidsrep", "synthstrip") and entry else {"Method": how}


def _note(how):  # noqa: ANN001, ANN202 (Nipype runs the bare source of it)
    """Say in the figure of a mask where it comes from."""
    notes = {
        "given": "mask given with --derivatives",
        "stripped": "the scan was stripped already",
        "bidsrep": "mask by the network of bidsrep",
        "synthstrip": "mask by SynthStrip",
        "template": "mask of a registered template",
    }
    return notes[how]


def _quality(quality):  # noqa: ANN001, ANN202 (Nipype runs the bare source of it)
    """Say in the sidecar of a transform how the registration went."""
    return {"Quality": quality}


def _gain(quality):  # noqa: ANN001, ANN202 (Nipype runs the bare source of it)
    """Say in the figure of a registration what it gained."""
    before, after = quality["mutual_information_before"], quality["mutual_information_after"]
    note = f"mutual information {before:.3f} before, {after:.3f} after"
    return "; ".join([note, *quality["warnings"]])
