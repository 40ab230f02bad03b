"""Images from the web: downloaded many at a time, from named sites and public addresses only, in bounded time and size.

No cookie, credential, proxy or netrc of this machine is ever used. TLS certificates are checked against the system's
authorities (`SSL_CERT_FILE` names others).
"""

import asyncio
import random
import ssl
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Thread
from typing import NamedTuple, Self

import aiohttp
from yarl import URL

from mmbatch.image_access import ImageAccess, parse_web, shown
from mmbatch.image_addresses import Lookup, PublicResolver, system_lookup
from mmbatch.images import MAX_IMAGE_BYTES, ImageError

MAX_REDIRECTS = 5
"""Redirects that are followed for one image."""

_REDIRECTS = (301, 302, 303, 307, 308)
_MISSING = (404, 410)
_TRY_AGAIN = (429, 502, 503, 504)
_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "mmbatch"}


@dataclass(frozen=True, kw_only=True)
class WebLimits:
    """How long and how often a download is tried; times in seconds."""

    connect: float = 10.0
    """For one connection, with its TLS handshake."""
    read: float = 20.0
    """Between two pieces of an answer."""
    total: float = 60.0
    """For one image, with redirects, waits and all attempts."""
    attempts: int = 4
    """Requests for one image before it is given up; aiohttp repeats one whose connection is lost at once."""
    backoff: float = 0.5
    """Wait before the second attempt, give or take a half; doubled before each further one."""
    longest_wait: float = 20.0
    """Between two attempts, whatever the server's Retry-After says."""
    parallel: int = 32
    """Downloads at the same time."""


class WebImages:
    """Downloads images on an event loop in a thread of its own; a context manager.

    Leaving it cancels what is still under way.
    """

    def __init__(self, access: ImageAccess, *, limits: WebLimits | None = None, lookup: Lookup = system_lookup) -> None:
        self._access = access
        self._limits = limits or WebLimits()
        self._lookup = lookup
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="web images", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._downloads = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self, uri: str) -> Future[bytes]:
        """Download an image: at most `MAX_IMAGE_BYTES`; the future raises `ImageError` when it cannot be.

        Reasons: `image_forbidden` (the address, one it redirects to, or where its name leads), `image_missing` (404,
        410), `image_http_status`, `image_timeout`, `image_too_large`, `image_unreadable` (the connection fails).
        """
        return asyncio.run_coroutine_threadsafe(self._downloads.image(uri), self._loop)

    async def _open(self) -> "_Downloads":
        limits = self._limits
        connector = aiohttp.TCPConnector(
            resolver=PublicResolver(self._lookup), limit=limits.parallel, ssl=ssl.create_default_context()
        )
        session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, connect=limits.connect, sock_read=limits.read),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            trust_env=False,
        )
        return _Downloads(session, self._access, limits, asyncio.Semaphore(limits.parallel))

    async def _close(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._downloads.session.close()
        await self._loop.shutdown_default_executor()


class _TryAgainError(Exception):
    """A failure that may pass."""

    def __init__(self, error: ImageError, retry_after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        """What to say when it does not."""
        self.retry_after = retry_after
        """Seconds that the server asks to wait."""


class _Downloads(NamedTuple):
    """What runs on the loop."""

    session: aiohttp.ClientSession
    access: ImageAccess
    limits: WebLimits
    slots: asyncio.Semaphore

    async def image(self, uri: str) -> bytes:
        async with self.slots:
            try:
                async with asyncio.timeout(self.limits.total) as timer:
                    return await self._persist(parse_web(uri), timer.when() or 0.0)
            except TimeoutError:
                raise ImageError("image_timeout", f"not done after {self.limits.total:g} s: {shown(uri)}") from None

    async def _persist(self, url: URL, deadline: float) -> bytes:
        """Try until it succeeds, cannot, or neither attempts nor time are left."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._follow(url)
            except _TryAgainError as failure:
                wait = self._wait(attempt, failure.retry_after)
                if attempt >= self.limits.attempts or asyncio.get_running_loop().time() + wait >= deadline:
                    raise failure.error from None
            await asyncio.sleep(wait)

    def _wait(self, attempt: int, retry_after: float | None) -> float:
        backoff: float = self.limits.backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        return min(backoff if retry_after is None else retry_after, self.limits.longest_wait)

    async def _follow(self, url: URL) -> bytes:
        start = url
        for _ in range(MAX_REDIRECTS + 1):
            self.access.check_web(url)
            found = await self._get(url)
            if isinstance(found, bytes):
                return found
            url = found
        raise ImageError("image_forbidden", f"more than {MAX_REDIRECTS} redirects: {shown(str(start))}")

    async def _get(self, url: URL) -> bytes | URL:
        """The body, or where it is to be found instead."""
        where = shown(str(url))
        try:
            async with self.session.get(url, allow_redirects=False) as response:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    return _target(url, response.headers["Location"])
                _check_status(response, where)
                return await _body(response, where)
        except TimeoutError:
            limits = f"{self.limits.connect:g} s to connect, {self.limits.read:g} s to read"
            raise _TryAgainError(ImageError("image_timeout", f"no answer ({limits}): {where}")) from None
        except (aiohttp.ClientSSLError, aiohttp.InvalidURL) as error:
            raise ImageError("image_unreadable", f"{where}: {_cause(error)}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _TryAgainError(ImageError("image_unreadable", f"{where}: {_cause(error)}")) from None


def _target(url: URL, location: str) -> URL:
    try:
        return parse_web(str(url.join(URL(location, encoded=True))))
    except ValueError:
        raise ImageError("image_forbidden", f"redirects to no valid web address: {shown(str(url))}") from None


def _check_status(response: aiohttp.ClientResponse, where: str) -> None:
    status = response.status
    if status in _MISSING:
        raise ImageError("image_missing", f"HTTP status {status}: {where}")
    if status in _TRY_AGAIN:
        error = ImageError("image_http_status", f"HTTP status {status}: {where}")
        raise _TryAgainError(error, _retry_after(response.headers))
    if status != 200:
        raise ImageError("image_http_status", f"HTTP status {status}: {where}")


async def _body(response: aiohttp.ClientResponse, where: str) -> bytes:
    too_large = ImageError("image_too_large", f"more than {MAX_IMAGE_BYTES >> 20} MiB: {where}")
    if (response.content_length or 0) > MAX_IMAGE_BYTES:
        raise too_large
    blob = bytearray()
    async for piece in response.content.iter_any():
        blob += piece
        if len(blob) > MAX_IMAGE_BYTES:
            raise too_large
    return bytes(blob)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait (RFC 9110, 10.2.3: a number or a date); None: it does not say."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _cause(error: Exception) -> str:
    """What went wrong, in words that cannot hold an address with its signature, as aiohttp's own do."""
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the answer is not HTTP"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is refused: {error.certificate_error}"[:300]
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__
