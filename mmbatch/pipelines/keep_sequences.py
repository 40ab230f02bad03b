"""Sequences of the labelled products that a head is trained on: those that are not stored yet -> encoders -> stored.

Contents of which an encoder could not make a vector are left out: the head learns their products as lacking them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from safetensors.numpy import load as load_arrays

from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.encoders import encode_sequences, load_encoder
from mmbatch.failpoints import reach, reach_records
from mmbatch.models import Model, fetch_model
from mmbatch.pipelines.capacity import encoders_for
from mmbatch.pipelines.cluster import begun, count_attempts, rows_of
from mmbatch.pipelines.delivery import Delivered, deliver, through_actors
from mmbatch.pipelines.encode_units import Clock, Stages, loaded_encoder, rows_of_units
from mmbatch.pipelines.extract import store_of
from mmbatch.pipelines.sequence_rows import SequenceRows
from mmbatch.pipelines.speed import Speed
from mmbatch.progress import Progress, say
from mmbatch.schema import MODALITIES, Modality
from mmbatch.sequence_store import SequenceStore
from mmbatch.stale import Unit, hashes_of, identities
from mmbatch.storage import storage_errors

UNIT_CONTENTS = 256
"""Contents that are encoded and written together: of a MiniLM of 64 tokens 13 MB, of 49 patches 1,280 wide 32 MB."""


class Shape(NamedTuple):
    """Of an encoder's sequences."""

    width: int
    """Numbers in a state."""
    longest: int
    """The most states that a content can have."""


def shape_of(model: Model) -> Shape:
    """Load a stored encoder and ask it."""
    encoder = load_encoder(fetch_model(model))
    return Shape(encoder.sequence_width, encoder.longest_sequence)


def keep_sequences(rows: SequenceRows, *, longest: Mapping[str, int], run_id: str) -> dict[str, Any]:
    """Encode and store what the drawn products lack.

    Args:
        rows: the products and the encoders.
        longest: encoder -> the most states that a content can have.
        run_id: of the run, for its commits.

    Returns:
        Counts that tie out: `computed` and `failed` contents, and `reasons` of the latter.
    """
    groups = {name: [model for model in rows.encoders if model.card["modality"] == name] for name in MODALITIES}
    units = {name: list(_units(rows, name, group)) for name, group in groups.items() if group}
    most = sum(
        2 * rows.widths[model.name] * longest[model.name] * int(np.count_nonzero(unit.lacking & (1 << number)))
        for name, found in units.items()
        for unit in found
        for number, model in enumerate(groups[name])
    )
    contents, products = (
        sum(len(unit.contents) for found in units.values() for unit in found),
        sum(table.num_rows for table in rows.rows.values()),
    )
    if not contents:
        say(f"sequences  those of all {products:,} products to learn from are stored")
        return {"computed": 0, "failed": 0, "reasons": {}}
    say(f"sequences  {contents:,} contents of {products:,} products to learn from, at most {most / 1e6:,.1f} MB")
    plain = [row for name in units for row in rows_of_units(units[name], [model.id for model in groups[name]])]
    done = _encoded(rows, plain, run_id=run_id, contents=contents)
    reasons = Counter(failure["reason"] for failure in done.failures)
    if reasons:
        say(f"sequences  {sum(reasons.values()):,} contents could not be encoded: {dict(reasons)}")
    return {"computed": sum(done.rows.values()), "failed": sum(reasons.values()), "reasons": dict(reasons)}


def _units(rows: SequenceRows, modality: Modality, models: Sequence[Model]) -> Iterator[Unit]:
    """The drawn products' contents of which an encoder holds a vector, but no sequence is stored."""
    column = HASH_COLUMNS[modality]
    drawn = pa.concat_tables([table.select(["bucket", column]).drop_null() for table in rows.rows.values()])
    buckets = drawn["bucket"].to_numpy()
    for bucket in np.unique(buckets).tolist():
        contents = np.unique(identities(drawn[column].filter(pa.array(buckets == bucket))))
        lacking = np.zeros(len(contents), np.uint32)
        for number, model in enumerate(models):
            vectors, sequences = store_of(rows.workspace, model).table, rows.stores[model.name].table
            usable, stored = (
                np.isin(contents, identities(table.read(["content_hash"], buckets=[bucket])["content_hash"]))
                for table in (vectors, sequences)
            )
            lacking |= (usable & ~stored).astype(np.uint32) << np.uint32(number)
        some = np.flatnonzero(lacking)
        for start in range(0, len(some), UNIT_CONTENTS):
            part = some[start : start + UNIT_CONTENTS]
            yield Unit(modality, bucket, contents[part], lacking[part])


def _encoded(rows: SequenceRows, units: list[dict[str, Any]], *, run_id: str, contents: int) -> Delivered:
    models = {model.id: model for model in rows.encoders}
    stages = Stages(Catalog(workspace=rows.workspace).pinned(), models, count_attempts())
    stores = {model.id: rows.stores[model.name] for model in rows.encoders}
    pool = encoders_for("sequences", contents)
    arguments = {"stages": stages, "stores": stores}
    dataset = through_actors(units, stages.prepare, EncodeSequences, arguments, pool=pool)
    return deliver(
        rows_of(dataset, stage="sequences"),
        {name: store.table for name, store in stores.items()},
        app_id=f"{run_id}-sequences",
        speed=Speed("sequences", table="sequences"),
        progress=Progress("sequences", contents, "contents"),
    )


class EncodeSequences:
    """Actor: holds the encoders on its device, turns prepared units into sequences and writes them."""

    def __init__(self, stages: Stages, stores: Mapping[str, SequenceStore]) -> None:
        self.stages, self.stores, self.clock = stages, stores, Clock()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoders = {name: loaded_encoder(model).to(self.device) for name, model in stages.models.items()}

    @storage_errors()
    def __call__(self, units: pa.Table) -> pa.Table:
        """Prepared units in, `encode_units.DONE` out."""
        return self.clock.timed(units, self._encode)

    def _encode(self, unit: dict[str, Any]) -> dict[str, Any]:
        if begun(self.stages.attempts, f"encode {unit['unit']}") > 1:
            unit = self.stages.prepared(unit, isolate=True)
        files = []
        for name, blob, places in zip(unit["encoders"], unit["inputs"], unit["places"], strict=True):
            if places:
                ids = pa.array(unit["product_ids"], pa.string()).take(pa.array(places))
                hashes = hashes_of(np.frombuffer(unit["contents"], "S16")[places])
                reach_records("encode", hashes.to_pylist())
                sequences = encode_sequences(self.encoders[name], load_arrays(blob), self.device)
                entry = self.stores[name].write(ids, hashes, sequences, bucket=unit["bucket"])
                files.append({"encoder": name, "entry": asdict(entry)})
        reach("delivery.before")
        return {
            "contents": len(unit["product_ids"]),
            "files": files,
            "failures": unit["failures"],
            "spent": dict(unit["spent"]),
        }
