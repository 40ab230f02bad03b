"""Review: published predictions, labels -> the queue of what people should look at first, as CSV and as a page.

Predictions are read bucket by bucket, and of each bucket only the products in the queue are kept; images are read for
the products on the page only.
"""

import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog, category_of
from mmbatch.corrections import Corrections
from mmbatch.errors import InputError
from mmbatch.feature_store import require_features
from mmbatch.file_writers import table_file
from mmbatch.models import Model, modalities_of, open_model
from mmbatch.pipelines.cluster import lines_from_workers, run_task, start_ray
from mmbatch.pipelines.out_of_fold import SUSPECTS, FoldRows, Suspected, suspected_labels
from mmbatch.predictions import Predictions
from mmbatch.progress import Progress, say
from mmbatch.reports.review import CSV_FILE, QUEUE_FILE, ReviewPage, csv_file, pictures_of, write_page
from mmbatch.review import QUEUE, READ, Tally, candidates, described, first, flagged
from mmbatch.runs import Run, last_run
from mmbatch.schema import MODALITIES, Modality
from mmbatch.storage import filesystem_of
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace


def review(workspace: Workspace, predictor: Model, *, limit: int = 1_000, export: str | None = None) -> dict[str, Any]:
    """Write all products to be looked at, `review.csv` and `queue.parquet`, and a page of the most urgent ones.

    All three lie in `reports/<run>/`, the page as `review.html`.

    Args:
        workspace: with published predictions.
        predictor: its encoders judge the labels, and its late fusion says which model of a modality is the best.
        limit: most products on the page.
        export: where to copy the CSV file to, local or `s3://`; None: nowhere.

    Returns:
        Ledger entry: `products` (in the queue), `reasons` (products of each), labels `judged` and `unjudged`, and the
        URIs of `page`, `csv` and `queue`.

    Raises:
        InputError: nothing is published, the features of an encoder are not stored, `limit` is below 1 or `export` is
            no name of a CSV file, or cannot be written.
    """
    _check(limit, export)
    history = TaxonomyHistory.read(workspace)
    run = Run(workspace=workspace, job="review", settings={"predictor": history.identity(predictor.id), "limit": limit})
    versions = _versions(workspace)
    entry = _earlier(run, versions)
    if entry is None:
        suspected = _suspected(workspace, predictor)
        counts = _write(run, predictor, history, suspected)
        entry = run.finish(counts | {"judged": suspected.judged, "unjudged": suspected.unjudged}, versions)
        say(f"review     {_line(counts)}: {counts['page']}")
    if export is not None:
        _copy(entry["counts"]["csv"], export)
        say(f"review     copied the CSV file to {export}")
    return entry


def best_models(predictor: Model, modalities: Mapping[str, Modality]) -> dict[Modality, str]:
    """The model of each modality to which the late fusion gives the most weight; none of a modality without a model."""
    weights: Mapping[str, float] = predictor.card["late_fusion"]["weights"]
    found: dict[Modality, str] = {}
    for modality in MODALITIES:
        names = [name for name, of in sorted(modalities.items()) if of == modality]
        if names:
            found[modality] = max(names, key=lambda name: weights[name])
    return found


def _check(limit: int, export: str | None) -> None:
    if limit < 1:
        raise InputError(f"--limit {limit}: expected 1 or more")
    if export is not None and not export.lower().endswith(".csv"):
        raise InputError(f"--export {export}: expected a name that ends in .csv")


def _versions(workspace: Workspace) -> dict[str, int]:
    tables = {"predictions": Predictions(workspace=workspace).table, "catalog": Catalog(workspace=workspace).table}
    if not tables["predictions"].rows():
        raise InputError(f"--workspace {workspace.uri}: found no published predictions: run jobs.predict first")
    corrections = {"corrections": Corrections(workspace=workspace).version()}
    return {name: table.version() for name, table in tables.items()} | corrections


def _earlier(run: Run, versions: Mapping[str, int]) -> dict[str, Any] | None:
    """The entry of the last run where it was of the same predictions and catalog, and its files are there."""
    last = last_run(run.workspace, run.job)
    if last is None or last["settings"] != run.settings or last["versions"] != versions:
        return None
    uris = [last["counts"].get(name) for name in ("page", "csv", "queue")]
    if not all(uri and filesystem_of(uri)[0].exists(filesystem_of(uri)[1]) for uri in uris):
        return None
    say(f"review     found the queue of these predictions, {_line(last['counts'])}: {last['counts']['page']}")
    return {"run_id": last["run_id"], "job": run.job, "seconds": 0.0, "counts": last["counts"]}


def _line(counts: Mapping[str, Any]) -> str:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts["reasons"].items())
    return f"{counts['products']:,} products ({reasons})"


