"""MR physics: signal equations on quantitative tissue maps, and draws of what scanners do."""

from bidsrep.synth.physics.distributions import Distribution, distribution_sequences, sample_parameters
from bidsrep.synth.physics.maps import TissueMaps, r2_from_r2s
from bidsrep.synth.physics.painting import Variation, add_lesion, mixture_maps, paint_maps
from bidsrep.synth.physics.scan import (
    ScanParameters,
    ScanRanges,
    acquire,
    add_rician_noise,
    random_scan,
    sample_scan,
)
from bidsrep.synth.physics.sequences import FLAIR, FSE, GRE, SPGR, Sequence, simulate
from bidsrep.synth.physics.tissues import Tissue, TissueTable, brain_structures, tissue_table
from bidsrep.synth.physics.trains import MP2RAGE, MPRAGE

__all__ = [
    "FLAIR",
    "FSE",
    "GRE",
    "MP2RAGE",
    "MPRAGE",
    "SPGR",
    "Distribution",
    "ScanParameters",
    "ScanRanges",
    "Sequence",
    "Tissue",
    "TissueMaps",
    "TissueTable",
    "Variation",
    "acquire",
    "add_lesion",
    "add_rician_noise",
    "brain_structures",
    "distribution_sequences",
    "mixture_maps",
    "paint_maps",
    "r2_from_r2s",
    "random_scan",
    "sample_parameters",
    "sample_scan",
    "simulate",
    "tissue_table",
]
