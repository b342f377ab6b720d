"""The cohort's tables once more as Parquet, which is read in a fraction of the time: column by column, typed.

The TSV files are what counts; Parquet files are made from them, a piece at a time, where pyarrow is installed.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bidsrep.bids.files import atomic_path

LOGGER = logging.getLogger("bidsrep")
BLOCK_BYTES = 4 << 20
MISSING = ["n/a"]
OWN = ("group_*", "phenotype/bidsrep_*")
"""What the group level writes, without the endings; tables of others stay as they are."""
TEXT = "_id"
"""Columns whose names end so stay text, even where all labels are numbers."""


def cohort_tables(out_dir: Path) -> list[Path]:
    """List the tables of the group level."""
    return sorted(path for pattern in OWN for path in out_dir.glob(f"{pattern}.tsv"))


def write_parquet(out_dir: Path) -> list[Path]:
    """Write a Parquet file beside every table, and remove those of tables that are gone; nothing without pyarrow."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        LOGGER.debug("Parquet files are not written: pyarrow is not installed.")
        return []
    written = []
    for table in cohort_tables(out_dir):
        made = table.with_suffix(".parquet")
        types = column_types(table)
        with atomic_path(made) as temporary, pq.ParquetWriter(temporary, _schema(types)) as writer:
            for block in _blocks(table, types):
                writer.write_batch(block)
        written.append(made)
    for pattern in OWN:
        for stale in set(out_dir.glob(f"{pattern}.parquet")) - set(written):
            stale.unlink()
    return written


def column_types(table: Path) -> dict[str, Any]:
    """Say of every column whether it holds numbers (float64) or text; one without any value holds text."""
    import pyarrow as pa

    numeric: dict[str, bool] = {}
    filled: set[str] = set()
    for block in _blocks(table, None):
        for name, column in zip(block.schema.names, block.columns, strict=True):
            if column.null_count < len(column):
                filled.add(name)
            if numeric.setdefault(name, not name.endswith(TEXT)):
                try:
                    column.cast(pa.float64())
                except pa.ArrowInvalid:
                    numeric[name] = False
    return {
        name: pa.float64() if found and name in filled else pa.string() for name, found in numeric.items()
    }


def _schema(types: dict[str, Any]) -> Any:
    import pyarrow as pa

    return pa.schema(list(types.items()))


def _blocks(table: Path, types: dict[str, Any] | None) -> Iterator[Any]:
    """Go through a table; columns are text where no types are given."""
    import pyarrow as pa
    from pyarrow import csv

    with table.open(encoding="utf-8") as stream:
        names = stream.readline().rstrip("\n").split("\t")
    reader = csv.open_csv(
        table,
        csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
        csv.ParseOptions(delimiter="\t", quote_char=False),
        csv.ConvertOptions(
            column_types=types or dict.fromkeys(names, pa.string()),
            null_values=MISSING,
            strings_can_be_null=True,
        ),
    )
    with reader:
        yield from reader