def _suspected(workspace: Workspace, predictor: Model) -> Suspected:
    """Labels that the predictor's encoders contradict; none where the labels are not of two categories at least."""
    encoders = _encoders(workspace, predictor)
    require_features(workspace, [model.id for model in encoders])
    rows = FoldRows.of(workspace, encoders)
    if rows is None:
        say("review     no labelled products of two categories: no label can be judged")
        return Suspected(SUSPECTS.empty_table(), 0, 0)
    start_ray(workspace)
    with lines_from_workers() as lines:
        found: Suspected = run_task(suspected_labels, rows, lines.put)
    return found


def _encoders(workspace: Workspace, predictor: Model) -> list[Model]:
    return [open_model(workspace, kind="encoder", model_id=model_id) for model_id in predictor.card["encoders"]]


def _write(run: Run, predictor: Model, history: TaxonomyHistory, suspected: Suspected) -> dict[str, Any]:
    """Write both files, the page last; the ledger's counts."""
    workspace, limit = run.workspace, run.settings["limit"]
    best = best_models(predictor, modalities_of(_encoders(workspace, predictor)))
    folder, tally, kept = workspace.path("reports", run.run_id), Tally(), QUEUE.empty_table()
    csv = f"{folder}/{CSV_FILE}"
    with csv_file(csv) as append, table_file(f"{folder}/{QUEUE_FILE}", QUEUE, named=QUEUE_FILE) as append_queue:
        for rows in _queue(workspace, history, suspected.rows, best):
            append(rows)
            append_queue(rows)
            tally.add(rows)
            kept = candidates(pa.concat_tables([kept, rows]), limit)
    rows = first(kept, limit)
    page = ReviewPage(
        workspace=workspace.uri,
        predictor=run.settings["predictor"],
        run_id=run.run_id,
        products=Predictions(workspace=workspace).table.rows(),
        tally=tally,
        rows=rows,
        pictures=pictures_of(Catalog(workspace=workspace), rows),
    )
    return {
        "products": tally.rows,
        "reasons": dict(tally.reasons),
        "page": write_page(folder, page),
        "csv": csv,
        "queue": f"{folder}/{QUEUE_FILE}",
    }


def _queue(
    workspace: Workspace, history: TaxonomyHistory, suspects: pa.Table, best: Mapping[Modality, str]
) -> Iterator[pa.Table]:
    """The queue, a bucket at a time, without the products that a person has labelled."""
    products_of, published = Catalog(workspace=workspace), Predictions(workspace=workspace).table.snapshot()
    catalog = products_of.table.snapshot()
    progress = Progress("review", workspace.settings.buckets, "buckets")
    for bucket in range(workspace.settings.buckets):
        seen = pc.field("product_id").isin(products_of.corrected([bucket])["product_id"].combine_chunks())
        predictions = published.read(READ, buckets=[bucket], filters=~seen)
        doubted = suspects.filter(pc.equal(suspects["bucket"], bucket))
        columns = ["product_id", "title", "label", "source"]
        wanted = pc.field("product_id").isin(doubted["product_id"].combine_chunks())
        given = _labelled(catalog.read(columns, buckets=[bucket], filters=wanted), workspace, history)
        rows = flagged(predictions, _disputed(doubted, given, history), best=best)
        wanted = pc.field("product_id").isin(rows["product_id"].combine_chunks())
        products = catalog.read(columns, buckets=[bucket], filters=wanted)
        yield described(rows, _labelled(products, workspace, history))
        progress.advance(1)


def _labelled(products: pa.Table, workspace: Workspace, history: TaxonomyHistory) -> pa.Table:
    """Products with their label as the category that it is called now, or was where it was removed or split."""
    category = category_of(products["label"], workspace.settings.level)
    place = products.schema.get_field_index("label")
    return products.set_column(place, "label", pc.coalesce(history.current_names(category), category))


def _disputed(suspects: pa.Table, products: pa.Table, history: TaxonomyHistory) -> pa.Table:
    """The suspects whose suggestion still is a category, and another one than the label, in the tree of today."""
    suggested = history.current_names(suspects["suggested_category"])
    place = pc.index_in(suspects["product_id"], value_set=products["product_id"].combine_chunks())
    label = products["label"].combine_chunks().take(place.combine_chunks())
    rows = suspects.set_column(suspects.schema.get_field_index("suggested_category"), "suggested_category", suggested)
    return rows.filter(pc.fill_null(pc.not_equal(suggested.combine_chunks(), label), False))


def _copy(csv: str, file: str) -> None:
    (source, at), (target, to) = filesystem_of(csv), filesystem_of(file)
    try:
        with source.open(at, "rb") as read, target.open(to, "wb") as written:
            shutil.copyfileobj(read, written)
    except OSError as error:
        raise InputError(f"--export {file}: cannot be written: {error.strerror or error}") from error
