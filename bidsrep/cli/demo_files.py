"""How the demo cohort lies on disk: a raw BIDS dataset, and its truth as a BIDS derivatives dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bidsrep import __version__
from bidsrep.bids.files import write_json, write_text

if TYPE_CHECKING:
    from bidsrep.synth.phantom.cohort import SimulatedScan, Visit
    from bidsrep.synth.phantom.scan import ScanProtocol

TRUTH = Path("derivatives/truth")
BIDS_VERSION = "1.11.0"
SUFFIXES = ("T1w", "FLAIR")
ROLES = {"mask": "desc-brain_mask", "lesion": "label-lesion_mask", "dseg": "desc-tissue_dseg"}

README = """\
# Synthetic heads

Made by `bidsrep-demo {recipe}` (version {version}). No person was scanned: the brains are random deformations of
the ICBM152 2009a symmetric tissue maps (Fonov et al., NeuroImage 2011; as distributed with nilearn), the rest of
the heads is drawn, and the images are simulated from tissue parameters. White-matter lesions are ellipsoids with
ragged edges, placed mostly near the ventricles; in a second session some are new and the others have grown.

They look like heads to a program. They are no substitute for real scans when a method is judged: the generator
knows no vessels, no motion, no distortion, and only a few tissues.

`derivatives/truth` has, for every scan and on its grid, the brain mask, the lesion mask and the tissues, and the
rigid transform between the scans of a session (the head moves a little between two scans).
"""

TISSUE_TABLE = "index\tname\tabbreviation\n1\tgrey matter\tGM\n2\twhite matter\tWM\n3\tcerebrospinal fluid\tCSF\n7\tlesion\tL\n"


def scan_name(visit: Visit, suffix: str) -> str:
    """Name of a scan below the dataset's folder, without extension."""
    label = f"sub-{visit.person:02d}"
    return f"{label}/ses-{visit.session}/anat/{label}_ses-{visit.session}_{suffix}"


def truth_name(visit: Visit, suffix: str, role: str) -> str:
    """Name of one truth image below the truth's folder, without extension."""
    stem = scan_name(visit, suffix).removesuffix(suffix)
    return f"{stem}space-{suffix}_{ROLES[role]}"


def transform_name(visit: Visit) -> str:
    """Name of the transform from FLAIR to T1w below the truth's folder, without extension."""
    return f"{scan_name(visit, 'from-FLAIR')}_to-T1w_mode-image_xfm"


def session_paths(folder: Path, visit: Visit) -> list[Path]:
    """Every file of a session, sidecars included."""
    images = [folder / scan_name(visit, suffix) for suffix in SUFFIXES]
    images += [folder / TRUTH / truth_name(visit, s, role) for s in SUFFIXES for role in ROLES]
    paths = [path.with_name(path.name + extension) for path in images for extension in (".nii.gz", ".json")]
    paths += [folder / TRUTH / f"{truth_name(visit, suffix, 'dseg')}.tsv" for suffix in SUFFIXES]
    return [*paths, folder / TRUTH / f"{transform_name(visit)}.txt"]


def write_dataset(folder: Path, visits: Sequence[Visit], recipe: str) -> None:
    """Write what belongs to the datasets as a whole."""
    generated = {"Name": "bidsrep-demo", "Version": __version__, "Description": recipe}
    common: dict[str, Any] = {
        "BIDSVersion": BIDS_VERSION,
        "License": "CC0",
        "Authors": ["The bidsrep developers", "bidsrep-demo"],
        "GeneratedBy": [generated],
    }
    raw = {"Name": "Synthetic heads", "DatasetType": "raw"} | common
    write_json(folder / "dataset_description.json", raw)
    write_text(folder / "README.md", README.format(recipe=recipe, version=__version__))
    persons = sorted({visit.person for visit in visits})
    rows = "".join(f"sub-{number:02d}\tn/a\tn/a\n" for number in persons)
    write_text(folder / "participants.tsv", "participant_id\tage\tsex\n" + rows)
    write_json(
        folder / "participants.json",
        {
            "age": {"Description": "Nobody's: the heads are synthetic", "Units": "year"},
            "sex": {"Description": "Nobody's: the heads are synthetic"},
        },
    )
    truth = folder / TRUTH
    derived = {
        "SourceDatasets": [{"URL": "../.."}],
        "DatasetLinks": {"raw": "../.."},
    }
    write_json(
        truth / "dataset_description.json",
        {"Name": "Truth of the synthetic heads", "DatasetType": "derivative"} | common | derived,
    )
    write_text(truth / "README.md", README.format(recipe=recipe, version=__version__))
    write_text(truth / ".bidsignore", "*_xfm.*\n")
    labels = {
        "desc-brain": "Brain with its cerebrospinal fluid",
        "desc-tissue": "Tissue with the largest share of the voxel",
    }
    table = "".join(f"{label}\t{text}\n" for label, text in labels.items())
    write_text(truth / "descriptions.tsv", f"desc_id\tdescription\n{table}")


