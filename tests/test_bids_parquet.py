"""The cohort's tables as Parquet: the same values, typed; nothing lingers, and nothing is needed."""

import sys
from pathlib import Path

import pytest

from bidsrep.bids import parquet
from bidsrep.bids.parquet import cohort_tables, write_parquet

TABLE = 'participant_id\tsession_id\tscan\tvalue\tcount\tempty\nsub-1\t01\tT1w\t1.5\t3\tn/a\nsub-2\t02\t"x\t-2e3\tn/a\tn/a\n'


def write(folder: Path, text: str = TABLE, name: str = "group_metrics.tsv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("block", [64, 1 << 20])
def test_values_are_those_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(parquet, "BLOCK_BYTES", block)
    write(tmp_path)
    (made,) = write_parquet(tmp_path)
    assert made == tmp_path / "group_metrics.parquet"
    assert pq.read_table(made).to_pydict() == {
        "participant_id": ["sub-1", "sub-2"],
        "session_id": ["01", "02"],
        "scan": ["T1w", '"x'],
        "value": [1.5, -2000.0],
        "count": [3.0, None],
        "empty": [None, None],
    }


def test_a_column_that_turns_to_text_is_text_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 64)
    rows = ["value", *map(str, range(100)), "seven"]
    write(tmp_path, "\n".join(rows) + "\n")
    (made,) = write_parquet(tmp_path)
    assert pq.read_table(made)["value"].to_pylist() == rows[1:]


def test_files_of_tables_that_are_gone_go(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write(tmp_path)
    write(tmp_path, name="group_ratings.tsv")
    of_others = [write(tmp_path, "", "own.parquet"), write(tmp_path / "phenotype", "", "own.parquet")]
    write_parquet(tmp_path)
    (tmp_path / "group_ratings.tsv").unlink()
    write_parquet(tmp_path)
    assert {path.name for path in tmp_path.glob("group_*")} == {"group_metrics.parquet", "group_metrics.tsv"}
    assert all(path.exists() for path in of_others)


def test_without_pyarrow_there_are_only_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    write(tmp_path)
    assert write_parquet(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["group_metrics.tsv"]


def test_the_tables_are_found(tmp_path: Path) -> None:
    tables = [write(tmp_path), write(tmp_path / "phenotype", name="bidsrep_volumes.tsv")]
    write(tmp_path, name="descriptions.tsv")
    write(tmp_path / "phenotype", name="questionnaire.tsv")
    assert cohort_tables(tmp_path) == sorted(tables)
