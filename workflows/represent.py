"""One scan and one model: features, predictions, lesions, figures."""

from dataclasses import asdict

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from bidsrep.interfaces.deformable import Deform
from bidsrep.interfaces.lesions import LesionMask
from bidsrep.interfaces.reportlets import (
    BiasFigure,
    LesionFigure,
    SegmentationFigure,
    SuperresFigure,
    SynthesisFigure,
)
from bidsrep.interfaces.represent import Represent
from bidsrep.labels import SEGMENTATIONS
from bidsrep.settings import Settings
from bidsrep.workflows.execution import claim_processors
from bidsrep.workflows.models import RunModels
from bidsrep.workflows.outputs import init_save_node
from bidsrep.workflows.plan import (
    BIAS,
    LABEL_TABLES,
    LESION,
    ORDERED,
    SUPERRES,
    SYNTHETIC,
    WARPS,
    Prediction,
    ScanPlan,
)

BASE_GB, GB_PER_CHANNEL, LOW_MEM_GB_PER_CHANNEL = 1.0, 0.05, 0.02
"""Memory of a forward pass on a head of 160x192x160 voxels: 3.3 GiB at 64 channels, and the images. With
``--low-mem`` the large tensors lie in files, and 0.4 times as much was measured to stay in memory."""


def init_represent_wf(
    plan: ScanPlan, prediction: Prediction, settings: Settings, models: RunModels, name: str
) -> pe.Workflow:
    """Build what one model makes of one scan.

    Inputs
    ------
    preproc, mask
        The scan and its brain mask on the reference grid.
    conformed, native_mask
        The same on the scan's own grid.
    transform
        ITK text transform to the reference; not for the reference itself.
    reference_preproc
        The session's reference on its grid, to compare predictions with.

    Outputs
    -------
    images
        Every prediction by name.
    lesions
        Lesion mask on the reference grid, where the model predicts lesions.
    lattice
        Features on every fourth voxel.
    """
    workflow = pe.Workflow(name)
    inputnode = pe.Node(
        niu.IdentityInterface(
            fields=["preproc", "mask", "conformed", "native_mask", "transform", "reference_preproc"]
        ),
        name="inputnode",
    )
    outputnode = pe.Node(niu.IdentityInterface(fields=["images", "lesions", "lattice"]), name="outputnode")
    represent = _init_represent(plan, prediction, settings, models)
    workflow.connect([
        (inputnode, represent, [("preproc", "in_file"), ("mask", "mask_file")]),
        (represent, outputnode, [("images", "images"), ("lattice", "lattice")]),
    ])  # fmt: skip
    offered = {**prediction.model.outputs, **dict.fromkeys(prediction.ordered, ORDERED)}
    kinds = {role: kind for role, kind in offered.items() if role in prediction.files}
    for role, kind in kinds.items():
        save = init_save_node(prediction.files[role], name=f"save_{role}")
        workflow.connect([(represent, save, [(("images", _pick, role), "in_file")])])
        if kind == LESION:
            _add_lesions(workflow, plan, prediction, settings, role, inputnode, represent, outputnode)
        if kind in (SUPERRES, BIAS, *LABEL_TABLES):
            _add_figure(workflow, plan, prediction, role, kind, inputnode, represent)
        if kind in LABEL_TABLES:
            table = f"{role}_table"
            save_table = init_save_node(prediction.files[table], name=f"save_{table}")
            workflow.connect([(represent, save_table, [(("label_tables", _pick, role), "in_file")])])
    for role, made in (("embedding",) * 2, ("features",) * 2, ("components_figure", "components")):
        if role in prediction.files:
            save = init_save_node(prediction.files[role], name=f"save_{role}")
            workflow.connect([(represent, save, [(made, "in_file")])])
    if all(kind in prediction.files for kind in WARPS):
        _add_deformation(workflow, plan, prediction, settings, models, inputnode)
    if SYNTHETIC in kinds.values():
        contrasts = [role for role, kind in kinds.items() if kind == SYNTHETIC]
        _add_synthesis_figure(workflow, plan, prediction, contrasts, inputnode, represent)
    return workflow


