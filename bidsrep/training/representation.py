"""Pre-training objectives of Brain-ID and PEPSI on generated intra-subject mini-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bidsrep.synth.corruption import Level
from bidsrep.synth.deformation import DeformationConfig
from bidsrep.synth.generator import (
    Acquisition,
    GeneratorConfig,
    Source,
    Subject,
    deform_subject,
    sample_acquisition,
)
from bidsrep.synth.heads import brain_of
from bidsrep.synth.random import coin, integer
from bidsrep.synth.ventricles import inward_field, of_names, of_t1w
from bidsrep.tasks.bias import bias_loss
from bidsrep.tasks.segmentation import mirror_classes, segmentation_loss, to_classes
from bidsrep.training.anatomies import Anatomy, LabelTable, load_anatomies
from bidsrep.training.glances import glance_losses
from bidsrep.training.losses import implicit_pathology, lesion_loss, omega, reconstruction
from bidsrep.training.recipe import Recipe


class RepresentationObjective:
    """T1w (Brain-ID, eq. 3), plus FLAIR, lesion and implicit pathology supervision (PEPSI, eqs. 3 and 4).

    Which terms apply follows from the recipe's heads: ``image`` (T1w; the clean input where that head reads
    the image, as in the authors' super-resolution), ``aux_image`` (FLAIR), ``pathol``, and Brain-ID's
    ``seg``, ``superres``, ``bias_field_log``. A T1w or FLAIR that an anatomy does not have is simulated; a
    segmentation that it does not have drops its term. The recipe's ``[losses]`` has the weights; its ``heads``
    are those that are trained, where these are not all; ``glance`` trains the views alone (see `glances`).
    """

    def __init__(self, sources: dict[float, list[Source]], recipe: Recipe, priors: list[Tensor]) -> None:
        self.sources, self.recipe, self.priors = sources, recipe, priors
        self.config = generator_config(recipe.generator)
        of_input = "image" in recipe.architecture.get("with_image", ())
        self.targets = {
            "image": "target_superres" if of_input else "target_image",
            "aux_image": "target_aux_image",
            "superres": "target_superres",
        }
        trained = recipe.losses.get("heads") or recipe.architecture.get("heads", {})
        self.with_clean = of_input or "superres" in trained
        self.segmenters: dict[str, nn.Module] = {}

    @classmethod
    def from_folders(cls, folders: list[Path], recipe: Recipe) -> RepresentationObjective:
        """Load anatomies (and lesion shapes: ``*_label-lesion_mask.nii.gz``) from prepared datasets.

        Neither those of the held-out persons, by the start of the name: ``sub-01``, ``ms-07``.
        """
        anatomies: list[tuple[Anatomy, LabelTable | None]] = []
        priors: list[Tensor] = []
        for folder in folders:
            found = sorted(folder.glob("**/*_label-lesion_mask.nii.gz"))
            used = [path for path in found if path.name.split("_")[0] not in recipe.held_out]
            priors += [_lesion_prior(path) for path in used]
            if not found:
                loaded, table = load_anatomies(folder)
                anatomies += [(a, table) for a in loaded]
        kept = [(a, t) for a, t in anatomies if a.name not in recipe.held_out]
        if set(recipe.architecture["heads"]) == {"seg"}:  # a scan without labels would have no loss at all
            kept = [(a, t) for a, t in kept if a.labels is not None]
        spacings = {stage.spacing for stage in recipe.stages}
        sources = {spacing: [make_source(a, table, spacing) for a, table in kept] for spacing in spacings}
        return cls(sources, recipe, priors)

    def sample(self, index: int, step: int) -> dict[str, Tensor]:
        """One intra-subject mini-batch: ``image`` and targets ``(B, 1, X, Y, Z)``."""
        stage = self.recipe.stage_at(step)
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + index)
        sources = self.sources[stage.spacing]
        real = [source for source in sources if source.t1w is not None]
        if real and len(real) < len(sources):
            # Real scans carry texture that label maps lack; their share is the recipe's, not their number's.
            share = float(self.recipe.losses.get("real_share", 0.5))
            drawn = [s for s in sources if s.t1w is None]
            sources = real if coin(generator, share) else drawn
        source = sources[integer(generator, 0, len(sources))]
        subject = deform_subject(source, generator, stage.shape, stage.spacing, self.config, self.priors)
        images = []
        for number in range(stage.samples):
            level = self._level(number, stage.samples, generator)
            drawn_as = (subject, source, generator, stage.spacing, self.config, level)
            images.append(sample_acquisition(*drawn_as, with_clean=self.with_clean))
        return collate(images, subject, source.values)

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Named losses of one mini-batch; ``loss`` is their weighted sum."""
        image = batch["image"].contiguous(memory_format=torch.channels_last_3d)
        losses: dict[str, Tensor] = {}
        if self.recipe.losses.get("glance"):
            losses = glance_losses(network.get_submodule("head"), batch, self.recipe.losses)
            return {"loss": torch.stack(list(losses.values())).sum(), **losses}
        outputs = {
            name: value.float() for name, value in network(image, self.recipe.losses.get("heads")).items()
        }
        early = step < int(self.recipe.losses.get("gradient_from", 0))
        terms = {"gradient": 0.0, "squared": 2.0} if early else {}
        for name, target in self.targets.items():
            if name in outputs:
                weight = float(self.recipe.losses.get(name, 1.0))
                losses[name] = weight * reconstruction(outputs[name], batch[target], batch["weight"], **terms)
        if "pathol" in outputs:
            weight = float(self.recipe.losses.get("lesion", 0.2))
            positive = float(self.recipe.losses.get("lesion_positive", 5.0))
            losses["pathol"] = weight * lesion_loss(outputs["pathol"], batch["lesion"], positive)
        if "seg" in outputs and "classes" in batch:
            weight = float(self.recipe.losses.get("seg", 1.0))
            losses["seg"] = weight * segmentation_loss(outputs["seg"], batch["classes"])
        if "bias_field_log" in outputs:
            weight = float(self.recipe.losses.get("bias", 1.0))
            term = bias_loss(outputs["bias_field_log"], batch["log_bias"], batch["brain"])
            losses["bias_field_log"] = weight * term
        every = int(self.recipe.losses.get("implicit_every", 1))
        for name, segmenter in self.segmenters.items():
            if step % every == 0 and bool((batch["lesion"] > 0).any()):
                segmenter.to(image.device)  # it was made before the run had a device
                term = implicit_term(segmenter, outputs[name], batch[f"target_{name}"])
                switch = int(self.recipe.losses.get("omega_switch", 100_000))
                losses[f"implicit_{name}"] = omega(step, switch) * term
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def _level(self, number: int, samples: int, generator: torch.Generator) -> Level | None:
        """Mild first, severe last (Brain-ID): image ``number`` draws from its share of the levels."""
        if samples == 1:
            return None
        levels = self.config.levels
        first = number * len(levels) // samples
        last = max(first + 1, (number + 1) * len(levels) // samples)
        return levels[integer(generator, first, last)]


def implicit_term(segmenter: nn.Module, synthetic: Tensor, reference: Tensor) -> Tensor:
    """Compare what a frozen segmenter sees in a synthetic and in the reference image (PEPSI, eq. 4)."""
    with torch.no_grad():
        seen = torch.sigmoid(segmenter(reference)["pathol"].float())
    return implicit_pathology(torch.sigmoid(segmenter(synthetic)["pathol"].float()), seen)


def collate(images: list[Acquisition], subject: Subject, values: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """Stack images with their own and their shared targets, ``(B, 1, X, Y, Z)`` each.

    Errors weigh 1 in the brain, 0.3 outside, and up to 3 more in lesions. ``values`` of the subject's labels give ``classes``,
    the channels of the ``seg`` head.
    """
    count = len(images)

    def repeat(volume: Tensor) -> Tensor:
        return volume[None, None].expand(count, 1, *volume.shape)

    batch = {
        "image": torch.stack([image.image for image in images])[:, None],
        "target_image": repeat(subject.t1w),
        "target_aux_image": repeat(subject.flair),
        "log_bias": torch.stack([image.log_bias for image in images])[:, None],
        "lesion": repeat(subject.lesion),
        "brain": repeat(subject.brain.float()),
        "weight": repeat(0.3 + 0.7 * subject.brain.float() + 3 * subject.lesion),
    }
    clean = [image.clean for image in images if image.clean is not None]
    if clean:
        batch["target_superres"] = torch.stack(clean)[:, None]
    if values and subject.labels is not None:
        classes = to_classes(torch.tensor(values))[subject.labels.long()]
        batch["classes"] = repeat(mirror_classes(classes) if subject.flipped else classes)
    return batch


def make_source(anatomy: Anatomy, table: LabelTable | None, spacing: float) -> Source:
    """Turn an anatomy into what the generator samples, averaged down for a coarse ``spacing`` (mm)."""
    if anatomy.labels is not None and table is not None:
        labels = _brain_labels(anatomy.labels, table.tissues)
        values = tuple(table.values.tolist())
        inward = inward_field(of_names(table.names or table.tissues)[labels[0].long()])
        return Source(
            1.0, labels=labels, tissues=table.tissues, names=table.names, values=values, inward=inward
        )
    from scipy.ndimage import distance_transform_edt

    assert anatomy.t1w is not None
    assert anatomy.tissue_means is not None
    own = {"t1w": anatomy.t1w, "flair": anatomy.flair, "lesion": anatomy.lesion}
    maps = {name: F.pad(volume, (8,) * 6) for name, volume in own.items() if volume is not None}
    t1w = maps["t1w"]
    rim = torch.from_numpy(distance_transform_edt((t1w[0] <= 0).numpy()).astype(np.float32))[None]
    maps["rim"] = (255 - rim).clamp(0, 255)
    inward = inward_field(of_t1w(t1w[0], sum(anatomy.tissue_means[:2]) / 2))
    factor = round(spacing)
    if factor > 1:
        maps = {name: F.avg_pool3d(volume[None], factor)[0] for name, volume in maps.items()}
    return Source(float(factor), tissue_means=anatomy.tissue_means, inward=inward, **maps)


def _brain_labels(labels: Tensor, tissues: tuple[str, ...]) -> Tensor:
    """Labels ``(1, X, Y, Z)`` of the brain alone, cropped to it."""
    inside = torch.tensor([tissue in ("csf", "gm", "wm", "lesion") for tissue in tissues])
    parenchyma = torch.tensor([tissue in ("gm", "wm") for tissue in tissues])
    brain = brain_of(labels[0], inside, parenchyma)
    spans = []
    for axis in range(3):
        used = brain.movedim(axis, 0).flatten(1).any(1).nonzero()[:, 0]
        spans.append(slice(int(used[0]), int(used[-1]) + 1))
    return F.pad(torch.where(brain, labels[0], 0)[tuple(spans)], (8,) * 6)[None]


def generator_config(values: dict[str, Any]) -> GeneratorConfig:
    """`GeneratorConfig` from the ``[generator]`` table of a recipe."""
    values = dict(values)
    if "deformation" in values:
        values["deformation"] = DeformationConfig(**values["deformation"])
    for key in ("levels", "blur"):
        if key in values:
            values[key] = tuple(values[key])
    return GeneratorConfig(**values)


def _lesion_prior(path: Path) -> Tensor:
    """A lesion mask cropped to the box of the MNI152 brain (mm: -72..72, -107..74, -65..82), RAS."""
    import nibabel as nib

    image = nib.as_closest_canonical(nib.load(path))
    data = np.asanyarray(image.dataobj) > 0
    to_voxel = np.linalg.inv(image.affine)
    low = np.round(to_voxel @ [-72, -107, -65, 1])[:3].astype(int).clip(0)
    high = np.round(to_voxel @ [72, 74, 82, 1])[:3].astype(int)
    box = data[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    return torch.from_numpy(box.astype(np.float32))
