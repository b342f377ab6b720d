"""Move the operating point of a lesion head: where it says 0.5 is where its maps overlap best with lesions.

A head that was trained with lesions weighing more than their share says 0.5 far too early. Which voxels come before
which, and so the AUC, does not change: the logits ``z`` become ``SLOPE * (z - threshold)``, which the head's own weights
take up.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bidsrep.errors import UsageError
from bidsrep.imaging.grids import pad_to_multiple
from bidsrep.models.model import Model
from bidsrep.models.weights import card_path, read_weights, write_weights
from bidsrep.training.protocols.anatomies import choose_persons, held_out
from bidsrep.training.protocols.cases import CONTRASTS, draw_case, undeformed
from bidsrep.training.protocols.comparison import Population

LOGGER = logging.getLogger("bidsrep.training")
HEAD = "pathol"
LESION = 0.3
"""Share of a voxel from which on it is lesion."""
THRESHOLDS = np.arange(-6, 6.05, 0.1)
WITHIN = 0.95
"""Of the best mean Dice: the highest such threshold is taken, as false lesions cost a reader more than Dice says."""
SLOPE = 2.0
"""Spreads what is above the threshold: where features have unit length, logits end little above it."""
NO_HEAD = "{}: the weights have no lesion head of one convolution, which alone can be calibrated"


def calibrate(
    model: Model,
    weights: Path,
    folders: Sequence[Path],
    persons: Sequence[str],
    out: Path,
    *,
    edition: str,
    seed: int = 20,
) -> tuple[Path, Path]:
    """Write weights whose lesion head has another operating point; all else stays bit for bit.

    Every person is shown as a T1w, a T2w and a FLAIR, spoilt at level "medium", with their own lesions or drawn ones.

    Parameters
    ----------
    model
        The weights, loaded.
    weights
        Their file.
    folders
        Prepared anatomies, and folders of lesion shapes.
    persons
        Who is shown, ``sub-01``: those that the weights never saw, if empty.
    out
        Folder to write to.
    edition
        Goes into the weights' id.
    seed
        Of the images.

    Raises
    ------
    UsageError
        If there is no lesion head of one convolution.
    """
    state, card = read_weights(weights)
    key = f"head.final_conv_{HEAD}."
    if {name for name in state if name.startswith(key)} != {key + "weight", key + "bias"}:
        raise UsageError(NO_HEAD.format(weights))
    chosen = choose_persons(tuple(folders), list(persons), held_out({model.name: model}))
    table = dice_by_threshold(model, folders, chosen, seed)
    threshold = best_threshold(table)
    at = [table[:, int(np.abs(THRESHOLDS - value).argmin())].mean() for value in (0, threshold)]
    said = (
        f"lesion head: {SLOPE:g} * (logit - {threshold:.1f}); mean Dice {at[1]:.3f} instead of {at[0]:.3f} "
        f"over {len(table)} images of {', '.join(chosen)} (seed {seed})"
    )
    LOGGER.info("%s", said)
    state[key + "bias"] = _moved(state[key + "bias"], threshold)
    state[key + "weight"] = _moved(state[key + "weight"], 0.0)
    training = {
        **card.get("training", {}),
        "calibrated": said,
        "calibrated_sha256": card["weights"]["sha256"],
    }
    named = {**card["weights"], "id": f"bidsrep-{model.name}-{edition}"}
    path = write_weights(
        out / f"{model.name}.safetensors", state, {**card, "weights": named, "training": training}
    )
    return path, card_path(path)


def best_threshold(table: np.ndarray) -> float:
    """The highest threshold whose Dice, in the mean over the rows of ``(N, len(THRESHOLDS))``, is `WITHIN` the best.

    >>> row = np.where(THRESHOLDS < 0.95, 0.5, 0.2)
    >>> round(best_threshold(np.stack([row, row])), 1)
    0.9
    """
    mean = table.mean(axis=0)
    return float(THRESHOLDS[np.flatnonzero(mean >= WITHIN * mean.max())[-1]])


def dice_by_threshold(model: Model, folders: Sequence[Path], persons: Sequence[str], seed: int) -> np.ndarray:
    """Dice of the lesion logits above each of `THRESHOLDS`, a row per image ``(N, len(THRESHOLDS))``."""
    population, rows = Population(folders), []
    for person in persons:
        for source in population.sources([person]):
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {person}".encode()))
            subject = undeformed(source, generator, True, population.priors)
            for contrast in CONTRASTS:
                case = draw_case(subject, source, "lesion", contrast, generator)
                brain = case["mask"] > 0
                lesion = (case["label"][brain] > LESION).numpy()
                rows.append(dice_above(_logits(model, case["image"])[brain].numpy(), lesion))
    return np.stack(rows)


def dice_above(logits: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    """Dice of ``logits > t`` with a mask of the same shape, for all of `THRESHOLDS`."""
    marked, found = (
        len(values) - np.searchsorted(np.sort(values), THRESHOLDS, side="right")
        for values in (logits.ravel(), logits[lesion])
    )
    return 2 * found / np.maximum(1, marked + lesion.sum())


@torch.no_grad()
def _logits(model: Model, image: Tensor) -> Tensor:
    padded, keep = pad_to_multiple(image.numpy(), model.divisor)
    volume = torch.from_numpy(padded)[None, None]
    head: nn.Module = model.network.get_submodule("head")
    raw: Tensor = head.stream(model.features(volume), volume.to(model.device), {HEAD})[HEAD]
    return raw[0, 0].cpu()[keep]


def _moved(values: Tensor, threshold: float) -> Tensor:
    return (SLOPE * (values.float() - threshold)).to(values.dtype)
