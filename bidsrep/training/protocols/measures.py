"""How answers are measured, whatever the scans are: against a truth, beside an answer that needs no network.

An example is a prepared scan with its label (`bidsrep.training.labelled_scans`), acquired or made from an
anatomy; it comes with its contrast. Arrays are ``(X, Y, Z)``, 1 mm RAS.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from nibabel.affines import from_matvec

from bidsrep.evaluation.metrics.fields import norm_l2
from bidsrep.evaluation.metrics.images import mean_absolute_error, psnr, ssim
from bidsrep.evaluation.metrics.lesions import average_precision, detect_lesions, roc_auc
from bidsrep.evaluation.metrics.overlap import hausdorff_95
from bidsrep.evaluation.results import Result
from bidsrep.evaluation.synthesis import PEAK_PERCENTILE, compare_synthesis, fitted
from bidsrep.imaging.grids import Grid, pad_to_multiple
from bidsrep.imaging.normalise import normalise
from bidsrep.imaging.quality import dice
from bidsrep.imaging.resample import resample
from bidsrep.imaging.tissues import own_borders, tissue_classes
from bidsrep.imaging.volume import Volume
from bidsrep.models.model import Model
from bidsrep.synth.filters import upsample
from bidsrep.tasks.segmentation import IGNORED, LABELS, to_classes
from bidsrep.training.labelled_scans import Example

SEED = 20
VOXEL_ML = 0.001
"""Scans are compared on a grid of 1 mm."""
VOXEL_SIZES_MM = (3, 5, 7)
"""Voxel sizes that super-resolution starts from (Brain-ID, Table 2)."""
BIAS_STRENGTHS = (0.2, 0.4)
"""Standard deviations of the control points of the fields' logarithm, `BIAS_MM` apart."""
BIAS_MM = 60.0
LESION_ML = 0.1
"""Lesions from this volume on are counted one by one."""
GROUPS = {
    "cortex": (3, 42),
    "white matter": (2, 41),
    "ventricles": (4, 43, 14, 15),
    "deep grey": (10, 49, 11, 50, 12, 51, 13, 52),
    "hippocampus and amygdala": (17, 53, 18, 54),
    "cerebellum": (7, 8, 46, 47),
    "brain stem": (16,),
}
"""FreeSurfer values of the structures that segmentations are compared by."""
GROUPS_OF_INTENSITY = ("cortex", "white matter", "ventricles")
UNKNOWN = -1

Examples = Sequence[tuple[str, Example]]


