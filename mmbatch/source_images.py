"""Images of a raw batch: bytes inside the file, or references that are read or downloaded."""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import islice, starmap
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from mmbatch.failpoints import reach_content
from mmbatch.held_images import HeldImages
from mmbatch.image_access import WEB, ImageAccess, scheme_of
from mmbatch.image_files import READ_THREADS, result_of, start_reading
from mmbatch.image_web import WebImages, WebLimits
from mmbatch.images import ImageError, check_image
from mmbatch.isolation import KILLS_PROCESS, killers
from mmbatch.source_text import Text, check_text, is_list

_RUN_ROWS = 64  # images in flight whose bytes are not counted yet
_RUN_BYTES = 128 << 20  # fetched bytes after which rows are handed on

_Located = tuple[str | None, ImageError | None]
"""Where an image lies, and why it must not be fetched from there; (None, None): the row refers to none."""

_Fetched = tuple[str | None, bytes | ImageError | None]
"""Where an image lies and its bytes, or why there are none; None in place of the bytes: nothing to fetch."""

_Fetching = tuple[str | None, Future[bytes] | ImageError | None]
"""The same before its bytes have come."""


class ImageReader:
    """Fetches the images that the rows of one file refer to, many at the same time; a context manager."""

    def __init__(
        self,
        access: ImageAccess,
        *,
        folder: str,
        isolate: bool = False,
        held: HeldImages | None = None,
        web: WebLimits | None = None,
    ) -> None:
        """`access` says what may be fetched, and `web` for how long; relative references start from `folder`.

        `isolate` tries every image in a child process first: a process that worked on these rows has died. Web images
        that are `held` are not fetched again.
        """
        self._access, self._folder, self._isolate, self._held, self._limits = access, folder, isolate, held, web
        self._web: WebImages | None = None

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._pool = self._stack.enter_context(ThreadPoolExecutor(READ_THREADS))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def locate(self, references: Sequence[str | None]) -> list[_Located]:
        """Where the image of each row lies."""
        return [(None, None) if reference is None else self._locate(reference) for reference in references]

    def held(self, product_ids: Sequence[str], located: Sequence[_Located]) -> list[str | None]:
        """Content hash, hex, of each row's image where the catalog has it from the web; None: it is to be fetched."""
        web = {row: uri for row, (uri, error) in enumerate(located) if uri and not error and scheme_of(uri) in WEB}
        if self._held is None or not web:
            return [None] * len(located)
        found = dict(zip(web, self._held.find([product_ids[row] for row in web], list(web.values())), strict=True))
        return [found.get(row) for row in range(len(located))]

    def start(self, located: _Located, held: str | None) -> _Fetching:
        """Begin to fetch one image, unless it cannot be or is held."""
        uri, error = located
        if uri is None or error is not None or held is not None:
            return uri, error
        if scheme_of(uri) not in WEB:
            return uri, start_reading(uri, self._pool)
        if self._web is None:
            self._web = self._stack.enter_context(WebImages(self._access, limits=self._limits))
        return uri, self._web.start(uri)

    def _locate(self, reference: str) -> _Located:
        try:
            return self._access.locate(reference, folder=self._folder), None
        except ImageError as error:
            return reference, error

    def deadly(self, blobs: Sequence[bytes | None]) -> dict[int, ImageError]:
        """Images that end the process which decodes them, if that is to be found out."""
        found = killers(partial(_check_nth, blobs=blobs), len(blobs)) if self._isolate else {}
        return {row: ImageError(KILLS_PROCESS, message) for row, message in found.items()}


class Loaded(NamedTuple):
    """Consecutive rows with their images read and checked."""

    images: pa.Array
    """binary `[R]`: an encoded file that can be decoded; null: none."""
    uris: pa.Array
    """string `[R]`: where the image was read from; null: inside the row, or none."""
    hashes: pa.Array
    """string `[R]`: content hash, hex, of an image that is stored and was not fetched again; null: every other one."""
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


def load_images(rows: pa.RecordBatch, *, reader: ImageReader) -> Iterator[Loaded]:
    """Read and check the images of `[N]` rows, in runs of rows whose fetched bytes fit in memory.

    `inline` holds them, or, where it is null, `reference` says where they are fetched, unless the catalog has what the
    row's `product_id` has from there. There is at least one run, which is empty when there are no rows.
    """
    located = reader.locate(rows["reference"].to_pylist())
    held, start = reader.held(rows["product_id"].to_pylist(), located), 0
    while start == 0 or start < len(located):
        fetched = _fetch_run(zip(located[start:], held[start:], strict=True), reader)
        stop = start + len(fetched)
        yield _check_run(rows["inline"].slice(start, len(fetched)), fetched, held[start:stop], reader)
        start = max(stop, 1)


def _fetch_run(waiting: Iterator[tuple[_Located, str | None]], reader: ImageReader) -> list[_Fetched]:
    fetching: deque[_Fetching] = deque()
    fetched: list[_Fetched] = []
    held = 0
    while True:
        if held < _RUN_BYTES:
            fetching += starmap(reader.start, islice(waiting, _RUN_ROWS - len(fetching)))
        if not fetching:
            return fetched
        uri, under_way = fetching.popleft()
        found = result_of(under_way) if isinstance(under_way, Future) else under_way
        fetched.append((uri, found))
        held += len(found) if isinstance(found, bytes) else 0


def _check_run(inline: pa.Array, fetched: list[_Fetched], held: list[str | None], reader: ImageReader) -> Loaded:
    errors = {row: found for row, (_, found) in enumerate(fetched) if isinstance(found, ImageError)}
    found = [inline[row].as_py() if blob is None else blob for row, (_, blob) in enumerate(fetched)]
    undecoded = [image if isinstance(image, bytes) else None for image in found]
    errors |= reader.deadly(undecoded)
    for row, blob in enumerate(undecoded):
        error = None if row in errors else _error_of(blob)
        if error is not None:
            errors[row] = error
    usable = np.ones(len(fetched), dtype=bool)
    usable[list(errors)] = False
    blobs = pa.array([found if isinstance(found, bytes) else None for _, found in fetched], pa.binary())
    uris = pa.array([uri for uri, _ in fetched], pa.string())
    keep = pa.array(usable)
    images, places = pc.if_else(keep, pc.coalesce(blobs, inline), None), pc.if_else(keep, uris, None)
    return Loaded(images, places, pa.array(held, pa.string()), errors)


def _error_of(blob: bytes | None) -> ImageError | None:
    try:
        if blob is not None:
            reach_content("check", blob)
            check_image(blob)
    except ImageError as error:
        return error
    return None


def _check_nth(row: int, *, blobs: Sequence[bytes | None]) -> None:
    _error_of(blobs[row])


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
