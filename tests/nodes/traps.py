"""Catches a machine in the middle of something: one of its writes to the object store is never answered."""

import re
import threading

from tests.nodes.machines import Machine, Machines
from tests.s3.proxy import Fault, Plan, Request


class Trap:
    """Holds the first write to a path like `pattern` that comes when so many others have been seen.

    Paths are told apart by the pattern's first group, so that the files of one checkpoint count once. Ray Train's
    workers write by the driver's settings, through the head's proxy; `title` is of the process whose write that is.
    """

    def __init__(self, machines: Machines, pattern: str, *, after: int = 0, title: str = "") -> None:
        self.machines, self.pattern, self.after, self.title = machines, re.compile(pattern), after, title
        self.seen: set[str] = set()
        self.held: Machine | None = None
        self.lock = threading.Lock()
        for machine in [machines.head] if title else machines.workers:
            machine.proxy.plan = self._plan(machine)

    def _plan(self, machine: Machine) -> Plan:
        def plan(request: Request) -> Fault | None:
            found = self.pattern.search(request.target) if request.writes else None
            with self.lock:
                if found is None or self.held is not None:
                    return None
                self.seen.add(found[1] if found.groups() else found[0])
                self.held = machine if len(self.seen) > self.after else None
                return "held" if self.held else None

        return plan

    def caught(self) -> Machine | None:
        """The worker node whose write is held."""
        if self.held is not self.machines.head:
            return self.held
        return next(machine for machine in self.machines.workers if machine.runs(self.title))