@contextmanager
def nothing_left() -> Iterator[None]:
    """Temporary files go when this ends: ANTs leaves transforms and probability images behind."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def measure_synthesis(examples: Examples, models: Mapping[str, Model], target: str) -> Iterator[Result]:
    """A synthetic ``target`` (T1w or FLAIR) against the acquired one (PEPSI, Table 1), by contrast.

    Baseline ``input``: the scan itself, or its negative where that correlates better.
    """
    for contrast, example in examples:
        image, brain, truth = arrays(example)
        answers = {name: predict(model, image, brain, target) for name, model in models.items()}
        answers["input"] = max(
            (image, -image), key=lambda x: compare_synthesis(x, truth, brain)["correlation"]
        )
        for system, answer in answers.items():
            found = compare_synthesis(answer, truth, brain)
            group = f"{contrast} to {target}"
            for metric, unit in (("correlation", ""), ("psnr", "dB"), ("mae", "")):
                yield Result(system, group, example.name, metric, found[metric], unit)
            yield Result(system, group, example.name, "ssim", ssim_of_fitted(answer, truth, brain))


def measure_lesions(
    examples: Examples, models: Mapping[str, Model], *, healthy: bool = False
) -> Iterator[Result]:
    """Lesion probabilities against lesion masks (PEPSI, Table 2), by contrast.

    Of ``healthy`` persons every lesion is a false one. Baseline ``intensity``: how bright a voxel of the brain
    is; how dark on a T1w.
    """
    for contrast, example in examples:
        image, brain, given = arrays(example)
        truth = (given > 0.5) & brain & (not healthy)
        answers = {name: predict(model, image, brain, "lesion") for name, model in models.items()}
        answers["intensity"] = outstanding(-image if contrast.endswith("T1w") else image, brain)
        for system, answer in answers.items():
            for metric, value, unit in lesion_figures(answer, truth, brain):
                yield Result(system, contrast, example.name, metric, value, unit)


def measure_segmentation(examples: Examples, models: Mapping[str, Model]) -> Iterator[Result]:
    """Structures against a segmentation with FreeSurfer's (or MUSE's) values (Brain-ID, Table 2).

    Baseline ``intensity``: three classes of a T1w's intensities, called cortex, white matter and ventricles.
    """
    for contrast, example in examples:
        image, brain, given = arrays(example)
        truth = _as_structures(given)
        answers = {name: predict(model, image, brain, "seg") for name, model in models.items()}
        if contrast == "T1w":
            classes = tissue_classes(image, brain, own_borders(image, brain))
            answers["intensity"] = np.array([0, 4, 3, 2])[classes]
        for system, answer in answers.items():
            for group, values in GROUPS.items():
                there = np.isin(truth, values)
                found = np.isin(answer, values) & (truth != UNKNOWN)
                if there.any() and (system != "intensity" or group in GROUPS_OF_INTENSITY):
                    named = f"{contrast}, {group}"
                    yield Result(system, named, example.name, "dice", dice(found, there))
                    distance = hausdorff_95(found, there, (1.0, 1.0, 1.0))
                    yield Result(system, named, example.name, "hd95", distance, "mm")


def measure_superresolution(examples: Examples, models: Mapping[str, Model]) -> Iterator[Result]:
    """Scans of 1 mm back from larger voxels (Brain-ID, Table 2), and from thicker axial slices.

    What the models are given is interpolated cubically, as in the app. Baselines: ``cubic`` and ``linear``
    interpolation.
    """
    for contrast, example in examples:
        image, brain, _ = arrays(example)
        for size in VOXEL_SIZES_MM:
            for group, sizes in (
                (f"{contrast} {size} mm", (size, size, size)),
                (f"{contrast} {size} mm slices", (1, 1, size)),
            ):
                coarse, grid = enlarge_voxels(image, sizes), Grid(image.shape, np.eye(4))
                low = resample(coarse, grid, order=3, inside=brain).data
                answers = {"cubic": low, "linear": resample(coarse, grid, inside=brain).data}
                for name, model in models.items():
                    answers[name] = predict(model, low, brain, "superres")
                for system, answer in answers.items():
                    for metric, value, unit in (
                        ("psnr", psnr(answer, image, brain, peak=1.0), "dB"),
                        ("ssim", ssim(answer, image, brain, data_range=1.0), ""),
                        ("mae", mean_absolute_error(answer, image, brain), ""),
                    ):
                        yield Result(system, group, example.name, metric, value, unit)


def measure_bias(examples: Examples, models: Mapping[str, Model], seed: int = SEED) -> Iterator[Result]:
    """Fields that scans were multiplied by (Brain-ID, Table 2). Baselines: ``none`` (a constant), ``n4``."""
    for number, (contrast, example) in enumerate(examples):
        image, brain, _ = arrays(example)
        for strength in BIAS_STRENGTHS:
            field = _random_field(image.shape, strength, seed + number)
            spoilt = normalise(image * field, brain)
            answers = {"none": np.ones_like(image), "n4": _n4_field(spoilt, brain)}
            for name, model in models.items():
                answers[name] = predict(model, spoilt, brain, "bias")
            for system, answer in answers.items():
                value = norm_l2(answer, field, brain)
                group = f"{contrast}, strength {strength}"
                yield Result(system, group, example.name, "normL2", value, seed=seed + number)


def with_head(models: Mapping[str, Model], task: str) -> dict[str, Model]:
    """Those of the models that have an output of this name."""
    return {name: model for name, model in models.items() if task in {t.name for t in model.outputs}}


def arrays(example: Example) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (0 to 2, 0 outside the brain), brain and label of a prepared scan, ``(X, Y, Z)``."""
    loaded = {kind: value[0].numpy() for kind, value in example.load().items()}
    brain = loaded["mask"] > 0
    return loaded["image"] * brain, brain, loaded["label"]


