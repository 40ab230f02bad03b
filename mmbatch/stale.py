"""What is stale: products of the catalog without a stored vector of their present content, as a query over hashes.

The query runs bucket by bucket over keys and hashes. What it keeps is one 16-byte identity, one bucket and one bit
mask for every product that some encoder lacks; for products that have all their vectors it keeps nothing.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.contents import Contents
from mmbatch.feature_store import FeatureStore
from mmbatch.schema import Content
from mmbatch.tables import Snapshot

UNIT_CONTENTS: dict[Content, int] = {"both": 256, "image": 512, "text": 1024}
"""Contents that are encoded and written together: 512 images of 224 px are 77 MB of pixels; 1,024 texts, sorted by
length, waste hardly any padding; the sequences of 256 products are 45 MB (`mmbatch.fusion.fused`)."""

_READERS = 4  # buckets read at the same time: their files' latency, not the processor, is what planning waits for
_ID = np.dtype("S16")


class Unit(NamedTuple):
    """Contents of one bucket that are read, prepared, encoded and written together."""

    modality: Content
    bucket: int
    contents: np.ndarray
    """S16 `[C]`, sorted."""
    lacking: np.ndarray
    """uint32 `[C]`: bit e is set where the encoder e lacks the content."""


class Copies(NamedTuple):
    """Products of one encoder that get a vector which is stored, or computed now, under another product."""

    contents: np.ndarray
    """S16 `[K]`."""
    buckets: np.ndarray
    """int32 `[K]`: the product's."""
    homes: np.ndarray
    """int32 `[K]`: the bucket that holds the vector."""


@dataclass(frozen=True, kw_only=True)
class Stale:
    """What one modality's encoders lack."""

    units: list[Unit]
    copies: list[Copies]
    """Of each encoder."""
    counts: list[Counter[str]]
    """Of each encoder: `products` with the modality = `unchanged` + `compute` (contents) + `copy` (products)."""


class _Missing(NamedTuple):
    """Rows of one bucket, by product id, that some encoder lacks, and how many there are in all."""

    contents: np.ndarray
    lacking: np.ndarray
    products: int


def stale(contents_of: Contents, stores: Sequence[FeatureStore], *, buckets: int) -> Stale:
    """Compare the catalog's contents with the feature stores that are to have a vector of each.

    Equal content is computed once, for the first product, by bucket and id, that has it.
    """
    held = [store.table.snapshot() for store in stores]
    modality = stores[0].modality
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(partial(_missing, contents=contents_of, held=held), range(buckets)))
    contents = np.concatenate([rows.contents for rows in found])
    lacking = np.concatenate([rows.lacking for rows in found])
    bucket = np.repeat(np.arange(buckets, dtype=np.int32), [len(rows.contents) for rows in found])
    products = np.array([rows.products for rows in found])
    distinct, first, place = np.unique(contents, return_index=True, return_inverse=True)
    compute = np.zeros(len(distinct), np.uint32)
    np.bitwise_or.at(compute, place, lacking)
    copies, counts = [], []
    for encoder, snapshot in enumerate(held):
        bit = np.uint32(1 << encoder)
        home = _homes(distinct, snapshot, buckets) if (compute & bit).any() else np.full(len(distinct), -1, np.int32)
        compute[home >= 0] &= ~bit
        home = np.where(home >= 0, home, bucket[first])
        rows = np.flatnonzero(lacking & bit)
        rows = rows[((compute[place[rows]] & bit) == 0) | (first[place[rows]] != rows)]
        copies.append(Copies(contents[rows], bucket[rows], home[place[rows]]))
        total, computed = int(products.sum()), int(np.count_nonzero(compute & bit))
        counts.append(Counter(products=total, unchanged=total - computed - len(rows), compute=computed, copy=len(rows)))
    wanted = np.flatnonzero(compute)
    units = _units(modality, distinct[wanted], bucket[first[wanted]], compute[wanted], products)
    return Stale(units=list(units), copies=copies, counts=counts)


def _missing(bucket: int, *, contents: Contents, held: Sequence[Snapshot]) -> _Missing:
    rows = contents.read(bucket)
    wanted = _pairs(rows)
    lacking = np.zeros(len(rows), np.uint32)
    for encoder, snapshot in enumerate(held):
        stored = snapshot.read(["product_id", "content_hash"], buckets=[bucket])
        present = pc.is_in(wanted, value_set=_pairs(stored).combine_chunks())
        lacking[~present.to_numpy()] |= np.uint32(1 << encoder)
    some = np.flatnonzero(lacking)
    return _Missing(identities(rows["content_hash"].take(pa.array(some))), lacking[some], len(rows))


def _pairs(rows: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(rows["product_id"], rows["content_hash"], "\x1f")


def _homes(contents: np.ndarray, held: Snapshot, buckets: int) -> np.ndarray:
    """A bucket that holds each content, int32 `[C]`; -1 where none does. `contents` are sorted."""
    homes = np.full(len(contents), -1, np.int32)
    for bucket in range(buckets):
        if held.of([bucket]):
            stored = identities(held.read(["content_hash"], buckets=[bucket])["content_hash"])
            place = np.minimum(np.searchsorted(contents, stored), len(contents) - 1)
            homes[place[contents[place] == stored]] = bucket
    return homes


def _units(
    modality: Content, contents: np.ndarray, bucket: np.ndarray, lacking: np.ndarray, products: np.ndarray
) -> Iterator[Unit]:
    """Cut the contents of each bucket, sorted, into ranges of hashes.

    The ranges depend on the number of the bucket's products, not on what is done already, so that a first run which
    goes on after a crash forms the same batches. Ranges that a nightly change leaves nearly empty are joined.
    """
    size = UNIT_CONTENTS[modality]
    order = np.argsort(bucket, kind="stable")
    contents, bucket, lacking = contents[order], bucket[order], lacking[order]
    leading = np.frombuffer(contents.tobytes(), ">u4").reshape(-1, 4)[:, 0].astype(np.int64)
    ranges = leading * -(-products[bucket] // size) >> 32
    starts = np.flatnonzero(np.diff(bucket.astype(np.int64) << 32 | ranges, prepend=-1))
    start = 0
    for end in [*starts[1:], len(contents)] if len(contents) else []:
        last = end == len(contents) or bucket[end] != bucket[start]
        if last or end - start >= size // 2:
            yield Unit(modality, int(bucket[start]), contents[start:end], lacking[start:end])
            start = end


def identities(hashes: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """128-bit hashes in hex as 16 bytes each, S16 `[N]`, which numpy sorts and searches."""
    array = hashes.combine_chunks() if isinstance(hashes, pa.ChunkedArray) else hashes
    if not len(array):
        return np.empty(0, _ID)
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    text = array.buffers()[2][int(offsets[0]) : int(offsets[-1])].to_pybytes()
    return np.frombuffer(bytes.fromhex(text.decode("ascii")), _ID)


def hashes_of(contents: np.ndarray) -> pa.Array:
    """The hashes, in hex, of identities S16 `[N]`: what tables hold."""
    text = np.frombuffer(contents.tobytes().hex().encode("ascii"), np.uint8)
    offsets = np.arange(0, 32 * len(contents) + 1, 32, dtype=np.int32)
    return pa.StringArray.from_buffers(len(contents), pa.py_buffer(offsets), pa.py_buffer(text))
