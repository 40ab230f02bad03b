"""What a night would do, without doing it: from the source, and from keys and hashes of the workspace.

The source is read and checked as a night does, and everything that this writes is deleted again; no table changes, no
encoder runs, and no content of the workspace is read.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmbatch.catalog import Catalog
from mmbatch.models import Model, open_model
from mmbatch.pipelines.extract import stale_counts
from mmbatch.pipelines.ingest import Prepared, prepare
from mmbatch.pipelines.night_report import JOB
from mmbatch.pipelines.nightly import Feed, chosen_predictor
from mmbatch.pipelines.predict import outdated
from mmbatch.runs import finished_runs
from mmbatch.workspace import Workspace


def plan_night(
    workspace: Workspace, feed: Feed, *, predictor: str | None = None, price_per_hour: float | None = None
) -> dict[str, Any]:
    """Plan one night.

    Returns:
        `catalog`: rows of the source by outcome, products `new`, `removed`, edited by field, `moved` (another label).
        `encode`: per encoder, contents to `compute`, and products to `reuse` a stored vector for.
        `predict`: products to be `predicted`, and published ones that are `unchanged` or to be `removed`.
        `estimate`: seconds by stage, by the rates of earlier runs (None: there was none), their sum, and the cost.
    """
    model = chosen_predictor(workspace, predictor)
    found = prepare(workspace, **feed.arguments())
    catalog = Catalog(workspace=workspace).pinned()
    try:
        if isinstance(found, Prepared):
            assert catalog.at is not None
            counts, catalog = found.counts, replace(catalog, at=(found.catalog(), catalog.at[1]))
        else:
            counts = found["counts"]
        work = _work(workspace, catalog, model)
    finally:
        if isinstance(found, Prepared):
            found.discard()
    estimate = _estimate(workspace, counts, work)
    if price_per_hour is not None and estimate["seconds"] is not None:
        estimate["cost"] = round(estimate["seconds"] / 3600 * price_per_hour, 2)
    return {"predictor": model.id, "catalog": _of_catalog(counts), **work, "estimate": estimate}


def _of_catalog(counts: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {name: count for name, count in counts.items() if isinstance(count, int)}
    fields = dict(counts["edited_fields"])
    return numbers | {"moved": fields.pop("label"), "edited_fields": fields, "rejected_by_reason": counts["reasons"]}


def _work(workspace: Workspace, catalog: Catalog, model: Model) -> dict[str, Any]:
    """What is to be encoded and predicted once the catalog is this one."""
    encoders = [open_model(workspace, kind="encoder", model_id=model_id) for model_id in model.card["encoders"]]
    found = outdated(workspace, model, catalog=catalog)
    predicted = sum(found.per_bucket.values())
    return {"encode": stale_counts(catalog, encoders), "predict": dict(found.counts) | {"predicted": predicted}}


def _estimate(workspace: Workspace, counts: Mapping[str, Any], work: Mapping[str, Any]) -> dict[str, Any]:
    contents = sum(found["compute"] for found in work["encode"].values())
    amounts = {"ingest": counts["rows"], "extract": contents, "predict": work["predict"]["predicted"]}
    seconds = {stage: _seconds(workspace, stage, amount) for stage, amount in amounts.items()}
    known = [value for value in seconds.values() if value is not None]
    return {"by_stage": seconds, "seconds": round(sum(known), 1) if len(known) == len(seconds) else None}


def _seconds(workspace: Workspace, stage: str, amount: int) -> float | None:
    """Seconds that so many rows, contents or products take; None where no earlier run says.

    A rate is that of the largest of the last runs, as small ones measure their own start; the start is that of the
    smallest, at most.
    """
    if not amount:
        return 0.0
    runs = [(done, seconds) for done, seconds in _history(workspace, stage) if done]
    if not runs:
        return None
    largest, smallest = max(runs), min(runs)
    rate = (largest[1] - smallest[1]) / (largest[0] - smallest[0]) if largest[0] > smallest[0] else 0.0
    rate = rate if rate > 0 else largest[1] / largest[0]
    start = max(smallest[1] - rate * smallest[0], 0.0)
    return round(start + rate * amount, 1)


_LAST = 20
"""Runs of each kind that an estimate looks at."""


def _history(workspace: Workspace, stage: str) -> list[tuple[int, float]]:
    """What earlier runs of a stage did, and in how many seconds."""
    if stage == "ingest":
        return [(run["counts"]["rows"], run["seconds"]) for run in finished_runs(workspace, "ingest")[:_LAST]]
    if stage == "extract":
        runs = finished_runs(workspace, "extract_features")[:_LAST]
        return [(run["counts"].get("computed", 0), run["seconds"]) for run in runs]
    alone = finished_runs(workspace, "predict")[:_LAST]
    nights = [run for run in finished_runs(workspace, JOB)[:_LAST] if "predict" in run["counts"]["timings"]]
    stages = ("predict", "compare")
    return [(run["counts"]["predicted"], run["seconds"]) for run in alone] + [
        (run["counts"]["products"]["predicted"], sum(run["counts"]["timings"][name] for name in stages))
        for run in nights
    ]
