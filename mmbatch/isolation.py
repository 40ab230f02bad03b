"""Finds the records that end the process which works on them, by trying each in a process of its own kind.

Ray starts a killed worker again and hands it the same unit of work, so a record that crashes a decoder would do so for
ever. A unit that comes back (`Attempts`) is therefore first tried record by record in a child process.
"""

import os
import pickle
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

KILLS_PROCESS = "kills_process"
"""Reason code of a record that ends every process which works on it."""


class Attempts:
    """Actor: knows on which machines each unit of work has been begun."""

    def __init__(self) -> None:
        self.begun: defaultdict[str, list[str]] = defaultdict(list)

    def begin(self, unit: str, machine: str) -> list[str]:
        """The machines of the attempts before this one."""
        before = list(self.begun[unit])
        self.begun[unit].append(machine)
        return before


def killers(work: Callable[[int], Any], records: int) -> dict[int, str]:
    """Run `work(record)` for every record in child processes; which ones ended theirs, and how.

    `work` is pickled once per child; an exception that it raises is no death and is left to the caller, who meets it
    again. A child says which record it begins, so that one death names one record.
    """
    found: dict[int, str] = {}
    start = 0
    while start < records:
        for record, status in _run(work, start, records):
            start = record + 1
            if status:
                found[record] = f"the process that worked on it was ended by {_named(status)}"
    return found


def _run(work: Callable[[int], Any], start: int, records: int) -> Iterator[tuple[int, int]]:
    """Records begun by one child from `start` on, with 0, or the exit status for the last one if it died of it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "mmbatch.isolation"]
    child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    output, _ = child.communicate(pickle.dumps((work, start, records)))
    begun = len(output)
    if child.returncode and not begun:
        raise RuntimeError(f"a child process that tries records one by one did not start: status {child.returncode}")
    yield from ((start + i, 0) for i in range(begun - 1))
    yield start + begun - 1, child.returncode


def _named(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _child() -> None:
    """Work on the records that stdin names; one byte on stdout before each."""
    channel = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no message
    work, start, records = pickle.loads(sys.stdin.buffer.read())
    for record in range(start, records):
        os.write(channel, b".")
        try:
            work(record)
        except Exception:  # noqa: BLE001 - only death counts here; the caller meets the exception again
            continue


if __name__ == "__main__":
    _child()
