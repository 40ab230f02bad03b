"""The two stages from a unit of products to its joined embeddings: prepared by CPU tasks, joined by actors.

No sequence is stored or crosses processes: what goes from one stage to the other are the compact arrays of
`Encoder.prepare`, and what the actor writes are J numbers a product.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.contents import Together, joint_hashes
from mmbatch.failpoints import reach
from mmbatch.feature_store import FeatureStore
from mmbatch.fusion.fused import joined_embeddings
from mmbatch.fusion.head import load_head
from mmbatch.models import Model, fetch_model
from mmbatch.pipelines.encode_units import Clock, loaded_encoder
from mmbatch.product_inputs import ProductContents, ProductInputs
from mmbatch.stale import Unit, hashes_of
from mmbatch.storage import storage_errors
from mmbatch.tables import FileEntry


def rows_of_units(units: list[Unit]) -> list[dict[str, Any]]:
    """Units as plain rows: bucket and hashes."""
    return [{"bucket": unit.bucket, "contents": unit.contents.tobytes()} for unit in units]


@dataclass(frozen=True)
class JoinStages:
    """What both stages know."""

    catalog: Catalog
    """Pinned."""
    contents: Together
    head: Model
    encoders: Mapping[str, Model]
    """Input of the head -> its encoder."""
    store: FeatureStore
    """Of the head."""

    @storage_errors()
    def prepare(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Read a unit's products and prepare them for every encoder.

        A product of which something cannot be read is joined from the rest, under the rest's hash, unless it is stored
        so already, and is named among the failures.
        """
        clock, bucket = time.perf_counter(), row["bucket"]
        wanted = self.contents.parts(bucket)
        hashes = hashes_of(np.frombuffer(row["contents"], "S16"))
        wanted = wanted.take(pc.index_in(hashes, value_set=wanted["content_hash"].combine_chunks()))
        contents = ProductContents.read(self.catalog, bucket, wanted)
        read = time.perf_counter()
        encoders = {name: loaded_encoder(model) for name, model in self.encoders.items()}
        prepared = contents.prepare(encoders)
        failures, done = self._failures(wanted, prepared), wanted
        if failures:
            rest = _rest(wanted, prepared)
            kept = ~np.asarray(pc.is_in(rest["content_hash"], value_set=self._stored(bucket)))
            kept &= np.asarray(pc.is_valid(rest["content_hash"]))
            done, prepared = rest.filter(pa.array(kept)), contents.filter(kept).prepare(encoders)
        return [
            {
                "bucket": bucket,
                "contents": len(wanted),
                "product_ids": done["product_id"].to_pylist(),
                "hashes": done["content_hash"].to_pylist(),
                "inputs": [save_arrays(_whole(prepared.inputs[name])) for name in self.encoders],
                "present": [prepared.present[name].tobytes() for name in self.encoders],
                "failures": failures,
                "spent": {"read_s": read - clock, "prepare_s": time.perf_counter() - read},
            }
        ]

    def _stored(self, bucket: int) -> pa.Array:
        return self.store.table.read(["content_hash"], buckets=[bucket])["content_hash"].combine_chunks()

    def _failures(self, wanted: pa.Table, prepared: ProductInputs) -> list[dict[str, Any]]:
        """One for each product that has any."""
        return [
            {
                "product_id": wanted["product_id"][product].as_py(),
                "content_hash": wanted["content_hash"][product].as_py(),
                "encoder": self.head.id,
                **failures[0]._asdict(),
            }
            for product, failures in prepared.failures.items()
        ]


def _rest(wanted: pa.Table, prepared: ProductInputs) -> pa.Table:
    """The products with the hashes of what could be read of them."""
    for modality, column in HASH_COLUMNS.items():
        failed = [any(one.modality == modality for one in prepared.failures.get(n, ())) for n in range(len(wanted))]
        left = pc.if_else(pa.array(failed, pa.bool_()), pa.scalar(None, pa.string()), wanted[column])
        wanted = wanted.set_column(wanted.schema.get_field_index(column), column, left)
    both = joint_hashes(wanted["text_hash"], wanted["image_hash"])
    return wanted.set_column(wanted.schema.get_field_index("content_hash"), "content_hash", both)


def _whole(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(array) for name, array in inputs.items()}


class Join:
    """Actor: holds the encoders and the head on its device, turns prepared units into embeddings and writes them."""

    def __init__(self, stages: JoinStages) -> None:
        self.stages = stages
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoders = {name: loaded_encoder(model).to(self.device) for name, model in stages.encoders.items()}
        self.head = load_head(fetch_model(stages.head)).to(self.device)
        self.clock = Clock()

    @storage_errors()
    def __call__(self, units: pa.Table) -> pa.Table:
        """Prepared units in, `encode_units.DONE` out."""
        return self.clock.timed(units, self._join)

    def _join(self, unit: dict[str, Any]) -> dict[str, Any]:
        spent = dict(unit["spent"])
        files = []
        if unit["product_ids"]:
            files.append({"encoder": self.stages.head.id, "entry": asdict(self._write(unit, spent))})
        reach("delivery.before")
        return {"contents": unit["contents"], "files": files, "failures": unit["failures"], "spent": spent}

    def _write(self, unit: dict[str, Any], spent: dict[str, float]) -> FileEntry:
        clock = time.perf_counter()
        joined = joined_embeddings(
            self.encoders,
            self.head,
            inputs=dict(zip(self.encoders, map(load_arrays, unit["inputs"]), strict=True)),
            present={name: np.frombuffer(has, bool) for name, has in zip(self.encoders, unit["present"], strict=True)},
            device=self.device,
        )
        joined_at = time.perf_counter()
        ids, hashes = (pa.array(unit[name], pa.string()) for name in ("product_ids", "hashes"))
        entry = self.stages.store.write(ids, hashes, joined, bucket=unit["bucket"])
        spent |= {"encode_s": joined_at - clock, "write_s": time.perf_counter() - joined_at}
        return entry
