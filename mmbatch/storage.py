"""Where files lie: a local folder or an object store, opened with one set of retries, and its errors in one line.

Endpoint, region and credentials come from the environment or a profile (`AWS_*`; `cluster/object-store.env` names
them), never from a URI. Requests are repeated on throttling, lost connections and cut answers.
"""

import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, TypeVar

import fsspec
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError, ParamValidationError
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError
from fsspec.exceptions import FSTimeoutError

from mmbatch.errors import InputError

S3_OPTIONS: dict[str, Any] = {
    "use_listings_cache": False,  # another process may have written since
    "config_kwargs": {
        "retries": {"mode": "standard", "total_max_attempts": 5},  # about 8 s; s3fs repeats some of it
        "connect_timeout": 5,
        "read_timeout": 30,
    },
}
"""Arguments of s3fs's `S3FileSystem`; timeouts in seconds."""

DELTA_OPTIONS: Mapping[str, str] = {
    "max_retries": "10",
    "retry_timeout": "60s",
    "backoff_config.max_backoff": "5s",
    "timeout": "30s",
    "connect_timeout": "5s",
}
"""Options of the object store that deltalake opens for itself."""

_WRITER = "mmbatch-writer"  # object metadata: who created the object
_CREATE_ATTEMPTS = 5
_REFUSED = {"PreconditionFailed", "412"}
_RACED = {"ConditionalRequestConflict", "409"}  # another creator was at it at the same moment: ask again
_BUSY = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "500", "502", "503", "504"}
_WAITS_S = (0.2, 1.0, 5.0)
_REASONS = {
    "SignatureDoesNotMatch": "the secret access key is wrong",
    "InvalidAccessKeyId": "the access key id is not known there",
    "ExpiredToken": "the credentials have expired",
    "AccessDenied": "these credentials are not allowed to do this",
    "403": "access denied: wrong credentials, or not allowed to do this",
    "NoSuchBucket": "no such bucket",
}


FAILURES = (OSError, BotoCoreError, ClientError, ResponseParserError, FSTimeoutError)
"""What s3fs and deltalake raise when a store fails; `storage_error` says which of them mean that it did."""


Result = TypeVar("Result")


class StorageError(InputError):
    """The object store cannot be used: no such bucket, wrong credentials, no answer, no conditional writes."""


def filesystem_of(uri: str) -> tuple[Any, str]:
    """The file system of a URI and the path in it; `InputError` when its scheme is unknown or it holds credentials."""
    refuse_credentials(uri)
    try:
        options = S3_OPTIONS if is_s3(uri) else {}
        filesystem, path = fsspec.core.url_to_fs(uri, **options)
    except ImportError as error:
        raise InputError(f"{uri}: cannot be read: {error}") from None
    except ValueError as error:
        raise InputError(f"{uri}: {error}; expected a folder or s3://bucket/prefix") from None
    return filesystem, str(path)


def is_s3(uri: str) -> bool:
    """Whether a URI names an object in an S3 store."""
    return uri.partition("://")[0].lower() in ("s3", "s3a")


def is_local(uri: str) -> bool:
    """Whether a URI names a file or folder of this machine."""
    return uri.partition("://")[0] in (uri, "file", "local")


def refuse_credentials(uri: str) -> None:
    """Raise `InputError`, without repeating them, where a URI holds credentials (`s3://KEY:SECRET@bucket`)."""
    scheme, found, rest = uri.partition("://")
    authority = rest.partition("/")[0]
    if found and "@" in authority:
        where = f"{scheme}://...@{authority.rpartition('@')[2]}"
        raise InputError(f"{where}: credentials in a URI are refused; set AWS_ACCESS_KEY_ID or AWS_PROFILE instead")


def make_folder(uri: str) -> None:
    """Make a local folder with its parents; in an object store folders are names, and no bucket is ever made."""
    if is_local(uri):
        filesystem, path = filesystem_of(uri)
        filesystem.makedirs(path, exist_ok=True)


