"""What weights are worth on acquired scans: protocols that need no training, each beside a simple answer.

Scans are prepared as the app prepares them (`bidsrep.training.labelled_scans`), then one protocol asks one
question: how near a synthetic contrast comes to the acquired one, how well lesions are found, how well
structures agree with a segmentation, how much of lost resolution or of a bias field is recovered. Every
protocol measures an answer that needs no network as well; where that is better, the network is not worth it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bidsrep.bids.scans import Scan
from bidsrep.errors import InputError
from bidsrep.evaluation.metrics.fields import norm_l2
from bidsrep.evaluation.metrics.identity import identify
from bidsrep.evaluation.metrics.images import mean_absolute_error, psnr, ssim
from bidsrep.evaluation.metrics.lesions import average_precision, detect_lesions, roc_auc
from bidsrep.evaluation.metrics.overlap import hausdorff_95
from bidsrep.evaluation.results import Result
from bidsrep.evaluation.synthesis import PEAK_PERCENTILE, compare_synthesis, fitted
from bidsrep.imaging.grids import pad_to_multiple
from bidsrep.imaging.normalise import normalise
from bidsrep.imaging.quality import dice
from bidsrep.imaging.tissues import own_borders, tissue_classes
from bidsrep.models.model import Model
from bidsrep.settings import MODALITIES
from bidsrep.synth.filters import upsample
from bidsrep.tasks.segmentation import IGNORED, LABELS, to_classes
from bidsrep.training.labelled import SYNTHESIS, find_labelled
from bidsrep.training.labelled_scans import Example, prepare_examples

LOGGER = logging.getLogger("bidsrep.training")
SEED = 20
VOXEL_ML = 0.001
"""Scans are compared on a grid of 1 mm."""
VOXEL_SIZES_MM = (3, 5, 7)
"""Voxel sizes that super-resolution starts from (Brain-ID, Table 2)."""
BIAS_STRENGTHS = (0.2, 0.4)
"""Standard deviations of the control points of the fields' logarithm, `BIAS_MM` apart."""
BIAS_MM = 60.0
CELLS = 6
"""Parts that a brain's bounding box is cut into along each axis, to compare persons without registration."""
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


@dataclass(frozen=True)
class Scans:
    """Acquired scans and what they are compared with.

    Parameters
    ----------
    bids
        BIDS dataset of the scans.
    folder
        Where prepared scans are kept.
    labels
        Derivatives dataset of the labels; not needed for synthesis.
    label
        ``label`` or ``desc`` entity of the labels, where the usual one is not meant.
    participants
        Only these; all for an empty one.
    device
        Where brains are extracted.
    """

    bids: Path
    folder: Path
    labels: Path | None = None
    label: str = ""
    participants: tuple[str, ...] = ()
    device: str = "cpu"
    modalities: tuple[str, ...] = MODALITIES

    def examples(self, task: str) -> list[tuple[str, Example]]:
        """Contrast and prepared scan of every scan that has a label for ``task``."""
        pairs = find_labelled(
            self.bids,
            self.labels,
            task,
            name=self.label,
            participant_label=self.participants,
            modalities=self.modalities,
            skip_bids_validation=True,
        )
        found = prepare_examples(pairs, self.labels, task, self.folder / task, self.device)
        contrasts = {pair.name: _contrast(pair.scan) for pair in pairs}
        return [(contrasts[example.name], example) for example in found]


def synthesis(scans: Scans, models: Mapping[str, Model]) -> Iterator[Result]:
    """Synthetic T1w and FLAIR against the acquired ones of the session (PEPSI, Table 1), by contrast.

    Baseline ``input``: the scan itself, or its negative where that correlates better.
    """
    for target in SYNTHESIS:
        able = _with_head(models, target)
        try:
            examples = scans.examples(target) if able else []
        except InputError as error:  # a cohort may have no FLAIR
            LOGGER.warning("%s", error)
            continue
        for contrast, example in examples:
            image, brain, truth = _arrays(example)
            answers = {name: _predict(model, image, brain, target) for name, model in able.items()}
            answers["input"] = max(
                (image, -image), key=lambda x: compare_synthesis(x, truth, brain)["correlation"]
            )
            for system, answer in answers.items():
                found = compare_synthesis(answer, truth, brain)
                for metric, unit in (("correlation", ""), ("psnr", "dB"), ("mae", "")):
                    yield Result(system, f"{contrast} to {target}", example.name, metric, found[metric], unit)
                value = _ssim_of_fitted(answer, truth, brain)
                yield Result(system, f"{contrast} to {target}", example.name, "ssim", value)


