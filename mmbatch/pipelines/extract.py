"""Extraction: the stale products of the catalog -> frozen encoders -> feature store, committed as it goes.

One Ray Data pass serves all encoders: CPU tasks read, decode and tokenise a unit of contents; a fixed pool of actors,
which hold all encoders, turns it into vectors and writes them; the driver commits the files' entries as they arrive.
What was committed is not stale any more, so a run that is killed goes on where it was.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray.data

from mmbatch.catalog import Catalog
from mmbatch.contents import Contents, OfLabelled, OfModality, Together
from mmbatch.feature_store import FeatureStore
from mmbatch.models import Model
from mmbatch.pipelines.capacity import encoders_for
from mmbatch.pipelines.cluster import count_attempts, rows_of, start_ray
from mmbatch.pipelines.copy_vectors import Wanted, copy_vectors
from mmbatch.pipelines.delivery import Delivered, deliver, through_actors
from mmbatch.pipelines.encode_units import Encode, Stages, rows_of_units
from mmbatch.pipelines.failures import replace_failures
from mmbatch.pipelines.metrics import stage_done
from mmbatch.pipelines.resources import Ask
from mmbatch.pipelines.speed import Speed
from mmbatch.progress import Progress, say
from mmbatch.runs import Run, tie_out
from mmbatch.schema import MODALITIES, Modality
from mmbatch.stale import Stale, stale
from mmbatch.workspace import Workspace


def store_of(workspace: Workspace, model: Model) -> FeatureStore:
    """The feature store of a stored encoder."""
    return FeatureStore(
        workspace=workspace, encoder=model.id, modality=model.card["modality"], width=model.card["width"]
    )


def together(catalog: Catalog, models: Sequence[Model]) -> Together:
    """The texts and images of a pinned catalog that these encoders hold vectors of now."""
    held = {
        modality: tuple(
            store_of(catalog.workspace, model).table.snapshot()
            for model in models
            if model.card["modality"] == modality
        )
        for modality in MODALITIES
    }
    return Together(catalog.products(), held)


@dataclass(frozen=True)
class _Plan:
    """What is stale, by modality."""

    catalog: Catalog
    models: dict[Modality, list[Model]]
    stores: dict[str, FeatureStore]
    contents: dict[Modality, Contents]
    stale: dict[Modality, Stale]

    @property
    def counts(self) -> dict[str, Counter[str]]:
        """Per encoder, as `Stale.counts`."""
        return {
            model.id: counts
            for modality, found in self.stale.items()
            for model, counts in zip(self.models[modality], found.counts, strict=True)
        }

    def total(self, outcome: str) -> int:
        """Sum over all encoders."""
        return sum(counts[outcome] for counts in self.counts.values())


def _plan(catalog: Catalog, models: Sequence[Model], *, labelled_only: bool = False) -> _Plan:
    """Of a pinned catalog."""
    workspace = catalog.workspace
    assert catalog.at is not None
    by_modality = {name: [model for model in models if model.card["modality"] == name] for name in MODALITIES}
    by_modality = {name: found for name, found in by_modality.items() if found}
    stores = {model.id: store_of(workspace, model) for model in models}
    of: dict[Modality, Contents] = {name: OfModality(catalog.at[0], name) for name in by_modality}
    of = {name: OfLabelled(catalog, every) for name, every in of.items()} if labelled_only else of
    buckets = workspace.settings.buckets
    found = {
        modality: stale(contents, [stores[model.id] for model in by_modality[modality]], buckets=buckets)
        for modality, contents in of.items()
    }
    return _Plan(catalog, by_modality, stores, of, found)


def stale_counts(catalog: Catalog, models: Sequence[Model]) -> dict[str, dict[str, int]]:
    """Per encoder, contents of a pinned catalog to compute and products to give a stored vector: by hashes alone."""
    counts = _plan(catalog, models).counts
    return {name: {"compute": count["compute"], "reuse": count["copy"]} for name, count in counts.items()}


def extract(workspace: Workspace, models: Sequence[Model], *, labelled_only: bool = False) -> dict[str, Any]:
    """Bring the feature stores of some encoders up to date with the catalog.

    With `labelled_only`, with its labelled products: enough to train on and to compare by. What cannot be encoded is
    then counted, but not put in quarantine, which is about what is published.

    Returns:
        Ledger entry; per encoder the counts tie out: products with that modality = unchanged + computed + reused
        + quarantined, and quarantined = the sum of its reasons.
    """
    settings = {"encoders": sorted(model.id for model in models), "labelled_only": labelled_only}
    run = Run(workspace=workspace, job="extract_features", settings=settings)
    plan = _plan(Catalog(workspace=workspace).pinned(), models, labelled_only=labelled_only)
    if not plan.total("compute") and not plan.total("copy"):
        say(f"extract    every {'labelled ' if labelled_only else ''}product has its features")
        if not labelled_only:
            replace_failures(workspace, [], modalities=list(plan.models), run_id=run.run_id)
        counts = {name: _outcome(count, 0, 0, Counter()) for name, count in plan.counts.items()}
        return {"run_id": run.run_id, "job": run.job, "seconds": 0.0, "counts": _totals(counts)}
    start_ray(workspace)
    speed = Speed("extract")
    done = _compute(plan, run.run_id, speed)
    reused, uncopied = copy_vectors(workspace, _copies(plan), run_id=run.run_id, failures=done.failures)
    failures = done.failures + uncopied
    counts = {}
    for name, count in plan.counts.items():
        reasons = Counter(failure["reason"] for failure in failures if failure["encoder"] == name)
        counts[name] = _outcome(count, done.rows[name], reused[name], reasons)
        tie_out(f"extract {name}", counts[name]["products"], {k: counts[name][k] for k in _OUTCOMES})
    if not labelled_only:
        replace_failures(workspace, failures, modalities=list(plan.models), run_id=run.run_id)
    total = _totals(counts)
    entry = run.finish(
        total | {"speed": speed.summary()}, {name: store.table.version() for name, store in plan.stores.items()}
    )
    found = [count["reasons"] for count in counts.values()]
    stage_done("extract", {name: total[name] for name in _OUTCOMES}, seconds=entry["seconds"], reasons=found)
    return entry


_OUTCOMES = ("unchanged", "computed", "reused", "quarantined")


def _outcome(planned: Mapping[str, int], computed: int, reused: int, reasons: Mapping[str, int]) -> dict[str, Any]:
    return {
        "products": planned["products"],
        "unchanged": planned["unchanged"],
        "computed": computed,
        "reused": reused,
        "quarantined": sum(reasons.values()),
        "reasons": dict(reasons),
    }


def _totals(counts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    total = {key: sum(outcome[key] for outcome in counts.values()) for key in _OUTCOMES}
    return total | {"encoders": dict(counts)}


def _copies(plan: _Plan) -> list[Wanted]:
    return [
        Wanted(plan.stores[model.id], copies, plan.contents[modality])
        for modality, found in plan.stale.items()
        for model, copies in zip(plan.models[modality], found.copies, strict=True)
        if len(copies.contents)
    ]


def _compute(plan: _Plan, run_id: str, speed: Speed) -> Delivered:
    """Encode every unit, commit the files as they come, and collect what could not be encoded."""
    contents = sum(len(unit.contents) for found in plan.stale.values() for unit in found.units)
    if not contents:
        return Delivered()
    say(f"extract    {contents:,} contents for {len(plan.stores)} encoder(s)")
    pool = encoders_for("extract", contents)
    speed.actors = pool[1]
    return deliver(
        rows_of(_encoded(plan, pool), stage="extract"),
        {name: store.table for name, store in plan.stores.items()},
        app_id=f"{run_id}-compute",
        speed=speed,
        progress=Progress("extract", contents, "contents"),
    )


def _encoded(plan: _Plan, pool: tuple[Ask, int]) -> ray.data.Dataset:
    """The units as they will be when they are encoded and written (`encode_units.DONE`).

    Texts come first: their units take longest, so that the images' short ones even out the end.
    """
    rows = [
        row
        for name in reversed(MODALITIES)
        if name in plan.stale
        for row in rows_of_units(plan.stale[name].units, [model.id for model in plan.models[name]])
    ]
    models = {model.id: model for group in plan.models.values() for model in group}
    stages = Stages(plan.catalog, models, count_attempts())
    share = {name: sum(len(unit.contents) for unit in found.units) // pool[1] for name, found in plan.stale.items()}
    arguments = {"stages": stages, "stores": plan.stores, "contents": share, "threads": 1}
    return through_actors(rows, stages.prepare, Encode, arguments, pool=pool)