def _init_represent(plan: ScanPlan, prediction: Prediction, settings: Settings, models: RunModels) -> pe.Node:
    """Build the node of the network, annotated with what it takes."""
    model = prediction.model
    acquired = {}
    if prediction.acquisition is not None:
        acquired["acquisition"] = asdict(prediction.acquisition)
        acquired["targets"] = {name: asdict(target) for name, target in prediction.ordered.items()}
    per_channel = LOW_MEM_GB_PER_CHANNEL if settings.low_mem else GB_PER_CHANNEL
    represent = pe.Node(
        Represent(
            model=model.name,
            weights=str(models.weights[model.name]),
            weights_sha256=models.sha256[model.name],
            lesion_threshold=settings.lesion_threshold,
            min_lesion_volume=settings.min_lesion_volume,
            regional="embedding" in prediction.files,
            dense="features" in prediction.files,
            components="components_figure" in prediction.files,
            title=f"{model.name} from {plan.scan.key}",
            source=str(plan.scan.path),
            device=models.device,
            use_gpu=models.use_gpu,
            precision=settings.precision,
            low_mem=settings.low_mem,
            **acquired,
        ),
        name="represent",
        mem_gb=(BASE_GB + per_channel * model.width) / settings.resolution**3,
    )
    claim_processors(represent, settings, models.use_gpu)
    return represent


def _add_deformation(
    workflow: pe.Workflow,
    plan: ScanPlan,
    prediction: Prediction,
    settings: Settings,
    models: RunModels,
    inputnode: pe.Node,
) -> None:
    """Add the deformable registration: of the reference to the template, of another scan to the reference."""
    model = prediction.model
    deform = pe.Node(
        Deform(
            model=model.name,
            weights=str(models.weights[model.name]),
            weights_sha256=models.sha256[model.name],
            random_seed=settings.random_seed,
            sloppy=settings.sloppy,
            source=str(plan.scan.path),
            device=models.device,
            use_gpu=models.use_gpu,
            precision=settings.precision,
        ),
        name="deform",
        mem_gb=(BASE_GB + GB_PER_CHANNEL * model.width) / settings.resolution**3,
    )
    claim_processors(deform, settings, models.use_gpu)
    given = [("preproc", "in_file"), ("mask", "mask_file"), ("conformed", "native_file")]
    if plan.is_reference:
        deform.inputs.template = settings.template or ""
    else:
        given += [("transform", "transform"), ("reference_preproc", "reference")]
    workflow.connect([(inputnode, deform, given)])
    for kind, made in zip(WARPS, ("warp", "inverse"), strict=True):
        save = init_save_node(prediction.files[kind], name=f"save_{kind}")
        workflow.connect([(deform, save, [(made, "in_file"), (("quality", _quality), "extra")])])


