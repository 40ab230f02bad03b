"""Evaluation: published predictions against labels, per model and split, and the report.

What the driver holds per labelled product is a class code per model; content is read for the few examples and, by
workers, for the sample of the stress table only.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog
from mmbatch.errors import InputError
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.fusion.taxonomy_edits import shown
from mmbatch.metrics import confusion, f1_scores, per_class
from mmbatch.models import Model, open_model
from mmbatch.pipelines.level_scores import level_rows
from mmbatch.pipelines.stress import stress
from mmbatch.predictions import Predictions
from mmbatch.predictor import HEAD_MODEL, stored_categories
from mmbatch.progress import say
from mmbatch.quarantine import quarantine_table
from mmbatch.reports.evaluation import SINGLE, Evaluation, Example, Role, ScoreRow, table_text, write_report
from mmbatch.runs import Run, last_run
from mmbatch.schema import SPLITS, Split
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace

PUBLISHED = "late fusion"
"""Name of the published predictions among the models of a table."""

EXAMPLES = 6
"""Products shown of each kind."""


def evaluate(workspace: Workspace, predictor: Model, *, timings: dict[str, float] | None = None) -> dict[str, Any]:
    """Score what is published on every split and write the report to `reports/<run>/` in the workspace.

    Labels and predictions are compared by the names that the taxonomy's newest version has for them. A labelled product
    whose category was removed, or split into several, is left out of the scores, and counted.

    Returns:
        Ledger entry with the rows of the table and of the stress table, and the report's URI.
    """
    history = TaxonomyHistory.read(workspace)
    settings = {"predictor": history.identity(predictor.id)}
    version = Predictions(workspace=workspace).table.version()
    previous = last_run(workspace, "evaluate")
    if previous and previous["settings"] == settings and previous["versions"] == {"predictions": version}:
        say(f"evaluate   found the report of these predictions\n\n{previous['counts']['text']}")
        return {"run_id": previous["run_id"], "job": "evaluate", "seconds": 0.0, "counts": previous["counts"]}
    catalog = Catalog(workspace=workspace)
    run = Run(workspace=workspace, job="evaluate", settings=settings)
    models = tuple(predictor.card["models"])
    rows, left_out = _in_the_tree(_scored(catalog, models, history))
    if not (rows["split"] == "test").any():
        raise InputError(f"--workspace {workspace.uri}: no published prediction of a labelled test product to score")
    known = {shown(path) for path in history.version_of(Taxonomy(stored_categories(predictor))).decisions if path}
    classes = tuple(sorted(known | set(rows["gold"])))
    codes = {name: _codes(rows[name], classes) for name in ("gold", PUBLISHED, *models)}
    test = (rows["split"] == "test").to_numpy()
    roles = _roles(workspace, predictor)
    table = tuple(_scores(codes, (*models, PUBLISHED), roles, rows["split"].to_numpy()))
    evaluation = Evaluation(
        workspace=workspace.uri,
        predictor=settings["predictor"],
        run_id=run.run_id,
        classes=classes,
        table=table,
        confusion=confusion(codes["gold"][test], codes[PUBLISHED][test], classes=len(classes)),
        per_class={
            name: per_class(codes["gold"][test], codes[name][test], classes=len(classes)) for name in _compared(table)
        },
        counts=_counts(catalog, rows, left_out),
        late_fusion=predictor.card["late_fusion"],
        levels=level_rows(
            classes, {name: codes[name][test] for name in (*models, PUBLISHED)}, gold=codes["gold"][test]
        ),
        stress=stress(catalog, predictor, rows),
        examples=_examples(catalog, rows[test], models),
        timings=timings or {},
    )
    uri = write_report(workspace.path("reports", run.run_id), evaluation)
    say(f"\n{table_text(evaluation)}")
    counts = {
        "table": [asdict(row) for row in table],
        "levels": [asdict(row) for row in evaluation.levels],
        "stress": [asdict(row) for row in evaluation.stress],
        "text": table_text(evaluation),
        "report": uri,
    }
    return run.finish(counts, {"predictions": version})


def _scored(catalog: Catalog, models: Sequence[str], history: TaxonomyHistory) -> pd.DataFrame:
    """One row per labelled product: id, bucket, split, gold category, and what each model says (None: nothing).

    Categories have their present names; a gold category is None where it was removed or split.
    """
    predictions = Predictions(workspace=catalog.workspace)
    parts = []
    for bucket in range(catalog.workspace.settings.buckets):
        labels = catalog.labels([bucket])
        found = predictions.table.read(
            ["product_id", "category", "confidence", "model_categories"], buckets=[bucket]
        ).combine_chunks()
        place = pc.index_in(labels["product_id"], value_set=found["product_id"].combine_chunks()).combine_chunks()
        found = found.take(place)
        said = found["model_categories"].combine_chunks()
        columns = {name: pc.map_lookup(said, pa.scalar(name), "first") for name in models}
        rows = labels.select(["product_id", "bucket", "split", "text_hash", "image_hash"])
        rows = rows.append_column("gold", labels["category"])
        rows = rows.append_column(PUBLISHED, found["category"]).append_column("confidence", found["confidence"])
        for name, column in columns.items():
            rows = rows.append_column(name, column)
        parts.append(rows)
    frame: pd.DataFrame = pa.concat_tables(parts).to_pandas()
    for name in ("gold", PUBLISHED, *models):
        frame[name] = frame[name].map(history.current(frame[name].dropna().unique()))
    return frame


def _in_the_tree(rows: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The rows that have a gold category, and how many have none in the edited tree."""
    gone = rows["gold"].isna()
    left_out = int(gone.sum())
    if left_out:
        say(f"evaluate   left out {left_out:,} labelled products, whose category was removed or split")
    return rows[~gone], left_out


