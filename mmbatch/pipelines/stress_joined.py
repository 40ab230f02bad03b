"""Joined embeddings of a head over sequences for the stress table: computed anew wherever a part is removed.

A stored joined embedding has the text and the image in one, so that neither can be masked in it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.contents import Together
from mmbatch.fusion.fused import joined_embeddings
from mmbatch.fusion.head import load_head
from mmbatch.joined import joined_store, read_pairs
from mmbatch.models import Model, fetch_model
from mmbatch.pipelines.capacity import processors
from mmbatch.pipelines.cluster import stream
from mmbatch.pipelines.encode_units import loaded_encoder
from mmbatch.pipelines.extract import together
from mmbatch.pipelines.resources import STRESS, on_gpu
from mmbatch.pipelines.rows import by_bucket
from mmbatch.product_inputs import ProductContents

PRODUCTS = 256
"""Products whose sequences are held at a time."""

Embeddings = tuple[np.ndarray, np.ndarray]
"""float16 `[N, J]`, and whether there is one, bool `[N]`."""


def joined_variants(
    catalog: Catalog,
    head: Model,
    encoders: Sequence[Model],
    sample: pd.DataFrame,
    variants: Mapping[str, Collection[str]],
) -> dict[str, Embeddings]:
    """The sample's embeddings by variant, which names what is removed; where that is nothing, those that are stored."""
    work = partial(Variants(catalog, head, encoders, together(catalog, encoders), sample).read, variants=variants)
    found = {}
    for done in stream([{"variant": name} for name in variants], work, ask=on_gpu(STRESS, processors()[1])):
        arrays = load_arrays(done["arrays"])
        found[done["variant"]] = arrays["vectors"], arrays["present"]
    return found


@dataclass(frozen=True)
class Variants:
    """The sample, and what its embeddings are made with."""

    catalog: Catalog
    """Pinned."""
    head: Model
    encoders: Sequence[Model]
    contents: Together
    sample: pd.DataFrame
    """`product_id` and `bucket`, of the split `test` only, by bucket."""

    def read(self, row: dict[str, Any], *, variants: Mapping[str, Collection[str]]) -> list[dict[str, Any]]:
        """Runs in a Ray task: one variant of all products, in their order, as one safetensors blob."""
        removed = variants[row["variant"]]
        parts = [
            self._computed(bucket, hashes, removed) if removed else self._stored(bucket, hashes)
            for bucket, hashes in self._hashes()
        ]
        vectors, present = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return [{"variant": row["variant"], "arrays": save_arrays({"vectors": vectors, "present": present})}]

    def _hashes(self) -> Iterator[tuple[int, pa.Table]]:
        """Buckets with `text_hash` and `image_hash` of some of their products, as encoders hold them."""
        for bucket, rows in by_bucket(self.sample, "test"):
            known = self.contents.parts(bucket)
            place = pc.index_in(pa.array(rows["product_id"]), value_set=known["product_id"].combine_chunks())
            hashes = known.select(list(HASH_COLUMNS.values())).take(place)
            yield from ((bucket, hashes.slice(start, PRODUCTS)) for start in range(0, len(hashes), PRODUCTS))

    def _stored(self, bucket: int, hashes: pa.Table) -> Embeddings:
        store = joined_store(self.catalog.workspace, self.head)
        text, image = (hashes[name].combine_chunks() for name in ("text_hash", "image_hash"))
        return read_pairs(store, text, image, buckets=[bucket])

    def _computed(self, bucket: int, hashes: pa.Table, removed: Collection[str]) -> Embeddings:
        contents = ProductContents.read(self.catalog, bucket, hashes)
        rows = {name: found for name, found in contents.rows.items() if name not in removed}
        if "description" in removed and "text" in rows:
            texts, has = rows["text"]
            nothing = pa.nulls(texts.num_rows, pa.string())
            rows["text"] = texts.set_column(texts.schema.get_field_index("description"), "description", nothing), has
        encoders, head = self._networks
        prepared = ProductContents(contents.products, rows).prepare(encoders)
        joined = joined_embeddings(
            encoders, head, inputs=prepared.inputs, present=prepared.present, device=next(head.parameters()).device
        )
        return joined, np.any(list(prepared.present.values()), axis=0)

    @cached_property
    def _networks(self) -> Any:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        encoders = {model.name: loaded_encoder(model).to(device) for model in self.encoders}
        return encoders, load_head(fetch_model(self.head)).to(device)
