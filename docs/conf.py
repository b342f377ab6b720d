"""Configuration of the documentation (`make docs`)."""

import os
import sys
from pathlib import Path

os.environ["NO_ET"] = os.environ["NIPYPE_NO_ET"] = "1"  # building a graph must not look up newer versions
sys.path.insert(0, str(Path(__file__).parent / "ext"))

import bidsrep

project = "bidsrep"
author = "The bidsrep developers"
copyright = author  # noqa: A001 - Sphinx's name for it
version = release = bidsrep.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "bidsrep_docs"]
exclude_patterns = ["_build"]
nitpicky = False
default_role = "code"

myst_enable_extensions = ["deflist", "colon_fence", "dollarmath"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False
napoleon_use_rtype = False

smartquotes = False  # options and JSON are quoted as they are typed

html_theme = "furo"
html_title = f"bidsrep {release}"
html_static_path = ["_static"]
html_show_sphinx = False
html_show_copyright = False