def put_files(folder_uri: str, files: Mapping[str, bytes]) -> list[str]:
    """Write files to a folder, which is made, or an `s3://` prefix, in the order given; what was there is replaced.

    Returns:
        Their URIs, in the same order.
    """
    filesystem, folder = filesystem_of(folder_uri)
    make_folder(folder_uri)
    with TemporaryDirectory() as scratch:
        for name, content in files.items():
            local = Path(scratch, name)
            local.write_bytes(content)
            filesystem.put_file(str(local), f"{folder.rstrip('/')}/{name}")  # S3 takes the content type from the name
    return [f"{folder_uri.rstrip('/')}/{name}" for name in files]


def delta_options(uri: str) -> dict[str, str] | None:
    """`storage_options` of a Delta table at `uri`; None where the table is local."""
    if not is_s3(uri):
        return None
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    options = dict(DELTA_OPTIONS)
    options |= {"aws_endpoint": endpoint} if endpoint else {}
    options |= {"allow_http": "true"} if endpoint.startswith("http://") else {}
    return options | ({"aws_region": region} if region else {})


def create_file(uri: str, content: bytes) -> None:
    """Create a file that must not be there yet; `FileExistsError` when it is.

    A store may carry a creation out and lose the answer; the repeated request is then refused because of our own
    file, which is recognised by a token in its metadata.
    """
    filesystem, path = filesystem_of(uri)
    if is_local(uri):
        _create_local(Path(path), content)
        return
    if not is_s3(uri):
        filesystem.pipe_file(path, content, mode="create")
        return
    token = uuid.uuid4().hex
    for _ in range(_CREATE_ATTEMPTS):
        try:
            filesystem.pipe_file(path, content, mode="create", Metadata={_WRITER: token})
        except OSError as error:
            if _code(error) not in _REFUSED | _RACED:
                raise
        else:
            return
        owner = _owner(filesystem, path)
        if owner == token:
            return
        if owner is not None:
            break
    raise FileExistsError(f"{uri}: exists")


def replace_file(uri: str, content: bytes) -> None:
    """Write a file over the one that may be there; who is killed leaves the earlier one, or none, as it was."""
    if is_local(uri):
        with replacing(uri) as sink:
            sink.write(content)
        return
    filesystem, path = filesystem_of(uri)
    filesystem.pipe_file(path, content)  # an object appears when it is whole


@contextmanager
def replacing(uri: str) -> Iterator[IO[bytes]]:
    """Open a file to write that takes the place of the one that may be there when the block ends.

    A block that fails, or is killed, leaves the earlier one, or none, as it was.
    """
    filesystem, path = filesystem_of(uri)
    if is_local(uri):
        with _replacing_local(Path(path)) as sink:
            yield sink
        return
    sink = filesystem.open(path, "wb", autocommit=False)  # in parts, which `commit` makes an object
    try:
        with sink:
            yield sink
    except BaseException:
        sink.discard()
        raise
    sink.commit()


@contextmanager
def _replacing_local(path: Path) -> Iterator[IO[bytes]]:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with aside.open("wb") as sink:
            yield sink
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _create_local(path: Path, content: bytes) -> None:
    """A process that is killed here leaves the whole file or none: it gets its name when it is written."""
    unnamed = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        unnamed.write_bytes(content)
        path.hardlink_to(unnamed)
    finally:
        unnamed.unlink(missing_ok=True)


def probe_conditional_put(uri: str) -> None:
    """Raise `StorageError` unless the store refuses to create an object twice; costs four small requests.

    Tables are only safe from concurrent writers where it does. Anything but S3 is taken to be safe.
    """
    if not is_s3(uri):
        return
    probe = f"{uri.rstrip('/')}/probe-{uuid.uuid4().hex}"
    filesystem, path = filesystem_of(probe)
    create_file(probe, b"first")
    try:
        create_file(probe, b"second")
    except FileExistsError:
        return
    finally:
        filesystem.rm_file(path)
    raise StorageError(
        f"{uri}: this store ignores If-None-Match: it let an object be created twice, so concurrent runs could"
        " overwrite each other's commits; use a store with conditional writes"
    )


