"""Label tables."""

from pathlib import Path

import pytest

from bidsrep.errors import InputError
from bidsrep.labels import load_labels, read_labels


def test_aseg_names_both_sides_and_mirrors_them() -> None:
    aseg = load_labels("aseg")
    assert aseg[17].name == "Left-Hippocampus"
    assert aseg["Right-Hippocampus"].index == 53
    mirrors = aseg.mirrors()
    assert all(mirrors[mirrors[index]] == index for index in aseg.indices())
    assert all(aseg[label.mirror].tissue == label.tissue for label in aseg)
    assert mirrors[16] == 16


def test_aseg_has_every_tissue_and_unique_values() -> None:
    aseg = load_labels("aseg")
    assert len(set(aseg.indices())) == len(aseg)
    assert {2, 41} <= set(aseg.indices("wm"))
    assert {"background", "csf", "gm", "wm", "lesion"} <= {label.tissue for label in aseg}


def test_table_for_bids_has_the_required_columns() -> None:
    lines = load_labels("aseg").to_tsv().splitlines()
    assert lines[0] == "index\tname\tabbreviation\tcolor"
    assert "17\tLeft-Hippocampus\tHIP-L\t#DCD814" in lines


def test_unknown_and_broken_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="aseg"):
        load_labels("no-such-table")
    broken = tmp_path / "broken.tsv"
    broken.write_text("value\tname\n1\ta\n")
    with pytest.raises(InputError, match="'index'"):
        read_labels(broken)
