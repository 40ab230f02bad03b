"""Where images may be read from: folders, object-store prefixes and web sites that the operator has named."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import unquote

from yarl import URL

from mmbatch.errors import InputError
from mmbatch.images import ImageError

FLAG = "--images-from"
"""The flag whose values `ImageAccess.of` takes."""

WEB = ("http", "https")
STORES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "memory": "memory"}
"""Scheme of an object store -> the name it goes by."""

_OUTSIDE = f"neither below the source's folder nor below a place that {FLAG} names"
_EXPECTED = "a folder, s3://bucket/prefix or https://host/prefix"
_NAME = re.compile(r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?")  # never a number
_PLAIN = re.compile(r"[!-\[\]-~]+")  # ASCII without blanks and backslash: sent as it is written, as signatures want


class _Site(NamedTuple):
    """A part of the web: exactly this scheme, host and port, and paths that start with these segments."""

    scheme: str
    host: str
    port: int
    segments: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ImageAccess:
    """Decides which image references of a source are followed; the default follows none."""

    places: tuple[str, ...] = ()
    """Absolute folders, `s3://bucket/prefix`, `https://host/prefix`: sorted, without a slash at the end."""

    @classmethod
    def of(cls, images_from: Sequence[str]) -> Self:
        """The places that `--images-from` names; `InputError` for one that is none, or a folder that is not there."""
        places = [_place(value) for value in images_from]
        for value, place in zip(images_from, places, strict=True):
            if place.startswith("/") and not Path(place).is_dir():
                raise InputError(f"{FLAG} {value}: no such folder")
        return cls(places=tuple(sorted(set(places))))

    def beside(self, folder: str) -> Self:
        """These places and a source's own folder, a local path or a URI."""
        try:
            place = _place(folder or "/")
        except InputError:  # a store whose images cannot be read, whatever is named
            return self
        return type(self)(places=tuple(sorted({*self.places, place})))

    def locate(self, reference: str, *, folder: str) -> str:
        """The URI or absolute path that a reference of a source in `folder` means.

        Raises `ImageError` (`image_forbidden`) when it does not lie below one of the places. Links of a local path are
        followed for that, and `..` in any.
        """
        if reference.startswith("//"):  # a web address that takes over its page's scheme
            reference = f"https:{reference}"
        relative = not scheme_of(reference) and not reference.startswith("/")
        uri = f"{folder}/{reference.removeprefix('./')}" if relative else reference
        scheme = scheme_of(uri)
        if scheme in WEB:
            self.check_web(parse_web(uri))
            return uri
        if scheme in STORES:
            return self._locate_in_store(uri)
        if scheme not in ("", "file"):
            allowed = ", ".join(("file", *STORES, *WEB))
            raise ImageError("image_forbidden", f"scheme {scheme[:20]!r} is none of {allowed}: {shown(uri)}")
        return self._locate_on_disk(uri)

    def check_web(self, url: URL) -> None:
        """Raise `ImageError` (`image_forbidden`) unless the address belongs to a named site; says nothing of DNS."""
        site = _site(url)
        for named in self._sites:
            if named[:3] == site[:3] and named.segments == site.segments[: len(named.segments)]:
                return
        raise ImageError("image_forbidden", f"{_OUTSIDE}: {shown(str(url))}")

    @cached_property
    def _sites(self) -> list[_Site]:
        return [_site(parse_web(place)) for place in self.places if scheme_of(place) in WEB]

    @cached_property
    def _folders(self) -> list[str]:
        return [os.path.realpath(place) for place in self.places if place.startswith("/")]

    def _locate_on_disk(self, uri: str) -> str:
        path = uri.removeprefix("file://")
        real = os.path.realpath(path)
        if not path.startswith("/") or not any(_is_below(real, folder) for folder in self._folders):
            raise ImageError("image_forbidden", f"{_OUTSIDE}: {shown(real)}")
        return path

    def _locate_in_store(self, uri: str) -> str:
        found = _store_uri(uri)
        if not any(_is_below(found, place) for place in self.places):
            raise ImageError("image_forbidden", f"{_OUTSIDE}: {shown(uri)}")
        return found


