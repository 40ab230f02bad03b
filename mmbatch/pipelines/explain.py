"""Explanation: what each model contributes to predictions of test products, with the tables and figures of the paper.

Shapes: N products, M models.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog
from mmbatch.errors import InputError
from mmbatch.models import Model, modalities_of, open_model
from mmbatch.pipelines.labelled import PUBLISHED, in_the_tree, labelled_predictions
from mmbatch.pipelines.measure import measure_products
from mmbatch.pipelines.stress import draw
from mmbatch.predictor import HEAD_MODEL, Features, Predictor
from mmbatch.progress import say
from mmbatch.reports.paper import Paper, write_paper
from mmbatch.reports.paper_analysis import (
    ModelModality,
    ModelPredictions,
    alone,
    corrections,
    modality_value,
    top_levels,
)
from mmbatch.reports.paper_tables import CorrectionRow, LateFusionScores, ModelScore
from mmbatch.runs import Run
from mmbatch.schema import MODALITIES, PATH_SEPARATOR, Modality
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace

LIMIT = 10_000
"""Test products that are explained: enough for figures, a minute of work at 200 products a second."""


def explain(workspace: Workspace, predictor: Model) -> dict[str, Any]:
    """Explain what is published of test products and write tables and figures to `reports/<run>/` in the workspace.

    Returns:
        Ledger entry with the mean contribution of each model and the report's URI.

    Raises:
        InputError: no test product has a published prediction.
    """
    history = TaxonomyHistory.read(workspace)
    run = Run(workspace=workspace, job="explain", settings={"predictor": history.identity(predictor.id)})
    rows, _ = in_the_tree(labelled_predictions(Catalog(workspace=workspace), predictor.card["models"], history))
    page = explained(workspace, predictor, rows, run_id=run.run_id)
    files = write_paper(workspace.path("reports", run.run_id), page)
    sizes = np.nanmean(np.abs(page.predictions.contributions), axis=0)
    means = dict(zip(page.predictions.models, sizes.tolist(), strict=True))
    for name, size in means.items():
        say(f"explain    {name}: {size:.2f} nats for or against the predicted category, in the mean")
    return run.finish({"products": len(page.predictions.gold), "contributions": means, "report": files[-1]})


def explained(
    workspace: Workspace,
    predictor: Model,
    rows: pd.DataFrame,
    *,
    run_id: str,
    scores: Sequence[ModelScore] = (),
    late_fusion: LateFusionScores | None = None,
) -> Paper:
    """The page of the paper's tables over a sample of the test products.

    Args:
        workspace: whose stored features are read.
        predictor: whose models contribute.
        rows: `labelled_predictions`, those with a gold category.
        run_id: of the run that writes it.
        scores: rows of table 1; none: it is left out.
        late_fusion: the honest and the optimistic score; None: they are left out.
    """
    test = rows[(rows["split"] == "test") & rows[PUBLISHED].notna()]
    if not len(test):
        raise InputError(f"--workspace {workspace.uri}: no published prediction of a labelled test product to explain")
    sample = draw(test, seed=workspace.settings.seed, limit=LIMIT)
    found = _predictions(workspace, predictor, sample)
    tops = top_levels(found.categories)
    deep = any(PATH_SEPARATOR in name for name in found.categories)
    return Paper(
        predictor=predictor.id,
        run_id=run_id,
        scores=tuple(scores),
        late_fusion=late_fusion,
        predictions=found,
        alone=alone(found, _titles(Catalog(workspace=workspace), sample)),
        corrections=_corrections(found, tops) if deep else (),
        value=modality_value(found, _best_models(found, rows)),
    )


def _predictions(workspace: Workspace, predictor: Model, sample: pd.DataFrame) -> ModelPredictions:
    models = tuple(predictor.card["models"])
    names = pd.unique(pd.concat([sample[name] for name in ("gold", PUBLISHED, *models)]).dropna())
    categories = tuple(sorted(names))
    index = pd.Index(categories)
    codes = {name: index.get_indexer(pd.Index(sample[name])) for name in ("gold", PUBLISHED, *models)}
    encoders = [open_model(workspace, kind="encoder", model_id=model_id) for model_id in predictor.card["encoders"]]
    of_model: Mapping[str, ModelModality] = {**modalities_of(encoders), HEAD_MODEL: "fused"}
    return ModelPredictions(
        models=models,
        modalities=tuple(of_model[name] for name in models),
        categories=categories,
        gold=codes["gold"],
        fused=codes[PUBLISHED],
        codes=np.stack([codes[name] for name in models], axis=1),
        contributions=measure_products(workspace, predictor, sample, model_contributions, name="explain"),
    )


def model_contributions(predictor: Predictor, features: Features) -> np.ndarray:
    """What each model contributes to the best category of each product, float32 `[N, M]`."""
    return predictor.explain(predictor.score(features))


def _titles(catalog: Catalog, sample: pd.DataFrame) -> pa.Table:
    """`product_id` and `title`, in the order of the sample."""
    ids = pa.array(sample["product_id"], pa.string())
    stored = catalog.table.read(
        ["product_id", "title"],
        buckets=sorted(sample["bucket"].unique().tolist()),
        filters=pc.field("product_id").isin(ids),
    )
    return stored.take(pc.index_in(ids, value_set=stored["product_id"].combine_chunks()))


def _corrections(found: ModelPredictions, tops: np.ndarray) -> tuple[CorrectionRow, ...]:
    """What late fusion, and the fusion head, set right of each text model."""
    fused = {PUBLISHED: found.fused} | {
        name: found.codes[:, index] for index, name in enumerate(found.models) if found.modalities[index] == "fused"
    }
    return tuple(
        CorrectionRow(base=name, fused=other, corrections=corrections(found.gold, found.codes[:, index], codes, tops))
        for index, name in enumerate(found.models)
        if found.modalities[index] == "text"
        for other, codes in fused.items()
    )


def _best_models(found: ModelPredictions, rows: pd.DataFrame) -> dict[Modality, str]:
    """The model of each modality that is right most often on the fusion rows."""
    fusion, best = rows[rows["split"] == "fusion"], {}
    for modality in MODALITIES:
        names = [name for name, of in zip(found.models, found.modalities, strict=True) if of == modality]
        if names:
            right = [np.count_nonzero(fusion[name] == fusion["gold"]) for name in names]
            best[modality] = names[int(np.argmax(right))]
    return best
