"""The papers' protocols that need trained weights, but no training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bidsrep.evaluation.results import Published, Result
from bidsrep.training.protocols import brainid, crl
from bidsrep.training.protocols.anatomies import Anatomies, Scale


@dataclass(frozen=True)
class PaperProtocol:
    """How a table of a paper is measured.

    Parameters
    ----------
    measure
        From anatomies and models by their names to results.
    samples, sample
        How many of what are drawn of a person, by scale.
    published
        The paper's figures by group and metric.
    """

    measure: Callable[[Anatomies, Mapping[str, Any]], Iterator[Result]]
    samples: Mapping[Scale, int]
    sample: str
    published: Published


PAPERS = {
    "brainid-robustness": PaperProtocol(
        brainid.robustness, brainid.SAMPLES, "deformed images", brainid.PUBLISHED
    ),
    "crl-synthesis": PaperProtocol(crl.synthesis, crl.SAMPLES, "slices", crl.PUBLISHED),
}
