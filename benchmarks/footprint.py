"""Seconds and peak memory of a command with every process it starts: footprint.py COMMAND [ARGUMENT ...]

Memory is the proportional set size (PSS, shared pages counted once) of the process tree, read from /proc every half
second; so a shorter peak is missed. Linux only.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

INTERVAL_S = 0.5


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


def main() -> int:
    """Run the command and print one line about it."""
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(sys.argv[1:])
    while process.poll() is None:
        peak = max(peak, sum(map(pss_bytes, descendants(process.pid))))
        time.sleep(INTERVAL_S)
    seconds = time.monotonic() - started
    print(f"{seconds:.0f} s, peak {peak / 2**30:.2f} GiB, {os.cpu_count()} cores: {' '.join(sys.argv[1:])}")
    return process.returncode


if __name__ == "__main__":
    raise SystemExit(main())
