"""Late fusion on stored features: scored in parts, boosted here or on workers, calibrated, refused where it must be."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from mmbatch.catalog import Catalog
from mmbatch.drift import Reference
from mmbatch.errors import InputError
from mmbatch.fusion.boosting import Boosting, parameters_of, rows_of, train_booster
from mmbatch.fusion.late import LateFusion
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.weighting import fit_weighting
from mmbatch.models import Model, fetch_model
from mmbatch.pipelines import scored_rows
from mmbatch.pipelines.boost import BoostTask, boost_here, boost_on_workers
from mmbatch.pipelines.cluster import start_ray
from mmbatch.pipelines.drift import REFERENCE, reference_of
from mmbatch.pipelines.feature_rows import FeatureRows, rows_per_bucket
from mmbatch.pipelines.late_search import search_recipe
from mmbatch.pipelines.rows import training_labels
from mmbatch.pipelines.scored_rows import ScoredRows
from mmbatch.pipelines.train_late_fusion import Goal, fit_scorer, train_late_fusion
from mmbatch.pipelines.training_run import crew_of
from mmbatch.predictor import Predictor
from mmbatch.training import LateFusionRecipe
from mmbatch.workspace import Workspace
from tests.stored_features import encoders, write_workspace

pytestmark = pytest.mark.filterwarnings("ignore::Warning:ray")
"""Ray warns of its own settings while it makes its context."""

RECIPE = LateFusionRecipe(num_leaves=4, min_child_samples=10)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return write_workspace(tmp_path / "workspace", products=600, calibrated=True)


@pytest.fixture
def local_ray() -> Iterator[None]:
    start_ray()
    yield
    ray.shutdown()


def scored(workspace: Workspace) -> ScoredRows:
    labels = training_labels(Catalog(workspace=workspace))
    rows = FeatureRows(workspace, encoders(workspace), labels.categories, rows_per_bucket(labels))
    return ScoredRows(rows, fit_scorer(rows, Levels(labels.taxonomy), None))


def boosted(of: ScoredRows, rounds: int) -> LateFusion:
    """A late fusion that is to boost for so many rounds, whatever that is worth."""
    scores, codes = of.sample("fusion")
    models, classes = of.scorer.models, len(of.rows.categories)
    fitted = LateFusion.fit(scores, codes, models=models, classes=classes, recipe=RECIPE, seed=0, threads=1)
    weighting = fit_weighting(scores, codes)
    parameters = parameters_of(RECIPE, classes=classes, seed=0, threads=1)
    rows = rows_of(RECIPE, scores, weighting.log_probabilities(scores))
    booster = train_booster(rows, codes, parameters, rounds=rounds)
    report = replace(fitted.report, kept="boosting", rounds=rounds)
    return replace(fitted, weighting=weighting, boosting=Boosting(recipe=RECIPE, booster=booster), report=report)


def test_parts_of_all_workers_are_every_product_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scored_rows, "PART_VALUES", 7 * 2 * 4)
    of = scored(workspace)
    of = replace(of, rows=replace(of.rows, workers=2))
    whole = list(of.parts("fusion"))
    assert max(len(codes) for _, codes in whole) == 7
    assert sum(len(codes) for _, codes in whole) == 60
    shared = [part for worker in range(2) for part in of.parts("fusion", worker=worker, workers=2)]
    assert sum(len(codes) for _, codes in shared) == 60
    np.testing.assert_array_equal(
        np.sort(np.concatenate([scores for scores, _ in shared]), axis=0),
        np.sort(np.concatenate([scores for scores, _ in whole]), axis=0),
    )


def test_a_sample_holds_as_many_products_as_fit(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    of = scored(workspace)
    assert of.fits("fusion")
    whole, _ = of.sample("fusion")
    monkeypatch.setattr(scored_rows, "SAMPLE_VALUES", 20 * 2 * 4)
    assert not of.fits("fusion")
    scores, codes = of.sample("fusion")
    assert (len(scores), len(codes)) == (20, 20)
    np.testing.assert_array_equal(scores, whole[:20])


def test_boosting_over_parts_is_boosting_over_the_whole(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    of = scored(workspace)
    late = boosted(of, rounds=5)
    assert late.boosting is not None
    monkeypatch.setattr(scored_rows, "PART_VALUES", 9 * 2 * 4)
    task = BoostTask(of, late, parameters_of(RECIPE, classes=late.classes, seed=0, threads=1))
    assert boost_here(task).model_to_string() == late.boosting.booster.model_to_string()


@pytest.mark.slow
def test_workers_of_ray_train_boost_as_one_process_does(workspace: Workspace, local_ray: None) -> None:
    of = scored(workspace)
    of = replace(of, rows=replace(of.rows, workers=2))
    late = boosted(of, rounds=10)
    task = BoostTask(of, late, parameters_of(RECIPE, classes=late.classes, seed=0, threads=1))
    storage = workspace.path("tmp", "late-test")
    booster = boost_on_workers(task, crew_of((2, 2)), storage=storage)
    assert not Path(storage).exists()
    assert late.boosting is not None
    shared = replace(late, boosting=replace(late.boosting, booster=booster))
    scores, _ = of.sample("test")
    np.testing.assert_allclose(shared.predict(scores), late.predict(scores), atol=0.05)
    assert (shared.predict(scores).argmax(axis=1) == late.predict(scores).argmax(axis=1)).mean() > 0.95
    assert booster.num_trees() == late.boosting.booster.num_trees()


def test_categories_without_calibration_rows_are_counted(
    tmp_path: Path, local_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = write_workspace(tmp_path / "w", products=400)
    model = train_late_fusion(workspace, encoders(workspace), None, recipe=RECIPE, goal=Goal(precision=0.6))
    assert (model.card["calibration"]["rows"], model.card["calibration"]["classes_without_rows"]) == (0, 4)
    said = capsys.readouterr().err
    assert "4 of 4 categories have no calibration row" in said
    assert "no calibration rows: every product goes to review" in said


def test_a_predictor_is_fitted_once_and_calibrated_on_rows_of_its_own(workspace: Workspace, local_ray: None) -> None:
    model = train_late_fusion(workspace, encoders(workspace), None, recipe=RECIPE, goal=Goal(precision=0.6))
    assert model.card["late_fusion"]["rows"] == model.card["calibration"]["rows"] == 60
    assert model.card["precision"] == 0.6
    assert "on 60 calibration rows" in model.card["decisions"]
    predictor = Predictor.load(fetch_model(model))
    assert set(predictor.calibration.temperatures) == {"image", "text"}
    assert predictor.abstaining.rows == 60
    reference = Reference.from_json((fetch_model(model) / REFERENCE).read_text())
    assert reference == reference_of(workspace, encoders(workspace))
    assert reference.rows == 420
    assert reference.vectors.keys() == {"vectors of text"}, "420 have a text, 360 an image: too few"
    again = train_late_fusion(workspace, encoders(workspace), None, recipe=RECIPE, goal=Goal(precision=0.6))
    assert again.id == model.id
    higher = train_late_fusion(workspace, encoders(workspace), None, recipe=RECIPE, goal=Goal(precision=0.999))
    assert "no threshold reaches a precision of 99.9 %" in higher.card["decisions"]


@pytest.mark.slow
def test_a_search_is_seeded_and_no_worse_than_the_recipe_it_begins_with(
    workspace: Workspace, local_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    of = scored(workspace)
    found = [search_recipe(of, RECIPE, trials=3) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].objective == RECIPE.objective
    scores, codes = of.sample("fusion")
    fit = {"models": of.scorer.models, "classes": len(of.rows.categories), "seed": 0, "threads": 1}
    reports = [LateFusion.fit(scores, codes, recipe=one, **fit).report for one in (found[0], RECIPE)]  # type: ignore[arg-type]
    best, given = ((report.boosting or report.weighting).log_loss for report in reports)
    assert best <= given
    assert "searched 3 recipes, best log-loss" in capsys.readouterr().err
    assert not Path(workspace.path("tmp", "late-search")).exists()


def test_a_head_of_other_categories_is_refused(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmbatch.pipelines.train_late_fusion.start_ray", pytest.fail)
    head = Model(kind="head", id="fusion-head@1", uri="", card={"categories": ["a > x", "gone"], "training": {}})
    with pytest.raises(InputError, match=r"fusion-head@1 was trained on 2 categories, the train rows have 4, 3 new"):
        train_late_fusion(workspace, encoders(workspace), head, recipe=RECIPE, goal=Goal(precision=0.6))


@pytest.mark.parametrize("precision", [0.0, 1.0, 95.0])
def test_a_precision_that_is_no_share_is_refused(workspace: Workspace, precision: float) -> None:
    with pytest.raises(InputError, match=f"^--precision {precision:g}: expected a number between 0 and 1$"):
        train_late_fusion(workspace, encoders(workspace), None, recipe=RECIPE, goal=Goal(precision=precision))
