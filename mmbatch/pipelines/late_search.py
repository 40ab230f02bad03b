"""A search for settings of the late fusion's boosting, on Ray Tune: seeded random draws, scored by cross-validation."""

import os
from dataclasses import replace
from typing import Any

from ray import tune
from ray.tune.search.basic_variant import BasicVariantGenerator

from mmbatch.errors import InputError
from mmbatch.fusion.late import LateFusion
from mmbatch.pipelines.cluster import remove_folder, start_ray
from mmbatch.pipelines.scored_rows import ScoredRows
from mmbatch.pipelines.sweep import QUIET
from mmbatch.progress import say
from mmbatch.training import LateFusionRecipe

SPACE = {
    "num_leaves": tune.choice([4, 7, 15, 22, 31]),
    "min_child_samples": tune.lograndint(5, 200),
    "reg_lambda": tune.loguniform(0.1, 50.0),
    "colsample_bytree": tune.uniform(0.4, 1.0),
    "learning_rate": tune.loguniform(0.01, 0.2),
}
"""Drawn around both the paper's settings and the default ones; objective and candidates stay as they are."""


def search_recipe(scored: ScoredRows, recipe: LateFusionRecipe, *, trials: int) -> LateFusionRecipe:
    """The best of `trials` recipes, of which the given one is the first, by log-loss on held-out folds of fusion rows.

    A trial takes one processor; as many run at once as there are. The workspace's seed decides what is drawn.

    Raises:
        InputError: a trial failed.
    """
    start_ray(scored.rows.workspace)
    os.environ.update(QUIET)
    workspace = scored.rows.workspace
    folder = workspace.path("tmp", "late-search")
    given = {name: getattr(recipe, name) for name in SPACE}
    tuner = tune.Tuner(
        tune.with_parameters(_try, scored=scored, recipe=recipe),
        param_space=SPACE,
        tune_config=tune.TuneConfig(
            num_samples=trials,
            search_alg=BasicVariantGenerator(points_to_evaluate=[given], random_state=workspace.settings.seed),
        ),
        run_config=tune.RunConfig(name="late-search", storage_path=folder, verbose=0),
    )
    results = tuner.fit()
    for error in results.errors:
        raise InputError(f"late fusion: a trial of the search failed: {str(error).strip().splitlines()[-1]}")
    best = results.get_best_result("log_loss", "min")
    assert best.config is not None
    assert best.metrics is not None
    remove_folder(folder)
    found = replace(recipe, **{name: best.config[name] for name in SPACE})
    say(f"late       searched {trials} recipes, best log-loss {best.metrics['log_loss']:.4f} by {found}")
    return found


def _try(config: dict[str, Any], scored: ScoredRows, recipe: LateFusionRecipe) -> None:
    """One trial, in a process of Ray Tune."""
    scores, codes = scored.sample("fusion")
    late = LateFusion.fit(
        scores,
        codes,
        models=scored.scorer.models,
        classes=len(scored.rows.categories),
        recipe=replace(recipe, **config),
        seed=scored.rows.workspace.settings.seed,
        threads=1,
    )
    tune.report({"log_loss": (late.report.boosting or late.report.weighting).log_loss})
