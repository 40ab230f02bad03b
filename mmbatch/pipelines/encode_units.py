"""The two stages that a unit of contents goes through: read and prepare on CPU tasks, encode and write in actors.

A unit crosses from one to the other as the compact arrays of `Encoder.prepare` (uint8 pixels, int32 tokens), one
safetensors blob per encoder, and leaves as the entries of the files that were written.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from mmbatch.catalog import Catalog
from mmbatch.encoders import Encoder, encode, load_encoder
from mmbatch.encoders.batches import batches_of
from mmbatch.encoders.engine import encode_prepared, engine_for
from mmbatch.failpoints import reach, reach_records
from mmbatch.feature_store import FeatureStore
from mmbatch.isolation import KILLS_PROCESS, killers
from mmbatch.models import Model, fetch_model
from mmbatch.pipelines.cluster import begun
from mmbatch.stale import Unit, hashes_of
from mmbatch.storage import storage_errors
from mmbatch.tables import FileEntry

_FAILURE_COLUMNS = ("product_id", "content_hash", "modality", "encoder", "reason", "message")
_FAILURE = pa.struct([(name, pa.string()) for name in _FAILURE_COLUMNS])
_ENTRY = pa.struct([("path", pa.string()), ("rows", pa.int64()), ("size", pa.int64()), ("bucket", pa.int32())])
_FILE = pa.struct([("encoder", pa.string()), ("entry", _ENTRY)])
_SECONDS = pa.map_(pa.string(), pa.float64())
DONE = pa.schema(
    [
        ("contents", pa.int64()),
        ("files", pa.list_(_FILE)),
        ("failures", pa.list_(_FAILURE)),
        ("spent", _SECONDS),  # seconds by stage; sizes of the inputs, with and without padding
        ("began", pa.float64()),  # seconds since 1970, when the actor took the unit
        ("waited", pa.float64()),  # seconds that the actor had nothing to do before
    ]
)
"""What the driver learns of a finished unit."""


def rows_of_units(units: Sequence[Unit], encoders: Sequence[str]) -> list[dict[str, Any]]:
    """Units as plain rows: name, modality, bucket, hashes, and which of the encoders, by name, lack each content."""
    return [
        {
            "unit": f"{unit.modality}-{unit.bucket}-{bytes(unit.contents[0]).hex()}",
            "modality": unit.modality,
            "bucket": unit.bucket,
            "contents": unit.contents.tobytes(),
            "lacking": unit.lacking.tobytes(),
            "encoders": list(encoders),
        }
        for unit in units
    ]


@dataclass(frozen=True)
class Stages:
    """What both stages know."""

    catalog: Catalog
    """Pinned."""
    models: Mapping[str, Model]
    attempts: Any
    """Handle of the `Attempts` actor."""

    @storage_errors()
    def prepare(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Read a unit's contents, and decode or tokenise them for each encoder that lacks them."""
        again = begun(self.attempts, f"prepare {row['unit']}") > 1
        return [self.prepared(row, isolate=again)]

    def prepared(self, row: dict[str, Any], *, isolate: bool) -> dict[str, Any]:
        """The unit with `inputs` (a blob per encoder), `places` (which contents they are) and `failures`."""
        clock = time.perf_counter()
        hashes = hashes_of(np.frombuffer(row["contents"], "S16"))
        content = self.catalog.content(row["modality"], row["bucket"], hashes)
        read = time.perf_counter()
        bad = self._killers(row, content) if isolate else {}
        lacking = np.frombuffer(row["lacking"], np.uint32)
        failures = [
            (at, name, KILLS_PROCESS, message) for at, message in bad.items() for name in _names(row, lacking[at])
        ]
        inputs, places = [], []
        for number, name in enumerate(row["encoders"]):
            wanted = np.flatnonzero(lacking & (1 << number))
            wanted = wanted[~np.isin(wanted, list(bad))]
            encoder = loaded_encoder(self.models[name])
            reach_records("prepare", content["content_hash"].take(pa.array(wanted)).to_pylist())
            prepared = encoder.prepare(content.take(pa.array(wanted)))
            inputs.append(save_arrays({key: np.ascontiguousarray(array) for key, array in prepared.inputs.items()}))
            places.append(wanted[prepared.good].tolist())
            failures += [(int(wanted[at]), name, reason, message) for at, reason, message in prepared.failures]
        return row | {
            "product_ids": content["product_id"].to_pylist(),
            "inputs": inputs,
            "places": places,
            "failures": [_failure(content, row["modality"], *failure) for failure in failures],
            "spent": {"read_s": read - clock, "prepare_s": time.perf_counter() - read},
        }

    def _killers(self, row: dict[str, Any], content: pa.Table) -> dict[int, str]:
        """Contents of a unit that ended a process before, found by trying each with every encoder."""
        models = [self.models[name] for name in row["encoders"]]
        return killers(partial(_try, content=content, models=models), content.num_rows)