def predict(model: Model, image: np.ndarray, brain: np.ndarray, task: str) -> np.ndarray:
    """One output ``(X, Y, Z)`` for an image, 0 outside the brain, as the app makes it."""
    padded, keep = pad_to_multiple(image, model.divisor)
    with torch.inference_mode():
        found = model.predict(torch.from_numpy(padded)[None, None], [task])[task]
    return np.where(brain, found[0, 0].float().cpu().numpy()[keep], 0)


def ssim_of_fitted(answer: np.ndarray, truth: np.ndarray, brain: np.ndarray) -> float:
    """SSIM after the answer was brought to the truth's scale by a line, the peak being its 99.5th percentile."""
    scaled = np.where(brain, truth / float(np.percentile(truth[brain], PEAK_PERCENTILE)), 0).astype(
        np.float64
    )
    found = np.zeros_like(scaled)
    found[brain] = fitted(answer[brain].astype(np.float64), scaled[brain])
    return ssim(found, scaled, brain, data_range=1.0)


def lesion_figures(
    answer: np.ndarray, truth: np.ndarray, brain: np.ndarray
) -> Iterator[tuple[str, float, str]]:
    """Metric, value and unit of a map of lesion probabilities ``(X, Y, Z)``."""
    found = detect_lesions(answer > 0.5, truth, VOXEL_ML)
    yield "auc", roc_auc(answer, truth, brain), ""
    yield "average_precision", average_precision(answer, truth, brain), ""
    yield "dice", dice(answer > 0.5, truth, brain), ""
    yield "sensitivity", found.sensitivity, ""
    large = found.found_above(LESION_ML)
    yield "sensitivity_large", float(large.mean()) if large.size else float("nan"), ""
    yield "false_positives", float(found.false_positives), ""
    yield "false_positive_volume", found.false_positive_ml, "ml"
    yield "volume", float((answer > 0.5).sum() * VOXEL_ML), "ml"
    yield "true_volume", float(truth.sum() * VOXEL_ML), "ml"


def outstanding(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Of how many standard deviations a voxel exceeds the brain's mean, squeezed so that three give 0.5."""
    values = image[brain]
    score = (image - values.mean()) / max(float(values.std()), 1e-6)
    return np.where(brain, 1 / (1 + np.exp(3 - score)), 0)


def _as_structures(labels: np.ndarray) -> np.ndarray:
    """FreeSurfer values as those of the 33 structures; `UNKNOWN` where there is no such structure."""
    classes = to_classes(torch.from_numpy(np.rint(labels)).long()).numpy()
    return np.where(classes == IGNORED, UNKNOWN, np.array(LABELS)[np.where(classes == IGNORED, 0, classes)])


def enlarge_voxels(image: np.ndarray, sizes: tuple[int, int, int]) -> Volume:
    """Average over blocks of voxels; a rest at the end of an axis is filled with its last voxel.

    The affine of what is returned counts in voxels of the image.
    """
    padded = np.pad(image, [(0, -n % size) for n, size in zip(image.shape, sizes, strict=True)], mode="edge")
    (a, b, c), (x, y, z) = sizes, padded.shape
    blocks = padded.reshape(x // a, a, y // b, b, z // c, c).mean(axis=(1, 3, 5))
    return Volume(blocks, from_matvec(np.diag(sizes), (np.array(sizes) - 1) / 2))


def _random_field(shape: tuple[int, ...], strength: float, seed: int) -> np.ndarray:
    """A smooth positive field, around 1."""
    generator = torch.Generator().manual_seed(seed)
    control = [max(2, round(length / BIAS_MM) + 1) for length in shape]
    return torch.exp(upsample(strength * torch.randn(*control, generator=generator), shape)).numpy()


def _n4_field(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """The field N4 finds (Tustison et al., 2010)."""
    import ants

    return ants.n4_bias_field_correction(
        ants.from_numpy(image), mask=ants.from_numpy(brain.astype(np.float32)), return_bias_field=True
    ).numpy()
