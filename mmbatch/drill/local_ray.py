"""One Ray on this machine that outlives the nights, so that they do not wait for its start; and its processes."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mmbatch.errors import MmbatchError

CPUS = 2
"""Logical: an encoder and one reader; every further worker would spend more on its imports than it saves."""

STORE_BYTES = 256 << 20

START_S = 60.0

SETTINGS = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5", "RAY_AUTH_MODE": "token"}
"""A night whose Ray has lost its head gives up after 5 s instead of Ray's 60 s; the token keeps strangers out."""


class LocalRay:
    """`ray start --head` in a session of its own."""

    def __init__(self) -> None:
        os.environ.update(SETTINGS)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        self.starts = 0
        self._start()

    def _start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: socket paths are limited to 107 bytes
        flags = ["--head", "--block", "--port=0", "--node-ip-address=127.0.0.1", f"--num-cpus={CPUS}"]
        flags += [f"--object-store-memory={STORE_BYTES}", "--include-dashboard=false", "--include-log-monitor=false"]
        flags += ["--disable-usage-stats", f"--temp-dir={self.folder}"]
        command = [str(Path(sys.executable).with_name("ray")), "start", *flags]
        with (self.folder / "head.log").open("wb") as log:
            self.head = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.starts += 1
        deadline = time.monotonic() + START_S
        while b"--block" not in (self.folder / "head.log").read_bytes():
            if self.head.poll() is not None or time.monotonic() > deadline:
                raise MmbatchError(f"Ray did not start: {(self.folder / 'head.log').read_text()[-500:]}")
            time.sleep(0.05)
        self.address = (self.folder / "ray_current_cluster").read_text().strip()

    def restart(self) -> None:
        """Another Ray instead of this one."""
        self.stop()
        self._start()

    def stop(self) -> None:
        """End every process of this Ray and remove its folder."""
        while found := processes(session=self.head.pid):
            for pid in found:
                kill(pid)
            self.head.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def whole(self) -> bool:
        """Whether its own processes are all there."""
        return self.head.poll() is None and bool(self.named("raylet") and self.named("gcs_server"))

    def named(self, name: str) -> list[int]:
        """Its processes of one name: `raylet`, `gcs_server`."""
        return [pid for pid in processes(session=self.head.pid) if Path(_command(pid).split(" ")[0]).name == name]

    def workers(self) -> list[tuple[int, str]]:
        """Its worker processes and what each does; idle ones, and Ray's own helpers, only where there are no others."""
        found = [(pid, _command(pid).strip()) for pid in processes(session=self.head.pid)]
        workers = [(pid, title) for pid, title in found if title.startswith("ray::") and not title.endswith("Agent")]
        return [worker for worker in workers if worker[1] != "ray::IDLE" and worker[1][5] != "_"] or workers


def processes(*, session: int) -> list[int]:
    """All living processes of one session."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _session(pid) == session]


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send SIGKILL, or another signal; False when there is no such process any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _session(pid: int) -> int | None:
    """None for a process that is gone, or dead and not yet collected by its parent."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[3])


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