def _add_lesions(
    workflow: pe.Workflow,
    plan: ScanPlan,
    prediction: Prediction,
    settings: Settings,
    role: str,
    inputnode: pe.Node,
    represent: pe.Node,
    outputnode: pe.Node,
) -> None:
    """Add lesion masks on the reference grid and on the scan's own, and their figure."""
    limits = {"threshold": settings.lesion_threshold, "min_volume": settings.min_lesion_volume}
    lesion_mask = pe.Node(LesionMask(**limits), name="lesion_mask")
    lesion_figure = pe.Node(
        LesionFigure(title=f"{prediction.model.name} from {plan.scan.key}"), name="lesion_figure"
    )
    save_lesion_mask = init_save_node(prediction.files["lesion_mask"], name="save_lesion_mask")
    save_lesion_figure = init_save_node(prediction.files["lesion_figure"], name="save_lesion_figure")
    probability = ("images", _pick, role)
    workflow.connect([
        (represent, lesion_mask, [(probability, "in_file")]),
        (inputnode, lesion_mask, [("mask", "mask_file")]),
        (lesion_mask, save_lesion_mask, [("out_file", "in_file")]),
        (lesion_mask, outputnode, [("out_file", "lesions")]),
        (inputnode, lesion_figure, [("preproc", "in_file"), ("mask", "mask_file")]),
        (represent, lesion_figure, [(probability, "probability")]),
        (lesion_mask, lesion_figure, [("out_file", "lesions")]),
        (lesion_figure, save_lesion_figure, [("out_file", "in_file")]),
    ])  # fmt: skip
    if "lesion_mask_native" not in prediction.files:
        return
    native_lesion_mask = pe.Node(LesionMask(**limits), name="native_lesion_mask")
    save_native_lesion_mask = init_save_node(
        prediction.files["lesion_mask_native"], name="save_native_lesion_mask"
    )
    workflow.connect([
        (represent, native_lesion_mask, [(probability, "in_file")]),
        (inputnode, native_lesion_mask, [("conformed", "native_file"), ("native_mask", "mask_file")]),
        (native_lesion_mask, save_native_lesion_mask, [("out_file", "in_file")]),
    ])  # fmt: skip
    if not plan.is_reference:
        workflow.connect([(inputnode, native_lesion_mask, [("transform", "transform")])])


def _add_synthesis_figure(
    workflow: pe.Workflow,
    plan: ScanPlan,
    prediction: Prediction,
    contrasts: list[str],
    inputnode: pe.Node,
    represent: pe.Node,
) -> None:
    """Add the figure of what was predicted; a contrast that was acquired is shown beside it."""
    synthesis_figure = pe.Node(
        SynthesisFigure(
            title=f"{prediction.model.name} from {plan.scan.key}",
            source_name=plan.scan.suffix,
            reference_name=plan.reference_suffix,
            contrasts=contrasts,
        ),
        name="synthesis_figure",
    )
    save_synthesis_figure = init_save_node(prediction.files["synthesis_figure"], name="save_synthesis_figure")
    workflow.connect([
        (inputnode, synthesis_figure, [("preproc", "in_file"), ("mask", "mask_file")]),
        (represent, synthesis_figure, [("images", "images")]),
        (synthesis_figure, save_synthesis_figure, [("out_file", "in_file")]),
    ])  # fmt: skip
    if not plan.is_reference:
        workflow.connect([(inputnode, synthesis_figure, [("reference_preproc", "reference")])])


def _add_figure(
    workflow: pe.Workflow,
    plan: ScanPlan,
    prediction: Prediction,
    role: str,
    kind: str,
    inputnode: pe.Node,
    represent: pe.Node,
) -> None:
    """Add the figure of one prediction beside the scan it was made from."""
    title, scan = f"{prediction.model.name} from {plan.scan.key}", plan.scan.suffix
    if kind == SUPERRES:
        field, interface = "superres", SuperresFigure(title=title, source_name=scan)
    elif kind == BIAS:
        field, interface = "bias", BiasFigure(title=title, source_name=scan)
    else:
        field, interface = "segmentation", SegmentationFigure(title=title, labels=SEGMENTATIONS[role])
    figure = pe.Node(interface, name=f"{kind}_figure")
    save_figure = init_save_node(prediction.files[f"{kind}_figure"], name=f"save_{kind}_figure")
    workflow.connect([
        (inputnode, figure, [("preproc", "in_file"), ("mask", "mask_file")]),
        (represent, figure, [(("images", _pick, role), field)]),
        (figure, save_figure, [("out_file", "in_file")]),
    ])  # fmt: skip


def _quality(quality):  # noqa: ANN001, ANN202 (Nipype runs the bare source of it)
    """Say in the sidecar of a transform how the registration went."""
    return {"Quality": quality}


def _pick(images, name):  # noqa: ANN001, ANN202 (Nipype runs the bare source of it)
    """Take one prediction out of all."""
    return images[name]
