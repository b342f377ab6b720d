"""How a scan was acquired: TR, TE and TI, from its metadata or from the command line; seconds throughout.

A scan's metadata are those of `bidsrep.bids.scans.Scan.metadata` (BIDS inheritance done). What a cohort's
sidecars lack is filled in from a file of defaults, one table per suffix:

    [FLAIR]
    RepetitionTime = 9.0
    EchoTime = 0.12
    InversionTime = 2.5
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bidsrep.bids.files import read_json
from bidsrep.errors import ImageError, UsageError

TR_FIELDS = ("RepetitionTimePreparation", "RepetitionTime", "RepetitionTimeExcitation")
"""In this order: TI is counted within the time between two inversions, which `RepetitionTime` is to some
scanners, while others give the time between two excitations under that name."""
FIELDS = (*TR_FIELDS, "EchoTime", "InversionTime")
INVERTED_SUFFIXES = ("FLAIR", "UNIT1", "MP2RAGE", "IRT1")
INVERTED = re.compile(r"(?<![a-z])(ir|flair|mprage|mp2rage|stir)(?![a-z])", re.IGNORECASE)
"""In `ScanningSequence` or `PulseSequenceType`: the sequence has an inversion pulse."""
LONGEST = {"TR": 60.0, "TE": 1.0, "TI": 20.0}
"""Seconds; what is above was most likely given in milliseconds."""

MISSING = "its acquisition parameters are not known: {} missing from its metadata"
REMEDY = (
    "Add what is missing to a JSON sidecar that applies to the scan (seconds), or give it for all {} scans "
    "with --bids-defaults FILE (TOML or JSON)"
)
UNUSABLE = "its acquisition parameters cannot be used: {}"
NOT_A_NUMBER = "{} is {!r}, not one number"
NO_INVERSION = "{} s is not a time between two inversions, as it is not above the inversion time of {:g} s"
EXCITATION_REMEDY = (
    "If it is the time between two excitations, give the other one as RepetitionTimePreparation, in a JSON "
    "sidecar or for all {} scans with --bids-defaults FILE"
)
NOT_LIKE = "--target-contrast: {!r} is not like TR=2.3,TE=0.003,TI=0.9 (seconds; TI may be left out): {}"
BAD_DEFAULTS = "--bids-defaults {}: {}. It holds a table per suffix, such as [FLAIR], with {} in seconds"


@dataclass(frozen=True)
class AcquisitionParameters:
    """What a contrast is made with, in seconds.

    Parameters
    ----------
    repetition_time
        TR: between two excitations of a slice, or two inversions where there is an inversion pulse.
    echo_time
        TE, the effective one of an echo train.
    inversion_time
        TI; 0 where there is no inversion pulse.

    Raises
    ------
    ValueError
        If such a scan cannot exist, or the values are not in seconds.
    """

    repetition_time: float
    echo_time: float
    inversion_time: float = 0.0

    def __post_init__(self) -> None:
        values = {"TR": self.repetition_time, "TE": self.echo_time, "TI": self.inversion_time}
        for name, value in values.items():
            if not math.isfinite(value) or value < 0 or (value == 0 and name != "TI"):
                raise ValueError(f"{name} = {value:g} s")
            if value > LONGEST[name]:
                raise ValueError(f"{name} = {value:g} s; are these milliseconds?")
        for name in ("TE", "TI"):
            if values[name] >= values["TR"]:
                raise ValueError(f"{name} = {values[name]:g} s is not below TR = {values['TR']:g} s")

    def __str__(self) -> str:
        text = f"TR={self.repetition_time:g},TE={self.echo_time:g}"
        return f"{text},TI={self.inversion_time:g}" if self.inversion_time else text

    @property
    def label(self) -> str:
        """A name for files, in milliseconds, that BIDS allows.

        >>> AcquisitionParameters(2.3, 0.00296, 0.9).label
        'TR2300TE2p96TI900'
        """
        values = {"TR": self.repetition_time, "TE": self.echo_time, "TI": self.inversion_time}
        milliseconds = {name: f"{1000 * value:.3f}".rstrip("0").rstrip(".") for name, value in values.items()}
        return "".join(name + text.replace(".", "p") for name, text in milliseconds.items() if text != "0")

    def fields(self) -> dict[str, float]:
        """The BIDS fields of a sidecar, seconds."""
        fields = {"RepetitionTime": self.repetition_time, "EchoTime": self.echo_time}
        return {**fields, "InversionTime": self.inversion_time} if self.inversion_time else fields


def contrast_suffix(parameters: AcquisitionParameters) -> str:
    """The BIDS suffix of the contrast that such a scan most likely shows.

    An inversion time above 1.5 s nulls fluid, a shorter one weights by T1; without inversion an echo after
    60 ms weights by T2, repetitions within 1.5 s by T1, and what is left is proton density.

    >>> contrast_suffix(AcquisitionParameters(9.0, 0.12, 2.5))
    'FLAIR'
    """
    if parameters.inversion_time > 1.5:
        return "FLAIR"
    if parameters.inversion_time > 0:
        return "T1w"
    if parameters.echo_time > 0.06:
        return "T2w"
    return "T1w" if parameters.repetition_time < 1.5 else "PDw"


def parse_target_contrast(text: str) -> AcquisitionParameters:
    """Read a contrast as ``--target-contrast`` has it.

    >>> parse_target_contrast("TR=8,TE=0.1,TI=2.025")
    AcquisitionParameters(repetition_time=8.0, echo_time=0.1, inversion_time=2.025)

    Raises
    ------
    UsageError
        If it lacks TR or TE, has anything else, or no scan can be like that.
    """
    values: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        if name not in LONGEST or name in values:
            raise UsageError(
                NOT_LIKE.format(text, f"{part.strip()!r} is {'double' if name in values else 'unknown'}")
            )
        try:
            values[name] = float(number)
        except ValueError as error:
            raise UsageError(NOT_LIKE.format(text, f"{number!r} is not a number")) from error
    if absent := [name for name in ("TR", "TE") if name not in values]:
        raise UsageError(NOT_LIKE.format(text, f"{' and '.join(absent)} missing"))
    try:
        return AcquisitionParameters(values["TR"], values["TE"], values.get("TI", 0.0))
    except ValueError as error:
        raise UsageError(NOT_LIKE.format(text, error)) from error


def acquisition_parameters(
    scan: str | Path,
    suffix: str,
    metadata: Mapping[str, Any],
    defaults: Mapping[str, Mapping[str, float]] | None = None,
) -> AcquisitionParameters:
    """Tell TR, TE and TI of a scan from its metadata; each field that they lack from the defaults.

    A scan without `InversionTime` has no inversion pulse, unless its suffix or sequence says it has one:
    then the field is missing like any other.

    Parameters
    ----------
    scan
        The image, for messages.
    suffix
        Its BIDS suffix.
    metadata
        The fields of its sidecars.
    defaults
        What `read_bids_defaults` gave.

    Raises
    ------
    ImageError
        Naming the scan, the missing or impossible fields, and what to do.
    """
    remedy = REMEDY.format(suffix)
    try:
        given = _numbers((defaults or {}).get(suffix, {})) | _numbers(metadata)
    except ValueError as error:
        raise ImageError(scan, UNUSABLE.format(error), remedy) from error
    repetition = next((field for field in TR_FIELDS if field in given), None)
    inverted = _has_inversion(suffix, metadata)
    if inverted and repetition == "RepetitionTimeExcitation":
        repetition = None
    # Converters write 0 where the header has no inversion time.
    missing = [] if repetition else ["RepetitionTime"]
    missing += [] if "EchoTime" in given else ["EchoTime"]
    missing += ["InversionTime"] if inverted and not given.get("InversionTime") else []
    if repetition is None or missing:
        raise ImageError(scan, MISSING.format(", ".join(missing)), remedy)
    tr, ti = given[repetition], given.get("InversionTime", 0.0)
    if 0 < tr <= ti:
        problem = UNUSABLE.format(f"{repetition} = " + NO_INVERSION.format(f"{tr:g}", ti))
        raise ImageError(scan, problem, EXCITATION_REMEDY.format(suffix))
    try:
        return AcquisitionParameters(tr, given["EchoTime"], ti)
    except ValueError as error:
        raise ImageError(scan, UNUSABLE.format(error), remedy) from error


def read_bids_defaults(path: Path) -> dict[str, dict[str, float]]:
    """Read a file of defaults: suffix to field to seconds; JSON by its name, else TOML.

    Raises
    ------
    UsageError
        If it cannot be read, or holds anything else.
    """
    try:
        if path.suffix.lower() == ".json":
            content = read_json(path)
        else:
            content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict):
            raise ValueError("it is not a table")
        return {suffix: _defaults_of(suffix, table) for suffix, table in content.items()}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(BAD_DEFAULTS.format(path, reason, ", ".join(FIELDS))) from error


def _defaults_of(suffix: str, table: Any) -> dict[str, float]:
    if not isinstance(table, dict):
        raise ValueError(f"{suffix} is not a table")
    if unknown := [name for name in table if name not in FIELDS]:
        raise ValueError(f"{suffix}.{unknown[0]} is not a field it may have")
    return _numbers(table)


def _numbers(fields: Mapping[str, Any]) -> dict[str, float]:
    """The acquisition's fields as numbers; those that are null count as missing."""
    values = {}
    for name in FIELDS:
        value = fields.get(name)
        if isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(NOT_A_NUMBER.format(name, value))
        try:
            values[name] = float(value)
        except OverflowError as error:  # JSON's integers have no limit
            raise ValueError(NOT_A_NUMBER.format(name, "an integer beyond all bounds")) from error
    return values


def _has_inversion(suffix: str, metadata: Mapping[str, Any]) -> bool:
    words = [metadata.get(name, "") for name in ("ScanningSequence", "PulseSequenceType")]
    return suffix in INVERTED_SUFFIXES or any(INVERTED.search(str(word)) for word in words)
