"""Images of a raw batch: bytes inside the file, or paths and URIs that are read through fsspec."""

import errno
import json
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from mmbatch.errors import InputError
from mmbatch.images import ImageError, check_image
from mmbatch.source_text import Text, check_text, is_list

MAX_IMAGE_BYTES = 32 << 20
"""A larger image file is not used; product images are 50 to 220 KB."""

FETCH_THREADS = 8
"""Images one process reads at the same time: a read waits for the store, not for the processor."""

_RUN_ROWS = 64  # images in flight before their bytes are counted
_RUN_BYTES = 128 << 20  # fetched bytes after which rows are handed on
_PROTOCOLS = {"": "file", "file": "file", "memory": "memory", "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


_Fetched = tuple[str | None, bytes | ImageError | None]
"""Where an image lies and its bytes, or why there are none; (None, None): nothing to fetch."""

_Fetching = tuple[str | None, Future[bytes] | ImageError | None]
"""The same before its bytes have come."""


class Loaded(NamedTuple):
    """Consecutive rows with their images read and checked."""

    images: pa.Array
    """binary `[R]`: an encoded file that can be decoded; null: none."""
    uris: pa.Array
    """string `[R]`: where the image was read from; null: inside the row, or none."""
    errors: dict[int, ImageError]
    """Row -> why its image cannot be used."""


def split_images(column: pa.Array) -> tuple[pa.Array, Text]:
    """Encoded files, binary `[N]`, and the paths or URIs of the others, from an image column.

    Its type may be bytes, `{bytes, path}`, text, or a list of texts, or JSON of one, whose first is used.
    """
    kind = column.type
    if types.is_struct(kind):
        inline = pc.struct_field(column, "bytes").cast(pa.binary())
        return inline, check_text(pc.if_else(inline.is_valid(), None, pc.struct_field(column, "path")))
    if _is_bytes(kind):
        return column.cast(pa.binary()), check_text(pa.nulls(len(column), pa.string()))
    text = check_text(_first(column) if is_list(kind) else column)
    return pa.nulls(len(column), pa.binary()), Text(_first_of_json(text.values), text.undecodable)


def load_images(inline: pa.Array, references: list[str | None], *, folder: str, pool: Executor) -> Iterator[Loaded]:
    """Read and check the images of `[N]` rows, in runs of rows whose fetched bytes fit in memory.

    `references` are read where `inline` is null, on `pool`; relative paths start from `folder`. There is at least one
    run, which is empty when there are no rows.
    """
    start = 0
    while start == 0 or start < len(references):
        fetched = _fetch_run(references[start:], folder, pool)
        yield _check_run(inline.slice(start, len(fetched)), fetched)
        start += max(len(fetched), 1)


def read_image(uri: str) -> bytes:
    """At most `MAX_IMAGE_BYTES + 1` bytes of an image file on a local disk or in an object store.

    Raises `OSError` when it cannot be read (`FileNotFoundError`: there is none), `ImageError` when its scheme is not
    allowed, and `InputError` when the package for its scheme is not installed.
    """
    return _read(_store(uri), uri)


def _store(uri: str) -> Any | None:
    """The file system that holds an image; None: the local disk.

    Opened by the thread that asks, as fsspec keeps one per thread: readers share it and its connections.
    """
    scheme = _scheme(uri)
    if scheme in ("http", "https"):
        raise ImageError("image_url_not_fetched", f"web addresses are not fetched: {uri[:200]!r}")
    if scheme not in _PROTOCOLS:
        allowed = ", ".join(sorted(_PROTOCOLS)[1:])
        raise ImageError("image_forbidden", f"scheme {scheme[:20]!r} is none of {allowed}: {uri[:200]!r}")
    try:
        return None if _PROTOCOLS[scheme] == "file" else fsspec.filesystem(_PROTOCOLS[scheme])
    except ImportError as error:
        raise InputError(f"{uri[:200]}: cannot be read: {error}") from error


def _read(store: Any | None, uri: str) -> bytes:
    if store is None:
        return _read_local(Path(uri.removeprefix("file://")))
    try:
        return bytes(store.cat_file(uri, end=MAX_IMAGE_BYTES + 1))
    except OSError as error:
        if error.errno == errno.EINVAL and store.size(uri) == 0:  # S3 refuses any range of an empty object
            return b""
        raise


def _read_local(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # reading a pipe or a device might never end
        raise OSError(f"not a regular file: {str(path)[:200]!r}")
    with path.open("rb") as file:
        return file.read(MAX_IMAGE_BYTES + 1)


def _scheme(uri: str) -> str:
    if uri.startswith("//"):  # a web address that takes over its page's scheme
        return "https"
    if uri.startswith("data:"):
        return "data"
    return uri.partition("://")[0].lower() if "://" in uri else ""


def _resolve(reference: str, folder: str) -> str:
    relative = not _scheme(reference) and not reference.startswith("/")
    return f"{folder}/{reference.removeprefix('./')}" if relative else reference


def _start(reference: str | None, folder: str, pool: Executor) -> _Fetching:
    if reference is None:
        return None, None
    uri = _resolve(reference, folder)
    try:
        return uri, pool.submit(_read, _store(uri), uri)
    except ImageError as error:
        return uri, error


def _wait(uri: str | None, fetching: Future[bytes]) -> bytes | ImageError:
    where = repr(uri)[:200]
    try:
        blob = fetching.result()
    except FileNotFoundError:
        return ImageError("image_missing", f"no such file: {where}")
    except OSError as error:
        return ImageError("image_unreadable", f"{where}: {error.strerror or error}"[:400])
    if len(blob) > MAX_IMAGE_BYTES:
        return ImageError("image_too_large", f"more than {MAX_IMAGE_BYTES >> 20} MiB: {where}")
    return blob


def _fetch_run(references: list[str | None], folder: str, pool: Executor) -> list[_Fetched]:
    fetched: list[_Fetched] = []
    held = 0
    while len(fetched) < len(references) and held < _RUN_BYTES:
        some = references[len(fetched) : len(fetched) + _RUN_ROWS]
        for uri, fetching in [_start(reference, folder, pool) for reference in some]:
            found = _wait(uri, fetching) if isinstance(fetching, Future) else fetching
            fetched.append((uri, found))
            held += len(found) if isinstance(found, bytes) else 0
    return fetched


def _check_run(inline: pa.Array, fetched: list[_Fetched]) -> Loaded:
    errors = {}
    for row, (_, found) in enumerate(fetched):
        blob = inline[row].as_py() if found is None else found
        error = blob if isinstance(blob, ImageError) else _error_of(blob)
        if error is not None:
            errors[row] = error
    usable = np.ones(len(fetched), dtype=bool)
    usable[list(errors)] = False
    blobs = pa.array([found if isinstance(found, bytes) else None for _, found in fetched], pa.binary())
    uris = pa.array([uri for uri, _ in fetched], pa.string())
    keep = pa.array(usable)
    return Loaded(pc.if_else(keep, pc.coalesce(blobs, inline), None), pc.if_else(keep, uris, None), errors)


def _error_of(blob: bytes | None) -> ImageError | None:
    try:
        if blob is not None:
            check_image(blob)
    except ImageError as error:
        return error
    return None


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return any(test(kind) for test in tests)


def _first(column: pa.Array) -> pa.Array:
    """The first item of each list; null where there is none."""
    lists = column.cast(pa.list_(column.type.value_type))
    has_items = pc.greater(lists.value_lengths(), 0)
    return lists.values.take(pc.if_else(has_items, lists.offsets[:-1], None))


def _first_of_json(values: pa.Array) -> pa.Array:
    """Text `[N]`, each that is JSON of a list replaced by the list's first item."""
    if not pc.any(pc.starts_with(values, "[")).as_py():
        return values
    firsts = pa.array([_first_item(value) for value in values.to_pylist()], pa.string())
    return check_text(firsts).values  # JSON can spell control characters


def _first_item(value: str | None) -> str | None:
    if value is None or not value.startswith("["):
        return value
    try:
        items = json.loads(value)
        first = str(items[0]) if items and items[0] else ""
        first.encode()  # a lone surrogate, which JSON can spell, is no text
    except (ValueError, RecursionError):
        return value  # a path that begins like a list; it is looked for as it stands
    return first
