"""Prediction: stored features -> staged predictions -> published in one commit. No encoder runs here."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.feature_store import FeatureStore, require_features
from mmbatch.joined import read_joined
from mmbatch.models import Model
from mmbatch.pipelines.cluster import start_ray, stream
from mmbatch.pipelines.metrics import stage_done, written
from mmbatch.pipelines.publish import candidate, described, publish, settle
from mmbatch.pipelines.resources import PREDICT
from mmbatch.prediction_rows import prediction_table
from mmbatch.predictions import Predictions, marks
from mmbatch.predictor import HEAD_MODEL, Predictor, load_predictor
from mmbatch.progress import Progress, say
from mmbatch.quarantine import quarantine_table, rejected_parts
from mmbatch.runs import Run, tie_out
from mmbatch.tables import FileEntry, Snapshot
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace

VALUES = 1 << 25
"""Probabilities held at a time: 128 MiB of float32, 8,000 products of 4 models and 1,000 categories."""

Explain = Literal["needed", "all"]
"""Which predictions say what each modality contributes: those for review or of another category than before, or all."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What predictions are made from, at one version each: workers open no log of their own."""

    catalog: Catalog
    predictions: Predictions
    """What is published."""
    quarantine: Snapshot
    features: Mapping[str, Snapshot]
    """Of each encoder, and of a head over sequences, by `name@fingerprint`."""

    @classmethod
    def pinned(cls, workspace: Workspace, predictor: Model) -> Self:
        """The latest versions."""
        names = [*predictor.card["encoders"], *filter(None, [predictor.card.get("head")])]
        tables = {name: workspace.table("features", name, schema=schema.FEATURES) for name in names}
        return cls(
            catalog=Catalog(workspace=workspace).pinned(),
            predictions=Predictions(workspace=workspace).pinned(),
            quarantine=quarantine_table(workspace).snapshot(),
            features={name: table.snapshot() for name, table in tables.items()},
        )


class Outdated(NamedTuple):
    """What there is to predict."""

    per_bucket: dict[int, int]
    """Products to predict of each bucket that has some, or that has published products the catalog lost."""
    counts: Counter[str]
    """`products`, `unchanged`, `removed`."""


def outdated(
    workspace: Workspace, predictor: Model, explain: Explain = "needed", *, catalog: Catalog | None = None
) -> Outdated:
    """Compare catalog (the latest, or this one) and published predictions bucket by bucket, by keys and hashes alone.

    A prediction stands while its inputs, its predictor and the version of the taxonomy are the same, and, where all are
    to be explained, while it is.
    """
    identity = TaxonomyHistory.read(workspace).identity(predictor.id)
    catalog, predictions = (
        catalog or Catalog(workspace=workspace).pinned(),
        Predictions(workspace=workspace).pinned(),
    )
    quarantine = quarantine_table(workspace).snapshot()
    per_bucket: dict[int, int] = {}
    counts: Counter[str] = Counter(products=0, unchanged=0, removed=0)
    for bucket in range(workspace.settings.buckets):
        keys = catalog.keys([bucket])
        rejected = rejected_parts(quarantine, bucket)
        found = predictions.outdated(
            keys, predictor=identity, buckets=[bucket], rejected=rejected, explained=explain == "all"
        )
        counts.update(products=keys.num_rows, unchanged=found.unchanged, removed=found.removed)
        if found.keys.num_rows or found.removed:
            per_bucket[bucket] = found.keys.num_rows
    return Outdated(per_bucket, counts)


def predict(workspace: Workspace, predictor: Model, *, explain: Explain = "needed") -> dict[str, Any]:
    """Predict every product whose published prediction does not stand any more, and publish.

    Returns:
        Ledger entry; its counts tie out: products = unchanged + predicted + unpredictable.

    Raises:
        InputError: the features of one of the predictor's encoders are not stored.
    """
    settle(workspace)
    identity = TaxonomyHistory.read(workspace).identity(predictor.id)
    run = Run(workspace=workspace, job="predict", settings={"predictor": identity})
    found = outdated(workspace, predictor, explain)
    if not found.per_bucket:
        say("predict    every prediction stands")
        counts = dict(found.counts, predicted=0)
        return {"run_id": run.run_id, "job": run.job, "seconds": 0.0, "counts": counts}
    counts = stage(workspace, predictor, found, run_id=run.run_id, explain=explain)
    new = candidate(workspace, found.per_bucket, run_id=run.run_id)
    if not (counts["predicted"] or counts["removed"]):
        return run.finish(counts, versions(workspace))
    entry = run.entry(counts | described(workspace, new), versions(workspace) | {"predictions": new.version})
    return publish(workspace, new.publication(entry))


def versions(workspace: Workspace) -> dict[str, int]:
    """Present versions of what predictions are made from, and of themselves."""
    predictions, catalog = Predictions(workspace=workspace), Catalog(workspace=workspace)
    tables = {"predictions": predictions.table, "catalog": catalog.table, "quarantine": quarantine_table(workspace)}
    return {name: table.version() for name, table in tables.items()}


