"""Names taken apart, sidecars inherited, the reference chosen."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from bidsrep.bids.reference import choose_reference, fineness, header_zooms
from bidsrep.bids.scans import Scan, Session, parse_name

MakeBids = Callable[..., Path]


def scan(name: str, root: Path = Path("/raw")) -> Scan:
    parsed = parse_name(name)
    assert parsed is not None
    entities = dict(parsed.entities)
    subject, session = entities.pop("sub"), entities.pop("ses", None)
    folder = root / f"sub-{subject}" / (f"ses-{session}" if session else "") / "anat"
    return Scan(folder / name, subject, session, parsed.suffix, entities, root)


@pytest.mark.parametrize(
    "name", ["T1w.nii.gz", "sub-01_T1w", "sub-01_my_T1w.nii", "sub-01_acq-a_acq-b_T1w.nii", "sub-_T1w.nii"]
)
def test_names_that_are_not_bids_are_not_parsed(name: str) -> None:
    assert parse_name(name) is None


def test_a_name_is_taken_apart_in_its_order() -> None:
    name = parse_name("sub-01_ses-A_space-T1w_res-1mm_label-lesion_desc-x+y_mask.nii.gz")
    assert name is not None
    assert list(name.entities) == ["sub", "ses", "space", "res", "label", "desc"]
    assert (name.suffix, name.extension) == ("mask", ".nii.gz")


def test_kept_entities_come_in_the_order_of_bids() -> None:
    odd = Scan(Path("x"), "01", "A", "T1w", {"run": "1", "acq": "mp", "dir": "AP", "ce": "gad"})
    assert list(odd.name_parts) == ["sub", "ses", "acq", "ce", "run"]
    assert odd.key == "acq-mp_ce-gad_run-1_T1w"
    assert Session("01", None).label == "sub-01"


class TestMetadata:
    """BIDS inheritance of JSON sidecars."""

    def write(self, path: Path, content: object) -> None:
        path.write_text(json.dumps(content))

    def test_the_nearest_sidecar_wins(self, make_bids: MakeBids) -> None:
        root = make_bids(["sub-01/ses-A/anat/sub-01_ses-A_acq-x_T1w.nii.gz"])
        own = scan("sub-01_ses-A_acq-x_T1w.nii.gz", root)
        self.write(root / "T1w.json", {"a": "top", "b": "top", "c": "top"})
        self.write(root / "sub-01" / "sub-01_T1w.json", {"b": "subject", "c": "subject"})
        self.write(own.path.with_name("sub-01_ses-A_acq-x_T1w.json"), {"c": "own"})
        assert own.metadata() == {"a": "top", "b": "subject", "c": "own"}

    def test_sidecars_of_others_do_not_apply(self, make_bids: MakeBids) -> None:
        root = make_bids(["sub-01/anat/sub-01_T1w.nii.gz"])
        for name in ("T2w.json", "acq-x_T1w.json", "participants.json"):
            self.write(root / name, {"wrong": name})
        assert scan("sub-01_T1w.nii.gz", root).metadata() == {}

    @pytest.mark.parametrize("content", ["{", '["a"]', "\x00"])
    def test_a_broken_sidecar_costs_a_warning_only(
        self, make_bids: MakeBids, content: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        root = make_bids(["sub-01/anat/sub-01_T1w.nii.gz"])
        (root / "sub-01" / "anat" / "sub-01_T1w.json").write_text(content)
        logging.getLogger("bidsrep").propagate = True
        assert scan("sub-01_T1w.nii.gz", root).metadata() == {}
        assert "sub-01_T1w.json: the sidecar" in caplog.text


class TestReference:
    """Which scan the others are registered to."""

    def test_the_preferred_contrast_wins_without_contrast_agent(self) -> None:
        scans = [scan(f"sub-01_{k}.nii") for k in ("FLAIR", "acq-z_T1w", "ce-gad_T1w", "acq-b_T1w")]
        assert choose_reference(scans).key == "acq-b_T1w"
        assert choose_reference(scans, "FLAIR").key == "FLAIR"
        assert choose_reference(scans[2:3]).key == "ce-gad_T1w"

    def test_of_several_the_finest_voxels_win(self, make_bids: MakeBids) -> None:
        for key, zooms in {
            "acq-2d_T1w": (1, 1, 6),
            "acq-mprage_T1w": (1, 1, 1),
            "ce-gd_T1w": (0.8,) * 3,
        }.items():
            root = make_bids([f"sub-01/anat/sub-01_{key}.nii.gz"], zooms=zooms)
        scans = [scan(f"sub-01_{key}.nii.gz", root) for key in ("acq-2d_T1w", "acq-mprage_T1w", "ce-gd_T1w")]
        assert choose_reference(scans).key == "acq-mprage_T1w"

    def test_otherwise_the_finest_voxels_win(self, make_bids: MakeBids) -> None:
        names = {"FLAIR": (1, 1, 3), "T2w": (0.5, 0.5, 3), "PDw": (1.2, 1.2, 1.2)}
        for key, zooms in names.items():
            root = make_bids([f"sub-01/anat/sub-01_{key}.nii.gz"], zooms=zooms)
        scans = [scan(f"sub-01_{key}.nii.gz", root) for key in names]
        assert choose_reference(scans).key == "PDw"
        assert choose_reference(scans[:2], "finest").key == "T2w"

    def test_an_unreadable_scan_is_the_last_choice(self, make_bids: MakeBids) -> None:
        root = make_bids(["sub-01/anat/sub-01_FLAIR.nii.gz"], zooms=(5, 5, 5))
        broken = scan("sub-01_T2w.nii.gz", root)
        broken.path.write_bytes(b"no image")
        assert header_zooms(broken.path) == (float("inf"),) * 3
        assert choose_reference([broken, scan("sub-01_FLAIR.nii.gz", root)]).key == "FLAIR"

    def test_header_noise_does_not_decide(self) -> None:
        assert fineness((1.0000001, 1, 1)) == fineness((1, 1, 1))

    def test_no_scans_no_reference(self) -> None:
        with pytest.raises(ValueError, match="no reference"):
            choose_reference([])
