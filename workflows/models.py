"""The models of a run: their weights are found and checked before anything is computed."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bidsrep.bids.files import sha256_file
from bidsrep.errors import UsageError, WeightsError
from bidsrep.settings import MASK_NETWORKS, Settings
from bidsrep.workflows.plan import ModelSpec

LOGGER = logging.getLogger("bidsrep")
OTHER_RESOLUTION = "%s was trained on voxels of %g mm; on %g mm its results are less accurate."
BRAINMASK, SYNTHSTRIP = MASK_NETWORKS
NOT_OFFERED = "--tasks: none of the chosen models ({}) makes {}. They make {}."
UNUSED = "--weights %s: this run does not use them."
SYNTHSTRIP_CARD = {"status": "official", "licence": "FreeSurfer Software License"}
NO_SYNTHSTRIP = (
    "--skull-strip-method synthstrip: give its weights with --weights synthstrip=FILE{}. FreeSurfer has them "
    "as $FREESURFER_HOME/models/synthstrip.1.pt"
)


@dataclass(frozen=True)
class RunModels:
    """What every graph of a run needs to know of networks and hardware.

    Parameters
    ----------
    specs : tuple of ModelSpec
        The models the user asked for.
    weights : mapping
        Name to weights file, that of the brain mask among them if it is there.
    sha256 : mapping
        Name to the hash of that file.
    device : str
        ``cpu`` or ``cuda:N``.
    mask_entry : mapping, optional
        The ``Model`` block, for sidecars, of the network that masks are made with; None if there is none.
    """

    specs: tuple[ModelSpec, ...]
    weights: Mapping[str, Path]
    sha256: Mapping[str, str]
    device: str = "cpu"
    mask_entry: Mapping[str, str] | None = None

    @property
    def use_gpu(self) -> bool:
        """Whether networks run on a GPU."""
        return self.device != "cpu"


def describe_models(settings: Settings) -> RunModels:
    """Find, check and describe the weights of a run.

    Raises
    ------
    WeightsError
        If some are missing, or are not what their card says.
    UsageError
        If the device is not there, or no model makes one of the tasks asked for.
    """
    from bidsrep.bids.sidecars import model_entry
    from bidsrep.models.device import resolve_device

    cards, weights = {}, {}
    for name in (*settings.models, *_mask_weights(settings)):
        weights[name] = _find(name, settings)
        cards[name] = _verify(name, weights[name])
    sha256 = {name: str(card["weights"]["sha256"]) for name, card in cards.items()}
    if settings.skull_strip_method == SYNTHSTRIP and settings.skull_strip != "skip":
        weights[SYNTHSTRIP] = _synthstrip(settings)
        sha256[SYNTHSTRIP] = sha256_file(weights[SYNTHSTRIP])
    mask = {name: sha256[name] for name in (BRAINMASK, SYNTHSTRIP) if name in sha256}
    for name in settings.models:
        _check_resolution(name, cards[name], settings.resolution)
    specs = tuple(_spec(name, cards[name], mask) for name in settings.models)
    _check_tasks(settings, specs)
    for name in settings.weights.keys() - weights.keys():
        LOGGER.warning(UNUSED, name)
    mask_entry = model_entry(BRAINMASK, cards[BRAINMASK]) if BRAINMASK in cards else None
    if SYNTHSTRIP in weights:
        mask_entry = model_entry(
            SYNTHSTRIP, {**SYNTHSTRIP_CARD, "id": weights[SYNTHSTRIP].name, "sha256": sha256[SYNTHSTRIP]}
        )
    return RunModels(specs, weights, sha256, str(resolve_device(settings.device)), mask_entry)


def _mask_weights(settings: Settings) -> tuple[str, ...]:
    """Name the brain mask's network if it may be needed; scans may all turn out to be stripped."""
    if settings.skull_strip == "skip" or settings.skull_strip_method != "bidsrep":
        return ()
    try:
        _find(BRAINMASK, settings)
    except WeightsError:
        if settings.skull_strip == "force" or BRAINMASK in settings.weights:
            raise
        return ()  # the first scan that needs it says so
    return (BRAINMASK,)


def _check_resolution(name: str, card: dict, resolution: float) -> None:
    """Warn if the images a network will see have other voxels than those it was trained on."""
    trained = card.get("input", {}).get("resolution_mm")
    if isinstance(trained, int | float) and abs(trained - resolution) > 0.01 * trained:
        LOGGER.warning(OTHER_RESOLUTION, name, trained, resolution)


def _check_tasks(settings: Settings, specs: Sequence[ModelSpec]) -> None:
    """Refuse tasks that would silently not be done."""
    offered = dict.fromkeys(name for spec in specs for name, kind in spec.outputs.items() if kind)
    if absent := [task for task in settings.tasks if task not in offered]:
        raise UsageError(
            NOT_OFFERED.format(", ".join(settings.models), ", ".join(absent), ", ".join(offered))
        )


def _synthstrip(settings: Settings) -> Path:
    given = settings.weights.get(SYNTHSTRIP)
    if given is None or not Path(given).is_file():
        raise WeightsError(NO_SYNTHSTRIP.format(f" ({given} is not there)" if given else ""))
    return Path(given).resolve()


def _find(name: str, settings: Settings) -> Path:
    from bidsrep.models.library import find_weights

    return find_weights(name, settings.weights.get(name), settings.models_dir).resolve()


def _verify(name: str, path: Path) -> dict:
    from bidsrep.models.library import OTHER_MODEL
    from bidsrep.models.weights import verify

    card = verify(path)
    if card["weights"]["model"] != name:
        raise WeightsError(OTHER_MODEL.format(path=path, found=card["weights"]["model"], model=name))
    return card


def _spec(name: str, card: dict, other_weights: Mapping[str, str]) -> ModelSpec:
    from bidsrep.bids.sidecars import model_entry
    from bidsrep.models.registry import model_class

    found, architecture = model_class(name), card["architecture"]
    outputs = {task.name: task.file_kind for task in found.tasks_of(architecture)}
    return ModelSpec(
        name, outputs, model_entry(name, card), found.width_of(architecture), found.stride, other_weights
    )
