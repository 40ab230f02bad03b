"""Predictions of products from their features, as rows: what is published, and what is answered online."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.catalog import HASH_COLUMNS
from mmbatch.fusion.abstaining import KINDS, REVIEW
from mmbatch.fusion.taxonomy_edits import shown
from mmbatch.predictor import HEAD_MODEL, Features, Predictor, Scored

TOP_K = 5
"""Best categories that a prediction names."""


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
