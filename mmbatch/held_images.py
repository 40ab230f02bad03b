"""Web images that are there, found by product and address, so that none is downloaded twice.

A record is 32 bytes: a key of 16, two SipHashes of product id and address, and the 16 of the image's content hash. With
ten million records, the chance that another product or address is taken for one of them is 3e-32 a look-up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mmbatch.catalog import WEB_ADDRESS, Catalog
from mmbatch.downloads import Downloads

_HASH_KEYS = ("mmbatch: image 0", "mmbatch: image 1")  # of SipHash: 16 bytes
_KEY_BYTES, _RECORD_BYTES = 16, 32


@dataclass(frozen=True)
class HeldImages:
    """Which web images are stored, of which product and address."""

    records: np.ndarray
    """S32 `[N]`, ascending."""

    @classmethod
    def of(cls, catalog: Catalog) -> Self:
        """Those of a catalog and those downloaded for it (`Downloads`).

        They take 32 bytes each, and while they are read one bucket, or file, of ids, addresses and hashes.
        """
        products, images = catalog.table.snapshot(), catalog.images.snapshot()
        records, end = np.empty(sum(entry.rows for entry in products.entries), f"S{_RECORD_BYTES}"), 0
        web = ds.field("image_hash").is_valid() & pc.match_substring_regex(ds.field("image_uri"), WEB_ADDRESS)
        for bucket in sorted({entry.bucket for entry in images.entries}):
            rows = products.read(["product_id", "image_uri", "image_hash"], buckets=[bucket], filters=web)
            if not rows.num_rows:
                continue
            stored = images.read(["image_hash"], buckets=[bucket])["image_hash"].combine_chunks()
            rows = rows.filter(pc.is_in(rows["image_hash"], value_set=stored))
            records[end : end + len(rows)] = _records(rows)
            end += len(rows)
        downloaded = map(_records, Downloads.of(catalog.workspace).records())
        records = np.concatenate([records[:end], *downloaded])
        records.sort()
        return cls(records)

    def find(self, product_ids: Sequence[str], uris: Sequence[str]) -> list[str | None]:
        """Content hash, hex, of the image that each product has from its address, `[Q]`; None where it has none."""
        if not len(self.records) or not uris:
            return [None] * len(uris)
        keys = _keys(pa.array(product_ids, pa.string()), pa.array(uris, pa.string()))
        lowest = np.concatenate([keys, np.zeros_like(keys)], axis=1).view(self.records.dtype).ravel()
        at = np.minimum(np.searchsorted(self.records, lowest), len(self.records) - 1)
        found = self.records[at].view(np.uint8).reshape(-1, _RECORD_BYTES)
        same = (found[:, :_KEY_BYTES] == keys).all(axis=1)
        return [
            image.tobytes().hex() if is_same else None
            for image, is_same in zip(found[:, _KEY_BYTES:], same, strict=True)
        ]


def _records(rows: pa.Table) -> np.ndarray:
    """S32 `[N]` of rows `product_id`, `image_uri`, `image_hash`."""
    hashes = np.frombuffer(bytes.fromhex("".join(rows["image_hash"].to_pylist())), np.uint8)
    keys = _keys(rows["product_id"], rows["image_uri"])
    both = np.concatenate([keys, hashes.reshape(-1, _RECORD_BYTES - _KEY_BYTES)], axis=1)
    return both.view(f"S{_RECORD_BYTES}").ravel()


def _keys(product_ids: pa.Array, uris: pa.Array) -> np.ndarray:
    """uint8 `[N, 16]`."""
    joined = pc.binary_join_element_wise(product_ids, uris, "\x1f").to_numpy(zero_copy_only=False)
    hashes = [pd.util.hash_array(joined, hash_key=key, categorize=False) for key in _HASH_KEYS]
    return np.ascontiguousarray(np.stack(hashes, axis=1)).view(np.uint8)
