"""Where the machines of these tests stand: namespaces with a network of their own, or addresses of loopback."""

import itertools
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Place:
    """Where one machine stands."""

    address: str
    enter: tuple[str, ...] = ()
    """Beginning of a command that runs there."""
    link: str | None = None
    """What connects it with the others."""

    def cut(self) -> None:
        """Disconnect it: from now on nobody hears of it, not even that its connections end."""
        if self.link:
            _ip("link", "set", self.link, "down")


class Network(Protocol):
    """Gives each machine a place."""

    kind: str
    outside: str
    """This process's address as machines reach it."""

    def place(self) -> Place: ...


@dataclass
class Bridge:
    """A bridge, and a network namespace for each machine. Needs root and iproute2."""

    name: str
    prefix: str
    stack: ExitStack
    kind = "network namespaces on a bridge"

    def __post_init__(self) -> None:
        self.outside = f"{self.prefix}.1"
        self._made(("link", "add", self.name, "type", "bridge"), ("link", "del", self.name))
        _ip("addr", "add", f"{self.outside}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")
        self.numbers = itertools.count(2)

    def place(self) -> Place:
        number = next(self.numbers)
        space, link = f"{self.name}-{number}", f"{self.name}v{number}"
        self._made(("netns", "add", space), ("netns", "del", space))
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", link, "master", self.name, "up")
        _ip("-n", space, "addr", "add", f"{self.prefix}.{number}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", space, "link", "set", device, "up")
        return Place(f"{self.prefix}.{number}", ("ip", "netns", "exec", space), link)

    def _made(self, make: tuple[str, ...], undo: tuple[str, ...]) -> None:
        _ip(*make)
        self.stack.callback(_ip, *undo)


@dataclass
class Loopback:
    """127.0.0.2, 127.0.0.3, ...: an address for each machine, and one network."""

    kind = "addresses of loopback"
    outside = "127.0.0.1"

    def __post_init__(self) -> None:
        self.numbers = itertools.count(2)

    def place(self) -> Place:
        return Place(f"127.0.0.{next(self.numbers)}")


KINDS = ("bridge", "loopback")


@contextmanager
def network(kind: str | None = None) -> Iterator[Network]:
    """A bridge where this process may make one, else loopback; or the one that is asked for."""
    if (kind or ("bridge" if bridges_permitted() else "loopback")) == "loopback":
        yield Loopback()
        return
    with ExitStack() as stack:
        yield Bridge(f"mm{secrets.token_hex(3)}", f"10.{secrets.randbelow(64) + 64}.{secrets.randbelow(256)}", stack)


def bridges_permitted() -> bool:
    """Whether this process may make network namespaces and connect them."""
    if os.geteuid() or not shutil.which("ip"):
        return False
    probe = f"mm{secrets.token_hex(3)}p"
    made = subprocess.run(["ip", "link", "add", probe, "type", "bridge"], capture_output=True)
    if made.returncode == 0:
        _ip("link", "del", probe)
    return made.returncode == 0


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
