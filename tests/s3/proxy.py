"""A plain HTTP proxy that injects the faults of an object store, by a plan, and counts them."""

import asyncio
import contextlib
import itertools
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

Fault = Literal["slow_down", "reset", "slow", "cut", "lost", "held"]
FAULTS: tuple[Fault, ...] = ("slow_down", "reset", "slow", "cut", "lost")
"""503 SlowDown; reset before forwarding; late; half of the declared body; carried out, but the answer is dropped.
`held` besides: neither forwarded nor answered as long as the proxy runs."""

SLOW_SECONDS = 0.3
_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


class Request(NamedTuple):
    """A request's method and path with its query, as the plan sees it."""

    method: str
    target: str

    @property
    def writes(self) -> bool:
        return self.method in ("PUT", "POST", "DELETE")


Plan = Callable[[Request], Fault | None]


def no_faults(request: Request) -> Fault | None:
    return None


def spread_faults(*, share: float) -> Plan:
    """A fault for `share` of the reads and of the writes, evenly spaced, of each kind that fits in turn."""
    period = round(1 / share)
    numbers = {writes: itertools.count() for writes in (False, True)}

    def plan(request: Request) -> Fault | None:
        other: Fault = "lost" if request.writes else "cut"
        kinds: tuple[Fault, ...] = (other, "slow_down", "reset", "slow")
        turn, left = divmod(next(numbers[request.writes]), period)
        return kinds[turn % len(kinds)] if left == period // 2 else None

    return plan


def fault_at(pattern: str, fault: Fault, *, method: str, times: int = 1) -> Plan:
    """A fault for the first `times` requests of a method whose target contains a regular expression."""
    left = [times]

    def plan(request: Request) -> Fault | None:
        if left[0] and request.method == method and re.search(pattern, request.target):
            left[0] -= 1
            return fault
        return None

    return plan


class FaultProxy:
    """Forwards to a server; `plan` may be changed at any time. Every answer closes its connection."""

    def __init__(self, upstream: str, *, strip: str | None = None) -> None:
        host, port = upstream.removeprefix("http://").split(":")
        self.upstream = (host, int(port))
        self.strip = strip
        """A request header that is not passed on, lower case."""
        self.plan: Plan = no_faults
        self.injected: Counter[str] = Counter()
        self.requests = 0
        self.url = ""
        self._handlers: set[asyncio.Task[None] | None] = set()  # the event loop itself holds them only weakly

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._handlers.add(task := asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            writer.close()
            self._handlers.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        request = Request(*lines[0].split(" ")[:2])
        headers = [line.partition(": ")[::2] for line in lines[1:] if line]
        named = {name.lower(): value for name, value in headers}
        if named.get("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(named.get("content-length", 0)))
        self.requests += 1
        fault = self.plan(request)
        if fault == "slow_down":
            writer.write(_response(503, "Slow Down", _SLOW_DOWN))
        elif fault == "reset":
            writer.transport.abort()
        elif fault == "held":
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(SLOW_SECONDS if fault == "slow" else 0)
            dropped = {"connection", "expect", self.strip}
            kept = [f"{name}: {value}" for name, value in headers if name.lower() not in dropped]
            sent = "\r\n".join([lines[0], *kept, "Connection: close", "", ""]).encode("latin-1") + body
            fault = self._answer(request, fault, await self._forward(sent), writer)
        self.injected.update([fault] if fault else [])
        await writer.drain()

    def _answer(
        self, request: Request, fault: Fault | None, answer: bytes, writer: asyncio.StreamWriter
    ) -> Fault | None:
        """Pass an answer on, whole or not; the fault that this was."""
        head, gap, body = answer.partition(b"\r\n\r\n")
        if fault == "lost":
            writer.transport.abort()
        elif fault == "cut" and request.method != "HEAD" and len(body) > 1:
            writer.write(head + gap + body[: len(body) // 2])
        else:
            writer.write(answer)
            return None if fault == "cut" else fault
        return fault

    async def _forward(self, sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self.upstream)
        try:
            writer.write(sent)
            return await reader.read()
        finally:
            writer.close()


def _response(status: int, reason: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


@contextmanager
def running(proxy: FaultProxy, *, host: str = "127.0.0.1") -> Iterator[FaultProxy]:
    """Serve on a free port of an address in a thread of its own; `proxy.url` is set."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(proxy.handle, host, 0, limit=1 << 26))
    proxy.url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    pending = asyncio.all_tasks() - {asyncio.current_task()}
    for task in pending:  # of a request that is held, or of a client that has vanished
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
