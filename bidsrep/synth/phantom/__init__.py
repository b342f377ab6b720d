"""Synthetic heads for demonstration and tests: anatomy, tissue signals, and simulated scans. numpy and scipy only.

`make_person` turns a population's tissue maps into one head; `Person.scan` simulates a protocol on it, and
`Person.truth` gives what the scan shows. Every draw comes from a numpy Generator that the caller seeds.
"""

from __future__ import annotations

from bidsrep.synth.phantom.brain import Template
from bidsrep.synth.phantom.person import Person, make_person
from bidsrep.synth.phantom.scan import ScanPlacement, ScanProtocol, grid_affine
from bidsrep.synth.phantom.tissues import Flair, Mprage

__all__ = [
    "Flair",
    "Mprage",
    "Person",
    "ScanPlacement",
    "ScanProtocol",
    "Template",
    "grid_affine",
    "make_person",
]
