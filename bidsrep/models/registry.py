"""Every model by its name, with its weights: `load_model`."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from pathlib import Path

from bidsrep.errors import UsageError, WeightsError
from bidsrep.models.library import OTHER_MODEL, find_weights
from bidsrep.models.model import Model
from bidsrep.models.weights import BAD_CARD, card_path, load_strictly, read_weights

MODELS = {
    "pepsi": "bidsrep.models.pepsi:Pepsi",
    "brainid": "bidsrep.models.brainid:BrainID",
    "seqinv": "bidsrep.models.seqinv:SeqInv",
    "crl": "bidsrep.models.crl:CRL",
    "cifl": "bidsrep.models.cifl:CIFL",
    "brainmask": "bidsrep.models.brainmask:BrainMask",
}
UNKNOWN_MODEL = "There is no model {!r}; there are: {}"


def model_class(name: str) -> type[Model]:
    """The class of a model.

    Raises
    ------
    UsageError
        If there is no such model.
    """
    try:
        module, attribute = MODELS[name].split(":")
    except KeyError as error:
        raise UsageError(UNKNOWN_MODEL.format(name, ", ".join(MODELS))) from error
    return getattr(import_module(module), attribute)


def load_model(
    name: str,
    weights: str | Path | None = None,
    device: str = "cpu",
    precision: str = "auto",
    models_dir: str | Path | None = None,
) -> Model:
    """Load a model with its weights; a second call in the same process gives the same object.

    Parameters
    ----------
    name
        ``pepsi``, ``brainid``, ``seqinv``, ``crl``, ``cifl`` or ``brainmask``.
    weights
        A safetensors file (its card beside it), the id of weights that were added with
        ``bidsrep-models add``, or None for the bundled ones.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    precision
        ``fp32``, ``bf16``, or ``auto``: float32 unless the weights' card allows bfloat16.
    models_dir
        Folder of added weights, where it is not the usual one.

    Raises
    ------
    UsageError
        If there is no such model or device.
    WeightsError
        If the weights are missing, damaged, not the ones their card describes, or do not fit.
    """
    model_class(name)  # a wrong name is a wrong name, whatever the weights
    path = find_weights(name, weights, Path(models_dir) if models_dir is not None else None)
    return _load(name, path, _stamp(path), device, precision)


def _stamp(path: Path) -> tuple[int, ...]:
    """Tells a changed weights file or card from the one that is loaded."""
    try:
        states = [path.stat(), card_path(path).stat()]
    except OSError:
        return ()
    return tuple(number for state in states for number in (state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=8)  # every system and the brain mask: a worker meets them in turn for each session
def _load(name: str, path: Path, stamp: tuple[int, ...], device: str, precision: str) -> Model:
    from bidsrep.models.device import resolve_device, resolve_precision

    state, card = read_weights(path)
    if card["weights"]["model"] != name:
        found = card["weights"]["model"]
        raise WeightsError(OTHER_MODEL.format(path=path, found=found, model=name))
    try:
        network = model_class(name).build(card["architecture"])
    except (TypeError, ValueError, AttributeError) as error:
        raise WeightsError(BAD_CARD.format(card_path(path), f"[architecture]: {error}")) from error
    load_strictly(network, state, path)
    where = resolve_device(device)
    return model_class(name)(network, card, where, resolve_precision(precision, card, where))