def storage_error(error: BaseException | None) -> StorageError | None:
    """What an object store's failure means for a person, in one line without credentials; None: another failure."""
    while error is not None:
        if isinstance(error, StorageError):
            return error
        if isinstance(error, ClientError):
            return StorageError(_client_line(error))
        if isinstance(error, ParamValidationError):
            return StorageError(f"object store: {' '.join(str(error).split())[:200]}")
        if isinstance(error, (BotoCoreError, FSTimeoutError)):
            return StorageError(_connection_line(error))
        if _from_delta(error):
            return StorageError(_delta_line(str(error)))
        error = error.__cause__
    return None


@contextmanager
def storage_errors() -> Iterator[None]:
    """Raise an object store's failure as the `StorageError` that says it in one line; every other error as it is."""
    try:
        yield
    except FAILURES as error:
        found = storage_error(error)
        if found is None:
            raise
        raise found from error


def is_outage(error: BaseException) -> bool:
    """Whether the store gave no answer, or asked for fewer requests, to the last attempt: it may work later."""
    kinds = (
        BotoConnectionError,
        HTTPClientError,
        ResponseParserError,
        NoCredentialsError,
        FSTimeoutError,
        TimeoutError,
    )
    if _from_delta(error):
        return _delta_code(str(error)) in _BUSY | {None}
    return isinstance(error, kinds) or _code(error) in _BUSY


def again(action: Callable[[], Result]) -> Result:
    """The result of something that may be done twice, repeated while the store gives no usable answer.

    For deltalake, whose client repeats requests but gives up on an answer that is cut.
    """
    for wait_s in _WAITS_S:
        try:
            return action()
        except OSError as error:
            if not is_outage(error):
                raise
        time.sleep(wait_s)
    return action()


def _client_line(error: ClientError) -> str:
    code, operation = _code(error) or "an error without a code", error.operation_name
    return f"object store {_endpoint()}: {operation} was refused with {code}: {_reason(code)}"


def _delta_line(text: str) -> str:
    """What deltalake's text says, of which only the code is passed on: the rest can hold the access key id."""
    code = _delta_code(text)
    if code is None:
        return f"object store {_endpoint()}: no usable answer after several attempts"
    return f"object store {_endpoint()}: a table's log was refused with {code}: {_reason(code)}"


def _delta_code(text: str) -> str | None:
    found = re.search(r"<Code>(\w+)</Code>", text) or re.search(r"\b([45]\d\d) [A-Z]", text)
    return found[1] if found else None


def _from_delta(error: BaseException) -> bool:
    """Whether deltalake's object store failed; it has no exception of its own for that."""
    return isinstance(error, OSError) and any(mark in str(error) for mark in ("Generic S3 error", "Error performing"))


def _reason(code: str) -> str:
    return _REASONS.get(code, "the store's own log says more")


def _connection_line(error: BaseException) -> str:
    if isinstance(error, NoCredentialsError):
        return "object store: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    return f"object store {_endpoint()}: {type(error).__name__}: no usable answer after several attempts"


def _endpoint() -> str:
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
    return named.rpartition("@")[2]


def _code(error: BaseException | None) -> str | None:
    while error is not None and not isinstance(error, ClientError):
        error = error.__cause__
    return None if error is None else str(error.response.get("Error", {}).get("Code", ""))


def _owner(filesystem: Any, path: str) -> str | None:
    """Who created an object: a token, "" where nobody left one; None: there is no such object."""
    try:
        return str(filesystem.metadata(path, refresh=True).get(_WRITER, ""))
    except FileNotFoundError:
        return None
