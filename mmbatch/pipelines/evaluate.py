"""Evaluation: published predictions against labels, per model and split, and the report.

What the driver holds per labelled product are its keys, and a category name and a class code per model; content is read
for the few examples and, by workers, for the sample of the stress table only.
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
from mmbatch.confidence_metrics import error_of
from mmbatch.corrections import Corrections
from mmbatch.errors import InputError
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.fusion.taxonomy_edits import shown
from mmbatch.metrics import confusion, f1_scores, per_class
from mmbatch.models import Model, open_model
from mmbatch.pipelines.confidence import confidence_of
from mmbatch.pipelines.explain import explained
from mmbatch.pipelines.labelled import PUBLISHED, in_the_tree, labelled_predictions
from mmbatch.pipelines.level_scores import level_rows
from mmbatch.pipelines.stress import stress
from mmbatch.predictions import Predictions
from mmbatch.predictor import HEAD_MODEL, stored_categories
from mmbatch.progress import say
from mmbatch.quarantine import quarantine_table
from mmbatch.reports.evaluation import SCORED, SINGLE, Evaluation, Example, Role, ScoreRow, table_text, write_report
from mmbatch.reports.paper import write_paper
from mmbatch.reports.paper_tables import LateFusionScores, ModelScore
from mmbatch.runs import Run, last_run
from mmbatch.schema import Split
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace

EXAMPLES = 6
"""Products shown of each kind."""


def evaluate(
    workspace: Workspace, predictor: Model, *, timings: dict[str, float] | None = None, paper: bool = False
) -> dict[str, Any]:
    """Score what is published on every split and write the report to `reports/<run>/` in the workspace.

    Labels and predictions are compared by the names that the taxonomy's newest version has for them. A labelled product
    whose category was removed, or split into several, is left out of the scores, and counted.

    With `paper`, the tables and the figure of the paper are written beside it.

    Returns:
        Ledger entry with the rows of the table and of the stress table, and the report's URI.
    """
    history = TaxonomyHistory.read(workspace)
    settings = {"predictor": history.identity(predictor.id)}
    versions = {
        "predictions": Predictions(workspace=workspace).table.version(),
        "corrections": Corrections(workspace=workspace).version(),
    }
    previous = last_run(workspace, "evaluate")
    same = previous and previous["settings"] == settings and previous["versions"] == versions
    if previous and same and (not paper or "paper" in previous["counts"]):
        say(f"evaluate   found the report of these predictions\n\n{previous['counts']['text']}")
        return {"run_id": previous["run_id"], "job": "evaluate", "seconds": 0.0, "counts": previous["counts"]}
    catalog = Catalog(workspace=workspace)
    run = Run(workspace=workspace, job="evaluate", settings=settings)
    models = tuple(predictor.card["models"])
    rows, left_out = in_the_tree(labelled_predictions(catalog, models, history))
    if not rows.loc[rows["split"] == "test", "decision"].notna().any():
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
        late_fusion=_facts(predictor.card, table),
        levels=level_rows(
            classes, {name: codes[name][test] for name in (*models, PUBLISHED)}, gold=codes["gold"][test]
        ),
        confidence=confidence_of(workspace, predictor, rows),
        stress=stress(catalog, predictor, rows),
        examples=_examples(catalog, rows[test], models),
        timings=timings or {},
    )
    uri = write_report(workspace.path("reports", run.run_id), evaluation)
    say(f"\n{table_text(evaluation)}")
    counts = _ledger(evaluation) | {"report": uri}
    if paper:
        counts["paper"] = _write_paper(workspace, predictor, rows, table, run.run_id)
    return run.finish(counts, versions)


def _ledger(evaluation: Evaluation) -> dict[str, Any]:
    """What the run ledger keeps of an evaluation."""
    confidence = evaluation.confidence
    return {
        "table": [asdict(row) for row in evaluation.table],
        "levels": [asdict(row) for row in evaluation.levels],
        "decisions": [asdict(row) for row in confidence.decisions],
        "calibration_error": {"before": error_of(confidence.before), "after": error_of(confidence.after)},
        "stress": [asdict(row) for row in evaluation.stress],
        "text": table_text(evaluation),
    }


def _write_paper(
    workspace: Workspace, predictor: Model, rows: pd.DataFrame, table: Sequence[ScoreRow], run_id: str
) -> str:
    """Write the paper's tables and figure to `reports/<run>/paper/`; the page's URI."""
    by_split = {row.split: row for row in table if row.model == PUBLISHED}
    test, fusion = by_split["test"], by_split["fusion"]
    page = explained(
        workspace,
        predictor,
        rows,
        run_id=run_id,
        scores=[_model_score(row) for row in table if row.split == "test"] + _head_scores(workspace, predictor, fusion),
        late_fusion=LateFusionScores(
            honest=test.macro, honest_rows=test.rows, optimistic=fusion.macro, optimistic_rows=fusion.rows
        ),
    )
    *_, uri = write_paper(workspace.path("reports", run_id, "paper"), page)
    say(f"paper      {uri}")
    return uri


def _model_score(row: ScoreRow) -> ModelScore:
    groups = {"fusion head": "Multi-Modal", "late fusion": "Boosted"}
    group = groups.get(row.role, "Base Models")
    return ModelScore(group=group, model=row.model, split=row.split, rows=row.rows, macro_f1=row.macro)


def _head_scores(workspace: Workspace, predictor: Model, fusion: ScoreRow) -> list[ModelScore]:
    """Every kind of head that was tried, on the fusion rows that chose among them."""
    if not predictor.card["head"]:
        return []
    head = open_model(workspace, kind="head", model_id=predictor.card["head"])
    return [
        ModelScore(
            group="Multi-Modal",
            model=standing["name"],
            split="fusion",
            rows=fusion.rows,
            macro_f1=standing["macro_f1"],
        )
        for standing in head.card["standings"]
    ]


def _codes(categories: pd.Series, classes: Sequence[str]) -> np.ndarray:
    return np.asarray(pd.Index(classes).get_indexer(pd.Index(categories)), dtype=np.int64)


def _scores(
    codes: Mapping[str, np.ndarray], models: Sequence[str], roles: Mapping[str, Role], splits: np.ndarray
) -> Iterator[ScoreRow]:
    for name in models:
        for split in SCORED:
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


def _facts(card: Mapping[str, Any], table: Sequence[ScoreRow]) -> dict[str, object]:
    """What a report says of a late fusion: log-losses and macro-F1 of single models are of held-out fusion rows."""
    late, by_split = card["late_fusion"], {row.split: row.macro for row in table if row.model == PUBLISHED}
    return {
        "kept": late["kept"],
        "fusion rows": late["rows"],
        "boosting rounds": late["rounds"],
        "log-loss, weighting": late["weighting"]["log_loss"],
        "log-loss, boosting": late["boosting"]["log_loss"] if late["boosting"] else "not tried",
        "macro-F1 on test rows, honest": by_split["test"],
        "macro-F1 on fusion rows, optimistic": by_split.get("fusion", np.nan),
        "gap of the two": by_split.get("fusion", np.nan) - by_split["test"],
        "temperature after it": card["calibration"]["joined"],
        "weights": late["weights"],
        "macro-F1 alone on held-out fusion rows": {name: each["macro_f1"] for name, each in late["inputs"].items()},
    }


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