def scheme_of(uri: str) -> str:
    """The scheme, lower case; empty for a path."""
    if uri.startswith("data:"):
        return "data"
    return uri.partition("://")[0].lower() if "://" in uri else ""


def parse_web(uri: str) -> URL:
    """A web address, which is sent as it is written where that is possible.

    Raises `ImageError` (`image_forbidden`) for what is no address, has a user's name in it, or `..` in its path.
    """
    try:
        url = URL(uri, encoded=bool(_PLAIN.fullmatch(uri)))
        whole = url.scheme in WEB and url.raw_host and url.port
    except ValueError:
        whole = None
    if not whole:
        raise ImageError("image_forbidden", f"not a valid web address: {shown(uri)}")
    if url.user is not None or url.password is not None:
        raise ImageError("image_forbidden", f"a web address with a user's name in it: {shown(uri)}")
    if {".", ".."} & set(re.split(r"[/\\]", unquote(url.raw_path))):
        raise ImageError("image_forbidden", f"a web address with '.' or '..' in its path: {shown(uri)}")
    return url


def shown(uri: str) -> str:
    """A path or URI for a message: quoted, at most 200 characters, without password, query (signature) and fragment."""
    if scheme_of(uri) in WEB:
        try:
            url = URL(uri, encoded=True)
            port = f":{url.explicit_port}" if url.explicit_port else ""
            uri = f"{url.scheme}://{url.raw_host or ''}{port}{url.raw_path}"
        except ValueError:
            uri = f"{scheme_of(uri)}://..."
    else:
        uri = re.sub(r"^([a-z0-9+.-]*:)?//[^/]*@", r"\1//", uri, flags=re.I)
    return repr(uri[:200])


def _site(url: URL) -> _Site:
    segments = tuple(unquote(part) for part in url.raw_path.strip("/").split("/")) if url.raw_path.strip("/") else ()
    return _Site(url.scheme, (url.raw_host or "").lower(), url.port or 0, segments)


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(f"{folder.rstrip('/')}/")


def _store_uri(uri: str) -> str:
    """An object-store URI by its store's usual name, without `.` and `..`; `ImageError` when it leaves its bucket."""
    scheme, _, path = uri.partition("://")
    bucket, *names = path.split("/")
    kept: list[str] = []
    for name in names:
        if name == ".." and kept:
            kept.pop()
        elif name == "..":
            raise ImageError("image_forbidden", f"leaves its bucket: {shown(uri)}")
        elif name != ".":
            kept.append(name)
    if not bucket or "@" in bucket:
        raise ImageError("image_forbidden", f"no bucket's name: {shown(uri)}")
    return "/".join((f"{STORES[scheme.lower()]}://{bucket}", *kept))


def _place(value: str) -> str:
    """A value of the flag as `ImageAccess.places` holds it."""
    scheme = scheme_of(value)
    try:
        if scheme in WEB:
            return _web_place(value)
        if scheme in STORES:
            return _store_uri(value).rstrip("/")
    except ImageError as error:
        raise InputError(f"{FLAG} {_quiet(value)}: {error}; expected {_EXPECTED}") from None
    if scheme not in ("", "file") or not value:
        raise InputError(f"{FLAG} {_quiet(value)}: expected {_EXPECTED}")
    return str(Path(value.removeprefix("file://")).absolute())


def _web_place(value: str) -> str:
    url = parse_web(value)
    scheme, host = url.scheme, _site(url).host
    if url.raw_query_string or url.raw_fragment:
        raise InputError(f"{FLAG} {_quiet(value)}: expected an address without query")
    if url.explicit_port is None and (scheme == "http" or _is_address(host)):
        raise InputError(f"{FLAG} {value}: expected https://HOST, or a port as well, as in {scheme}://{host}:8080")
    if not _is_address(host) and not (_NAME.fullmatch(host) and len(host) <= 253):
        raise InputError(f"{FLAG} {_quiet(value)}: {host[:80]!r} is neither a host's name nor an address")
    origin = str(URL.build(scheme=scheme, host=host, port=url.explicit_port)).rstrip("/")
    return f"{origin}{url.raw_path}".rstrip("/")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _quiet(value: str) -> str:
    return shown(value)[1:-1]
