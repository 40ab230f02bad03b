"""Epochs: one run writes a workspace at a time, and a run that has lost its turn commits nothing.

A run makes the file `epochs/<number>.json` that no other run can make too, and rewrites `epochs/<number>.beat` while
it lives. The next run may begin when the last one has ended (`epochs/<number>.end`), when its process is known to be
dead (same machine), or when its beat has stood still for `EXPIRY_S`. In the last case the run may only be asleep, so
all tables are fenced (`mmbatch.tables.Table.fence`): a commit of the earlier epoch then fails inside Delta's own
conflict check, whatever the sleeper believed when it began.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from mmbatch.errors import LostRaceError
from mmbatch.progress import say

BEAT_S = 5.0
EXPIRY_S = 60.0
"""Twelve missed beats: longer than a store's outage that its retries bridge, shorter than anybody's patience."""

_POLL_S = 1.0


@dataclass(frozen=True)
class Epoch:
    """A run's turn at writing; pickles to workers, which never commit."""

    folder: str
    number: int
    took_over: bool = False
    """The run before did not end and may be asleep."""

    def check(self) -> None:
        """Raise `LostRaceError` when a later run has begun."""
        filesystem, root = fsspec.core.url_to_fs(self.folder)
        filesystem.invalidate_cache(root)
        if filesystem.exists(f"{root}/{_name(self.number + 1)}.json"):
            raise LostRaceError(f"{self.folder}: epoch {self.number} is over, another run has taken its place")


@contextmanager
def taken(folder: str, *, job: str, wait_s: float = 0.0, expiry_s: float = EXPIRY_S) -> Iterator[Epoch]:
    """Hold the next epoch of a workspace while the block runs.

    Raises `LostRaceError`, naming the other run, when one is still writing after `wait_s` seconds.
    """
    epoch = _take(folder, job=job, deadline=time.monotonic() + wait_s, expiry_s=expiry_s)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(epoch, ended), daemon=True)
    beat.start()
    try:
        yield epoch
    finally:
        ended.set()
        beat.join()
        filesystem, root = fsspec.core.url_to_fs(folder)
        filesystem.pipe_file(f"{root}/{_name(epoch.number)}.end", b"")


def _take(folder: str, *, job: str, deadline: float, expiry_s: float) -> Epoch:
    filesystem, root = fsspec.core.url_to_fs(folder)
    filesystem.makedirs(root, exist_ok=True)
    waiting = False
    while True:
        last = _newest(filesystem, root)
        state = "ended" if last == 0 else _state(filesystem, root, last, expiry_s)
        if state != "writing":
            claim = json.dumps(_identity(job)).encode()
            if _create(filesystem, f"{root}/{_name(last + 1)}.json", claim):
                return Epoch(folder, last + 1, took_over=state == "silent")
        elif time.monotonic() >= deadline:
            holder = _read(filesystem, f"{root}/{_name(last)}.json")
            raise LostRaceError(f"{folder.rpartition('/')[0]}: {_described(holder)}")
        else:
            if not waiting:
                say("waiting    another run is writing this workspace")
            waiting = True
            time.sleep(_POLL_S)


def _described(holder: dict[str, Any]) -> str:
    job, pid, host, since = (holder.get(name) for name in ("job", "pid", "host", "since"))
    return f"another run is writing here ({job}, process {pid} on {host}, since {since}): let it end, or --wait SECONDS"


def _create(filesystem: Any, path: str, content: bytes) -> bool:
    """Make a file that is not there yet; False when another run was first."""
    try:
        with filesystem.open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _newest(filesystem: Any, root: str) -> int:
    filesystem.invalidate_cache(root)
    return max((int(path.rpartition("/")[2][:-5]) for path in filesystem.glob(f"{root}/*.json")), default=0)


def _state(filesystem: Any, root: str, number: int, expiry_s: float) -> str:
    """`ended`, `writing`, or `silent`: it has not ended and its beat stands still."""
    if filesystem.exists(f"{root}/{_name(number)}.end"):
        return "ended"
    holder = _read(filesystem, f"{root}/{_name(number)}.json")
    if holder.get("host") == _host() and not _alive(holder):
        return "ended"
    return "silent" if _silence_s(filesystem, root, number) > expiry_s else "writing"


def _silence_s(filesystem: Any, root: str, number: int) -> float:
    """Seconds since the last beat, both ends measured by the store's clock."""
    clock = f"{root}/clock-{uuid.uuid4().hex}"
    filesystem.pipe_file(clock, b"")
    now = filesystem.modified(clock)
    filesystem.rm_file(clock)
    beat = f"{root}/{_name(number)}.beat"
    beat = beat if filesystem.exists(beat) else f"{root}/{_name(number)}.json"
    return float((now - filesystem.modified(beat)).total_seconds())


def _beat(epoch: Epoch, ended: threading.Event) -> None:
    filesystem, root = fsspec.core.url_to_fs(epoch.folder)
    while True:
        try:
            filesystem.pipe_file(f"{root}/{_name(epoch.number)}.beat", b"")
        except OSError as error:
            say(f"warning: cannot renew the claim on this workspace: {error}")
        if ended.wait(BEAT_S):
            return


def _identity(job: str) -> dict[str, Any]:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"job": job, "host": _host(), "pid": os.getpid(), "born": _born(os.getpid()), "since": since}


def _host() -> str:
    """This machine until its next boot: a process number means nothing after it."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text().strip() if boot.exists() else ''}"


def _alive(holder: dict[str, Any]) -> bool:
    return _born(int(holder.get("pid", 0))) == holder.get("born") is not None


def _born(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; None when there is no such process, or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _read(filesystem: Any, path: str) -> dict[str, Any]:
    """The claim of an epoch; empty while its writer has made the file and not yet filled it."""
    content = filesystem.cat_file(path)
    found: dict[str, Any] = json.loads(content) if content else {}
    return found


def _name(number: int) -> str:
    return f"{number:08d}"
