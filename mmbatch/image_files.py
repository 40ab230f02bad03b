"""Image files on local disks and in object stores, read many at a time."""

import errno
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from botocore.exceptions import ParamValidationError

from mmbatch.image_access import STORES, scheme_of, shown
from mmbatch.images import MAX_IMAGE_BYTES, ImageError
from mmbatch.storage import FAILURES, filesystem_of, is_outage, storage_error

READ_THREADS = 32
"""Images one process reads at the same time: a read waits for the store, not for the processor."""


def read_images(uris: Sequence[str | None]) -> list[bytes | ImageError | None]:
    """The image files at local paths and in object stores, in order; None where there is no URI.

    What is read here was let in by an `ImageAccess` before; web images are not, as they are stored when they are
    ingested. Raises `StorageError` when a store gives no answer, and `InputError` when the package for a scheme is not
    installed.
    """
    with ThreadPoolExecutor(READ_THREADS) as pool:
        reads = [None if uri is None else start_reading(uri, pool) for uri in uris]
        return [None if read is None else result_of(read) for read in reads]


def start_reading(uri: str, pool: Executor) -> Future[bytes]:
    """Read an image file on `pool`: at most `MAX_IMAGE_BYTES`; the future raises `ImageError` when it cannot be.

    Its file system is opened by the thread that asks, as fsspec keeps one per thread: readers share it and its
    connections.
    """
    return pool.submit(_read, _store(uri), uri)


def result_of(reading: Future[bytes]) -> bytes | ImageError:
    """The bytes that were read, or why there are none."""
    try:
        return reading.result()
    except ImageError as error:
        return error


def _store(uri: str) -> Any | None:
    """The object store that holds an image; None: the local disk."""
    scheme = scheme_of(uri)
    return filesystem_of(f"{STORES[scheme]}://")[0] if scheme in STORES else None


def _read(store: Any | None, uri: str) -> bytes:
    try:
        blob = _read_local(uri) if store is None else _read_remote(store, uri)
    except FileNotFoundError:
        raise ImageError("image_missing", f"no such file: {shown(uri)}") from None
    except OSError as error:
        raise ImageError("image_unreadable", f"{shown(uri)}: {error.strerror or error}"[:400]) from error
    if len(blob) > MAX_IMAGE_BYTES:
        raise ImageError("image_too_large", f"more than {MAX_IMAGE_BYTES >> 20} MiB: {shown(uri)}")
    return blob


def _read_remote(store: Any, uri: str) -> bytes:
    try:
        return bytes(store.cat_file(uri, end=MAX_IMAGE_BYTES + 1))
    except FAILURES as error:
        if is_outage(error):
            raise storage_error(error) or error from error
        if isinstance(error, ParamValidationError):  # no bucket can have this name
            raise OSError(errno.EINVAL, "not a valid bucket or key") from error
        if isinstance(error, OSError) and error.errno == errno.EINVAL and store.size(uri) == 0:
            return b""  # S3 refuses any range of an empty object
        raise


def _read_local(uri: str) -> bytes:
    path = Path(uri)
    if not path.is_absolute():
        raise ImageError("image_forbidden", f"neither an absolute path nor in an object store: {shown(uri)}")
    if path.exists() and not path.is_file():  # reading a pipe or a device might never end
        raise OSError(f"not a regular file: {str(path)[:200]!r}")
    with path.open("rb") as file:
        return file.read(MAX_IMAGE_BYTES + 1)
