"""Training objectives of SeqInv: the encoder on two views of a person, then heads on the frozen encoder.

Pre-training minimises the contrastive loss of the two views' projections plus the L1 errors of both
reconstructions, each against its own view before its intensities were spoilt. A recipe's
``[losses] phase`` chooses: ``pretrain``, or ``heads``, which needs the pre-trained encoder as ``initial``.

What the reference got wrong and is not repeated: splits by file (here persons are held out by name),
dropout left active in the frozen encoder, rotations in radians, training and test lists that overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from bidsrep.errors import UsageError
from bidsrep.imaging.equalise import Preparation, equalise, percentile, rescale, standardise
from bidsrep.models.seqinv import SeqInv
from bidsrep.models.seqinv_network import Projector, SeqInvNetwork
from bidsrep.synth.random import coin, integer
from bidsrep.synth.views import Shape, degrade, place, sample_view
from bidsrep.tasks.denoising import NOISE_STD, denoising_loss
from bidsrep.tasks.stroke import STROKE
from bidsrep.tasks.tissue import TISSUE, dice_cross_entropy
from bidsrep.training.contrastive import (
    TEMPERATURE,
    barlow_twins,
    gathered,
    nt_xent,
    summed_over_processes,
    world_size,
)
from bidsrep.training.recipe import Recipe, Stage
from bidsrep.training.seqinv_scans import (
    UNKNOWN,
    Person,
    ScanConfig,
    draw_head,
    draw_pair,
    draw_scan,
    load_people,
    scan_config,
    tissue_classes,
)

SEED_STEP = 1_000_003
MEAN_GELU = 0.5 * math.pi**-0.5  # of a standard normal value
MARGIN = 1.2  # side of the drawn image over that of a view
LOW_PERCENTILE, TOP_PERCENTILE, BASE_TOP_PERCENTILE = 0.5, 95.0, 99.5
CROP_ODDS = {TISSUE.head: (1.0, 5.0, 5.0, 5.0), STROKE.head: (1.0, 6.0)}
"""Odds of the classes that a crop is centred on: background, grey, white, fluid; background, lesion."""
BAD_PHASE = "[losses] phase: {!r} is not one of pretrain, heads"
BAD_CONTRAST = "[losses] contrast: {!r} is not one of ntxent, barlow"
NO_HEADS = "[architecture] heads: the phase 'heads' needs at least one of tissue, stroke, denoising"
NO_PROJECTION = "[architecture] projection: pre-training needs the two widths of the projector"


class _Objective:
    """What both phases share: people in an order, and dropout that a resumed run repeats."""

    def __init__(self, people: dict[float, list[Person]], recipe: Recipe) -> None:
        self.people = {spacing: by_person(found) for spacing, found in people.items()}
        self.recipe = recipe
        self.config: ScanConfig = scan_config(recipe.generator)
        self._step, self._calls = -1, 0

    def person(self, number: int, spacing: float) -> Person:
        """Who example ``number`` is of: everybody once, in random order, before anybody comes again.

        So the views that one person's are told from are other persons'. Of several sessions each has its turn.
        """
        people = self.people[spacing]
        turn, place_in_turn = divmod(number, len(people))
        order = torch.Generator().manual_seed(self.recipe.seed * SEED_STEP + turn)
        sessions = people[int(torch.randperm(len(people), generator=order)[place_in_turn])]
        return sessions[turn % len(sessions)]

    def generator(self, number: int) -> torch.Generator:
        """Randomness of example ``number``: the same however many processes share the examples."""
        return torch.Generator().manual_seed(self.recipe.seed * SEED_STEP + number)

    @contextmanager
    def dropout(self, step: int, device: torch.device) -> Iterator[None]:
        """Dropout, which takes no generator, seeded by step and process; the global state is left as it was."""
        self._calls = self._calls + 1 if step == self._step else 0
        self._step = step
        rank = torch.distributed.get_rank() if world_size() > 1 else 0
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.recipe.seed + SEED_STEP * (step * world_size() + rank) + self._calls)
            yield


def by_person(people: Sequence[Person]) -> list[list[Person]]:
    """Sessions of the same person together; who has no name is a person of their own."""
    groups: dict[str, list[Person]] = {}
    for number, person in enumerate(people):
        groups.setdefault(person.name or f"unnamed {number}", []).append(person)
    return list(groups.values())


class ContrastiveObjective(_Objective):
    """Two views of each person: NT-Xent (or Barlow Twins) of their projections, L1 of their reconstructions."""

    def __init__(self, people: dict[float, list[Person]], recipe: Recipe) -> None:
        super().__init__(people, recipe)
        self.contrast = str(recipe.losses.get("contrast", "ntxent"))
        if self.contrast not in ("ntxent", "barlow"):
            raise UsageError(BAD_CONTRAST.format(self.contrast))
        self.temperature = float(recipe.losses.get("temperature", TEMPERATURE))

    def sample(self, index: int, step: int) -> dict[str, Tensor]:
        """A mini-batch: ``image1``, ``image2`` and what they were spoilt from, ``target1``, ``target2``.

        ``(B, 1, X, Y, Z)`` each, of B persons, standardised.
        """
        stage = self.recipe.stage_at(step)
        numbers = range(index * stage.samples, (index + 1) * stage.samples)
        examples = [self.example(number, stage) for number in numbers]
        names = ("image1", "target1", "image2", "target2")
        return {
            name: torch.stack(views)[:, None]
            for name, views in zip(names, zip(*examples, strict=True), strict=True)
        }

    def example(self, number: int, stage: Stage) -> tuple[Tensor, ...]:
        """Image and target of the first and of the second view ``(X, Y, Z)`` of one person."""
        generator, spacing = self.generator(number), stage.spacing
        drawn = enlarged(stage.shape)
        head = draw_head(self.person(number, spacing), generator, drawn, spacing, self.config)
        top = BASE_TOP_PERCENTILE if self.config.view == "base" else TOP_PERCENTILE
        views: list[Tensor] = []
        for scan in draw_pair(head, generator, spacing, self.config):
            image = rescale(scan, percentile(scan, LOW_PERCENTILE), percentile(scan, top))
            if self.recipe.architecture.get("preparation", "equalised") == "equalised":
                image = equalise(image)
            view = sample_view(generator, drawn, stage.shape, spacing, self.config.views)
            target = place(image, view, stage.shape, spacing)
            views += [standardise(degrade(target, view)), standardise(target)]
        return tuple(views)

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """``contrast``, ``reconstruction`` (the sum of both views' L1) and their sum.

        The contrastive term sees the views of all processes.
        """
        assert isinstance(network, SeqInvNetwork)
        assert network.projector is not None
        images = torch.cat([batch["image1"], batch["image2"]])
        with self.dropout(step, images.device):
            features = network.encoder(images.contiguous(memory_format=torch.channels_last_3d))
        first, second = (gathered(part) for part in network.projector(features).float().chunk(2))
        if self.contrast == "barlow":
            contrast = barlow_twins(first, second)
        else:
            contrast = nt_xent(first, second, self.temperature)
        losses = {"contrast": contrast}
        total = summed_over_processes(contrast)
        if network.reconstructor is not None:
            restored = network.reconstructor(features).float().chunk(2)
            targets = (batch["target1"], batch["target2"])
            errors = [F.l1_loss(*pair) for pair in zip(restored, targets, strict=True)]
            losses["reconstruction"] = torch.stack(errors).sum()
            total = total + losses["reconstruction"]
        return {"loss": total, **losses}


class HeadsObjective(_Objective):
    """Heads on the frozen encoder: Dice and cross-entropy for tissues and infarcts, squared error for noise."""

    def __init__(self, people: dict[float, list[Person]], recipe: Recipe) -> None:
        super().__init__(people, recipe)
        self.heads = tuple(recipe.architecture["heads"])
        self.equalised = recipe.architecture.get("preparation", "equalised") == "equalised"
        field_of_view = recipe.losses.get("field_of_view", (160, 192, 160))
        self.field_of_view: Shape = (field_of_view[0], field_of_view[1], field_of_view[2])
        self.batches_per_scan = int(recipe.losses.get("batches_per_scan", 1))
        self._scan: tuple[tuple[int, float], tuple[Tensor, Tensor, Tensor]] | None = None

    def sample(self, index: int, step: int) -> dict[str, Tensor]:
        """Crops of one scan: ``image``, ``noise``, ``tissue`` (channels; 4: unknown), ``lesion``: ``(B, 1, X, Y, Z)``.

        ``batches_per_scan`` of ``[losses]`` draws a new scan every so many mini-batches only.
        """
        stage = self.recipe.stage_at(step)
        image, tissue, lesion = self.scan(index // self.batches_per_scan, stage.spacing)
        generator = self.generator(-1 - index)  # not what any scan is drawn with
        crops = []
        for _ in range(stage.samples):
            crop = self._crop(generator, tissue, lesion, stage.shape)
            crops.append(torch.stack([image[crop], tissue[crop].float(), lesion[crop].float()]))
        stacked = torch.stack(crops)
        batch = dict(zip(("image", "tissue", "lesion"), stacked.split(1, dim=1), strict=True))
        return {**batch, "noise": NOISE_STD * torch.randn(batch["image"].shape, generator=generator)}

    def scan(self, number: int, spacing: float) -> tuple[Tensor, Tensor, Tensor]:
        """Image, tissue classes and lesion ``(X, Y, Z)`` of scan ``number``; the last one is kept.

        It covers the whole brain and is prepared before it is cropped, as at inference.
        """
        if self._scan and self._scan[0] == (number, spacing):
            return self._scan[1]
        generator, person = self.generator(number), self.person(number, spacing)
        head = draw_head(person, generator, self.field_of_view, spacing, self.config)
        scan = draw_scan(head, generator, spacing, self.config)
        lesion = head.infarct > 0.5
        # The tissue under an infarct is not what it was.
        tissue = torch.where(lesion, UNKNOWN, tissue_classes(head.subject, person.source.tissues))
        found = Preparation.of(scan, equalised=self.equalised).apply(scan), tissue, lesion
        self._scan = (number, spacing), found
        return found

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """One loss per head, and their sum."""
        image = batch["image"].contiguous(memory_format=torch.channels_last_3d)
        segmenting = [name for name in self.heads if name in CROP_ODDS]
        losses: dict[str, Tensor] = {}
        with self.dropout(step, image.device):
            outputs = network(image, segmenting) if segmenting else {}
            if "denoising" in self.heads:
                found = network(image + batch["noise"], ["denoising"])["denoising"]
                losses["denoising"] = denoising_loss(found.float(), batch["noise"])
        if TISSUE.head in outputs:
            classes = F.one_hot(batch["tissue"][:, 0].long(), UNKNOWN + 1)[..., :UNKNOWN].movedim(-1, 1)
            losses[TISSUE.head] = dice_cross_entropy(outputs[TISSUE.head].float(), classes.float())
        if STROKE.head in outputs:
            shares = torch.cat([1 - batch["lesion"], batch["lesion"]], dim=1)
            positive = float(self.recipe.losses.get("stroke_positive", 1.0))
            losses[STROKE.head] = dice_cross_entropy(outputs[STROKE.head].float(), shares, positive)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def _crop(
        self, generator: torch.Generator, tissue: Tensor, lesion: Tensor, shape: Shape
    ) -> tuple[slice, ...]:
        """A crop centred, where the border allows, on a voxel of a random class of a random head."""
        head = STROKE.head if bool(lesion.any()) and coin(generator, 0.5) else TISSUE.head
        classes = lesion.long() if head == STROKE.head else tissue
        chosen = int(torch.multinomial(torch.tensor(CROP_ODDS[head]), 1, generator=generator))
        where = (classes.reshape(-1) == chosen).nonzero()[:, 0]
        flat = int(where[integer(generator, 0, len(where))]) if len(where) else classes.numel() // 2
        _, rows, columns = classes.shape
        centre = (flat // (rows * columns), flat // columns % rows, flat % columns)
        crop = []
        for middle, side, size in zip(centre, shape, classes.shape, strict=True):
            first = min(max(middle - side // 2, 0), size - side)
            crop.append(slice(first, first + side))
        return tuple(crop)


def enlarged(shape: Shape) -> Shape:
    """The grid that views of ``shape`` are cropped from: a fifth longer."""
    x, y, z = (int(MARGIN * side) for side in shape)
    return x, y, z


def phase_of(recipe: Recipe) -> str:
    """``pretrain`` or ``heads``.

    Raises
    ------
    UsageError
        If the recipe names another, or its network is not made for it.
    """
    phase = str(recipe.losses.get("phase", "pretrain"))
    if phase not in ("pretrain", "heads"):
        raise UsageError(BAD_PHASE.format(phase))
    if phase == "heads" and not recipe.architecture.get("heads"):
        raise UsageError(NO_HEADS)
    if phase == "pretrain" and not recipe.architecture.get("projection"):
        raise UsageError(NO_PROJECTION)
    return phase


def build_network(recipe: Recipe) -> SeqInvNetwork:
    """The untrained network of a recipe; its encoder is frozen where heads are trained."""
    network = SeqInv.build(recipe.architecture)
    if phase_of(recipe) == "heads":
        return network.freeze_encoder()
    assert network.projector is not None
    centre(network.projector)
    return network


def centre(projector: Projector) -> None:
    """Start a projector such that what all images have in common projects to zero.

    Features are spatial means of the GELU of standardised values: all are near `MEAN_GELU`. That common part
    would make all cosines 1, where the contrastive loss has hardly a slope.
    """
    with torch.no_grad():
        projector.fc1.bias.copy_(-MEAN_GELU * projector.fc1.weight.sum(dim=1))
        projector.fc2.bias.zero_()


def build_objective(recipe: Recipe, folders: list[Path]) -> Any:
    """The objective of a recipe's phase on folders of prepared anatomies, without the held-out persons."""
    spacings = {stage.spacing for stage in recipe.stages}
    people = load_people(folders, recipe.held_out, spacings)
    return (HeadsObjective if phase_of(recipe) == "heads" else ContrastiveObjective)(people, recipe)