def stage(
    workspace: Workspace, predictor: Model, found: Outdated, *, run_id: str, explain: Explain = "needed"
) -> dict[str, int]:
    """Write the predictions of a run to its staged table.

    Returns:
        Counts that tie out: products = unchanged + predicted + unpredictable; and `removed`.
    """
    require_features(workspace, predictor.card["encoders"])
    start_ray(workspace)
    clock, counts = time.monotonic(), dict(found.counts)
    counts["predicted"] = _stage(workspace, predictor, found.per_bucket, run_id, explain)
    counts["unpredictable"] = sum(found.per_bucket.values()) - counts["predicted"]
    outcomes = {name: counts[name] for name in ("unchanged", "predicted", "unpredictable")}
    tie_out("predict", counts["products"], outcomes)
    stage_done("predict", outcomes, seconds=time.monotonic() - clock)
    return counts


def _stage(
    workspace: Workspace,
    predictor: Model,
    per_bucket: dict[int, int],
    run_id: str,
    explain: Explain,
) -> int:
    history, inputs = TaxonomyHistory.read(workspace), Inputs.pinned(workspace, predictor)
    staged, progress = inputs.predictions.staged(run_id), Progress("predict", sum(per_bucket.values()), "products")
    work = partial(_predict_bucket, inputs=inputs, model=predictor, history=history, run_id=run_id, explain=explain)
    entries = []
    for done in stream([{"bucket": bucket} for bucket in per_bucket], work, ask=PREDICT):
        entries += [FileEntry(**entry) for entry in done["entries"]]
        progress.advance(per_bucket[done["bucket"]])
    staged.commit(entries, app_id=run_id)
    written("staged", entries)
    return sum(entry.rows for entry in entries)


_LOADED: dict[str, Predictor] = {}


def loaded_predictor(model: Model, history: TaxonomyHistory) -> Predictor:
    """The predictor of a stored model, loaded once per process, workspace and version of its taxonomy."""
    key = history.identity(model.uri)
    if key not in _LOADED:
        _LOADED[key] = load_predictor(model, history)
    return _LOADED[key]


def _predict_bucket(
    row: dict[str, Any], *, inputs: Inputs, model: Model, history: TaxonomyHistory, run_id: str, explain: Explain
) -> list[dict[str, Any]]:
    bucket, identity, predictor = row["bucket"], history.identity(model.id), loaded_predictor(model, history)
    rejected = rejected_parts(inputs.quarantine, bucket)
    keys = inputs.predictions.outdated(
        inputs.catalog.keys([bucket]),
        predictor=identity,
        buckets=[bucket],
        rejected=rejected,
        explained=explain == "all",
    ).keys
    before = inputs.predictions.categories(keys["product_id"], bucket) if explain == "needed" else None
    step = max(1, VALUES // (len(predictor.scorer.models) * len(predictor.categories)))
    parts = [
        _predict_rows(keys.slice(start, step), before and before.slice(start, step), predictor, inputs, bucket)
        for start in range(0, keys.num_rows, step)
    ]
    rows = pa.concat_tables([schema.PREDICTIONS.empty_table(), *parts])
    same = {name: pa.repeat(value, rows.num_rows) for name, value in (("predictor", identity), ("run_id", run_id))}
    place = pc.index_in(rows["product_id"], value_set=keys["product_id"].combine_chunks())
    fields = {name: keys[name].take(place) for name in ("title_hash", "description_hash")}
    columns = {name: rows[name] for name in rows.schema.names} | same | fields | {"quarantined": marks(rows, rejected)}
    rows = pa.table(columns, schema=schema.PREDICTIONS)
    staged = inputs.predictions.staged(run_id)
    return [{"bucket": bucket, "entries": [asdict(staged.write_file(rows, bucket=bucket))] if rows.num_rows else []}]


def _predict_rows(
    keys: pa.Table, before: pa.Array | None, predictor: Predictor, inputs: Inputs, bucket: int
) -> pa.Table:
    features = read_features(keys, predictor, inputs.catalog.workspace, bucket, at=inputs.features)
    usable = np.any([present for _, present in features.values()], axis=0)
    features = {name: (vectors[usable], present[usable]) for name, (vectors, present) in features.items()}
    keys, before = keys.filter(pa.array(usable)), before and before.filter(pa.array(usable))
    if not keys.num_rows:
        return schema.PREDICTIONS.empty_table()
    return prediction_table(keys, features, predictor, before=before)


def read_features(
    keys: pa.Table,
    predictor: Predictor,
    workspace: Workspace,
    bucket: int,
    *,
    at: Mapping[str, Snapshot] | None = None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Stored features of products of one bucket by `Catalog.keys`, as the predictor takes them.

    `at`: versions of the feature tables, by `name@fingerprint`; None: the latest.
    """
    features: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for part in predictor.scorer.encoders:
        held = at[part.id] if at else None
        store = FeatureStore(workspace=workspace, encoder=part.id, modality=part.modality, width=part.width, at=held)
        features[part.name] = store.read(keys[HASH_COLUMNS[part.modality]], buckets=[bucket])
    if predictor.scorer.joined:
        store = FeatureStore(
            workspace=workspace,
            encoder=predictor.scorer.joined,
            modality="both",
            width=predictor.scorer.joined_width,
            at=at[predictor.scorer.joined] if at else None,
        )
        modalities = {part.name: part.modality for part in predictor.scorer.encoders}
        features[HEAD_MODEL] = read_joined(store, keys, features, modalities, buckets=[bucket])
    return features
