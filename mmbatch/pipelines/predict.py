"""Prediction: stored features -> staged predictions -> published in one commit. No encoder runs here."""

from collections import Counter
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.failpoints import reach
from mmbatch.feature_store import FeatureStore, require_features
from mmbatch.fusion.taxonomy_edits import shown
from mmbatch.joined import read_joined
from mmbatch.models import Model
from mmbatch.pipelines.cluster import remove_folder, start_ray, stream
from mmbatch.predictions import Predictions, marks
from mmbatch.predictor import HEAD_MODEL, Features, Predictor, load_predictor
from mmbatch.progress import Progress, say
from mmbatch.quarantine import quarantine_table, rejected_parts
from mmbatch.runs import Run, record, tie_out
from mmbatch.tables import FileEntry
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace

TOP_K = 5
"""Best categories that a prediction names."""

ROWS = 20_000
"""Products scored at a time: 20,000 x 4 models x 1,000 classes are 320 MB of float32."""


class Outdated(NamedTuple):
    """What there is to predict."""

    per_bucket: dict[int, int]
    """Products to predict of each bucket that has some, or that has published products the catalog lost."""
    counts: Counter[str]
    """`products`, `unchanged`, `removed`."""


def outdated(workspace: Workspace, predictor: Model) -> Outdated:
    """Compare catalog and published predictions bucket by bucket, by keys and hashes alone.

    A prediction stands while its inputs, its predictor and the version of the taxonomy are the same.
    """
    identity = TaxonomyHistory.read(workspace).identity(predictor.id)
    catalog, predictions = Catalog(workspace=workspace), Predictions(workspace=workspace)
    quarantine = quarantine_table(workspace).snapshot()
    per_bucket: dict[int, int] = {}
    counts: Counter[str] = Counter(products=0, unchanged=0, removed=0)
    for bucket in range(workspace.settings.buckets):
        keys = catalog.keys([bucket])
        rejected = rejected_parts(quarantine, bucket)
        found = predictions.outdated(keys, predictor=identity, buckets=[bucket], rejected=rejected)
        counts.update(products=keys.num_rows, unchanged=found.unchanged, removed=found.removed)
        if found.keys.num_rows or found.removed:
            per_bucket[bucket] = found.keys.num_rows
    return Outdated(per_bucket, counts)


def predict(workspace: Workspace, predictor: Model) -> dict[str, Any]:
    """Predict every product whose published prediction does not stand any more, and publish.

    Returns:
        Ledger entry; its counts tie out: products = unchanged + predicted + unpredictable.

    Raises:
        InputError: the features of one of the predictor's encoders are not stored.
    """
    _settle_earlier_runs(workspace)
    history = TaxonomyHistory.read(workspace)
    run = Run(workspace=workspace, job="predict", settings={"predictor": history.identity(predictor.id)})
    buckets, counts = outdated(workspace, predictor)
    if not buckets:
        say("predict    every prediction stands")
        return {"run_id": run.run_id, "job": run.job, "seconds": 0.0, "counts": dict(counts, predicted=0)}
    require_features(workspace, predictor.card["encoders"])
    start_ray()
    counts["predicted"] = _stage(workspace, predictor, history, buckets, run.run_id)
    counts["unpredictable"] = sum(buckets.values()) - counts["predicted"]
    tie_out("predict", counts["products"], {k: counts[k] for k in ("unchanged", "predicted", "unpredictable")})
    if counts["predicted"] or counts["removed"]:
        _publish(workspace, sorted(buckets), run, counts)
    entry = run.finish(counts, _versions(workspace))
    remove_folder(Predictions(workspace=workspace).staged(run.run_id).uri)
    return entry


def _settle_earlier_runs(workspace: Workspace) -> None:
    """Record what a run published before it was killed, and remove what killed runs have staged."""
    predictions = Predictions(workspace=workspace)
    for run_id, entry in predictions.earlier().items():
        if entry is not None:
            record(workspace, entry)
        remove_folder(predictions.staged(run_id).uri)


def _versions(workspace: Workspace) -> dict[str, int]:
    predictions, catalog = Predictions(workspace=workspace), Catalog(workspace=workspace)
    return {"predictions": predictions.table.version(), "catalog": catalog.table.version()}


