"""bidsrep: contrast-invariant representations of brain MRI, as a BIDS App.

The command line is ``bidsrep``; from Python, a trained network is one call away:

>>> import bidsrep
>>> model = bidsrep.load_model("pepsi")  # doctest: +SKIP
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> Any:
    """Import `load_model` on first use: torch costs most of a second, ``--help`` must not pay for it."""
    if name == "load_model":
        from bidsrep.models.registry import load_model

        return load_model
    msg = f"module 'bidsrep' has no attribute {name!r}"
    raise AttributeError(msg)
