"""Contrasts of clinical sequences from their signal equations, per structure, and typical T1w and FLAIR levels.

Ranges per tissue class miss what real scans do to deep grey matter: its iron darkens the pallidum on T2w and
FLAIR, its myelin brings the thalamus close to white matter on T1w. Here every structure has the relaxation of
its own tissue (`bidsrep.synth.physics`).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from bidsrep.synth.contrast import Contrast
from bidsrep.synth.physics.distributions import sample_parameters
from bidsrep.synth.physics.maps import TissueMaps
from bidsrep.synth.physics.painting import draw_tissues
from bidsrep.synth.physics.sequences import FLAIR, FSE, Sequence, simulate
from bidsrep.synth.physics.tissues import BRAIN, FIELD_STRENGTHS, brain_structures, tissue_table
from bidsrep.synth.physics.trains import MPRAGE
from bidsrep.synth.random import integer, uniform, uniform_scalar

HEALTHY = ("csf", "gm", "wm")
LESIONS = ("lesion", "gliosis")
# How often each sequence is drawn: spin echoes hold T2w, PDw and T1w protocols.
SEQUENCES = ("fse", "fse", "fse", "flair", "flair", "flair", "mprage", "mp2rage", "spgr", "gre")
# The targets' protocols: a 3 T MPRAGE and a 3 T FLAIR with nulled fluid.
TYPICAL_MPRAGE = MPRAGE(tr=2.3, ti=0.9, tx=0.0065, te=0.003, fa=9, n=176, eff=0.96)
TYPICAL_FLAIR = FLAIR(te=0.09, tr=9.0, ti=2.5, magnitude=True)
TYPICAL_T2W = FSE(te=0.1, tr=5.0)
TOP = 200.0
"""Of a typical contrast, the brightest of fluid, grey and white matter on the generator's 0 to 250 scale."""


def equation_contrast(
    generator: torch.Generator, tissues: tuple[str, ...] = (), names: tuple[str, ...] = ()
) -> Contrast:
    """Draw a clinical protocol and a head's tissue parameters; intensities on the generator's 0 to 250 scale.

    ``tissues`` and ``names`` are the class and the structure of every label of a label map, as in
    `bidsrep.training.anatomies`; both are empty for a T1w anatomy. Labels outside the brain get any value.
    """
    table = tissue_table(FIELD_STRENGTHS[integer(generator, 0, len(FIELD_STRENGTHS))])
    parameters = sample_parameters(generator, SEQUENCES[integer(generator, 0, len(SEQUENCES))], "clinical")
    structures = brain_structures(tissues, names)
    rows = draw_tissues(HEALTHY + LESIONS + structures, table, generator, 1.0)
    # What lesions consist of, from demyelination with oedema to gliosis.
    share = uniform_scalar(generator, 0, 1)
    rows[3] = (1 - share) * rows[3] + share * rows[4]
    signal = tissue_signal(rows, parameters)
    signal = signal * (uniform_scalar(generator, 130, 220) / signal[:3].max().clamp(min=1e-6))
    lesion, signal = float(signal[3]), torch.cat([signal[:3], signal[5:]])
    stds = [uniform_scalar(generator, 1, 8) for _ in range(3)]
    csf, gm, wm = signal[:3].tolist()
    label_means = label_stds = None
    if tissues:
        inside = torch.tensor([tissue in BRAIN for tissue in tissues])
        of = torch.tensor([{"csf": 0, "gm": 1}.get(tissue, 2) for tissue in tissues])
        label_means = torch.where(inside, signal[3:], uniform(generator, len(tissues), 5, 225))
        # Lesions of a label map start as white matter, like those that are drawn: they are added once, to both.
        label_means[torch.tensor([tissue == "lesion" for tissue in tissues])] = wm
        label_stds = torch.where(inside, torch.tensor(stds)[of], 0.0)
        label_means[0] = 0.0
    return Contrast(
        "equation", (csf, gm, wm), (stds[0], stds[1], stds[2]), label_means, label_stds, lesion=lesion
    )


def tissue_signal(rows: Tensor, parameters: Sequence) -> Tensor:
    """Magnitude signal ``(K,)`` of `draw_tissues`' rows."""
    pd, r1, r2, r2_prime, mt = rows[:, :5].T.reshape(5, -1, 1, 1)
    return simulate(TissueMaps(pd, r1, r2, r2 + r2_prime, mt), parameters).abs().flatten()


@cache
def typical_levels(
    tissues: tuple[str, ...], names: tuple[str, ...], kind: str, levels: tuple[float, float, float]
) -> tuple[float, ...]:
    """Intensity of every label on a typical ``T1w`` or ``FLAIR`` whose CSF, grey and white have ``levels``.

    Structures between two of the three keep their place between them.
    """
    signal = _typical_signal(TYPICAL_MPRAGE if kind == "T1w" else TYPICAL_FLAIR, tissues, names)
    known = sorted(zip(signal[:3].tolist(), levels, strict=True))
    return tuple(_between(float(value), known) for value in signal[3:])


def typical_contrast(
    sequence: Sequence, tissues: tuple[str, ...] = (), names: tuple[str, ...] = ()
) -> Contrast:
    """What a sequence shows of a typical brain at 3 T: nothing drawn, and no spread within tissues.

    ``tissues`` and ``names`` as in `equation_contrast`; labels outside the brain are black.
    """
    signal = _typical_signal(sequence, tissues, names)
    signal = signal * (TOP / signal[:3].max().clamp(min=1e-6))
    csf, gm, wm = signal[:3].tolist()
    inside = torch.tensor([tissue in BRAIN for tissue in tissues], dtype=torch.bool)
    means, stds = torch.where(inside, signal[3:], 0.0), torch.zeros(len(tissues))
    of_labels = (means, stds) if tissues else (None, None)
    return Contrast("equation", (csf, gm, wm), (0.0, 0.0, 0.0), *of_labels)


def _typical_signal(sequence: Sequence, tissues: tuple[str, ...], names: tuple[str, ...]) -> Tensor:
    """Magnitude signal ``(3 + K,)`` of fluid, grey and white matter, and of every label, at 3 T."""
    table = tissue_table(3.0)
    wanted = [table[name] for name in HEALTHY + brain_structures(tissues, names)]
    rows = torch.tensor([[t.pd, t.r1, t.r2, t.r2s - t.r2, t.mt] for t in wanted])
    return tissue_signal(rows, sequence)


def _between(value: float, known: list[tuple[float, float]]) -> float:
    """Piecewise linear through ``known`` ascending pairs; the outer pieces go on, not below 0."""
    (x0, y0), (x1, y1), (x2, y2) = known
    if value > x1:
        x0, y0, x1, y1 = x1, y1, x2, y2
    return max(0.0, y0 + (value - x0) * (y1 - y0) / (x1 - x0))