def _stage(
    workspace: Workspace, predictor: Model, history: TaxonomyHistory, per_bucket: dict[int, int], run_id: str
) -> int:
    """Write the predictions of this run to its staged table; returns how many."""
    staged, progress = (
        Predictions(workspace=workspace).staged(run_id),
        Progress("predict", sum(per_bucket.values()), "products"),
    )
    work = partial(_predict_bucket, workspace=workspace, model=predictor, history=history, run_id=run_id)
    entries = []
    for done in stream([{"bucket": bucket} for bucket in per_bucket], work):
        entries += [FileEntry(**entry) for entry in done["entries"]]
        progress.advance(per_bucket[done["bucket"]])
    staged.commit(entries, app_id=run_id)
    return sum(entry.rows for entry in entries)


def _publish(workspace: Workspace, buckets: list[int], run: Run, counts: Counter[str]) -> None:
    """Bring the staged predictions of these buckets into `predictions` in one commit."""
    predictions = Predictions(workspace=workspace)
    read_version = predictions.table.version()
    progress = Progress("publish", len(buckets), "buckets")
    added, removed = [], []
    work = partial(_merge_bucket, workspace=workspace, run_id=run.run_id)
    for done in stream([{"bucket": b} for b in buckets], work):
        added += [FileEntry(**entry) for entry in done["added"]]
        removed += [FileEntry(**entry) for entry in done["removed"]]
        progress.advance(1)
    predictions.set_aside(run.run_id, run.entry(counts, _versions(workspace) | {"predictions": read_version + 1}))
    reach("publish.before")
    predictions.table.replace(added, removed, app_id=run.run_id, read_version=read_version)
    reach("publish.after")


def _merge_bucket(row: dict[str, Any], *, workspace: Workspace, run_id: str) -> list[dict[str, Any]]:
    ids = Catalog(workspace=workspace).keys([row["bucket"]])["product_id"].combine_chunks()
    added, removed = Predictions(workspace=workspace).merge_bucket(row["bucket"], run_id=run_id, product_ids=ids)
    return [{"added": [asdict(entry) for entry in added], "removed": [asdict(entry) for entry in removed]}]


_LOADED: dict[str, Predictor] = {}


def _loaded(model: Model, history: TaxonomyHistory) -> Predictor:
    """The predictor of a stored model, loaded once per process, workspace and version of its taxonomy."""
    key = history.identity(model.uri)
    if key not in _LOADED:
        _LOADED[key] = load_predictor(model, history)
    return _LOADED[key]


def _predict_bucket(
    row: dict[str, Any], *, workspace: Workspace, model: Model, history: TaxonomyHistory, run_id: str
) -> list[dict[str, Any]]:
    bucket, identity, predictor = row["bucket"], history.identity(model.id), _loaded(model, history)
    predictions = Predictions(workspace=workspace)
    keys = Catalog(workspace=workspace).keys([bucket])
    rejected = rejected_parts(quarantine_table(workspace).snapshot(), bucket)
    keys = predictions.outdated(keys, predictor=identity, buckets=[bucket], rejected=rejected).keys
    parts = [
        _predict_rows(keys.slice(start, ROWS), predictor, workspace, bucket) for start in range(0, keys.num_rows, ROWS)
    ]
    rows = pa.concat_tables([schema.PREDICTIONS.empty_table(), *parts])
    same = {name: pa.repeat(value, rows.num_rows) for name, value in (("predictor", identity), ("run_id", run_id))}
    columns = {name: rows[name] for name in rows.schema.names} | same | {"quarantined": marks(rows, rejected)}
    rows = pa.table(columns, schema=schema.PREDICTIONS)
    staged = predictions.staged(run_id)
    return [{"bucket": bucket, "entries": [asdict(staged.write_file(rows, bucket=bucket))] if rows.num_rows else []}]


