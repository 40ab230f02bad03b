"""Seconds and peak memory of a command with every process it starts: footprint.py COMMAND [ARGUMENT ...]

Memory is the proportional set size (PSS, shared pages counted once) of the process tree, read from /proc every half
second; so a shorter peak is missed. Linux only.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

INTERVAL_S = 0.5


class Footprint(NamedTuple):
    """What a command took."""

    seconds: float
    peak_bytes: int
    """Of all its processes together."""
    own_bytes: int
    """At most of the process that was started, without those that it starts: of a job, the driver."""
    returncode: int


def descendants(root: int) -> list[int]:
    """Process ids of `root` and everything below it."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found, queue = [], [root]
    while queue:
        found.append(queue.pop())
        queue += children.get(found[-1], [])
    return found


def pss_bytes(process: int) -> int:
    """Proportional set size of one process, 0 when it has ended."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


def measure(command: Sequence[str], *, stdout: IO[str] | None = None, stderr: IO[str] | None = None) -> Footprint:
    """Run a command to its end; its output goes to `stdout` and `stderr`, this process's own by default."""
    started, peak, own = time.monotonic(), 0, 0
    with subprocess.Popen(command, stdout=stdout, stderr=stderr) as process:
        while process.returncode is None:
            found = {number: pss_bytes(number) for number in descendants(process.pid)}
            peak, own = max(peak, sum(found.values())), max(own, found[process.pid])
            try:
                process.wait(INTERVAL_S)
            except subprocess.TimeoutExpired:
                continue
    return Footprint(time.monotonic() - started, peak, own, process.returncode)


def main() -> int:
    """Run the command and print one line about it."""
    found = measure(sys.argv[1:])
    memory = f"peak {found.peak_bytes / 2**30:.2f} GiB, {os.cpu_count()} cores"
    print(f"{found.seconds:.0f} s, {memory}: {' '.join(sys.argv[1:])}")
    return found.returncode


if __name__ == "__main__":
    raise SystemExit(main())