def _codes(categories: pd.Series, classes: Sequence[str]) -> np.ndarray:
    return np.asarray(pd.Index(classes).get_indexer(pd.Index(categories)), dtype=np.int64)


def _scores(
    codes: Mapping[str, np.ndarray], models: Sequence[str], roles: Mapping[str, Role], splits: np.ndarray
) -> Iterator[ScoreRow]:
    for name in models:
        for split in SPLITS:
            if (chosen := splits == split).any():
                yield _score(codes, name, roles[name], split, chosen)


def _score(codes: Mapping[str, np.ndarray], model: str, role: Role, split: Split, chosen: np.ndarray) -> ScoreRow:
    scores = f1_scores(codes["gold"][chosen], codes[model][chosen])
    return ScoreRow(model=model, role=role, split=split, **scores._asdict())


def _roles(workspace: Workspace, predictor: Model) -> dict[str, Role]:
    encoders = [open_model(workspace, kind="encoder", model_id=model_id) for model_id in predictor.card["encoders"]]
    single = {modality: role for role, modality in SINGLE.items()}
    roles = {model.name: single[model.card["modality"]] for model in encoders}
    return {**roles, HEAD_MODEL: "fusion head", PUBLISHED: "late fusion"}


def _compared(table: Sequence[ScoreRow]) -> list[str]:
    """The best single model of each modality on the fusion rows, and the published predictions."""
    best: dict[Role, ScoreRow] = {}
    for row in table:
        if row.split == "fusion" and row.role in SINGLE and (row.role not in best or row.macro > best[row.role].macro):
            best[row.role] = row
    return [*(best[role].model for role in sorted(best)), PUBLISHED]


def _counts(catalog: Catalog, rows: pd.DataFrame, left_out: int) -> dict[str, int]:
    keys = catalog.keys()
    reasons = Counter(quarantine_table(catalog.workspace).read(["reason"])["reason"].to_pylist())
    return {
        "products": keys.num_rows,
        "labelled": len(rows) + left_out,
        **({"labelled, category removed or split": left_out} if left_out else {}),
        "unlabelled": keys.num_rows - len(rows) - left_out,
        "without image": keys["image_hash"].null_count,
        "without text": keys["text_hash"].null_count,
        **{f"quarantined: {reason}": count for reason, count in sorted(reasons.items())},
    }


def _examples(catalog: Catalog, test: pd.DataFrame, models: Sequence[str]) -> tuple[Example, ...]:
    """The most confident mistakes, and products that are right although a model below was wrong; test rows only."""
    right = test[PUBLISHED] == test["gold"]
    disputed = pd.concat([test[name].notna() & (test[name] != test["gold"]) for name in models], axis=1).any(axis=1)
    kinds = (test[~right], test[right & disputed])
    chosen = pd.concat([rows.sort_values("confidence", ascending=False).head(EXAMPLES) for rows in kinds])
    chosen = chosen.astype(object).where(chosen.notna(), None)
    return tuple(_example(catalog, row, models) for row in chosen.to_dict("records"))  # type: ignore[arg-type]


def _example(catalog: Catalog, row: dict[str, Any], models: Sequence[str]) -> Example:
    wanted = pc.field("product_id") == row["product_id"]
    title = catalog.table.read(["title"], buckets=[row["bucket"]], filters=wanted)["title"][0].as_py()
    image = None
    if row["image_hash"]:
        image = catalog.content("image", row["bucket"], pa.array([row["image_hash"]]))["image"][0].as_py()
    return Example(
        product_id=row["product_id"],
        title=title,
        image=image,
        gold=row["gold"],
        predicted=row[PUBLISHED] or "",
        confidence=float(row["confidence"]),
        model_categories={name: row[name] for name in models if row[name]},
    )
