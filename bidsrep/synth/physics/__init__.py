"""MR physics: signal equations on quantitative tissue maps, and draws of what scanners do."""

from bidsrep.synth.physics.distributions import Distribution, distribution_sequences, sample_parameters
from bidsrep.synth.physics.maps import TissueMaps, r2_from_r2s
from bidsrep.synth.physics.sequences import FLAIR, FSE, GRE, SPGR, Sequence, simulate
from bidsrep.synth.physics.trains import MP2RAGE, MPRAGE

__all__ = [
    "FLAIR",
    "FSE",
    "GRE",
    "MP2RAGE",
    "MPRAGE",
    "SPGR",
    "Distribution",
    "Sequence",
    "TissueMaps",
    "distribution_sequences",
    "r2_from_r2s",
    "sample_parameters",
    "simulate",
]
