"""Masks of others: which belongs to which scan."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bidsrep.bids.derivatives import find_brain_mask, find_derivatives, on_same_grid
from bidsrep.bids.scans import Scan

MakeBids = Callable[..., Path]
ANAT = "sub-01/ses-A/anat/sub-01_ses-A"


class Cohort:
    """One session with a T1w and a FLAIR on different grids, and an empty derivatives dataset."""

    def __init__(self, make_bids: MakeBids) -> None:
        self.make_bids = make_bids
        self.raw = make_bids([f"{ANAT}_T1w.nii.gz"], shape=(4, 5, 6))
        make_bids([f"{ANAT}_FLAIR.nii.gz"], shape=(7, 7, 2), zooms=(1, 1, 4))
        self.given = {"masks": make_bids([], root="masks")}

    def scan(self, suffix: str) -> Scan:
        return Scan(self.raw / f"{ANAT}_{suffix}.nii.gz", "01", "A", suffix, {}, self.raw)

    def add(self, name: str, like: str, sources: list[str] | None = None) -> Path:
        image = {"T1w": {"shape": (4, 5, 6)}, "FLAIR": {"shape": (7, 7, 2), "zooms": (1, 1, 4)}}.get(like, {})
        folder = self.make_bids([name], root="masks", **(image or {"shape": (9, 9, 9)}))
        if sources:
            (folder / name.replace(".nii.gz", ".json")).write_text(json.dumps({"Sources": sources}))
        return folder / name

    def mask_of(self, suffix: str) -> Path | None:
        given = find_brain_mask(self.given, self.scan(suffix))
        return given.path if given else None


@pytest.fixture
def cohort(make_bids: MakeBids) -> Cohort:
    return Cohort(make_bids)


def test_no_derivatives_no_mask(cohort: Cohort) -> None:
    assert cohort.mask_of("T1w") is None
    assert find_brain_mask({}, cohort.scan("T1w")) is None


def test_a_mask_without_space_is_that_of_the_t1w(cohort: Cohort) -> None:
    path = cohort.add(f"{ANAT}_desc-brain_mask.nii.gz", like="another grid")
    assert cohort.mask_of("T1w") == path
    assert cohort.mask_of("FLAIR") is None


def test_a_mask_on_the_very_grid_is_that_of_the_scan(cohort: Cohort) -> None:
    path = cohort.add(f"{ANAT}_space-common_desc-brain_mask.nii.gz", like="FLAIR")
    assert cohort.mask_of("FLAIR") == path
    assert cohort.mask_of("T1w") is None


def test_a_mask_in_another_space_is_nobodys(cohort: Cohort) -> None:
    cohort.add(f"{ANAT}_space-MNI152NLin2009cAsym_desc-brain_mask.nii.gz", like="another grid")
    assert cohort.mask_of("T1w") is None


def test_sources_decide_where_they_name_a_scan(cohort: Cohort) -> None:
    sources = ["bids:raw:sub-01/ses-A/anat/sub-01_ses-A_FLAIR.nii.gz"]
    path = cohort.add(f"{ANAT}_desc-brain_mask.nii.gz", like="another grid", sources=sources)
    assert cohort.mask_of("FLAIR") == path
    assert cohort.mask_of("T1w") is None


def test_a_mask_of_another_session_or_run_is_not_taken(cohort: Cohort) -> None:
    cohort.add("sub-01/anat/sub-01_ses-B_desc-brain_mask.nii.gz", like="T1w")
    cohort.add(f"{ANAT}_run-2_desc-brain_mask.nii.gz", like="T1w")
    assert cohort.mask_of("T1w") is None


def test_a_lesion_mask_is_no_brain_mask(cohort: Cohort) -> None:
    path = cohort.add(f"{ANAT}_label-lesion_desc-expert_mask.nii.gz", like="T1w")
    assert cohort.mask_of("T1w") is None
    found = find_derivatives(cohort.given, cohort.scan("T1w"), "mask", label="lesion")
    assert [given.path for given in found] == [path]
    assert found[0].dataset == "masks"


def test_the_mask_on_the_grid_goes_first(cohort: Cohort) -> None:
    cohort.add(f"{ANAT}_desc-brain_mask.nii.gz", like="another grid")
    path = cohort.add(f"{ANAT}_space-orig_desc-brain_mask.nii.gz", like="T1w")
    assert cohort.mask_of("T1w") == path


def test_a_broken_image_is_on_no_grid(cohort: Cohort, tmp_path: Path) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"x")
    assert not on_same_grid(tmp_path / "broken.nii.gz", cohort.scan("T1w").path)


@pytest.mark.data
def test_masks_in_a_common_space_are_not_taken_for_native_ones(test_data: Path) -> None:
    raw = test_data / "data" / "bids-ms"
    given = {"lesions": raw / "derivatives" / "lesions"}
    name = "sub-long01/ses-01/anat/sub-long01_ses-01_FLAIR.nii.gz"
    assert find_brain_mask(given, Scan(raw / name, "long01", "01", "FLAIR", {}, raw)) is None
