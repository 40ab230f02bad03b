"""Extraction of a head over sequences: the stale products -> encoders and head in one pass -> joined embeddings.

It follows that of the encoders, whose stores say what of a product can be used. What is stale is found by hashes alone,
and equal products are joined once.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from mmbatch.catalog import Catalog
from mmbatch.contents import Contents, OfLabelled, Together
from mmbatch.feature_store import FeatureStore
from mmbatch.joined import joined_store
from mmbatch.models import Model, open_model
from mmbatch.pipelines.capacity import encoders_for
from mmbatch.pipelines.cluster import rows_of, start_ray
from mmbatch.pipelines.copy_vectors import Wanted, copy_vectors
from mmbatch.pipelines.delivery import Delivered, deliver, through_actors
from mmbatch.pipelines.extract import together
from mmbatch.pipelines.join_units import Join, JoinStages, rows_of_units
from mmbatch.pipelines.metrics import stage_done
from mmbatch.pipelines.speed import Speed
from mmbatch.progress import Progress, say
from mmbatch.runs import Run, tie_out
from mmbatch.stale import Stale, stale
from mmbatch.workspace import Workspace


@dataclass(frozen=True)
class _Plan:
    """What is stale."""

    catalog: Catalog
    together: Together
    contents: Contents
    """What of `together` is to be joined."""
    encoders: list[Model]
    store: FeatureStore
    stale: Stale

    @property
    def counts(self) -> Counter[str]:
        """As `Stale.counts`."""
        return self.stale.counts[0]


def _plan(workspace: Workspace, head: Model, *, labelled_only: bool = False) -> _Plan:
    catalog, store = Catalog(workspace=workspace).pinned(), joined_store(workspace, head)
    encoders = [open_model(workspace, kind="encoder", model_id=model_id) for model_id in head.card["encoders"]]
    every = together(catalog, encoders)
    contents = OfLabelled(catalog, every) if labelled_only else every
    found = stale(contents, [store], buckets=workspace.settings.buckets)
    return _Plan(catalog, every, contents, encoders, store, found)


def stale_joined(workspace: Workspace, head: Model) -> dict[str, int]:
    """Products to join, and products to give an embedding that is stored: by keys and hashes alone."""
    counts = _plan(workspace, head).counts
    return {"compute": counts["compute"], "reuse": counts["copy"]}


def extract_joined(workspace: Workspace, head: Model, *, labelled_only: bool = False) -> dict[str, Any]:
    """Bring the joined embeddings of a head over sequences up to date with the catalog and the encoders' features.

    With `labelled_only`, those of its labelled products.

    Returns:
        Ledger entry; its counts tie out: products with a usable content = unchanged + computed + reused + incomplete,
        those of which a content could not be read any more; and incomplete = the sum of its reasons.
    """
    run = Run(workspace=workspace, job="extract_features", settings={"head": head.id, "labelled_only": labelled_only})
    plan = _plan(workspace, head, labelled_only=labelled_only)
    if not plan.counts["compute"] and not plan.counts["copy"]:
        say(f"join       every {'labelled ' if labelled_only else ''}product has its joined embedding")
        counts = _outcome(plan.counts, 0, 0, Counter())
        return {"run_id": run.run_id, "job": run.job, "seconds": 0.0, "counts": counts}
    start_ray(workspace)
    speed = Speed("join")
    done = _compute(plan, head, run.run_id, speed)
    copies = [Wanted(plan.store, found, plan.contents) for found in plan.stale.copies if len(found.contents)]
    reused, uncopied = copy_vectors(workspace, copies, run_id=run.run_id, failures=done.failures)
    reasons = Counter(failure["reason"] for failure in [*done.failures, *uncopied])
    counts = _outcome(plan.counts, plan.counts["compute"] - len(done.failures), reused[head.id], reasons)
    tie_out(f"join {head.id}", counts["products"], {name: counts[name] for name in _OUTCOMES})
    if reasons:
        say(f"join       {counts['incomplete']:,} products without a part that cannot be read: {dict(reasons)}")
    entry = run.finish(counts | {"speed": speed.summary()}, {head.id: plan.store.table.version()})
    stage_done("join", {name: counts[name] for name in _OUTCOMES}, seconds=entry["seconds"], reasons=[reasons])
    return entry


_OUTCOMES = ("unchanged", "computed", "reused", "incomplete")


def _outcome(planned: Counter[str], computed: int, reused: int, reasons: Counter[str]) -> dict[str, Any]:
    return {
        "products": planned["products"],
        "unchanged": planned["unchanged"],
        "computed": computed,
        "reused": reused,
        "incomplete": sum(reasons.values()),
        "reasons": dict(reasons),
    }


def _compute(plan: _Plan, head: Model, run_id: str, speed: Speed) -> Delivered:
    """Join every unit, commit the files as they come, and collect what could not be read."""
    units, contents = plan.stale.units, plan.counts["compute"]
    if not units:
        return Delivered()
    say(f"join       {contents:,} products through encoders and head")
    pool = encoders_for("join", contents)
    speed.actors = pool[1]
    stages = JoinStages(plan.catalog, plan.together, head, {model.name: model for model in plan.encoders}, plan.store)
    dataset = through_actors(rows_of_units(units), stages.prepare, Join, {"stages": stages}, pool=pool)
    return deliver(
        rows_of(dataset, stage="join"),
        {head.id: plan.store.table},
        app_id=f"{run_id}-join",
        speed=speed,
        progress=Progress("join", contents, "products"),
    )
