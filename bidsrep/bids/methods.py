"""The paragraph for a paper's methods section, and the references it needs.

The text says what the settings ask for and nothing of the data, so concurrent jobs write it
identically. References are Markdown citations (``[@key]``) into ``data/boilerplate.bib``.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

from bidsrep import __version__
from bidsrep.bids.files import write_text
from bidsrep.settings import BUNDLED_TEMPLATE, MODELS, Settings

MODEL_SENTENCES = {
    "pepsi": (
        "*PEPSI* [@pepsi], whose pulse-sequence-invariant features keep pathology, "
        "gave a synthetic T1w, a synthetic FLAIR and a lesion probability map of every scan"
    ),
    "brainid": (
        "*Brain-ID* [@brainid], whose features are meant to be the same for every contrast, "
        "gave a synthetic T1w of every scan"
    ),
    "seqinv": (
        "*SeqInv* [@seqinv], an encoder trained by contrast between simulated sequences of one anatomy, gave "
        "tissue classes, a lesion probability map and a denoised version of every scan"
    ),
    "crl": (
        "*CRL* [@crl], which takes an image apart into its contrast and a content that is the same for every "
        "contrast, turned every scan whose repetition, echo and inversion times were known into {contrasts}"
    ),
    "cifl": (
        "*CIFL* [@cifl], whose contrast-invariant features are learnt on random shapes, gave tissue classes of "
        "every scan"
    ),
}
STRIP_SENTENCES = {
    "bidsrep": (
        "Brains were extracted with the contrast-agnostic network of *bidsrep*, which regresses the signed "
        "distance to the brain surface after the idea of *SynthStrip* [@synthstrip]"
    ),
    "synthstrip": "Brains were extracted with *SynthStrip* [@synthstrip]",
    "template": (
        "Brains were extracted by affine registration (*ANTs* [@ants]) to the {template} template [@mni152]"
    ),
}
CITED = re.compile(r"@([a-z0-9]+)")


def methods_text(settings: Settings) -> str:
    """Write the methods paragraph (Markdown) for a run with these settings."""
    return "\n\n".join((_overview(), _preprocessing(settings), _models(settings))) + "\n"


def _overview() -> str:
    return (
        f"Results come from *bidsrep* {__version__}, a BIDS App [@bids] built on "
        f"*Nipype* {_installed('nipype')} [@nipype] and *PyTorch* {_installed('torch')} [@pytorch]."
    )


def _preprocessing(settings: Settings) -> str:
    strip = STRIP_SENTENCES[settings.skull_strip_method].format(template=settings.template or "MNI ICBM152")
    if settings.skull_strip == "skip":
        strip = "Scans were taken as skull-stripped already"
    elif settings.skull_strip == "auto":
        strip += "; scans that were skull-stripped already were left as they are"
    chosen = (
        "scan with the finest voxels"
        if settings.anatomical_reference == "finest"
        else f"{settings.anatomical_reference} scan (or, without one, the scan with the finest voxels)"
    )
    sentences = [
        strip,
        "Intensity non-uniformity was corrected with *N4* [@n4]" if settings.bias_correct else "",
        f"The {chosen} was the reference of its session; every other scan was registered to it rigidly, by "
        f"mutual information inside the brain (*ANTs*, antspyx {_installed('antspyx')} [@ants])",
        f"All scans were resampled, in one interpolation with cubic splines, to {settings.resolution:g} mm isotropic voxels, "
        "and scaled by the 99.5th percentile of the intensities inside the brain",
    ]
    return " ".join(f"{sentence}." for sentence in sentences if sentence)


def _models(settings: Settings) -> str:
    ordered = (
        "T1w, T2w and FLAIR images",
        *(f"an image with {order} s" for order in settings.target_contrast),
    )
    contrasts = " and ".join(ordered)
    known = [MODEL_SENTENCES[name].format(contrasts=contrasts) for name in settings.models]
    sentences = [f"{sentence}." for sentence in known]
    if {"pepsi", "seqinv"} & set(settings.models):
        sentences.append(
            f"Voxels with a lesion probability of at least {settings.lesion_threshold:g} were called lesion; "
            f"lesions below {settings.min_lesion_volume:g} ml were dropped."
        )
    sentences += _deformable(settings)
    sentences.append("The sidecar of every image names the weights that made it.")
    return " ".join(sentences)


def _deformable(settings: Settings) -> list[str]:
    """Tell what was registered deformably, if anything."""
    told = {
        "session": "every scan to the reference of its session",
        "template": f"the reference of every session, after an affine step (*ANTs* [@ants]), to the "
        f"{settings.template or BUNDLED_TEMPLATE} template [@mni152]",
    }
    done = " and ".join(told[name] for name in settings.deformable)
    if not done:
        return []
    return [
        f"Stationary velocity fields that make the features of *CIFL* alike were optimised to register {done}."
    ]


def bibliography(text: str) -> str:
    """Give the BibTeX entries that `text` cites, in the order of the bibliography file."""
    cited = set(CITED.findall(text))
    return "\n\n".join(entry for key, entry in _entries() if key in cited) + "\n"


def write_citation(out_dir: Path, settings: Settings) -> list[Path]:
    """Write ``logs/CITATION.md`` and ``.bib``, on models that left results earlier as well; give their paths."""
    try:
        described = (out_dir / "descriptions.tsv").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        described = ""
    earlier = [name for name in MODELS if f"\ndesc-{name}\t" in described and name not in settings.models]
    text = methods_text(replace(settings, models=(*settings.models, *earlier)) if earlier else settings)
    markdown, bibtex = out_dir / "logs" / "CITATION.md", out_dir / "logs" / "CITATION.bib"
    write_text(markdown, text)
    write_text(bibtex, bibliography(text))
    return [markdown, bibtex]


@cache
def _entries() -> Sequence[tuple[str, str]]:
    text = (files("bidsrep") / "data" / "boilerplate.bib").read_text(encoding="utf-8")
    entries = [entry.strip() for entry in text.split("\n\n") if entry.strip()]
    return [(entry.split("{", 1)[1].split(",", 1)[0], entry) for entry in entries]


def _installed(package: str) -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return "(version unknown)"
