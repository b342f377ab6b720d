"""The figures of a subject's page: which scan each shows, and, if wanted, the figure itself inside the page."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from markupsafe import escape

from bidsrep.bids.scans import parse_name
from bidsrep.reports.results import scan_key

FIGURE = re.compile(r'data="(?P<href>\./[^"]*/(?P<name>[^"/]+\.svg))"')
LINK = re.compile(r"<small>Get figure file:.*?</small>", re.DOTALL)
KEPT_AS_IT_IS = " !$&'()*+,-./:;=?@_~"
"""What may stand in a data URI in double quotes without being encoded."""


def place_of(session: str | None, scan: str) -> str:
    """Name a scan within its subject, as the scripts of the pages do: ``ses-A/T1w``, ``n/a/T1w``."""
    return f"{f'ses-{session}' if session is not None else 'n/a'}/{scan}"


def mark_figures(sections: Iterable[Any], out_dir: Path, *, embed: bool) -> None:
    """Wrap every figure of nireports' sections into an element that names its scan; embed it if wanted."""
    for section in sections:
        for reportlet in section.reportlets:
            reportlet.components = [
                (_mark(html, out_dir, embed=embed), caption) for html, caption in reportlet.components
            ]


def _mark(html: str, out_dir: Path, *, embed: bool) -> str:
    found = FIGURE.search(html)
    if found is None:
        return html
    name = parse_name(found["name"])
    if name is not None:
        place = escape(place_of(name.entities.get("ses"), scan_key(name, name.suffix)))
        html = f'<div class="of-scan" data-scan="{place}">{html}</div>'
    path = out_dir / unquote(found["href"])
    if embed and path.is_file():
        html = html.replace(found[0], f'data="{data_uri(path.read_text(encoding="utf-8"))}"')
        html = LINK.sub("", html)  # the file may not travel with the page
    return html


def data_uri(svg: str) -> str:
    """Write an SVG figure as a data URI; as text, for its pictures are base64 already.

    >>> data_uri('<svg a="1"/>')
    'data:image/svg+xml,%3Csvg a=%221%22/%3E'
    """
    return "data:image/svg+xml," + quote(svg, safe=KEPT_AS_IT_IS)
