"""What a run says while it computes: one line for every scan that is through a network, and for failures."""

import logging
from collections.abc import Iterable
from typing import Any

from bidsrep.workflows.participant import node_prefixes
from bidsrep.workflows.plan import SessionPlan

LOGGER = logging.getLogger("bidsrep")
SLOWEST = "represent"
"""The step that is counted: one per scan and model, and the longest."""


class Progress:
    """A status callback for Nipype's plugins."""

    def __init__(self, plans: Iterable[SessionPlan]) -> None:
        self._scans: dict[str, str] = {}
        self._total = self._done = 0
        for plan in plans:
            label = plan.session.label.replace("_", " ")
            self._scans |= {prefix: f"{label} {key}" for prefix, key in node_prefixes(plan).items()}
            self._total += sum(len(scan.predictions) for scan in plan.scans)

    def __call__(self, node: Any, status: str) -> None:
        """Take note of a step that starts, ends, or fails; `status` is Nipype's word for it."""
        prefix = next((p for p in self._scans if p in node.fullname), None)
        if prefix is None:
            return
        step = node.fullname.partition(prefix)[2].replace("_wf", "")
        if status == "exception":
            LOGGER.warning("%s: the step %s failed.", self._scans[prefix], step)
        elif status == "end" and node.name == SLOWEST:
            self._done += 1
            LOGGER.info("%d/%d: %s, %s", self._done, self._total, self._scans[prefix], step.partition(".")[0])