def lesion(scans: Scans, models: Mapping[str, Model]) -> Iterator[Result]:
    """Lesion probabilities against lesion masks (PEPSI, Table 2), by contrast.

    Without labels the persons count as healthy: every lesion is a false one. Baseline ``intensity``: how bright a voxel of the brain is; how dark on a T1w.
    """
    able = _with_head(models, "lesion")
    healthy = scans.labels is None
    for contrast, example in scans.examples("T1w" if healthy else "lesion"):
        image, brain, given = _arrays(example)
        truth = (given > 0.5) & brain & (not healthy)
        answers = {name: _predict(model, image, brain, "lesion") for name, model in able.items()}
        answers["intensity"] = _outstanding(-image if contrast.endswith("T1w") else image, brain)
        for system, answer in answers.items():
            for metric, value, unit in _lesion_figures(answer, truth, brain):
                yield Result(system, contrast, example.name, metric, value, unit)


def segmentation(scans: Scans, models: Mapping[str, Model]) -> Iterator[Result]:
    """Structures against a segmentation with FreeSurfer's (or MUSE's) values (Brain-ID, Table 2).

    Baseline ``intensity``: three classes of a T1w's intensities, called cortex, white matter and ventricles.
    """
    able = _with_head(models, "seg")
    for contrast, example in scans.examples("seg"):
        image, brain, given = _arrays(example)
        truth = _as_structures(given)
        answers = {name: _predict(model, image, brain, "seg") for name, model in able.items()}
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


def superresolution(scans: Scans, models: Mapping[str, Model]) -> Iterator[Result]:
    """Scans of 1 mm back from larger voxels (Brain-ID, Table 2). Baseline: ``cubic`` interpolation."""
    able = _with_head(models, "superres")
    for contrast, example in scans.examples("T1w"):
        image, brain, _ = _arrays(example)
        for size in VOXEL_SIZES_MM:
            coarse = _enlarge_voxels(image, size)
            answers = {"cubic": _interpolate(coarse, image.shape, order=3) * brain}
            low = _interpolate(coarse, image.shape, order=1) * brain
            for name, model in able.items():
                answers[name] = _predict(model, low, brain, "superres")
            for system, answer in answers.items():
                group = f"{contrast} {size} mm"
                for metric, value, unit in (
                    ("psnr", psnr(answer, image, brain, peak=1.0), "dB"),
                    ("ssim", ssim(answer, image, brain, data_range=1.0), ""),
                    ("mae", mean_absolute_error(answer, image, brain), ""),
                ):
                    yield Result(system, group, example.name, metric, value, unit)


def bias(scans: Scans, models: Mapping[str, Model]) -> Iterator[Result]:
    """Fields that scans were multiplied by (Brain-ID, Table 2). Baselines: ``none`` (a constant), ``n4``."""
    able = _with_head(models, "bias")
    for number, (contrast, example) in enumerate(scans.examples("T1w")):
        image, brain, _ = _arrays(example)
        for strength in BIAS_STRENGTHS:
            field = _random_field(image.shape, strength, SEED + number)
            spoilt = normalise(image * field, brain)
            answers = {"none": np.ones_like(image), "n4": _n4_field(spoilt, brain)}
            for name, model in able.items():
                answers[name] = _predict(model, spoilt, brain, "bias")
            for system, answer in answers.items():
                value = norm_l2(answer, field, brain)
                group = f"{contrast}, strength {strength}"
                yield Result(system, group, example.name, "normL2", value, seed=SEED + number)


def identity(scans: Scans, models: Mapping[str, Model]) -> Iterator[Result]:
    """Whether another contrast of a person is nearer than another person in the same contrast.

    Features are averaged in `CELLS`^3 parts of the brain's bounding box. Baseline ``intensity``: the same of
    the image itself.
    """
    examples = scans.examples("T1w")
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in (*models, "intensity")}
    for _, example in examples:
        image, brain, _ = _arrays(example)
        vectors["intensity"].append(_cells(image[None], brain))
        for name, model in models.items():
            vectors[name].append(_cells(_features(model, image), brain))
    people, contrasts = [e.subject for _, e in examples], [contrast for contrast, _ in examples]
    for system, found in vectors.items():
        table = np.stack(found)
        right = identify(table - table.mean(axis=0), people, contrasts)
        for (contrast, example), own, other in zip(examples, right.own, right.other, strict=True):
            if np.isfinite(own) and np.isfinite(other):
                yield Result(system, contrast, example.name, "identified", float(own < other))


Protocol = Callable[[Scans, Mapping[str, Model]], Iterator[Result]]
PROTOCOLS: dict[str, Protocol] = {
    "scans-synthesis": synthesis,
    "scans-lesion": lesion,
    "scans-segmentation": segmentation,
    "scans-superresolution": superresolution,
    "scans-bias": bias,
    "scans-identity": identity,
}


