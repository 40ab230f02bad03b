"""A Ray cluster on this machine: a head and two workers, each a node of its own with its own address.

    python -m cluster.local up      # start it; harmless where it is up
    python -m cluster.local down    # end it and all that runs on it; harmless where there is none

It has a dashboard and takes jobs, like a cluster of machines, and stands beside any other Ray: its ports are free ones,
its temporary files are in a folder of their own, and only who can read its token may use it. All that is known of it is
in `.cluster/`: `env`, to be read by the shell that submits, the nodes' output, and `ray`, Ray's own logs.
"""

import argparse
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmbatch.drill.local_ray import kill, processes
from mmbatch.errors import MmbatchError
from mmbatch.progress import say

STATE = Path(".cluster")

NODES = {"head": "127.0.0.2", "worker-1": "127.0.0.3", "worker-2": "127.0.0.4"}
"""Loopback addresses other than 127.0.0.1, in whose place Ray puts the machine's own."""

STORE_BYTES = 256 << 20
"""Shared memory of each node: a few blocks of decoded images."""

STOP_S = 45
"""Between `ray job stop`'s SIGTERM and its SIGKILL, as in cluster/kuberay."""

START_S = 180.0
END_S = 8.0
"""Patience with nodes that are asked to end, before they are killed."""

MARK = "MMBATCH_CLUSTER"
"""Environment variable of all processes of a cluster, jobs included: the folder of its state."""


@dataclass(frozen=True)
class Cluster:
    """The cluster whose state is in a folder."""

    state: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list, compare=False, repr=False)
    """Nodes that are children of this process."""

    def processes(self) -> list[int]:
        """All living processes of this cluster: whatever is in a session with one that bears its mark."""
        mark = f"{MARK}={self.state.resolve()}".encode()
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        sessions = {_session(pid) for pid in pids if mark in _held(pid, "environ")}
        return [pid for session in sessions if session for pid in processes(session=session)]

    def nodes(self) -> int:
        """How many of its nodes are up."""
        return sum({b"start", b"--block"} <= {*_held(pid, "cmdline")} for pid in self.processes())

    def up(self) -> str:
        """Start what is not up; the address that jobs are submitted to."""
        if (nodes := self.nodes()) == len(NODES) and (self.state / "env").exists():
            return self.address()
        if nodes:
            raise MmbatchError(f"{self.state}: {nodes} of {len(NODES)} nodes are up; take them down first")
        self.down()  # what a cluster has left that ended with the machine
        self.state.mkdir(parents=True)
        try:
            self._start()
        except BaseException:  # an interrupt, too, must leave no half of a cluster
            self.down()
            raise
        return self.address()

    def down(self) -> int:
        """End every process of this cluster and remove its files; how many nodes were up."""
        nodes = self.nodes()
        for pid in self.processes():
            if pid == _session(pid):  # a node, or a job: both end what they have started
                kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + END_S
        while found := self.processes():
            if time.monotonic() > deadline:
                for pid in found:
                    kill(pid)
            time.sleep(0.1)
        while self.started:
            self.started.pop().wait()
        if self.state.exists():
            shutil.rmtree((self.state / "ray").resolve(), ignore_errors=True)
            shutil.rmtree(self.state)
        return nodes

    def environment(self) -> dict[str, str]:
        """What a process that submits must be told."""
        words = shlex.split((self.state / "env").read_text())
        return dict(word.split("=", 1) for word in words if word != "export")

    def address(self) -> str:
        """Where jobs are submitted to, and the dashboard is."""
        return self.environment()["RAY_API_SERVER_ADDRESS"]

    def _start(self) -> None:
        token, dashboard, client = (self.state / "token").resolve(), free_port(), free_port()
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: socket paths are limited to 107 bytes
        (self.state / "ray").symlink_to(folder)
        address = f"http://127.0.0.1:{dashboard}"
        known = {"RAY_API_SERVER_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        head = ["--head", "--port=0", "--disable-usage-stats", "--num-cpus=0"]
        head += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        self._start_nodes({"head": head}, known)
        gcs = (folder / "head" / "ray_current_cluster").read_text().strip()
        worker = [f"--address={gcs}", f"--num-cpus={(os.cpu_count() or 1) // 2 + 1}"]
        self._start_nodes({name: worker for name in NODES if name != "head"}, known)
        (self.state / "env").write_text(
            "".join(f"export {name}={shlex.quote(value)}\n" for name, value in known.items())
        )

    def _start_nodes(self, flags: Mapping[str, Sequence[str]], known: Mapping[str, str]) -> None:
        """Side by side; where Ray gives one up, after 30 s, which a busy machine may need, once more."""
        starting = {name: self._node(name, flags[name], known) for name in flags}
        deadline = time.monotonic() + START_S
        while starting:
            for name, node in [*starting.items()]:
                said, late = (self.state / f"{name}.log").read_text(), time.monotonic() > deadline
                if "--block" in said:
                    del starting[name]
                elif node.poll() is not None and "timed out during startup" in said and not late:
                    starting[name] = self._node(name, flags[name], known)
                elif node.poll() is not None or late:
                    raise MmbatchError(f"{name} did not start: {_last_line(said)}")
            time.sleep(0.05)

    def _node(self, name: str, flags: Sequence[str], known: Mapping[str, str]) -> subprocess.Popen[bytes]:
        tools = Path(sys.executable).parent
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | dict(known)
        environment |= {MARK: str(self.state.resolve()), "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}
        environment["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"  # a job's `python` is this one
        command = [str(tools / "ray"), "start", "--block", f"--node-ip-address={NODES[name]}", *flags]
        command += [f"--temp-dir={(self.state / 'ray').resolve() / name}"]  # one for all makes nodes race for sockets
        command += [f"--object-store-memory={STORE_BYTES}", "--dashboard-agent-listen-port=0", "--log-color=false"]
        command += ["--include-log-monitor=false"]  # jobs do not ask for what their workers print
        with (self.state / f"{name}.log").open("wb") as log:
            self.started.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
                )
            )
        return self.started[-1]


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last_line(said: str) -> str:
    return next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing")


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _held(pid: int, name: str) -> list[bytes]:
    """Strings of a process: its `environ`, its `cmdline`; none of one that is gone, or another user's."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().split(b"\0")
    except OSError:
        return []


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="cluster.local", description="A Ray cluster of three nodes on this machine.")
    parser.add_argument("command", choices=["up", "down"])
    cluster = Cluster(STATE)
    if parser.parse_args().command == "down":
        say(f"cluster down, {nodes} nodes ended" if (nodes := cluster.down()) else "no cluster is up here")
        return 0
    was_up = cluster.nodes()
    try:
        say(f"cluster {'is up already' if was_up else 'up'}: {cluster.up()}")
    except MmbatchError as error:
        say(f"error: {error}")
        return error.exit_code
    say(f"    . {STATE}/env && ray job submit --working-dir . -- python -m jobs.NAME ...")
    return 0


if __name__ == "__main__":
    sys.exit(main())
