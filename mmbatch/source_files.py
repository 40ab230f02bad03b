"""Finds and opens raw catalog files, local or remote, through fsspec."""

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import IO, Any, TypeVar, cast

import pyarrow as pa

from mmbatch.errors import InputError
from mmbatch.storage import filesystem_of

TEXT_FORMATS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
SUFFIXES = {
    ".parquet": "parquet",
    **TEXT_FORMATS,
    **{f"{suffix}.gz": name for suffix, name in TEXT_FORMATS.items()},
    ".h5": "hdf5",
    ".hdf5": "hdf5",
}
"""Known file name endings, lower case, with the format each one means."""

_NUMBERED = re.compile(r"\.chunk\.\d+$")  # HDF5 as the Kakao arena names it: train.chunk.01

PARALLEL_OPENS = 16
"""Files looked at concurrently before reading: on an object store each look is a round trip of about 30 ms."""

Result = TypeVar("Result")

_CONTENT_TAGS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created")  # best first; names by file system


def list_files(source: str) -> list[str]:
    """Catalog files of a source: one file, a folder (with what lies below it) or a glob; sorted URIs.

    In a folder, names that start with `.` or `_` are skipped: Spark and Hadoop keep files of their own under them.
    Raises `InputError` when nothing is there, nothing there is of a known format, or a file has zero bytes.
    """
    filesystem, path = filesystem_of(source)
    with reading(source):
        found = _find(filesystem, path)
    if not found:
        raise InputError(f"{source}: no such file or folder, or an empty one")
    if any("/_delta_log/" in name for name in found):
        raise InputError(f"{source}: a Delta table, whose files hold removed rows too; expected plain files")
    files = {name: info for name, info in found.items() if not _hidden(name, path) and format_of(name)}
    if not files:
        endings = sorted({PurePosixPath(name).suffix or PurePosixPath(name).name for name in found})
        raise InputError(
            f"{source}: no file of a known format; found {', '.join(endings[:10])},"
            f" expected {', '.join(SUFFIXES)} or .chunk.NUMBER"
        )
    for name, info in files.items():
        if not info["size"]:
            raise InputError(f"{name}: the file has zero bytes")
    return sorted(_uri(filesystem, name) for name in files)


def fingerprint_files(files: Sequence[str]) -> str:
    """SHA-256, hex, of every file's URI, size and content tag (object store) or modification time."""
    return hashlib.sha256(json.dumps(each_file(_identity, sorted(files))).encode()).hexdigest()


def newest_change(files: Sequence[str]) -> datetime | None:
    """When the last of these files was modified, UTC; None where their file system does not say."""
    return max((time for time in each_file(_modified, files) if time is not None), default=None)


def format_of(uri: str) -> str | None:
    """The format that a file's name means: "csv" (TSV too), "jsonl", "parquet" or "hdf5"; None: another one."""
    return "hdf5" if _NUMBERED.search(uri.lower()) else SUFFIXES.get(suffix_of(uri))


def suffix_of(uri: str) -> str:
    """`.csv`, `.csv.gz`, ...: the ending that names the format, lower case."""
    endings = PurePosixPath(uri.lower()).suffixes
    return "".join(endings[-2:] if endings[-1:] == [".gz"] else endings[-1:])


def each_file(function: Callable[[str], Result], files: Sequence[str]) -> list[Result]:
    """`function` of every file, several at a time, in order; the first error is raised."""
    with ThreadPoolExecutor(PARALLEL_OPENS) as pool:
        return list(pool.map(function, files))


@contextmanager
def open_source(uri: str, *, cache: str = "readahead") -> Iterator[IO[bytes]]:
    """A file's decompressed bytes; errors of the file, here or while it is read, become `InputError`.

    `cache` is fsspec's cache of a remote file: `readahead` for one pass from start to end, `none` for a reader that
    jumps and buffers for itself.
    """
    filesystem, path = filesystem_of(uri)
    compression = "gzip" if uri.lower().endswith(".gz") else None
    with reading(uri), filesystem.open(path, "rb", compression=compression, cache_type=cache) as file:
        yield cast("IO[bytes]", file)


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Raise what goes wrong with a file as an `InputError` that names it."""
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{uri}: cannot be read: {text}") from error


def _find(filesystem: Any, path: str) -> dict[str, dict[str, Any]]:
    """Files at a path, with what the file system says of each."""
    filesystem.invalidate_cache()
    if filesystem.isfile(path):
        return {path: filesystem.info(path)}
    if filesystem.isdir(path):
        return cast("dict[str, dict[str, Any]]", filesystem.find(path, detail=True))
    found = filesystem.glob(path, detail=True)
    return {name: info for name, info in found.items() if info["type"] == "file"}


def _hidden(name: str, folder: str) -> bool:
    below = PurePosixPath(name.removeprefix(folder) if name.startswith(folder) else "")
    return any(part.startswith((".", "_")) for part in below.parts)


def _uri(filesystem: Any, path: str) -> str:
    return path if _is_local(filesystem) else str(filesystem.unstrip_protocol(path))


def _is_local(filesystem: Any) -> bool:
    return "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,))


def _identity(uri: str) -> list[str]:
    filesystem, path = filesystem_of(uri)
    with reading(uri):
        info = filesystem.info(path)
    tag = next((str(info[name]) for name in _CONTENT_TAGS if info.get(name)), "")
    return [uri, str(info["size"]), tag]


def _modified(uri: str) -> datetime | None:
    filesystem, path = filesystem_of(uri)
    with reading(uri):
        try:
            found: datetime = filesystem.modified(path)
        except NotImplementedError:
            return None
    return found.astimezone(UTC)
