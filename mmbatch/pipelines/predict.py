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
from mmbatch.fusion.abstaining import KINDS, REVIEW
from mmbatch.fusion.taxonomy_edits import shown
from mmbatch.joined import read_joined
from mmbatch.models import Model
from mmbatch.pipelines.cluster import start_ray, stream
from mmbatch.pipelines.metrics import stage_done, written
from mmbatch.pipelines.publish import candidate, described, publish, settle
from mmbatch.pipelines.resources import PREDICT
from mmbatch.predictions import Predictions, marks
from mmbatch.predictor import HEAD_MODEL, Features, Predictor, Scored, load_predictor
from mmbatch.progress import Progress, say
from mmbatch.quarantine import quarantine_table, rejected_parts
from mmbatch.runs import Run, tie_out
from mmbatch.tables import FileEntry, Snapshot
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace

TOP_K = 5
"""Best categories that a prediction names."""

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


def prediction_table(
    keys: pa.Table, features: Features, predictor: Predictor, *, before: pa.Array | None = None
) -> pa.Table:
    """Predictions of products by `Catalog.keys`: `schema.PREDICTIONS`.

    What the features do not say is null: the hashes of single fields, `predictor`, `quarantined` and `run_id`.
    A product that stays in review (`REVIEW`) has neither label nor category, as does that decision among others.
    With `before`, the published category of each product (null: none), only those predictions are explained that are
    for review or of another category; without it, all.
    """
    scored = predictor.score(features)
    scores_NMC, joined_NC = predictor.calibrated(scored)
    paths = pa.array([path or None for path in predictor.categories], pa.list_(pa.string()))
    names = pa.array([shown(path) or None for path in predictor.categories], pa.string())
    k = min(TOP_K, joined_NC.shape[1])
    top_NK = _top(joined_NC, k)
    category = names.take(pa.array(top_NK[:, 0]))
    decided = _decisions(joined_NC, predictor)
    offsets = pa.array(np.arange(0, (len(top_NK) + 1) * k, k, dtype=np.int32))
    missing = pa.nulls(keys.num_rows, pa.string())
    columns = {
        "product_id": keys["product_id"],
        "label": paths.take(pa.array(top_NK[:, 0])),
        "category": category,
        "confidence": np.take_along_axis(joined_NC, top_NK[:, :1], axis=1)[:, 0],
        "top_categories": pa.ListArray.from_arrays(offsets, names.take(pa.array(top_NK.ravel()))),
        "top_probabilities": pa.ListArray.from_arrays(
            offsets, pa.array(np.take_along_axis(joined_NC, top_NK, 1).ravel())
        ),
        **_model_columns(scores_NMC, predictor.scorer.models, names),
        **decided,
        **_modality_columns(scored, predictor, _to_explain(category, decided["decision"], before)),
        "predictor": missing,
        **_input_hashes(keys, features, predictor),
        "title_hash": pa.nulls(keys.num_rows, pa.int64()),
        "description_hash": pa.nulls(keys.num_rows, pa.int64()),
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


def _top(joined_NC: np.ndarray, k: int) -> np.ndarray:
    """The k best classes of each product, best first, `[N, k]`, without sorting all of them."""
    chosen_NK = np.sort(np.argpartition(-joined_NC, k - 1, axis=1)[:, :k], axis=1)
    order_NK = np.argsort(-np.take_along_axis(joined_NC, chosen_NK, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen_NK, order_NK, axis=1)


def _decisions(joined_NC: np.ndarray, predictor: Predictor) -> dict[str, pa.Array]:
    found = predictor.decide(joined_NC)
    nodes = pa.array([shown(path) for path in predictor.abstaining.nodes], pa.string())
    place = pa.array(found.node, mask=found.node < 0)
    return {"decision": pa.array(KINDS, pa.string()).take(pa.array(found.kind)), "decided_category": nodes.take(place)}


def _to_explain(category: pa.Array, decision: pa.Array, before: pa.Array | None) -> np.ndarray:
    """Which predictions are explained, bool `[N]`."""
    if before is None:
        return np.ones(len(category), bool)
    changed = pc.fill_null(pc.not_equal(category, before), False)
    return np.asarray(pc.or_(changed, pc.equal(decision, KINDS[REVIEW])))


def _modality_columns(scored: Scored, predictor: Predictor, wanted: np.ndarray) -> dict[str, pa.Array]:
    """Contributions summed over the models of each modality; 0 of a modality without a model, null if not wanted."""
    of_model = {part.name: str(part.modality) for part in predictor.scorer.encoders} | {HEAD_MODEL: "fused"}
    found_NM = np.zeros((len(wanted), len(predictor.scorer.models)), np.float32)
    if wanted.any():
        found_NM[wanted] = predictor.explain(scored.of(wanted))
    modality_M = np.array([of_model[name] for name in predictor.scorer.models])
    return {
        f"modality_{name}": pa.array(found_NM[:, modality_M == name].sum(axis=1), pa.float32(), mask=~wanted)
        for name in ("text", "image", "fused")
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