def _try(at: int, *, content: pa.Table, models: Sequence[Model]) -> None:
    record = content.slice(at, 1)
    for model in models:
        reach_records("prepare", record["content_hash"].to_pylist())
        inputs = loaded_encoder(model).prepare(record).inputs
        reach_records("encode", record["content_hash"].to_pylist())
        encode(loaded_encoder(model), inputs, "cpu")


def _names(row: Mapping[str, Any], lacking: np.uint32) -> list[str]:
    """The encoders that lack a content."""
    return [name for number, name in enumerate(row["encoders"]) if lacking & (1 << number)]


def _failure(content: pa.Table, modality: str, at: int, encoder: str, reason: str, message: str) -> dict[str, Any]:
    """A content that one encoder could not take; where it could not be read, the catalog says better why."""
    if "reason" in content.column_names and content["reason"][at].is_valid and reason != KILLS_PROCESS:
        reason, message = content["reason"][at].as_py(), content["message"][at].as_py()
    return {
        "product_id": content["product_id"][at].as_py(),
        "content_hash": content["content_hash"][at].as_py(),
        "modality": modality,
        "encoder": encoder,
        "reason": reason,
        "message": message,
    }


_ENCODERS: dict[str, Encoder] = {}


def loaded_encoder(model: Model) -> Encoder:
    """The encoder of a stored model, loaded once per process."""
    if model.id not in _ENCODERS:
        _ENCODERS[model.id] = load_encoder(fetch_model(model))
    return _ENCODERS[model.id]


class Clock:
    """Tells when an actor began its units, and how long it had waited for them."""

    def __init__(self) -> None:
        self.idle_since: float | None = None

    def timed(self, units: pa.Table, work: Callable[[dict[str, Any]], dict[str, Any]]) -> pa.Table:
        """Do the work on every unit; `DONE`."""
        began = time.time()
        waited = began - self.idle_since if self.idle_since else 0.0  # for the first unit everybody waits
        done = [work(unit) | {"began": began, "waited": waited} for unit in units.to_pylist()]
        self.idle_since = time.time()
        return pa.Table.from_pylist(done, schema=DONE)


@dataclass
class Encode:
    """Actor: holds the encoders on its device, turns prepared units into vectors and writes them."""

    stages: Stages
    stores: Mapping[str, FeatureStore]
    contents: Mapping[str, int]
    """How many one actor will see of each modality: what converting a network is spread over."""
    threads: int

    def __post_init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.engines = {
            name: engine_for(
                loaded_encoder(model), self.device, threads=self.threads, contents=self.contents[model.card["modality"]]
            )
            for name, model in self.stages.models.items()
        }
        self.clock = Clock()

    @storage_errors()
    def __call__(self, units: pa.Table) -> pa.Table:
        """Prepared units in, `DONE` out."""
        return self.clock.timed(units, self._encode)

    def _encode(self, unit: dict[str, Any]) -> dict[str, Any]:
        if begun(self.stages.attempts, f"encode {unit['unit']}") > 1:
            unit = self.stages.prepared(unit, isolate=True)
        spent = dict(unit["spent"])
        files = []
        for name, blob, places in zip(unit["encoders"], unit["inputs"], unit["places"], strict=True):
            if places:
                files.append(
                    {"encoder": name, "entry": asdict(self._write(unit, name, load_arrays(blob), places, spent))}
                )
        reach("delivery.before")
        return {
            "contents": len(unit["product_ids"]),
            "files": files,
            "failures": unit["failures"],
            "spent": spent,
        }

    def _write(
        self, unit: dict[str, Any], name: str, inputs: dict[str, np.ndarray], places: list[int], spent: dict[str, float]
    ) -> FileEntry:
        clock = time.perf_counter()
        ids = pa.array(unit["product_ids"], pa.string()).take(pa.array(places))
        hashes = hashes_of(np.frombuffer(unit["contents"], "S16")[places])
        reach_records("encode", hashes.to_pylist())
        encoder, engine = loaded_encoder(self.stages.models[name]), self.engines[name]
        vectors = encode_prepared(encoder, engine, inputs)
        encoded = time.perf_counter()
        entry = self.stores[name].write(ids, hashes, vectors, bucket=unit["bucket"])
        _add(spent, "encode_s", encoded - clock)
        _add(spent, "write_s", time.perf_counter() - encoded)
        sizes = encoder.sizes(inputs)
        batches = batches_of(sizes, budget=engine.budget.budget, most=engine.budget.most)
        _add(spent, f"{name} size", float(sizes.sum()))
        _add(spent, f"{name} padded", float(sum(len(rows) * sizes[rows].max() for rows in batches)))
        return entry


def _add(spent: dict[str, float], name: str, amount: float) -> None:
    spent[name] = spent.get(name, 0.0) + amount
