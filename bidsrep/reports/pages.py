"""HTML from the templates in ``data/reports``. Whatever comes from a file name, a sidecar or a table is escaped."""

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
