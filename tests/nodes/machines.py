"""A Ray cluster of several machines on this one: each a node with an address, processes and a disk of its own."""

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from mmbatch.drill.local_ray import kill, processes
from tests.nodes.networks import Network, Place
from tests.s3.conftest import Server, environment, free_port
from tests.s3.proxy import FaultProxy, running

ROOT = Path(__file__).resolve().parents[2]
OWN_DISK = Path(__file__).with_name("own_disk.sh")
SPACES = ["--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]

CPUS = 2
"""Logical, of each worker node: an encoder and a reader."""

STORE_BYTES = 256 << 20

START_S = 120.0

IMAGE = dict(re.findall(r"\b(RAY_\w+)=(\w+)", (ROOT / "Dockerfile").read_text()))
"""What the image sets of Ray."""


@dataclass
class Machine:
    """One Ray node."""

    place: Place
    proxy: FaultProxy
    """Its way to the object store."""
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path

    def __post_init__(self) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )

    def wait(self) -> None:
        """Until it has joined the cluster."""
        deadline = time.monotonic() + START_S
        while b"--block" not in self.log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.place.address} did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def runs(self, title: str) -> bool:
        """Whether one of its processes is called so."""
        found = processes(session=self.process.pid)
        return any(title.encode() in _read(Path(f"/proc/{pid}/cmdline")) for pid in found)

    def kill(self) -> None:
        """Gone at once, as when its power fails: nobody is told."""
        self.place.cut()
        self.process.send_signal(signal.SIGKILL)  # and with it all of its process namespace
        while found := processes(session=self.process.pid):
            for pid in found:
                kill(pid)
        self.process.wait()


def _read(file: Path) -> bytes:
    """Nothing where it is gone."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


@dataclass
class Machines:
    """A head without processors for tasks, and its worker nodes."""

    network: Network
    server: Server
    folder: Path
    """Of logs."""
    own_disks: bool
    stack: ExitStack
    workers: list[Machine] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        shared = nullcontext("/tmp/ray") if self.own_disks else tempfile.TemporaryDirectory(prefix="ray-")
        self.temporary = self.stack.enter_context(shared)
        self.ports = {"ray": free_port(), "dashboard": free_port()}
        place = self.network.place()
        flags = ["--head", f"--port={self.ports['ray']}", "--num-cpus=0"]
        flags += [f"--dashboard-host={place.address}", f"--dashboard-port={self.ports['dashboard']}"]
        self.head = self._started(place, flags)
        self.head.wait()

    @property
    def address(self) -> str:
        """Where jobs are submitted."""
        return f"http://{self.head.place.address}:{self.ports['dashboard']}"

    def join(self, *, cpus: int = CPUS, prefix: Sequence[str] = ()) -> Machine:
        """A fresh worker node, which is still starting; `prefix` begins its command."""
        address = f"{self.head.place.address}:{self.ports['ray']}"
        flags = [f"--address={address}", f"--num-cpus={cpus}"]
        machine = self._started(self.network.place(), flags, prefix)
        self.workers.append(machine)
        return machine

    def kill(self, machine: Machine) -> None:
        """A worker node is gone."""
        machine.kill()
        self.workers.remove(machine)

    def submit(self, *command: object, code: Path = ROOT) -> "Submitted":
        """`ray job submit` of a command to be run in a copy of `code`."""
        return Submitted(self, [str(part) for part in command], code)

    def submit_job(self, job: str, *flags: object) -> "Submitted":
        """The same of one of the jobs."""
        return self.submit("python", "-m", f"jobs.{job}", *flags)

    def _started(self, place: Place, flags: Sequence[str], prefix: Sequence[str] = ()) -> Machine:
        proxy = self.stack.enter_context(running(FaultProxy(self.server.url), host=self.network.outside))
        ray = [str(Path(sys.prefix, "bin", "ray")), "start", *flags, "--block", f"--node-ip-address={place.address}"]
        ray += [f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats", f"--temp-dir={self.temporary}"]
        disk = ["unshare", *_as_root(), *SPACES, str(OWN_DISK), place.address, sys.prefix] if self.own_disks else []
        log = self.folder / f"{place.address}.log"
        found = Machine(place, proxy, [*prefix, *place.enter, *disk, *ray], self._environment(proxy), log)
        self.stack.callback(found.kill)
        return found

    def _environment(self, proxy: FaultProxy) -> dict[str, str]:
        path = f"{Path(sys.prefix, 'bin')}:{os.environ['PATH']}"
        own = {"HOME": "/tmp/home", "TMPDIR": "/tmp"} if self.own_disks else {}
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_ADDRESS", "OMP_"))
        } | IMAGE
        return kept | environment(proxy.url) | self.token | own | {"PATH": path, "AWS_EC2_METADATA_DISABLED": "true"}


def _as_root() -> list[str]:
    return ["--user", "--map-root-user"] if os.geteuid() else []


def own_disks_permitted() -> bool:
    """Whether this process may start others with mounts and process numbers of their own."""
    try:
        return subprocess.run(["unshare", *_as_root(), *SPACES, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@contextmanager
def machines(network: Network, server: Server, folder: Path, *, workers: int) -> Iterator[Machines]:
    """A head and its workers, all started; all of them are gone afterwards."""
    with ExitStack() as stack:
        found = Machines(network, server, folder, own_disks_permitted(), stack)
        for machine in [found.join() for _ in range(workers)]:
            machine.wait()
        yield found


class Submitted:
    """A job that was submitted, and what it prints."""

    def __init__(self, machines: Machines, entrypoint: Sequence[str], code: Path) -> None:
        self.log = machines.folder / f"job-{secrets.token_hex(4)}.log"
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", machines.address]
        command += ["--working-dir", str(code), "--", *entrypoint]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=code, env=os.environ | machines.token, start_new_session=True
            )

    def lines(self) -> list[str]:
        """What it has printed so far."""
        return self.log.read_text(errors="replace").splitlines()

    def wait_until(self, reached: Callable[[], bool], *, within: float) -> None:
        """Until something is so; `TimeoutError`, with the job's last lines, when it is not in time or the job ends."""
        deadline = time.monotonic() + within
        while not reached():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError("\n".join(self.lines()[-40:]))
            time.sleep(0.05)

    def exit_code(self, *, within: float) -> int:
        """Of the job, once it has ended."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise TimeoutError("\n".join(self.lines()[-40:])) from None
