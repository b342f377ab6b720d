"""Sphinx extension of the pages: fills in what is written from the program itself."""

from __future__ import annotations

from typing import Any


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    from bidsrep_docs.tables import fill

    def on_source_read(app: Any, docname: str, source: list[str]) -> None:
        source[0] = fill(source[0])

    app.connect("source-read", on_source_read)
    return {"parallel_read_safe": True, "version": "1"}