def _contrast(scan: Scan) -> str:
    return f"ce-{scan.entities['ce']} {scan.suffix}" if "ce" in scan.entities else scan.suffix


def _with_head(models: Mapping[str, Model], task: str) -> dict[str, Model]:
    return {name: model for name, model in models.items() if task in {t.name for t in model.outputs}}


def _arrays(example: Example) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (0 to 2, 0 outside the brain), brain and label of a prepared scan, ``(X, Y, Z)``."""
    loaded = {kind: value[0].numpy() for kind, value in example.load().items()}
    brain = loaded["mask"] > 0
    return loaded["image"] * brain, brain, loaded["label"]


def _predict(model: Model, image: np.ndarray, brain: np.ndarray, task: str) -> np.ndarray:
    """One output ``(X, Y, Z)`` for an image, 0 outside the brain, as the app makes it."""
    padded, keep = pad_to_multiple(image, model.divisor)
    with torch.inference_mode():
        found = model.predict(torch.from_numpy(padded)[None, None], [task])[task]
    return np.where(brain, found[0, 0].float().cpu().numpy()[keep], 0)


def _features(model: Model, image: np.ndarray) -> np.ndarray:
    """Features ``(C, X', Y', Z')`` of an image that was padded, if need be, to a multiple of the divisor."""
    padded, _ = pad_to_multiple(image, model.divisor)
    with torch.inference_mode():
        return model.features(torch.from_numpy(padded)[None, None])[0].float().cpu().numpy()


def _cells(features: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Means of ``(C, X', Y', Z')`` in the parts of the brain's bounding box: ``(C * CELLS ** 3,)``.

    The grid of the features may be coarser than the brain's ``(X, Y, Z)``, by a whole number.
    """
    stride = max(1, round(brain.shape[0] / features.shape[1]))
    spans = [
        np.linspace(low, high + 1, CELLS + 1) / stride
        for low, high in zip(*(f(np.argwhere(brain), axis=0) for f in (np.min, np.max)), strict=True)
    ]
    found = []
    for x, y, z in np.ndindex(CELLS, CELLS, CELLS):
        box = tuple(
            slice(int(edges[i]), max(int(edges[i]) + 1, int(edges[i + 1])))
            for edges, i in zip(spans, (x, y, z), strict=True)
        )
        found.append(features[:, *box].mean(axis=(1, 2, 3)))
    return np.concatenate(found)


def _ssim_of_fitted(answer: np.ndarray, truth: np.ndarray, brain: np.ndarray) -> float:
    """SSIM after the answer was brought to the truth's scale by a line, the peak being its 99.5th percentile."""
    scaled = np.where(brain, truth / float(np.percentile(truth[brain], PEAK_PERCENTILE)), 0).astype(
        np.float64
    )
    found = np.zeros_like(scaled)
    found[brain] = fitted(answer[brain].astype(np.float64), scaled[brain])
    return ssim(found, scaled, brain, data_range=1.0)


def _lesion_figures(
    answer: np.ndarray, truth: np.ndarray, brain: np.ndarray
) -> Iterator[tuple[str, float, str]]:
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


def _outstanding(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Of how many standard deviations a voxel exceeds the brain's mean, squeezed so that three give 0.5."""
    values = image[brain]
    score = (image - values.mean()) / max(float(values.std()), 1e-6)
    return np.where(brain, 1 / (1 + np.exp(3 - score)), 0)


def _as_structures(labels: np.ndarray) -> np.ndarray:
    """FreeSurfer values as those of the 33 structures; `UNKNOWN` where there is no such structure."""
    classes = to_classes(torch.from_numpy(np.rint(labels)).long()).numpy()
    return np.where(classes == IGNORED, UNKNOWN, np.array(LABELS)[np.where(classes == IGNORED, 0, classes)])


def _enlarge_voxels(image: np.ndarray, size: int) -> np.ndarray:
    """Average over cubes of ``size`` voxels; a rest at the end of an axis is filled with its last voxel."""
    padded = np.pad(image, [(0, -length % size) for length in image.shape], mode="edge")
    x, y, z = (length // size for length in padded.shape)
    return padded.reshape(x, size, y, size, z, size).mean(axis=(1, 3, 5))


def _interpolate(coarse: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    """An image of larger voxels (`_enlarge_voxels`) on the grid it came from."""
    from scipy.ndimage import map_coordinates

    size = -(-shape[0] // coarse.shape[0])
    axes = [(np.arange(length) + 0.5) / size - 0.5 for length in shape]
    places = np.meshgrid(*axes, indexing="ij")
    return map_coordinates(coarse, places, order=order, mode="nearest", output=np.float32)


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
