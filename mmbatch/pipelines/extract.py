"""Extraction: the stale products of the catalog -> frozen encoders -> feature store, committed as it goes.

One Ray Data pass serves all encoders: CPU tasks read, decode and tokenise one chunk of contents; a fixed pool of
actors, which hold all encoders, turns it into vectors and writes one file; the driver commits the files' entries as
they arrive. What was committed is not stale any more, so a run that is killed goes on where it was.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from mmbatch.catalog import Catalog
from mmbatch.encoders import Encoder, encode, load_encoder
from mmbatch.feature_store import FeatureStore
from mmbatch.models import Model, fetch_model
from mmbatch.pipelines.cluster import processors, rows_of, start_ray, stream
from mmbatch.progress import Progress, say
from mmbatch.quarantine import entries_for, quarantine_table, write_new
from mmbatch.runs import Run, tie_out
from mmbatch.tables import FileEntry, Table
from mmbatch.workspace import Workspace

BATCH = 32
"""Contents per forward pass on a CPU."""

COMMIT_FILES = 16
"""Files per commit: what a crash can cost."""


def store_of(workspace: Workspace, model: Model) -> FeatureStore:
    """The feature store of a stored encoder."""
    return FeatureStore(
        workspace=workspace, encoder=model.id, modality=model.card["modality"], width=model.card["width"]
    )


def stale_counts(workspace: Workspace, models: Sequence[Model]) -> dict[str, dict[str, int]]:
    """Per encoder, contents to compute and products to give a stored vector: by keys and hashes alone."""
    keys = Catalog(workspace=workspace).keys()
    plans = {model.id: store_of(workspace, model).stale(keys) for model in models}
    return {name: {"compute": plan.compute.num_rows, "reuse": plan.copy.num_rows} for name, plan in plans.items()}


def extract(workspace: Workspace, models: Sequence[Model]) -> dict[str, Any]:
    """Bring the feature stores of some encoders up to date with the catalog.

    Returns:
        Ledger entry; per encoder the counts tie out: products with that modality = unchanged + computed + reused
        + failed.
    """
    catalog = Catalog(workspace=workspace)
    stores = {model.id: store_of(workspace, model) for model in models}
    run = Run(workspace=workspace, job="extract_features", settings={"encoders": sorted(stores)})
    keys = catalog.keys()
    plans = {name: store.stale(keys) for name, store in stores.items()}
    units = [unit for name, plan in plans.items() for unit in _units(name, plan.compute)]
    contents = sum(plan.compute.num_rows for plan in plans.values())
    if not contents and not any(plan.copy.num_rows for plan in plans.values()):
        say("extract    every product has its features")
        return {"run_id": run.run_id, "job": run.job, "seconds": 0.0, "counts": {"computed": 0, "reused": 0}}
    start_ray()
    failed = _compute(catalog, stores, models, units, contents, run.run_id) if units else Counter[str]()
    reused = _copy(stores, keys, run.run_id)
    counts: dict[str, Any] = {}
    for name, store in stores.items():
        column = {"image": "image_hash", "text": "text_hash"}[store.modality]
        products = keys.num_rows - keys[column].null_count
        stale = plans[name].compute.num_rows + plans[name].copy.num_rows
        outcome = {
            "unchanged": products - stale,
            "computed": plans[name].compute.num_rows - failed[name],
            "reused": reused[name],
            "failed": failed[name] + plans[name].copy.num_rows - reused[name],
        }
        tie_out(f"extract {name}", products, outcome)
        counts[name] = outcome
    total = {key: sum(outcome[key] for outcome in counts.values()) for key in ("computed", "reused", "failed")}
    return run.finish(total | {"encoders": counts}, {name: store.table.version() for name, store in stores.items()})


def _units(encoder: str, compute: pa.Table) -> Iterator[dict[str, Any]]:
    """Units of work: the contents of one chunk of one bucket, in the order of their hashes."""
    ordered = compute.sort_by([("bucket", "ascending"), ("chunk", "ascending"), ("content_hash", "ascending")])
    place = ordered["bucket"].to_numpy().astype(np.int64) << 32 | ordered["chunk"].to_numpy()
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    ends = [*starts[1:], ordered.num_rows][: len(starts)]
    for start, end in zip(starts, ends, strict=True):
        part = ordered.slice(start, end - start)
        yield {
            "encoder": encoder,
            "bucket": part["bucket"][0].as_py(),
            "product_ids": part["product_id"].to_pylist(),
            "hashes": part["content_hash"].to_pylist(),
        }


def _compute(
    catalog: Catalog,
    stores: Mapping[str, FeatureStore],
    models: Sequence[Model],
    units: list[dict[str, Any]],
    contents: int,
    run_id: str,
) -> Counter[str]:
    """Encode every unit; returns the contents per encoder that could not be prepared, which are in quarantine."""
    local = {model.id: model for model in models}
    cpus, gpus = processors()
    say(f"extract    {contents:,} contents for {len(stores)} encoder(s) on {f'{gpus} GPU(s)' if gpus else 'CPU'}")
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")  # max_restarts has no name of its own yet
    dataset = (
        ray.data.from_items(units, override_num_blocks=len(units))
        .flat_map(partial(_prepare, catalog=catalog, models=local), num_cpus=1)
        .map_batches(
            _Encode,
            fn_constructor_kwargs={"models": local, "stores": dict(stores)},
            batch_size=1,
            batch_format="pyarrow",
            concurrency=gpus or max(1, cpus // 2),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
            max_restarts=2,
            max_task_retries=2,
        )
    )
    commits = {name: _Commits(store.table, f"{run_id}-compute") for name, store in stores.items()}
    progress, failed = Progress("extract", contents, "contents"), Counter[str]()
    rejects: list[dict[str, Any]] = []
    for done in rows_of(dataset):
        if done["entry"] is not None:
            commits[done["encoder"]].add(FileEntry(**done["entry"]))
        failed[done["encoder"]] += len(done["failures"])
        rejects += done["failures"]
        progress.advance(done["contents"])
    for commit in commits.values():
        commit.flush()
    _quarantine(catalog.workspace, rejects, run_id)
    return failed


class _Commits:
    """Collects file entries and commits every `COMMIT_FILES` of them."""

    def __init__(self, table: Table, app_id: str) -> None:
        self.table, self.app_id = table, app_id
        self.entries: list[FileEntry] = []
        self.count = 0

    def add(self, entry: FileEntry) -> None:
        self.entries.append(entry)
        if len(self.entries) >= COMMIT_FILES:
            self.flush()

    def flush(self) -> None:
        if self.entries:
            self.table.commit(self.entries, app_id=self.app_id, version=self.count)
            self.entries, self.count = [], self.count + 1


def _prepare(unit: dict[str, Any], *, catalog: Catalog, models: Mapping[str, Model]) -> list[dict[str, Any]]:
    """Read, decode and tokenise a unit: its batches of like length, as bytes that cross processes without a copy."""
    encoder = _loaded(models[unit["encoder"]])
    hashes = pa.array(unit["hashes"], pa.string())
    content = catalog.content(encoder.modality, unit["bucket"], hashes)
    order = np.argsort(encoder.lengths(content), kind="stable")
    batches, places, failures = [], [], []
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        prepared = encoder.prepare(content.take(pa.array(rows)))
        if len(prepared.good):
            batches.append(save_arrays({name: np.ascontiguousarray(a) for name, a in prepared.inputs.items()}))
            places.append(rows[prepared.good].tolist())
        failures += [
            {
                "product_id": unit["product_ids"][rows[row]],
                "modality": encoder.modality,
                "reason": reason,
                "message": message,
            }
            for row, reason, message in prepared.failures
        ]
    return [unit | {"batches": batches, "places": places, "failures": failures}]


_ENCODERS: dict[str, Encoder] = {}


def _loaded(model: Model) -> Encoder:
    """The encoder of a stored model, loaded once per process."""
    if model.id not in _ENCODERS:
        _ENCODERS[model.id] = load_encoder(fetch_model(model))
    return _ENCODERS[model.id]


@dataclass
class _Encode:
    """Actor: holds the encoders on its device, turns prepared units into vectors and writes them."""

    models: Mapping[str, Model]
    stores: Mapping[str, FeatureStore]

    def __post_init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoders = {name: load_encoder(fetch_model(model)).to(self.device) for name, model in self.models.items()}

    def __call__(self, units: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._encode(unit) for unit in units.to_pylist()], schema=_DONE)

    def _encode(self, unit: dict[str, Any]) -> dict[str, Any]:
        store, encoder = self.stores[unit["encoder"]], self.encoders[unit["encoder"]]
        place = np.array([row for rows in unit["places"] for row in rows], dtype=np.int64)
        entry = None
        if len(place):
            parts = [encode(encoder, load_arrays(batch), self.device) for batch in unit["batches"]]
            order = np.argsort(place)
            ids = pa.array(unit["product_ids"], pa.string()).take(pa.array(place[order]))
            hashes = pa.array(unit["hashes"], pa.string()).take(pa.array(place[order]))
            entry = asdict(store.write(ids, hashes, np.concatenate(parts)[order], bucket=unit["bucket"]))
        return {
            "encoder": unit["encoder"],
            "contents": len(unit["hashes"]),
            "entry": entry,
            "failures": unit["failures"],
        }


_FAILURE = pa.struct([(name, pa.string()) for name in ("product_id", "modality", "reason", "message")])
_ENTRY = pa.struct([("path", pa.string()), ("rows", pa.int64()), ("size", pa.int64()), ("bucket", pa.int64())])
_DONE = pa.schema(
    [("encoder", pa.string()), ("contents", pa.int64()), ("entry", _ENTRY), ("failures", pa.list_(_FAILURE))]
)


def _quarantine(workspace: Workspace, failures: list[dict[str, Any]], run_id: str) -> None:
    if not failures:
        return
    table = quarantine_table(workspace)
    rejects = pa.Table.from_pylist(failures, schema=pa.schema(list(_FAILURE)))
    rejects = rejects.append_column("position", pa.nulls(len(failures), pa.int64()))
    buckets = workspace.settings.buckets
    rows = entries_for(rejects, stage="extract", source="catalog", run_id=run_id, buckets=buckets)
    files = [
        file
        for bucket in pc.unique(rows["bucket"]).to_pylist()
        for file in write_new(table, rows.filter(pc.equal(rows["bucket"], bucket)), bucket=bucket)
    ]
    table.commit(files, app_id=f"{run_id}-extract")


def _copy(stores: Mapping[str, FeatureStore], keys: pa.Table, run_id: str) -> Counter[str]:
    """Give products whose content is stored under another product a row of their own; returns rows per encoder."""
    copied: Counter[str] = Counter()
    for name, store in stores.items():
        rows = store.stale(keys).copy
        if not rows.num_rows:
            continue
        stored = store.table.read(["content_hash", "bucket"])
        place = pc.index_in(rows["content_hash"], value_set=stored["content_hash"].combine_chunks())
        rows = rows.append_column("home", stored["bucket"].combine_chunks().take(place.combine_chunks()))
        rows = rows.filter(pc.is_valid(rows["home"]))
        units = [
            {"bucket": bucket, **rows.filter(pc.equal(rows["bucket"], bucket)).drop_columns("bucket").to_pydict()}
            for bucket in pc.unique(rows["bucket"]).to_pylist()
        ]
        done = list(stream(units, partial(_copy_bucket, store=store)))
        store.table.commit([FileEntry(**entry) for entry in done], app_id=f"{run_id}-copy")
        copied[name] = sum(entry["rows"] for entry in done)
    return copied


def _copy_bucket(unit: dict[str, Any], *, store: FeatureStore) -> list[dict[str, Any]]:
    hashes = pa.array(unit["content_hash"], pa.string())
    vectors, present = store.read(hashes, buckets=set(unit["home"]))
    ids = pa.array(unit["product_id"], pa.string())
    mask = pa.array(present)
    return [asdict(store.write(ids.filter(mask), hashes.filter(mask), vectors[present], bucket=unit["bucket"]))]
