"""What a run says and keeps while it computes: a line for every scan that is through a network, whole sessions."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from bidsrep.workflows.participant import node_prefixes, session_prefix
from bidsrep.workflows.plan import SessionPlan
from bidsrep.workflows.plugins import COMPLETE

LOGGER = logging.getLogger("bidsrep")
SLOWEST = "represent"
"""The step that is counted: one per scan and model, and the longest."""
ENOUGH = 3
"""Counted steps after which the time left is guessed: the first wait for masks and registrations."""
AT_ONCE = 4
"""So many running steps are named; of more, their number."""


@dataclass
class Tally:
    """How many scans are to go through networks, over all graphs of a run, and how many have."""

    total: int
    done: int = 0
    began: float = field(default_factory=lambda: time.monotonic())

    @classmethod
    def of(cls, plans: Iterable[SessionPlan]) -> Self:
        """Count what plans hold."""
        return cls(sum(len(scan.predictions) for plan in plans for scan in plan.scans))

    def time_left(self) -> str:
        """Guess from the pace so far; nothing while too little is done, and at the end."""
        left = self.total - self.done
        if self.done < ENOUGH or left <= 0:
            return ""
        minutes = (time.monotonic() - self.began) / self.done * left / 60
        return f", {f'about {minutes:.0f} min' if minutes >= 1 else 'less than a minute'} left"


class Progress:
    """A status callback for Nipype's plugins.

    Parameters
    ----------
    plans
        What the graph makes.
    completed
        Called with a plan when all of its steps are done.
    tally
        Counts over several graphs; one of these plans alone without it.
    """

    def __init__(
        self,
        plans: Iterable[SessionPlan],
        completed: Callable[[SessionPlan], None] | None = None,
        tally: Tally | None = None,
    ) -> None:
        plans = list(plans)
        self._scans: dict[str, str] = {}
        self._sessions: dict[str, SessionPlan] = {}
        self._completed = completed
        self._tally = tally or Tally.of(plans)
        self._running: dict[str, str] = {}
        for plan in plans:
            self._sessions[session_prefix(plan)] = plan
            label = plan.session.label.replace("_", " ")
            self._scans |= {prefix: f"{label} {key}" for prefix, key in node_prefixes(plan).items()}

    def __call__(self, node: Any, status: str) -> None:
        """Take note of a step that starts, ends, or fails, or completes its session: the plugin's word for it."""
        if status == COMPLETE:
            if self._completed:
                place = next(place for place in self._sessions if place in node.fullname)
                self._completed(self._sessions[place])
            return
        prefix = next((p for p in self._scans if p in node.fullname), None)
        if prefix is None:
            return
        step = node.fullname.partition(prefix)[2].replace("_wf", "").strip(".")
        if status == "start":
            self._running[node.fullname] = f"{self._scans[prefix]} ({step})"
            return
        self._running.pop(node.fullname, None)
        if status == "exception":
            LOGGER.warning("%s: the step %s failed.", self._scans[prefix], step)
        elif status == "end" and node.name == SLOWEST:
            self._tally.done += 1
            LOGGER.info(
                "%d/%d%s: %s, %s%s",
                self._tally.done,
                self._tally.total,
                self._tally.time_left(),
                self._scans[prefix],
                step.partition(".")[0],
                self._now(),
            )

    def _now(self) -> str:
        """Name what else is running."""
        if not self._running:
            return ""
        if len(self._running) > AT_ONCE:
            return f"; {len(self._running)} steps are running"
        return f"; now {', '.join(self._running.values())}"
