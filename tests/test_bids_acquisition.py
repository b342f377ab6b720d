"""TR, TE and TI: from sidecars, from defaults, from the command line; and what is said where they are not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bidsrep.bids.acquisition import (
    AcquisitionParameters,
    acquisition_parameters,
    parse_target_contrast,
    read_bids_defaults,
)
from bidsrep.bids.scans import Scan
from bidsrep.errors import ImageError, InputError, UsageError

MPRAGE = {"RepetitionTime": 2.3, "EchoTime": 0.00296, "InversionTime": 0.9}
SCAN = "/raw/sub-01/anat/sub-01_T1w.nii.gz"


class TestFromMetadata:
    def test_fields_are_taken_in_seconds(self) -> None:
        assert acquisition_parameters(SCAN, "T1w", MPRAGE) == AcquisitionParameters(2.3, 0.00296, 0.9)

    @pytest.mark.parametrize("none", [{}, {"InversionTime": 0}, {"InversionTime": None}])
    def test_no_inversion_time_is_no_inversion(self, none: dict) -> None:
        found = acquisition_parameters(SCAN, "T2w", {"RepetitionTime": 5, "EchoTime": 0.1, **none})
        assert found == AcquisitionParameters(5.0, 0.1, 0.0)

    @pytest.mark.parametrize(
        ("suffix", "more"),
        [
            ("FLAIR", {}),
            ("FLAIR", {"InversionTime": 0}),
            ("UNIT1", {}),
            ("T1w", {"ScanningSequence": "GR\\IR"}),
            ("T1w", {"ScanningSequence": ["GR", "IR"]}),
            ("T1w", {"PulseSequenceType": "MPRAGE"}),
        ],
    )
    def test_an_inverting_sequence_needs_its_inversion_time(self, suffix: str, more: dict) -> None:
        with pytest.raises(ImageError, match="InversionTime missing"):
            acquisition_parameters(SCAN, suffix, {"RepetitionTime": 9, "EchoTime": 0.1, **more})

    def test_a_word_that_contains_ir_is_no_inversion(self) -> None:
        fields = {"RepetitionTime": 5, "EchoTime": 0.1, "PulseSequenceType": "SPIRAL"}
        assert acquisition_parameters(SCAN, "T2w", fields).inversion_time == 0

    @pytest.mark.parametrize(
        ("metadata", "missing"),
        [
            ({}, "RepetitionTime, EchoTime missing"),
            ({"RepetitionTime": 2.3}, ": EchoTime missing"),
            ({"EchoTime": 0.01, "MagneticFieldStrength": 3}, ": RepetitionTime missing"),
        ],
    )
    def test_what_is_missing_is_named_with_both_remedies(self, metadata: dict, missing: str) -> None:
        with pytest.raises(InputError) as caught:
            acquisition_parameters(SCAN, "T1w", metadata)
        for part in (SCAN, missing, "sidecar", "for all T1w scans with --bids-defaults FILE"):
            assert part in str(caught.value)

    def test_the_time_between_inversions_goes_before_that_between_excitations(self) -> None:
        excitation = {"RepetitionTime": 0.0079, "EchoTime": 0.003, "InversionTime": 0.9}
        with pytest.raises(ImageError, match=r"RepetitionTime = 0.0079 s .* RepetitionTimePreparation"):
            acquisition_parameters(SCAN, "T1w", excitation)
        found = acquisition_parameters(SCAN, "T1w", {**excitation, "RepetitionTimePreparation": 2.3})
        assert found.repetition_time == 2.3
        assert acquisition_parameters(SCAN, "T1w", {"RepetitionTimeExcitation": 0.02, "EchoTime": 0.004})
        with pytest.raises(ImageError, match="RepetitionTime missing"):
            acquisition_parameters(
                SCAN, "FLAIR", {"RepetitionTimeExcitation": 3, "EchoTime": 0.1, "InversionTime": 1}
            )

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"EchoTime": 96}, "milliseconds"),
            ({"RepetitionTime": 2300, "InversionTime": 900}, "milliseconds"),
            ({"EchoTime": [0.002, 0.004]}, "not one number"),
            ({"EchoTime": "3 ms"}, "not one number"),
            ({"EchoTime": True}, "not one number"),
            ({"EchoTime": 10**400}, "integer beyond all bounds"),
            ({"EchoTime": 0}, "TE = 0 s"),
            ({"EchoTime": float("nan")}, "TE = nan"),
            ({"InversionTime": -1}, "TI = -1 s"),
            ({"RepetitionTime": 0.95, "EchoTime": 0.96}, "TE = 0.96 s is not below TR"),
        ],
    )
    def test_impossible_values_are_refused(self, change: dict, message: str) -> None:
        with pytest.raises(ImageError, match=message) as caught:
            acquisition_parameters(SCAN, "T1w", MPRAGE | change)
        assert caught.value.path == SCAN

    def test_one_echo_in_a_list_is_one_echo(self) -> None:
        assert acquisition_parameters(SCAN, "T1w", MPRAGE | {"EchoTime": [0.002]}).echo_time == 0.002

    def test_sidecars_are_inherited(self, make_bids: Callable[..., Path]) -> None:
        root = make_bids(["sub-01/anat/sub-01_FLAIR.nii.gz"])
        (root / "FLAIR.json").write_text(json.dumps({"RepetitionTime": 9, "InversionTime": 2.5}))
        own = root / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz"
        (own.parent / "sub-01_FLAIR.json").write_text(json.dumps({"EchoTime": 0.12}))
        scan = Scan(own, "01", None, "FLAIR", {}, root)
        found = acquisition_parameters(scan.path, scan.suffix, scan.metadata())
        assert found == AcquisitionParameters(9, 0.12, 2.5)


class TestDefaults:
    def test_they_fill_in_what_the_sidecar_lacks_and_no_more(self, tmp_path: Path) -> None:
        path = tmp_path / "defaults.toml"
        path.write_text("[FLAIR]\nRepetitionTime = 9\nEchoTime = 0.12\nInversionTime = 2.5\n")
        defaults = read_bids_defaults(path)
        found = acquisition_parameters(SCAN, "FLAIR", {"EchoTime": 0.08}, defaults)
        assert found == AcquisitionParameters(9, 0.08, 2.5)
        with pytest.raises(ImageError, match="RepetitionTime, EchoTime"):
            acquisition_parameters(SCAN, "T1w", {}, defaults)

    def test_they_can_mend_a_time_between_excitations(self) -> None:
        fields = {"RepetitionTime": 0.0079, "EchoTime": 0.003, "InversionTime": 0.9}
        defaults = {"T1w": {"RepetitionTimePreparation": 2.3}}
        assert acquisition_parameters(SCAN, "T1w", fields, defaults).repetition_time == 2.3

    def test_json_says_the_same_as_toml(self, tmp_path: Path) -> None:
        (tmp_path / "d.json").write_text('{"T2w": {"RepetitionTime": 5, "EchoTime": 0.1}}')
        (tmp_path / "d.toml").write_text("[T2w]\nRepetitionTime = 5\nEchoTime = 0.1\n")
        assert read_bids_defaults(tmp_path / "d.json") == read_bids_defaults(tmp_path / "d.toml")

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("[T1w\n", "d.toml"),
            ("RepetitionTime = 2\n", "RepetitionTime is not a table"),
            ("[T1w]\nRepetionTime = 2\n", "T1w.RepetionTime is not a field"),
            ("[T1w]\nEchoTime = '3 ms'\n", "EchoTime is '3 ms', not one number"),
        ],
    )
    def test_a_bad_file_is_refused_by_name(self, tmp_path: Path, text: str, reason: str) -> None:
        path = tmp_path / "d.toml"
        path.write_text(text)
        with pytest.raises(UsageError, match=reason) as caught:
            read_bids_defaults(path)
        assert str(path) in str(caught.value)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="No such file"):
            read_bids_defaults(tmp_path / "none.toml")


class TestTargetContrast:
    def test_seconds_are_read(self) -> None:
        assert parse_target_contrast("TR=2.3, TE=0.003,TI=0.9") == AcquisitionParameters(2.3, 0.003, 0.9)
        assert parse_target_contrast("TE=0.1,TR=5") == AcquisitionParameters(5, 0.1)

    def test_what_is_written_is_read_back(self) -> None:
        for parameters in (AcquisitionParameters(2.3, 0.003, 0.9), AcquisitionParameters(8, 0.1)):
            assert parse_target_contrast(str(parameters)) == parameters

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("TR=2.3", "TE missing"),
            ("TI=1", "TR and TE missing"),
            ("TR=2.3,TE=fast", "'fast' is not a number"),
            ("TR=2.3,TE=0.1,FA=9", "'FA=9' is unknown"),
            ("TR=2.3,TE=0.1,TE=0.2", "'TE=0.2' is double"),
            ("TR=2300,TE=3,TI=900", "milliseconds"),
            ("TR=1,TE=0.01,TI=2", "TI = 2 s is not below TR"),
            ("", "unknown"),
        ],
    )
    def test_anything_else_is_refused(self, text: str, reason: str) -> None:
        with pytest.raises(UsageError, match=reason):
            parse_target_contrast(text)

    def test_labels_are_bids_labels_and_differ(self) -> None:
        contrasts = [(2.3, 0.00296, 0.9), (2.3, 0.003, 0.9), (10.0, 0.1, 0.0), (1.0, 0.1, 0.0)]
        labels = [AcquisitionParameters(*contrast).label for contrast in contrasts]
        assert labels == ["TR2300TE2p96TI900", "TR2300TE3TI900", "TR10000TE100", "TR1000TE100"]
        assert all(label.isalnum() for label in labels)