def _predict_rows(keys: pa.Table, predictor: Predictor, workspace: Workspace, bucket: int) -> pa.Table:
    features: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for part in predictor.scorer.encoders:
        store = FeatureStore(workspace=workspace, encoder=part.id, modality=part.modality, width=part.width)
        features[part.name] = store.read(keys[HASH_COLUMNS[part.modality]], buckets=[bucket])
    if predictor.scorer.joined:
        store = FeatureStore(
            workspace=workspace,
            encoder=predictor.scorer.joined,
            modality="both",
            width=predictor.scorer.joined_width,
        )
        modalities = {part.name: part.modality for part in predictor.scorer.encoders}
        features[HEAD_MODEL] = read_joined(store, keys, features, modalities, buckets=[bucket])
    usable = np.any([present for _, present in features.values()], axis=0)
    features = {name: (vectors[usable], present[usable]) for name, (vectors, present) in features.items()}
    keys = keys.filter(pa.array(usable))
    return prediction_table(keys, features, predictor) if keys.num_rows else schema.PREDICTIONS.empty_table()


def prediction_table(keys: pa.Table, features: Features, predictor: Predictor) -> pa.Table:
    """Predictions of products by `Catalog.keys`: `schema.PREDICTIONS`; `predictor`, `quarantined`, `run_id` null.

    A product that stays in review (`REVIEW`) has neither label nor category, as does that decision among others.
    """
    scores_NMC, joined_NC = predictor.predict(features)
    paths = pa.array([path or None for path in predictor.categories], pa.list_(pa.string()))
    names = pa.array([shown(path) or None for path in predictor.categories], pa.string())
    k = min(TOP_K, joined_NC.shape[1])
    top_NK = np.argsort(-joined_NC, axis=1, kind="stable")[:, :k]
    offsets = pa.array(np.arange(0, (len(top_NK) + 1) * k, k, dtype=np.int32))
    missing = pa.nulls(keys.num_rows, pa.string())
    columns = {
        "product_id": keys["product_id"],
        "label": paths.take(pa.array(top_NK[:, 0])),
        "category": names.take(pa.array(top_NK[:, 0])),
        "confidence": np.take_along_axis(joined_NC, top_NK[:, :1], axis=1)[:, 0],
        "top_categories": pa.ListArray.from_arrays(offsets, names.take(pa.array(top_NK.ravel()))),
        "top_probabilities": pa.ListArray.from_arrays(
            offsets, pa.array(np.take_along_axis(joined_NC, top_NK, 1).ravel())
        ),
        **_model_columns(scores_NMC, predictor.scorer.models, names),
        "predictor": missing,
        **_input_hashes(keys, features, predictor),
        "quarantined": pa.nulls(keys.num_rows, pa.list_(pa.string())),
        "run_id": missing,
        "bucket": keys["bucket"],
    }
    return pa.table(columns, schema=schema.PREDICTIONS)


def _model_columns(scores_NMC: np.ndarray, models: tuple[str, ...], names: pa.Array) -> dict[str, pa.Array]:
    """Every model's own best category and its probability, as maps; a model that scored nothing is left out."""
    scored_NM = ~np.isnan(scores_NMC[:, :, 0])
    best_NM = np.where(scored_NM, np.nan_to_num(scores_NMC, nan=-1.0).argmax(axis=2), 0)
    probability_NM = np.take_along_axis(scores_NMC, best_NM[:, :, None], axis=2)[:, :, 0]
    row, model = np.nonzero(scored_NM)
    offsets = pa.array(np.concatenate([[0], np.cumsum(scored_NM.sum(axis=1))]).astype(np.int32))
    keys = pa.array(models).take(pa.array(model))
    return {
        "model_categories": pa.MapArray.from_arrays(offsets, keys, names.take(pa.array(best_NM[row, model]))),
        "model_probabilities": pa.MapArray.from_arrays(
            offsets, keys, pa.array(probability_NM[row, model], pa.float32())
        ),
    }


def _input_hashes(keys: pa.Table, features: Features, predictor: Predictor) -> dict[str, pa.Array]:
    """What the prediction was made from; null for a modality of which no vector was there.

    Both are null where the joined embedding of a head over sequences was to come still, so that the product is
    predicted again.
    """
    columns = {}
    for modality, column in HASH_COLUMNS.items():
        held = [features[part.name][1] for part in predictor.scorer.encoders if part.modality == modality]
        present = np.any(held, axis=0) if held else np.ones(keys.num_rows, bool)
        if predictor.scorer.joined:
            present = present & features[HEAD_MODEL][1]
        columns[column] = pc.if_else(pa.array(present), keys[column], pa.scalar(None, pa.string()))
    return columns
