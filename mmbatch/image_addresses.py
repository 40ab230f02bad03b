"""Name resolution that hands out public addresses only, so that no image reference reaches into a private network."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import final

from aiohttp.abc import AbstractResolver, ResolveResult
from typing_extensions import override

from mmbatch.images import ImageError

Lookup = Callable[[str], Sequence[str]]
"""Host name -> its IP addresses; blocks, and raises `OSError` when there are none."""

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits


@final
class PublicResolver(AbstractResolver):
    """Resolver of an aiohttp connector, which connects to the very addresses it is given.

    A name with any address that is not public is refused whole: nothing is looked up a second time between check and
    connection, so that a name that changes its address (DNS rebinding) gains nothing.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses to connect to; raises `ImageError` (`image_forbidden`) when one is not public."""
        addresses = await asyncio.get_running_loop().run_in_executor(None, self._lookup, host)
        for address in addresses:
            if not is_public(address):
                raise ImageError("image_forbidden", f"{host} has the address {address}, which is not public")
        return [_result(host, port, address) for address in addresses]

    @override
    async def close(self) -> None:
        """Nothing is held."""


def system_lookup(host: str) -> list[str]:
    """What the operating system resolves a name to, each address once."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: str) -> bool:
    """Whether an IP address can be reached by everyone: not private, loopback, link-local, multicast or reserved.

    An IPv6 address that stands for an IPv4 address (mapped, NAT64, 6to4, Teredo) is as public as that.
    """
    try:
        found = ip_address(address)
    except ValueError:  # such as a link-local address with its interface
        return False
    if isinstance(found, IPv6Address) and (inner := _ipv4_in(found)):
        return is_public(str(inner))
    outside = found.is_multicast or found.is_reserved or (isinstance(found, IPv6Address) and found.is_site_local)
    return found.is_global and not outside


def _ipv4_in(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


def _result(host: str, port: int, address: str) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=flags)
