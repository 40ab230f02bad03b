"""Training of the late fusion: probes on train rows, late fusion on fusion rows, calibration rows -> predictor.

No encoder runs here.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mmbatch.catalog import Catalog
from mmbatch.errors import InputError
from mmbatch.feature_store import require_features
from mmbatch.fusion.abstaining import Abstaining
from mmbatch.fusion.boosting import parameters_of
from mmbatch.fusion.calibration import Calibration, scaled
from mmbatch.fusion.head import load_head
from mmbatch.fusion.late import LateFusion
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.probe import INVERSE_STRENGTH, fit_probe
from mmbatch.joined import joined_store
from mmbatch.models import Model, digest_of, fetch_model, find_model, publish_model, reads_sequences
from mmbatch.pipelines.boost import BoostTask, boost_here, boost_on_workers
from mmbatch.pipelines.cluster import run_task, start_ray
from mmbatch.pipelines.drift import REFERENCE, reference_of
from mmbatch.pipelines.feature_rows import FeatureRows, rows_per_bucket
from mmbatch.pipelines.late_search import search_recipe
from mmbatch.pipelines.rows import Labels, training_labels
from mmbatch.pipelines.scored_rows import ScoredRows
from mmbatch.pipelines.train_head import identity_of
from mmbatch.pipelines.training_run import crew_of
from mmbatch.predictor import EncoderPart, Predictor, Scorer
from mmbatch.progress import say
from mmbatch.runs import Run
from mmbatch.training import LateFusionRecipe
from mmbatch.workspace import Workspace

PREDICTOR = "predictor"

CONFIDENCE = 0.95
"""That the precision of a kind of decision is at least the one asked for."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """When a prediction is sure enough to be used without a person."""

    precision: float
    """Share of right ones that each kind of decision is to reach."""
    per_class: bool = False
    """Categories with enough calibration rows get thresholds of their own."""


def train_late_fusion(
    workspace: Workspace,
    encoders: Sequence[Model],
    head: Model | None,
    *,
    recipe: LateFusionRecipe,
    goal: Goal,
    search: int = 0,
    workers: tuple[int, int] | None = None,
) -> Model:
    """Fit late fusion, temperatures and thresholds, and store the predictor, unless the workspace holds it already.

    Args:
        workspace: whose features and labels are used.
        encoders: whose probes are fitted and joined.
        head: the fusion head that is joined with them.
        recipe: how the late fusion boosts.
        goal: what predictions have to reach.
        search: how many recipes to try, this one the first; 0: none but this one.
        workers: fewest and most processes that boost, where there are more fusion rows than are held to choose how;
            None: one.

    Raises:
        InputError: the precision is no share, an encoder's features are not stored, the head tells other categories
            apart than there are, or it reads sequences and none of its joined embeddings is stored.
    """
    if not 0 < goal.precision < 1:
        raise InputError(f"--precision {goal.precision:g}: expected a number between 0 and 1")
    labels = training_labels(Catalog(workspace=workspace))
    _check_head(head, labels)
    calibrated = labels.digest(*sorted({model.card["modality"] for model in encoders}), splits=("calibration",))
    made_from = [workspace.settings.seed, identity_of(encoders, labels), calibrated, head.id if head else None]
    digest = digest_of([*made_from, INVERSE_STRENGTH, asdict(recipe), asdict(goal), search])
    if found := find_model(workspace, kind="predictor", name=PREDICTOR, recipe=digest):
        say(f"late       found {found.id}")
        return found
    require_features(workspace, [model.id for model in encoders])
    joined = head if head and reads_sequences(head) else None
    if joined and not (table := joined_store(workspace, joined).table).rows():
        raise InputError(f"{table.uri}: found no joined embeddings, expected some: run jobs.extract_features first")
    run = Run(workspace=workspace, job="train_late_fusion", settings={"recipe": asdict(recipe), "goal": asdict(goal)})
    start_ray(workspace)
    rows = FeatureRows(workspace, tuple(encoders), labels.categories, rows_per_bucket(labels), joined=joined)
    scored = ScoredRows(rows, run_task(fit_scorer, rows, Levels.of(labels.taxonomy, _level_weights(head)), head))
    if search:
        recipe = search_recipe(scored, recipe, trials=search)
    late = _late_fusion(scored, recipe, workers, digest)
    say(f"late       {late.report.describe()}")
    model: Model = run_task(_calibrate, scored, late, goal, head, digest)
    run.finish({"model": model.id, **model.card["late_fusion"], "decisions": model.card["decisions"]})
    _tell(model, categories=len(labels.categories))
    return model


def _tell(model: Model, *, categories: int) -> None:
    if unseen := model.card["calibration"]["classes_without_rows"]:
        of = f"{unseen:,} of {categories:,} categories"
        say(f"late       {of} have no calibration row: for them count temperatures and thresholds that others fitted")
    say(f"late       {model.card['decisions']}")
    say(f"late       stored {model.id}")


def _level_weights(head: Model | None) -> Sequence[float]:
    return head.card["training"]["level_weights"] if head else ()


def _check_head(head: Model | None, labels: Labels) -> None:
    """`InputError` where the head was trained on other categories: its scores are no scores of the present ones."""
    trained = list(head.card["categories"]) if head else list(labels.categories)
    if trained != list(labels.categories):
        gone, new = sorted(set(trained) - set(labels.categories)), sorted(set(labels.categories) - set(trained))
        raise InputError(
            f"late fusion: {head.id if head else ''} was trained on {len(trained)} categories, the train rows have "
            f"{len(labels.categories)}, {len(new)} new (as {new[:2]}) and {len(gone)} gone (as {gone[:2]}): train the "
            "head first"
        )


def _late_fusion(
    scored: ScoredRows, recipe: LateFusionRecipe, workers: tuple[int, int] | None, digest: str
) -> LateFusion:
    """Fitted on as many fusion rows as are held; boosting, where it is kept, on all of them."""
    late: LateFusion = run_task(_fit, scored, recipe)
    if late.boosting is None or scored.fits("fusion"):
        return late
    seed, classes = scored.rows.workspace.settings.seed, late.classes
    task = BoostTask(scored, late, parameters_of(recipe, classes=classes, seed=seed, threads=1))
    if workers is None:
        booster = run_task(boost_here, task)
    else:
        storage = scored.rows.workspace.path("tmp", f"late-{digest[:16]}")
        booster = boost_on_workers(task, crew_of(workers), storage=storage)
    return replace(late, boosting=replace(late.boosting, booster=booster))


def _fit(scored: ScoredRows, recipe: LateFusionRecipe) -> LateFusion:
    """Runs in a Ray task."""
    scores, codes = scored.sample("fusion")
    models, classes = scored.scorer.models, len(scored.rows.categories)
    seed = scored.rows.workspace.settings.seed
    return LateFusion.fit(scores, codes, models=models, classes=classes, recipe=recipe, seed=seed, threads=1)


def _calibrate(scored: ScoredRows, late: LateFusion, goal: Goal, head: Model | None, digest: str) -> Model:
    """Fit temperatures and thresholds on the calibration rows, and store the predictor; runs in a Ray task."""
    scores, codes = scored.sample("calibration")
    joined = late.predict(scores)
    joined[np.isnan(scores).all(axis=(1, 2))] = np.nan
    with np.errstate(divide="ignore"):  # of a probability of 0
        logs = {name: np.log(scores[:, model]) for model, name in enumerate(late.models)}
        calibration = Calibration.fit(np.log(joined), logs, codes)
        probabilities = scaled(np.log(joined), calibration.joined)
    abstaining = Abstaining.fit(
        probabilities,
        codes,
        scored.scorer.levels.taxonomy,
        target=goal.precision,
        level=CONFIDENCE,
        per_class=goal.per_class,
    )
    predictor = Predictor(scorer=scored.scorer, late_fusion=late, calibration=calibration, abstaining=abstaining)
    return _publish(scored.rows, predictor, head, digest)


def _publish(rows: FeatureRows, predictor: Predictor, head: Model | None, digest: str) -> Model:
    card = {
        "encoders": [model.id for model in rows.encoders],
        "head": head.id if head else None,
        "models": predictor.scorer.models,
        "late_fusion": asdict(predictor.late_fusion.report),
        "calibration": asdict(predictor.calibration),
        "precision": predictor.abstaining.target,
        "decisions": predictor.abstaining.describe(),
        "preset": rows.workspace.settings.preset,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        predictor.save(folder)
        files = sorted(path.name for path in folder.iterdir())
        (folder / REFERENCE).write_text(reference_of(rows.workspace, rows.encoders).to_json())
        return publish_model(
            rows.workspace, kind="predictor", name=PREDICTOR, folder=folder, identity=files, recipe=digest, card=card
        )


def fit_scorer(rows: FeatureRows, levels: Levels, head: Model | None) -> Scorer:
    """Linear probes fitted on the train rows, and the head; run in a Ray task, away from the driver."""
    ordered = sorted(rows.encoders, key=lambda model: model.name)
    return Scorer(
        encoders=tuple(
            EncoderPart(id=model.id, modality=model.card["modality"], width=model.card["width"]) for model in ordered
        ),
        classifiers={
            model.name: fit_probe(
                partial(rows.vectors, model.name), width=model.card["width"], classes=len(rows.categories)
            )
            for model in ordered
        },
        head=load_head(fetch_model(head)) if head else None,
        levels=levels,
        joined=rows.joined.id if rows.joined else None,
    )