def write_session(folder: Path, visit: Visit, scans: Sequence[SimulatedScan]) -> None:
    """Write the images, sidecars and truth of one session."""
    from bidsrep.imaging.transforms import write_itk
    from bidsrep.imaging.volume import Volume
    from bidsrep.synth.phantom.cohort import point_map

    for scan in scans:
        suffix = scan.protocol.suffix
        name, affine = scan_name(visit, suffix), scan.placement.affine
        for role, values in scan.truth.items():
            path = truth_name(visit, suffix, role)
            write_json(folder / TRUTH / f"{path}.json", _truth_sidecar(role, f"bids:raw:{name}.nii.gz"))
            if role == "dseg":
                write_text(folder / TRUTH / f"{path}.tsv", TISSUE_TABLE)
            Volume(values, affine).save(folder / TRUTH / f"{path}.nii.gz", dtype="uint8")
        write_json(folder / f"{name}.json", scan_sidecar(scan.protocol))
        Volume(scan.image, affine).save(folder / f"{name}.nii.gz", dtype="int16")
    fixed, moving = (scan.placement for scan in scans)
    write_itk(folder / TRUTH / f"{transform_name(visit)}.txt", point_map(fixed, moving))


def scan_sidecar(protocol: ScanProtocol) -> dict[str, Any]:
    """Acquisition parameters in BIDS units (seconds, degrees, tesla, mm)."""
    from bidsrep.synth.phantom.tissues import Mprage

    sequence = protocol.sequence
    content: dict[str, Any] = {
        "Modality": "MR",
        "Manufacturer": "bidsrep-demo (simulated)",
        "MagneticFieldStrength": 3.0,
        "RepetitionTime": sequence.repetition_time,
        "EchoTime": sequence.echo_time,
        "InversionTime": sequence.inversion_time,
        "SliceThickness": protocol.spacing[2],
    }
    if isinstance(sequence, Mprage):
        return content | {
            "FlipAngle": sequence.flip_angle,
            "RepetitionTimePreparation": sequence.repetition_time,
            "RepetitionTimeExcitation": sequence.echo_spacing,
            "MRAcquisitionType": "3D",
            "ScanningSequence": "GR_IR",
            "SequenceVariant": "SK_SP_MP",
            "PulseSequenceType": "MPRAGE",
        }
    return content | {
        "FlipAngle": 90.0,
        "MRAcquisitionType": "2D",
        "ScanningSequence": "SE_IR",
        "SequenceVariant": "SK_MP",
        "PulseSequenceType": "FLAIR",
        "SpacingBetweenSlices": protocol.spacing[2],
    }


def _truth_sidecar(role: str, source: str) -> dict[str, Any]:
    texts = {
        "mask": ("Brain", "Voxels of which at least half is brain, its fluid included"),
        "lesion": ("Lesion", "Voxels of which at least half is white-matter lesion"),
        "dseg": (None, "Tissue with the largest share of the voxel; lesion where it has half of it or more"),
    }
    kind, description = texts[role]
    content: dict[str, Any] = {"Description": description, "Sources": [source], "SpatialReference": source}
    return content | ({"Type": kind} if kind else {"Manual": False})
