"""HTML from the templates in ``data/reports``. Whatever comes from a file name, a sidecar or a table is escaped."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any


def data_file(name: str) -> Path:
    """Give the path of one of the pages' templates and tables."""
    return Path(str(files("bidsrep") / "data" / "reports" / name))


def fragment(name: str, /, *arguments: Any) -> str:
    """Render one of the macros of ``fragments.html``."""
    macros: Any = _environment().get_template("fragments.html").module
    return str(getattr(macros, name)(*arguments)).strip()


def page(template: str, /, **values: Any) -> str:
    """Render a whole page."""
    return _environment().get_template(template).render(**values)


def to_script(data: Mapping[str, Any]) -> str:
    """Write an object as JSON that can stand in a script element: nothing in it can end the element.

    >>> to_script({"name": "</script><b>"})
    '{"name":"\\\\u003c/script\\\\u003e\\\\u003cb\\\\u003e"}'
    """
    text = json.dumps(_short(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


@cache
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_file("")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _short(value: Any) -> Any:
    """Cut numbers to six digits, which is what the tables have."""
    match value:
        case float():
            return int(value) if value.is_integer() and abs(value) < 1e15 else float(f"{value:.6g}")
        case dict():
            return {key: _short(item) for key, item in value.items()}
        case list() | tuple():
            return [_short(item) for item in value]
    return value
