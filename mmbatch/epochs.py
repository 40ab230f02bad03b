"""Epochs: one run writes a workspace at a time, and a run that has lost its turn commits nothing.

A run claims its turn by making the file `epochs/<number>.json`, which no other run can make too, and rewrites
`epochs/<number>.beat` while it lives. The next run may begin when the last one has ended (`epochs/<number>.end`), when
its process is known to be dead (same machine), or when its beat has stood still for `EXPIRY_S`. In the last case the
run may only be asleep, so all tables are fenced (`mmbatch.tables.Table.fence`): a commit of the earlier epoch then
fails inside Delta's own conflict check, whatever the sleeper believed when it began.
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

from mmbatch.errors import LostRaceError
from mmbatch.progress import say
from mmbatch.storage import FAILURES, create_file, filesystem_of, is_s3, make_folder, storage_error

BEAT_S = 5.0
EXPIRY_S = 60.0
"""Twelve missed beats: longer than a store's outage that its retries bridge, shorter than anybody's patience."""

KEPT_CLAIMS = 16
"""Claims that `tidy` leaves: the last days' runs, for a person who asks who wrote here."""

_POLL_S = 1.0


@dataclass(frozen=True)
class Epoch:
    """A run's turn at writing; pickles to workers, which never commit."""

    folder: str
    number: int
    took_over: bool = False
    """A run before did not end and may be asleep, and nobody has fenced the tables since."""

    def check(self) -> None:
        """Raise `LostRaceError` when a later run has begun.

        `tidy` deletes the oldest claims first: while the next claim is not there, neither is a later one, unless this
        run's own has gone too.
        """
        filesystem, root = filesystem_of(self.folder)
        filesystem.invalidate_cache(root)
        followed = filesystem.exists(f"{root}/{_name(self.number + 1)}.json")
        if followed or not filesystem.exists(f"{root}/{_name(self.number)}.json"):
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
        filesystem, root = filesystem_of(folder)
        filesystem.pipe_file(f"{root}/{_name(epoch.number)}.end", b"")


def _take(folder: str, *, job: str, deadline: float, expiry_s: float) -> Epoch:
    filesystem, root = filesystem_of(folder)
    make_folder(folder)
    waiting = False
    while True:
        last = _newest(filesystem, root)
        holder = _read(filesystem, f"{root}/{_name(last)}.json") if last else {}
        state = _state(filesystem, root, last, holder, expiry_s) if last else "ended"
        if state != "writing":
            took_over = state == "silent" or (state == "dead" and bool(holder.get("took_over")))
            if _claim(Epoch(folder, last + 1, took_over), job):
                return Epoch(folder, last + 1, took_over)
            continue
        if time.monotonic() >= deadline:
            raise LostRaceError(f"{folder.rpartition('/')[0]}: {_described(holder)}: let it end, or --wait SECONDS")
        if not waiting:
            say(f"waiting    {_described(holder)}")
        waiting = True
        time.sleep(_POLL_S)


def tidy(folder: str, *, dry_run: bool = False) -> int:
    """Delete the files of all but the newest `KEPT_CLAIMS` claims, the oldest first; how many claims that are."""
    filesystem, root = filesystem_of(folder)
    names = sorted(path.rpartition("/")[2] for path in filesystem.glob(f"{root}/????????.*"))
    claims = [name[:8] for name in names if name.endswith(".json")]
    if len(claims) <= KEPT_CLAIMS:
        return 0
    for name in names:
        if name[:8] < claims[-KEPT_CLAIMS] and not dry_run:
            filesystem.rm_file(f"{root}/{name}")
    return len(claims) - KEPT_CLAIMS


def _described(holder: dict[str, Any]) -> str:
    if not holder:
        return "another run is writing here, which began just now"
    job, pid, host, since = (holder.get(name) for name in ("job", "pid", "host", "since"))
    return f"another run is writing here ({job}, process {pid} on {str(host).partition('/')[0]}, since {since})"


def _claim(epoch: Epoch, job: str) -> bool:
    """Make the file of an epoch; False when another run was first."""
    filesystem, root = filesystem_of(epoch.folder)
    name = f"{_name(epoch.number)}.json"
    content = json.dumps(_identity(job) | {"took_over": epoch.took_over}).encode()
    try:
        if is_s3(epoch.folder):
            create_file(f"{epoch.folder}/{name}", content)
        else:
            with filesystem.open(f"{root}/{name}", "xb") as file:
                file.write(content)
    except FileExistsError:
        return False
    return True


def _newest(filesystem: Any, root: str) -> int:
    filesystem.invalidate_cache(root)
    return max((int(path.rpartition("/")[2][:-5]) for path in filesystem.glob(f"{root}/*.json")), default=0)


def _state(filesystem: Any, root: str, number: int, holder: dict[str, Any], expiry_s: float) -> str:
    """`ended`; or else `dead`, `writing`, or `silent`: it may be asleep."""
    if filesystem.exists(f"{root}/{_name(number)}.end"):
        return "ended"
    if _is_dead(holder):
        return "dead"
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
    filesystem, root = filesystem_of(epoch.folder)
    while True:
        try:
            filesystem.pipe_file(f"{root}/{_name(epoch.number)}.beat", b"")
        except FAILURES as error:
            say(f"warning: cannot renew the claim on this workspace: {storage_error(error) or error}")
        if ended.wait(BEAT_S):
            return


def _identity(job: str) -> dict[str, Any]:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"job": job, "host": _host(), "pid": os.getpid(), "born": _born(os.getpid()), "since": since}


def _host() -> str:
    """Where a process number means the same process: a machine until its next boot, and a container on it."""
    boot, pids = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if not boot.exists() or not pids.exists():
        return socket.gethostname()
    return f"{socket.gethostname()}/{boot.read_text().strip()}/{pids.readlink()}"


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the process is known to be dead, as it can be on its own machine only, and where /proc tells."""
    born = holder.get("born")
    return born is not None and holder["host"] == _host() and _born(holder["pid"]) != born


def _born(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; None when there is no such process, or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _read(filesystem: Any, path: str) -> dict[str, Any]:
    """The claim of an epoch; empty while its writer has made the file and not yet filled it."""
    try:
        found: dict[str, Any] = json.loads(filesystem.cat_file(path))
    except ValueError:
        return {}
    return found


def _name(number: int) -> str:
    return f"{number:08d}"
